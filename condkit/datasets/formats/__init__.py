"""How paired datasets lie on the disk: one file per format."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import cast

from condkit.datasets.encoded import DataColumn
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


def get_format(
    name: str, conditions: Sequence[str], data: Sequence[DataColumn] = ()
) -> DatasetFormat:
    """The format called `name`.

    Args:
        name: One of `available_formats()`.
        conditions: The names of the conditions of each row, in the order of the columns.
        data: The columns with what the maps were drawn from; not needed for reading.

    Raises:
        UnknownNameError: if there is no such format.
        ConfigError: if a condition or its data has the name of another column or folder.
    """
    taken = {"image", "images", "text", *FACT_COLUMNS}
    for column in (*conditions, *(item.name for item in data)):
        if column in taken:
            raise ConfigError(
                f"{column!r} cannot be in a dataset: a column has that name already; leave the "
                "condition out"
            )
        taken.add(column)
    module, cls = _FORMATS[choose(name, _FORMATS, what="dataset format")]
    kind = getattr(importlib.import_module(module), cls)
    return cast(DatasetFormat, kind(tuple(conditions), tuple(data)))
