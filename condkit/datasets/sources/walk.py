"""Finding the input images of a run in files and folders."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from condkit.errors import ConfigError, DatasetError
from condkit.imageio import IMAGE_SUFFIXES
from condkit.types import Rejection, SourceFile

Identity: TypeAlias = tuple[int, int]
"""Device and inode: what a path is, behind all links."""

SYSTEM_NAMES = frozenset(
    {
        "thumbs.db",
        "desktop.ini",
        "__macosx",
        "@eadir",
        "$recycle.bin",
        "system volume information",
        "lost+found",
    }
)
"""Files and folders that operating systems and file servers leave among photographs (lower case);
names that begin with a dot are left out as well."""

TEXT_SUFFIXES = frozenset({".txt", ".caption", ".json", ".jsonl"})
"""What usually stands beside pictures on purpose, and so is counted apart from the unexpected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What was found.

    Attributes:
        files: The inputs, sorted by their relative names, which are unique.
        rejections: Image files that cannot be used because of their names.
        left_out: How many entries were not taken, by reason: "hidden", "system", "text file",
            "not an image", "special file", "loop" (a link to a folder above itself), "output".
    """

    files: tuple[SourceFile, ...]
    rejections: tuple[Rejection, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)


def scan(paths: Sequence[Path], *, output: Path) -> Scan:
    """Find the images in files and folders, with their subfolders.

    With one folder, names are relative to it. With several paths, each folder's names begin with
    the folder's own name, so that `x/a.jpg` and `y/a.jpg` stay apart. A file that is named itself
    is taken whatever its ending. Links to files and folders are followed.

    Args:
        paths: Files and folders.
        output: Where the run writes; it is not searched where it lies inside a folder.

    Raises:
        ConfigError: if a path does not exist, nothing is found, two inputs get the same name, or
            the output is one of the folders.
        DatasetError: if a folder cannot be read.
    """
    walk = _Walk(output)
    for path in paths:
        walk.add_root(path, prefixed=len(paths) > 1)
    if not walk.found and not walk.rejections:
        where = ", ".join(str(path) for path in paths)
        counts = ", ".join(f"{count} {reason}" for reason, count in walk.left_out.items())
        raise ConfigError(
            f"no images in {where or 'nothing'}" + (f" (left out: {counts})" if counts else "")
        )
    return Scan(
        files=tuple(walk.found[name] for name in sorted(walk.found)),
        rejections=tuple(sorted(walk.rejections, key=lambda r: r.source)),
        left_out=dict(sorted(walk.left_out.items())),
    )


class _Walk:
    """Collects files over several roots."""

    def __init__(self, output: Path) -> None:
        self._output = _identity(output)
        self.found: dict[str, SourceFile] = {}
        self.rejections: list[Rejection] = []
        self.left_out: Counter[str] = Counter()

    def add_root(self, path: Path, *, prefixed: bool) -> None:
        if path.is_dir():
            if _identity(path) == self._output:
                raise ConfigError(
                    f"{path} is both input and output; name another output folder "
                    f"(it may lie inside, such as {path / 'maps'})"
                )
            # `.` and `..` have names of their own only once they are resolved.
            prefix = f"{path.name or path.resolve().name}/" if prefixed else ""
            if prefix == "../":
                prefix = f"{path.resolve().name}/"
            self._walk(path, prefix)
        elif path.exists() or path.is_symlink():
            self._take(path, path.name)
        else:
            raise ConfigError(f"{path}: expected an image file or a folder, there is nothing")

    def _walk(self, root: Path, prefix: str) -> None:
        pending: list[tuple[Path, str, tuple[Identity | None, ...]]] = []
        pending.append((root, prefix, (_identity(root),)))
        while pending:
            folder, prefix, above = pending.pop()
            for entry in _entries(folder):
                reason = self._reason_against(entry, above)
                if reason is not None:
                    self.left_out[reason] += 1
                elif entry.is_dir():
                    identity = _identity(Path(entry.path))
                    pending.append((Path(entry.path), f"{prefix}{entry.name}/", (*above, identity)))
                else:
                    self._take(Path(entry.path), prefix + entry.name)

    def _reason_against(
        self, entry: os.DirEntry[str], above: tuple[Identity | None, ...]
    ) -> str | None:
        if entry.name.startswith("."):
            return "hidden"
        if entry.name.lower() in SYSTEM_NAMES:
            return "system"
        if entry.is_dir():
            identity = _identity(Path(entry.path))
            if identity == self._output:
                return "output"
            return "loop" if entry.is_symlink() and identity in above else None
        suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - speed
        if suffix not in IMAGE_SUFFIXES:
            return "text file" if suffix in TEXT_SUFFIXES else "not an image"
        # A link to nowhere is taken: decoding says what is wrong with it.
        return None if entry.is_file() or entry.is_symlink() else "special file"

    def _take(self, path: Path, relative: str) -> None:
        try:
            relative.encode("utf-8")
        except UnicodeEncodeError:
            readable = relative.encode("utf-8", "backslashreplace").decode("utf-8")
            reason = "its name is not valid UTF-8; rename it"
            self.rejections.append(Rejection(readable, "decode", reason))
            return
        known = self.found.get(relative)
        if known is None:
            self.found[relative] = SourceFile(path=path, relative=relative)
        elif _identity(known.path) != _identity(path) or _identity(path) is None:
            raise ConfigError(
                f"{known.path} and {path} would both be called {relative!r}; "
                "name a folder that holds both, or run them one after the other"
            )


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise DatasetError(
            f"cannot read the folder {folder}: {error.strerror}; give access to it or move it away"
        ) from error


def _identity(path: Path) -> Identity | None:
    """Device and inode behind all links; None where there is nothing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
