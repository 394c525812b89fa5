"""How paired datasets lie on the disk: one file per format."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import cast

from condkit.datasets.formats.base import FACT_COLUMNS, DatasetFormat
from condkit.errors import ConfigError
from condkit.settings import choose

_FORMATS = {
    "parquet": ("condkit.datasets.formats.parquet", "ParquetFormat"),
    "imagefolder": ("condkit.datasets.formats.imagefolder", "ImageFolderFormat"),
}


def available_formats() -> tuple[str, ...]:
    """The names that `get_format` knows."""
    return tuple(_FORMATS)


def get_format(name: str, conditions: Sequence[str]) -> DatasetFormat:
    """The format called `name`.

    Args:
        name: One of `available_formats()`.
        conditions: The names of the conditions of each row, in the order of the columns.

    Raises:
        UnknownNameError: if there is no such format.
        ConfigError: if a condition has the name of another column or folder.
    """
    taken = {"image", "images", "text", *FACT_COLUMNS} & set(conditions)
    if taken:
        raise ConfigError(
            f"condition {min(taken)!r} cannot be in a dataset: a column has that name already"
        )
    module, cls = _FORMATS[choose(name, _FORMATS, what="dataset format")]
    kind = getattr(importlib.import_module(module), cls)
    return cast(DatasetFormat, kind(tuple(conditions)))
