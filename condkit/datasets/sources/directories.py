"""How folders are searched and what counts as a picture there: one rule for all that look."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from condkit.errors import DatasetError
from condkit.imageio import IMAGE_SUFFIXES

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

_Pending: TypeAlias = tuple[str, str, tuple[Identity | None, ...]]
"""A folder to look into: its place, its prefix, and what it and the folders above it are."""

NOT_UTF8 = "its name is not valid UTF-8; rename it"


@dataclass(slots=True)
class Listing:
    """What one folder holds.

    Attributes:
        folder: Its place.
        prefix: Its name below the root, with a slash at its end; "" for the root.
        names: Its visible files, sorted.
        pictures: Those of them that are pictures, sorted.
    """

    folder: str
    prefix: str
    names: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)


def walk_folders(
    root: Path, left_out: Counter[str], *, excluded: Mapping[Identity, str], flat: bool = False
) -> Iterator[Listing]:
    """The folders below `root`, itself first, one at a time, in an order that repeats.

    Links to files and folders are followed. Memory holds the names of one folder.

    Args:
        root: A folder.
        left_out: Counts what is not taken, by reason: "hidden", "system", "text file", "not an
            image", "special file", "loop" (a link to a folder above itself), "subfolder", and the
            reasons of `excluded`.
        excluded: Folders that are not searched, and why.
        flat: Look into `root` alone.

    Raises:
        DatasetError: if a folder cannot be read.
    """
    pending: list[_Pending] = [(os.fspath(root), "", (identity(root),))]
    while pending:
        folder, prefix, above = pending.pop()
        listing = Listing(folder, prefix)
        below: list[_Pending] = []
        for entry in _entries(folder):
            reason, is_folder = _judge(entry, above, excluded)
            if is_folder and reason is None and flat:
                reason = "subfolder"
            if reason in (None, "text file", "not an image") and not is_folder:
                listing.names.append(entry.name)
            if reason is not None:
                left_out[reason] += 1
            elif is_folder:
                inside = (*above, identity(entry.path))
                below.append((entry.path, f"{prefix}{entry.name}/", inside))
            else:
                listing.pictures.append(entry.name)
        listing.names.sort()
        listing.pictures.sort()
        pending.extend(sorted(below, reverse=True))
        yield listing


def is_picture_name(name: str) -> bool:
    """Whether a file's ending is that of a picture."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - speed


def is_visible_picture(name: str) -> bool:
    """Whether a search of a folder would take a file of this name."""
    return is_picture_name(name) and not name.startswith(".") and name.lower() not in SYSTEM_NAMES


def sharing_stem(names: Sequence[str], name: str) -> tuple[str, ...]:
    """Those of a folder's sorted names that belong to the file `name`, without itself.

    They are called like it up to the last dot, or like it with an ending more: `cat.txt` and
    `cat.jpg.json` belong to `cat.jpg`. All of them begin alike, so they lie side by side.
    """
    stem = os.path.splitext(name)[0]  # noqa: PTH122 - speed
    start = f"{stem}."
    found = []
    for index in range(bisect_left(names, start), len(names)):
        other = names[index]
        if not other.startswith(start):
            break
        if other != name and os.path.splitext(other)[0] in (stem, name):  # noqa: PTH122 - speed
            found.append(other)
    return tuple(found)


def readable(name: str) -> str | None:
    """None for a name in UTF-8; for another one what can be shown of it."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace").decode("utf-8")
    return None


def identity(path: Path | str) -> Identity | None:
    """Device and inode behind all links; None where there is nothing."""
    try:
        status = os.stat(path)  # noqa: PTH116 - speed
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _judge(
    entry: os.DirEntry[str], above: tuple[Identity | None, ...], excluded: Mapping[Identity, str]
) -> tuple[str | None, bool]:
    """Why an entry is not taken, None if it is; and whether it is a folder."""
    if entry.name.startswith("."):
        return "hidden", False
    if entry.name.lower() in SYSTEM_NAMES:
        return "system", False
    if entry.is_dir():
        found = identity(entry.path)
        if found is not None and found in excluded:
            return excluded[found], True
        return "loop" if entry.is_symlink() and found in above else None, True
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - speed
    if suffix not in IMAGE_SUFFIXES:
        return "text file" if suffix in TEXT_SUFFIXES else "not an image", False
    # A link to nowhere is taken: whoever reads it says what is wrong with it.
    return None if entry.is_file() or entry.is_symlink() else "special file", False


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise DatasetError(
            f"cannot read the folder {folder}: {error.strerror}; give access to it or move it away"
        ) from error
