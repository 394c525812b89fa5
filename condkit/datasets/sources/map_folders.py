"""Condition maps that lie in a folder of their own, beside the folder of the pictures."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

from condkit.datasets.sources.directories import is_picture_name, sharing_stem
from condkit.errors import ConfigError, DatasetError


class AmbiguousMapError(Exception):
    """It cannot be told which map is a picture's."""


class MapFolder:
    """A folder that holds a map for each picture, at the same place below it.

    For `x/cat.jpg` the first of these is taken: `x/cat.jpg.png` (as `condkit annotate` writes),
    `x/cat.jpg`, `x/cat.png`, then any picture called `cat`. The last two are no picture's for
    certain where the folder of pictures holds `cat.jpg` and `cat.webp` too; such a map is an error
    and never guessed.

    Attributes:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self, prefix: str) -> list[str]:
        """The pictures in its subfolder `prefix`, sorted; none where it has no such subfolder.

        Raises:
            DatasetError: if the folder cannot be read.
        """
        folder = f"{self.root}/{prefix}"
        try:
            with os.scandir(folder) as entries:
                return sorted(e.name for e in entries if is_picture_name(e.name))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise DatasetError(
                f"cannot read the folder of maps {folder}: {error.strerror}; give access to it"
            ) from error


def find_map(maps: Sequence[str], name: str, rivals: Sequence[str]) -> str | None:
    """Which of a folder's maps belongs to the picture `name`.

    Args:
        maps: The pictures in the folder of maps, sorted.
        name: The picture's file name.
        rivals: The other pictures in its folder that share its stem.

    Returns:
        The map's file name, or None where there is none.

    Raises:
        AmbiguousMapError: if more than one would do, or one would do for several pictures.
    """
    own = _own(maps, name)
    if own is not None:
        return own
    stem = os.path.splitext(name)[0]  # noqa: PTH122 - speed
    taken = {_own(maps, rival) for rival in rivals}
    alike = [m for m in _called(maps, stem) if m not in taken]
    if not alike:
        return None
    if rivals:
        raise AmbiguousMapError(
            f"{alike[0]} may be the map of {name} or of {rivals[0]}; call it {name}.png if it is "
            "this one's"
        )
    if f"{stem}.png" in alike:
        return f"{stem}.png"
    if len(alike) > 1:
        raise AmbiguousMapError(
            f"{alike[0]} and {alike[1]} may both be the map of {name}; call the right one "
            f"{name}.png"
        )
    return alike[0]


def resolve_map_folder(given: str, root: Path) -> Path:
    """The folder of maps that the user means: as it is written, or inside the source.

    Raises:
        ConfigError: if there is none, or both are there.
    """
    places = [Path(given).expanduser(), root / given]
    found = [place for place in places if place.is_dir()]
    if not found:
        raise ConfigError(
            f"maps: there is no folder {given}, neither from here nor inside {root}; give the "
            "folder that holds the maps under the names of the pictures"
        )
    if len(found) > 1 and not found[0].samefile(found[1]):
        raise ConfigError(f"maps: {given} is a folder here and inside {root}; give its full path")
    return found[0]


def _own(maps: Sequence[str], name: str) -> str | None:
    """The map that is this picture's by its full name."""
    return next((m for m in (f"{name}.png", name) if _holds(maps, m)), None)


def _called(maps: Sequence[str], stem: str) -> list[str]:
    # A name that is never there itself: all that share the stem, and no more.
    return [m for m in sharing_stem(maps, f"{stem}.") if m.rpartition(".")[0] == stem]


def _holds(names: Sequence[str], name: str) -> bool:
    index = bisect_left(names, name)
    return index < len(names) and names[index] == name
