"""Finding the input images of a run in files and folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from condkit.datasets.sources.directories import NOT_UTF8, identity, readable, walk_folders
from condkit.errors import ConfigError
from condkit.types import Rejection, SourceFile


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
        self._output = identity(output)
        self.found: dict[str, SourceFile] = {}
        self.rejections: list[Rejection] = []
        self.left_out: Counter[str] = Counter()

    def add_root(self, path: Path, *, prefixed: bool) -> None:
        if path.is_dir():
            if identity(path) == self._output:
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
        excluded = {} if self._output is None else {self._output: "output"}
        for listing in walk_folders(root, self.left_out, excluded=excluded):
            for name in listing.pictures:
                # Joined as text: `Path(folder) / name` would cost more than all else.
                path = Path(f"{listing.folder}/{name}")
                self._take(path, f"{prefix}{listing.prefix}{name}")

    def _take(self, path: Path, relative: str) -> None:
        shown = readable(relative)
        if shown is not None:
            self.rejections.append(Rejection(shown, "decode", NOT_UTF8))
            return
        known = self.found.get(relative)
        if known is None:
            self.found[relative] = SourceFile(path=path, relative=relative)
        elif identity(known.path) != identity(path) or identity(path) is None:
            raise ConfigError(
                f"{known.path} and {path} would both be called {relative!r}; "
                "name a folder that holds both, or run them one after the other"
            )
