"""A folder of picture files, with its subfolders."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from stat import S_ISREG
from typing import Any, ClassVar

from condkit.datasets.sources.base import SourceEntry, SourceSample
from condkit.datasets.sources.directories import (
    NOT_UTF8,
    Identity,
    Listing,
    identity,
    is_picture_name,
    readable,
    sharing_stem,
    walk_folders,
)
from condkit.datasets.sources.map_folders import AmbiguousMapError, MapFolder, find_map
from condkit.errors import ConfigError
from condkit.types import Rejection, SourceFile


class FolderSource:
    """Every picture below a folder, under its name below the folder.

    Links are followed, but not in circles; hidden and system files, other files and the folders
    of maps and of the output are left out and counted. A picture with a name that is not UTF-8, a
    link to nowhere, and a picture whose map cannot be told are rejected.

    `where` of an entry is "" or JSON: `beside`, the names of the files that share its stem, and
    `maps`, the names of its maps below their folders.
    """

    kind: ClassVar[str] = "folder"

    def __init__(
        self,
        root: Path,
        *,
        maps: Mapping[str, Path] | None = None,
        output: Path | None = None,
        flat: bool = False,
    ) -> None:
        """Take a folder; nothing is searched yet.

        Args:
            root: The folder.
            maps: By condition, the folder that holds its maps.
            output: Where the run writes; not searched where it lies inside.
            flat: Leave its subfolders out.

        Raises:
            ConfigError: if `root` is no folder or is the output.
        """
        if not root.is_dir():
            raise ConfigError(f"{root}: expected a folder of pictures, there is none")
        if output is not None and identity(output) == identity(root):
            raise ConfigError(
                f"{root} is both input and output; name another output folder "
                f"(it may lie inside, such as {root / 'dataset'})"
            )
        self.root = root
        self._maps = {name: MapFolder(place) for name, place in (maps or {}).items()}
        self._output = output
        self._flat = flat
        self._left_out: Counter[str] = Counter()

    @property
    def given(self) -> tuple[str, ...]:
        """See `Source`."""
        return tuple(self._maps)

    @property
    def left_out(self) -> dict[str, int]:
        """See `Source`."""
        return dict(sorted(self._left_out.items()))

    def as_dict(self) -> dict[str, Any]:
        """See `Source`."""
        return {"kind": self.kind, "maps": dict.fromkeys(self._maps, "folder")}

    def scan(self) -> Iterator[SourceEntry | Rejection]:
        """See `Source`; folder by folder, so that memory holds the names of one."""
        left_out: Counter[str] = Counter()
        self._left_out = left_out
        found = False
        for listing in walk_folders(
            self.root, left_out, excluded=self._excluded(), flat=self._flat
        ):
            maps = {name: place.names(listing.prefix) for name, place in self._maps.items()}
            for name in listing.pictures:
                found = True
                yield self._entry(listing, name, maps)
        if not found:
            counts = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
            raise ConfigError(
                f"no images in {self.root}" + (f" (left out: {counts})" if counts else "")
            )

    def file(self, entry: SourceEntry) -> SourceFile:
        """See `Source`."""
        beside = _unpack(entry).get("beside", ())
        return SourceFile(self._path(entry), entry.relative, beside=tuple(beside))

    def read(self, entry: SourceEntry) -> SourceSample:
        """See `Source`."""
        places = _unpack(entry).get("maps", {})
        maps = {
            name: (self._maps[name].root / place).read_bytes() for name, place in places.items()
        }
        file = self.file(entry)
        return SourceSample(image=file.path, file=file, maps=maps)

    def _path(self, entry: SourceEntry) -> Path:
        return self.root / entry.relative

    def _excluded(self) -> dict[Identity, str]:
        places = [(place.root, "map folder") for place in self._maps.values()]
        if self._output is not None:
            places.append((self._output, "output"))
        inside = ((identity(place), reason) for place, reason in places)
        return {found: reason for found, reason in inside if found is not None}

    def _entry(
        self, listing: Listing, name: str, maps: Mapping[str, list[str]]
    ) -> SourceEntry | Rejection:
        relative = f"{listing.prefix}{name}"
        shown = readable(relative)
        if shown is not None:
            return Rejection(shown, "decode", NOT_UTF8)
        beside = sharing_stem(listing.names, name)
        try:
            stamp = stamp_of(f"{listing.folder}/{name}")
            places = _places(maps, listing.prefix, name, beside)
            for condition, place in places.items():
                stamp += f" {condition}={stamp_of(f'{self._maps[condition].root}/{place}')}"
        except OSError as error:
            return Rejection(relative, "decode", f"cannot be read: {error.strerror}")
        except AmbiguousMapError as error:
            return Rejection(relative, "decode", str(error))
        shown_beside = [other for other in beside if readable(other) is None]
        return SourceEntry(relative=relative, stamp=stamp, where=_pack(shown_beside, places))


def stamp_of(path: str) -> str:
    """Size and time of change of a file, behind links.

    Raises:
        OSError: if there is no such file.
    """
    status = os.stat(path)  # noqa: PTH116 - speed
    if not S_ISREG(status.st_mode):
        raise OSError(0, "is no file")
    return f"{status.st_size}:{status.st_mtime_ns}"


def _places(
    maps: Mapping[str, list[str]], prefix: str, name: str, beside: tuple[str, ...]
) -> dict[str, str]:
    if not maps:
        return {}
    rivals = [other for other in beside if is_picture_name(other) and _stem(other) == _stem(name)]
    found = ((condition, find_map(names, name, rivals)) for condition, names in maps.items())
    return {condition: f"{prefix}{place}" for condition, place in found if place is not None}


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122 - speed


def _pack(beside: list[str], maps: dict[str, str]) -> str:
    values = {"beside": beside, "maps": maps}
    kept = {key: value for key, value in values.items() if value}
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")) if kept else ""


def _unpack(entry: SourceEntry) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(entry.where) if entry.where else {}
    return values
