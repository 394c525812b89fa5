"""How paired datasets lie on the disk: one file per format."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from condkit.datasets.encoded import DataColumn
from condkit.datasets.formats.base import FACT_COLUMNS, IMAGE_SUFFIXES, Columns, DatasetFormat
from condkit.errors import ConfigError, DatasetError
from condkit.settings import choose

_FORMATS = {
    "parquet": ("condkit.datasets.formats.parquet", "ParquetFormat"),
    "imagefolder": ("condkit.datasets.formats.imagefolder", "ImageFolderFormat"),
    "webdataset": ("condkit.datasets.formats.webdataset", "WebDatasetFormat"),
    "fill50k": ("condkit.datasets.formats.fill50k", "Fill50kFormat"),
    "kohya": ("condkit.datasets.formats.kohya", "KohyaFormat"),
    "simpletuner": ("condkit.datasets.formats.simpletuner", "SimpleTunerFormat"),
    "tree": ("condkit.datasets.formats.tree", "TreeFormat"),
}


def available_formats() -> tuple[str, ...]:
    """The names that `get_format` knows."""
    return tuple(_FORMATS)


def get_format(
    name: str,
    conditions: Sequence[str],
    data: Sequence[DataColumn] = (),
    *,
    many_captions: bool = False,
    image_suffix: str = ".png",
) -> DatasetFormat:
    """The format called `name`.

    Args:
        name: One of `available_formats()`.
        conditions: The names of the conditions of each row, in the order of the columns.
        data: The columns with what the maps were drawn from.
        many_captions: Whether rows may have several captions.
        image_suffix: The ending of the pictures' files: ".png", ".jpg" or ".webp".

    Raises:
        UnknownNameError: if there is no such format.
        ConfigError: if a condition or its data has the name of another column or folder, or the
            format cannot hold such pictures.
    """
    module, cls = _FORMATS[choose(name, _FORMATS, what="dataset format")]
    taken = {"image", "images", "text", "captions", *FACT_COLUMNS}
    for column in (*conditions, *(item.name for item in data)):
        if column in taken:
            raise ConfigError(
                f"{column!r} cannot be in a dataset: a column has that name already; leave the "
                "condition out"
            )
        taken.add(column)
    if image_suffix not in IMAGE_SUFFIXES:
        raise ConfigError(
            f"image_suffix: expected one of {', '.join(IMAGE_SUFFIXES)}, got {image_suffix!r}"
        )
    columns = Columns(
        conditions=tuple(conditions),
        data=tuple(data),
        many_captions=many_captions,
        image_suffix=image_suffix,
    )
    kind = getattr(importlib.import_module(module), cls)
    return cast(DatasetFormat, kind(columns))


def format_of(manifest: Mapping[str, Any]) -> DatasetFormat:
    """The format of a finished dataset.

    Args:
        manifest: Its manifest, as JSON values.

    Raises:
        UnknownNameError: if this condkit does not know the format.
        DatasetError: if the manifest lacks something.
    """
    try:
        return get_format(
            manifest["format"],
            tuple(manifest["conditions"]),
            [DataColumn(**column) for column in manifest["data"].values()],
            many_captions=manifest.get("many_captions", False),
            image_suffix=manifest.get("image_suffix", ".png"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"the manifest is broken: {type(error).__name__}: {error}") from error
