"""Which kind of source lies at a place, by names alone and, for JSON, by the first row."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from pathlib import Path

from condkit.datasets.sources.directories import identity, is_picture_name, walk_folders
from condkit.datasets.sources.huggingface import HUB_PREFIX, SAVED_MARKS
from condkit.datasets.sources.json_rows import JsonRows
from condkit.datasets.sources.table import TABLE_SUFFIXES
from condkit.datasets.sources.table_folders import METADATA_NAMES, PROMPTS_NAME, find_tables
from condkit.errors import ConfigError, DatasetError

EXPECTED = (
    "expected a folder of pictures, a table (.csv, .tsv, .jsonl, .json, .parquet), the prompt.json "
    "of a fill50k layout, a kohya configuration (.toml), WebDataset tars (.tar, a folder of them, "
    "or a pattern such as {00000..00012}.tar), a saved Hugging Face dataset, or hf://owner/name"
)

_COMPRESSED_TAR = re.compile(r"\.(tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst|lz4))$", re.IGNORECASE)
_LOOKED_AT = 10_000
"""Names at the top of a folder that decide what it is."""


def detect_kind(place: str) -> str:
    """The kind of source at a place.

    Raises:
        ConfigError: if there is nothing, or nothing that is known.
    """
    if place.startswith(HUB_PREFIX):
        return "huggingface"
    if "://" in place:
        raise ConfigError(f"{place} is an address; download it first, or {EXPECTED}")
    path = Path(place).expanduser()
    if path.is_dir():
        return _kind_of_folder(path)
    if path.is_file():
        return _kind_of_file(path)
    if "{" in place and place.endswith(".tar"):
        return "webdataset"
    hint = ""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", place):
        hint = f"; for the dataset of that name on the hub write {HUB_PREFIX}{place}"
    raise ConfigError(f"{place}: there is nothing{hint}; {EXPECTED}")


def _kind_of_file(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return "fill50k" if _has_fill50k_rows(path) else "table"
    if suffix in TABLE_SUFFIXES:
        return "table"
    if suffix == ".toml":
        return "kohya"
    if suffix == ".tar" or _COMPRESSED_TAR.search(path.name):
        return "webdataset"
    if is_picture_name(path.name):
        raise ConfigError(f"{path} is one picture; name its folder ({path.parent})")
    raise ConfigError(f"{path}: a file of an unknown kind; {EXPECTED}")


def _kind_of_folder(folder: Path) -> str:
    names = _names_at(folder)
    if any(name in names for name in SAVED_MARKS):
        return "huggingface"
    for kind, tables in (("table", METADATA_NAMES), ("fill50k", (PROMPTS_NAME,))):
        found = find_tables(folder, tables)
        if found:
            _refuse_unlisted_folders(folder, found)
            return kind
    if any(is_picture_name(name) for name in names):
        return "folder"
    inside = [*names, *_names_at(folder / "data")]
    if any(name.endswith(".tar") or _COMPRESSED_TAR.search(name) for name in inside):
        return "webdataset"
    return "huggingface" if any(name.endswith(".parquet") for name in inside) else "folder"


def _refuse_unlisted_folders(folder: Path, tables: list[Path]) -> None:
    """Tables in some folders must not make the pictures of the others disappear.

    The folders with a table are not searched: they may hold a million pictures.
    """
    if tables[0].parent == folder:
        return
    listed = {identity(table.parent): "listed" for table in tables}
    excluded = {found: reason for found, reason in listed.items() if found is not None}
    for listing in walk_folders(folder, Counter(), excluded=excluded):
        if listing.pictures:
            raise ConfigError(
                f"{folder}: {tables[0]} lists pictures, but {listing.prefix}{listing.pictures[0]} "
                "and others are in no table; name the kind: table (what is listed) or folder (all)"
            )


def _names_at(folder: Path) -> list[str]:
    """The first names in a folder; none where there is no such folder."""
    if not folder.is_dir():
        return []
    try:
        return [path.name for path in islice(folder.iterdir(), _LOOKED_AT)]
    except OSError as error:
        raise DatasetError(
            f"cannot read the folder {folder}: {error.strerror}; give access to it"
        ) from error


def _has_fill50k_rows(path: Path) -> bool:
    try:
        columns = JsonRows(path).columns
    except DatasetError:
        # Opening it as a table says what is wrong with it.
        return False
    return {"source", "target", "prompt"} <= set(columns)
