"""Which column of a table holds the pictures, and which the maps."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from condkit.datasets.sources.rows import Rows
from condkit.errors import ConfigError

USUAL_NAMES = (
    "file_name",
    "image",
    "image_path",
    "image_file",
    "img",
    "img_path",
    "path",
    "file_path",
    "filepath",
    "file",
    "filename",
    "jpg",
    "jpeg",
    "png",
    "webp",
)
"""Names under which tables keep their pictures, the likelier first."""

MAP_SUFFIX = "_file_name"
"""`canny_file_name` is, by Hugging Face's rule, where the files of the column `canny` are named."""


def find_image_column(rows: Rows, asked: str | None, *, taken: Collection[str] = ()) -> str:
    """The column of the pictures.

    Args:
        rows: A table.
        asked: The user's choice; None looks for the only picture column, then for a usual name.
        taken: Columns that hold maps.

    Raises:
        ConfigError: if it is missing or cannot be told; the message lists the columns.
    """
    if asked is not None:
        found = _named(rows.columns, asked)
        if found is None:
            raise ConfigError(
                f"image_column: {rows.path} has no column {asked!r}; its columns are "
                f"{_listed(rows.columns)}"
            )
        return found
    inside = [name for name in rows.pictures if name not in taken]
    usual = _usual(inside) or (inside[0] if len(inside) == 1 else None)
    usual = usual or _usual([name for name in rows.columns if name not in taken])
    if usual is None:
        what = "several columns of pictures" if inside else "no column with a usual name"
        raise ConfigError(
            f"{rows.path} has {what}; name the column of the pictures with image_column, or take "
            "the pictures without this table (kind folder). Its columns are "
            f"{_listed(inside or rows.columns)}"
        )
    return usual


def find_map_columns(rows: Rows, asked: Mapping[str, str]) -> dict[str, str]:
    """By condition, the column of its maps: as named, or with `_file_name` behind it.

    Raises:
        ConfigError: if there is no such column; the message lists those there are.
    """
    found = {}
    for condition, wanted in asked.items():
        column = _named(rows.columns, wanted) or _named(rows.columns, wanted + MAP_SUFFIX)
        if column is None:
            raise ConfigError(
                f"maps: {rows.path} has no column {wanted!r} for {condition}; its columns are "
                f"{_listed(rows.columns)}"
            )
        found[condition] = column
    return found


def _named(columns: Collection[str], wanted: str) -> str | None:
    return wanted if wanted in columns else None


def _usual(columns: Collection[str]) -> str | None:
    """The first usual name among the columns, in any case of letters."""
    by_name = {column.lower(): column for column in reversed([*columns])}
    return next((by_name[name] for name in USUAL_NAMES if name in by_name), None)


def _listed(columns: Collection[str]) -> str:
    return ", ".join(columns)
