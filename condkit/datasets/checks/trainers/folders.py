"""Folders of pictures with a folder of maps per condition beside them, as trainers lay them out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from condkit.datasets.checks.faults import Fault, Findings
from condkit.datasets.checks.pictures import Unreadable, changes, decode_picture, size_text
from condkit.datasets.in_order import map_in_order
from condkit.datasets.manifest import NAME, read_manifest
from condkit.imageio import IMAGE_SUFFIXES

IMAGE_FOLDERS = ("images", "image", "img")
"""How a folder of pictures is called where others beside it hold their maps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """A folder of pictures, and its maps.

    Attributes:
        images: The pictures' folder.
        conditions: Folders of maps, sorted by name.
        caption_suffix: What the caption of `a.png` ends with in place of ".png".
    """

    images: Path
    conditions: tuple[Path, ...]
    caption_suffix: str = ".txt"


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture and one of its maps."""

    image: Path
    map: Path


def find_sets(root: Path) -> list[ImageSet]:
    """The folders of pictures in a dataset, by their names.

    Those called `images`, `image` or `img`, at the top or in a folder of the top (`train/images`);
    the folders beside them hold maps. Without any, the pictures at the top, with the maps in the
    folders below.
    """
    data = _data_columns(root)
    sets = []
    for base in (root, *_folders(root)):
        images = next((base / name for name in IMAGE_FOLDERS if (base / name).is_dir()), None)
        if images is not None:
            beside = [f for f in _folders(base) if f.name not in (*IMAGE_FOLDERS, *data)]
            if base == root:
                beside = [f for f in beside if pictures(f)]
            sets.append(ImageSet(images=images, conditions=tuple(beside)))
    if not sets and pictures(root):
        sets.append(ImageSet(images=root, conditions=tuple(f for f in _folders(root))))
    return sets


def pictures(folder: Path) -> list[Path]:
    """Files directly in a folder whose names end like pictures', sorted."""
    return [p for p in files(folder) if p.suffix.lower() in IMAGE_SUFFIXES]


def files(folder: Path) -> list[Path]:
    """Visible files directly in a folder, sorted."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.is_file() and not e.name.startswith(".")]
    return [folder / name for name in sorted(names)]


def no_sets(root: Path, findings: Findings, layout: str) -> None:
    """Note that there is nothing to check."""
    findings.add(
        "layout",
        str(root),
        expected=layout,
        got="no folder of pictures",
        advice="name the dataset's own folder, or make one with condkit export",
    )


def check_pairs(
    root: Path,
    pairs: Sequence[Pair],
    findings: Findings,
    *,
    turns: bool,
    workers: int | None,
) -> None:
    """Decode pictures and maps in full, and compare their sizes.

    Args:
        root: What file names in messages are relative to.
        pairs: What belongs together.
        findings: Where faults go.
        turns: Whether the trainer turns pictures as their EXIF says.
        workers: Threads.
    """
    found = map_in_order(lambda pair: _check_pair(root, pair, turns), pairs, workers=workers)
    told: set[Fault] = set()
    for done, faults in enumerate(found, start=1):
        # A picture with several maps is decoded with each, and told of once.
        findings.faults += [fault for fault in faults if fault not in told]
        told.update(faults)
        findings.progress(done, len(pairs), "pairs")
    findings.rows += len({pair.image for pair in pairs})


def relative(path: Path, root: Path) -> str:
    """A file's name in messages: relative to the dataset where it lies in it."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def by_stem(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Files by their names without the ending, each list in the order given."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(path.stem, []).append(path)
    return found


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    return [folder / name for name in sorted(names)]


def _data_columns(root: Path) -> tuple[str, ...]:
    """Folders of a dataset of condkit's that hold labels, which are no maps."""
    return tuple(read_manifest(root).get("data", ())) if (root / NAME).is_file() else ()


def _check_pair(root: Path, pair: Pair, turns: bool) -> list[Fault]:
    image, faults = _decoded(pair.image, relative(pair.image, root), turns)
    hint, more = _decoded(pair.map, relative(pair.map, root), turns)
    faults += more
    if image is not None and hint is not None and image != hint:
        faults.append(
            Fault(
                kind="size differs from picture",
                where=relative(pair.map, root),
                expected=f"the size of {relative(pair.image, root)}, {image}",
                got=hint,
                advice="make the map again from the picture; resizing shifts its lines",
            )
        )
    return faults


def _decoded(path: Path, where: str, turns: bool) -> tuple[str | None, list[Fault]]:
    """The size of a picture, None where it has none, and what is wrong with it."""
    decoded = decode_picture(path)
    if isinstance(decoded, Unreadable):
        fault = Fault(
            kind="broken picture",
            where=where,
            expected="a picture that decodes in full",
            got=decoded.reason,
            advice="replace or remove it",
        )
        return None, [fault]
    pixels, notes = decoded
    turned = [note for note in changes(notes) if "transposed" in note]
    if turned and not turns:
        fault = Fault(
            kind="orientation",
            where=where,
            expected="an upright picture; this trainer ignores the EXIF orientation",
            got=turned[0],
            advice="save it upright, or build the dataset with condkit",
        )
        return size_text(pixels), [fault]
    return size_text(pixels), []


def nested_pictures(folder: Path) -> Iterator[Path]:
    """Pictures in the folders below a folder."""
    for below in _folders(folder):
        yield from pictures(below)
        yield from nested_pictures(below)
