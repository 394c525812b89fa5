"""Folders whose pictures are listed in tables at agreed places."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from condkit.datasets.sources.directories import SYSTEM_NAMES
from condkit.datasets.sources.table import Table, TableSource, open_table
from condkit.errors import ConfigError, DatasetError

METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""The tables of Hugging Face's imagefolder, which condkit writes too."""

PROMPTS_NAME = "prompt.json"
"""The table of fill50k: JSON with `source` (the map), `target` (the picture) and `prompt`."""


def open_imagefolder(
    folder: Path,
    *,
    split: str | None = None,
    image_column: str | None = None,
    maps: Mapping[str, str] | None = None,
) -> TableSource:
    """A folder with `metadata.csv`, `.jsonl` or `.parquet`, at its top or one per split's folder.

    Raises:
        ConfigError: if there is none, the split is not there, or one folder holds two of them.
        DatasetError: if one cannot be read.
    """
    tables = _open_all(folder, METADATA_NAMES, split)
    return TableSource(tables, image_column=image_column, maps=maps, count_unlisted=True)


def open_fill50k(
    place: Path,
    *,
    split: str | None = None,
    image_column: str | None = None,
    maps: Mapping[str, str] | None = None,
) -> TableSource:
    """The layout of ControlNet's fill50k: `prompt.json`, or the folder that holds it.

    Its rows are JSON objects on lines, or one list of them. The picture is `target`; `source` is a
    map, used where `maps` says of which condition, such as `{"canny": "source"}`.

    Raises:
        ConfigError: if there is none, or its rows lack `target`.
        DatasetError: if it cannot be read.
    """
    is_folder = place.is_dir()
    tables = _open_all(place, (PROMPTS_NAME,), split) if is_folder else [open_table(place)]
    return TableSource(
        tables,
        kind="fill50k",
        image_column=image_column or "target",
        maps=maps,
        without=("source",),
        count_unlisted=is_folder,
    )


def find_tables(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """The tables so called at the top of a folder, or else in the folders right below it; sorted.

    Raises:
        ConfigError: if one folder holds two of them.
    """
    at_top = _only_one(folder, names)
    if at_top is not None:
        return [at_top]
    below = (_only_one(inner, names) for inner in _visible_folders(folder))
    return [path for path in below if path is not None]


def _open_all(folder: Path, names: tuple[str, ...], split: str | None) -> list[Table]:
    paths = find_tables(folder, names)
    if not paths:
        raise ConfigError(
            f"{folder}: expected {' or '.join(names)} in it or in a folder right below it"
        )
    if split is not None:
        splits = [path.parent.name for path in paths if path.parent != folder]
        paths = [path for path in paths if path.parent != folder and path.parent.name == split]
        if not paths:
            known = ", ".join(splits) or "none; its table is at the top"
            raise ConfigError(f"split: {folder} has no split {split!r}; its splits are: {known}")
    return [_open(folder, path) for path in paths]


def _open(folder: Path, path: Path) -> Table:
    inside = "" if path.parent == folder else f"{path.parent.name}/"
    return open_table(path, name=f"{inside}{path.name}", prefix=inside)


def _only_one(folder: Path, names: tuple[str, ...]) -> Path | None:
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) > 1:
        raise ConfigError(
            f"{folder} holds {found[0].name} and {found[1].name}; name the one that counts"
        )
    return found[0] if found else None


def _visible_folders(folder: Path) -> list[Path]:
    # Not `iterdir`: there may be a million pictures beside the folders.
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if not e.name.startswith(".") and e.is_dir()]
    except OSError as error:
        raise DatasetError(
            f"cannot read the folder {folder}: {error.strerror}; give access to it"
        ) from error
    return [folder / name for name in sorted(names) if name.lower() not in SYSTEM_NAMES]
