"""Condition maps that a source has already: read, checked, and brought to their picture's size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import numpy as np

from condkit import imageio
from condkit.annotators.registry import available_conditions
from condkit.errors import ConfigError, ImageError, MapError
from condkit.geometry import Size, Transform
from condkit.sizing import fit_map
from condkit.types import ConditionMap, ConditionSpec, MapPixels

_PNG = b"\x89PNG\r\n\x1a\n"


def given_specs(names: Iterable[str], planned: Sequence[ConditionSpec]) -> dict[str, ConditionSpec]:
    """What the maps of a source mean.

    A condition of the plan has the plan's spec. Another one is taken as it is: three channels of
    8 bits, whose meaning only the user knows.

    Args:
        names: The conditions that the source has maps of.
        planned: The specs of the conditions that are made.

    Raises:
        ConfigError: if condkit knows a condition that is not made; then its settings are needed.
    """
    by_name = {spec.name: spec for spec in planned}
    specs = {}
    for name in names:
        if name not in by_name and name in available_conditions():
            raise ConfigError(
                f"the source's maps of {name!r} are given, but {name} is not asked for; add "
                f"-c {name}, so that it is known what they mean and missing ones can be made"
            )
        specs[name] = by_name.get(name) or ConditionSpec(
            name=name,
            channels=3,
            dtype="uint8",
            meaning="a picture of the source, as it was given",
            background=0,
            resample="bilinear",
        )
    return specs


def read_given(
    files: Mapping[str, bytes],
    specs: Mapping[str, ConditionSpec],
    image_hw: Size,
    transform: Transform,
) -> tuple[dict[str, ConditionMap], tuple[str, ...]]:
    """The maps that a source has for one picture, at that picture's final size.

    Args:
        files: Picture files in memory, PNG or any that condkit decodes, by condition.
        specs: What they mean.
        image_hw: Height and width of the upright original picture.
        transform: What is done to the picture.

    Returns:
        The maps, and what was noticed about them.

    Raises:
        MapError: if a map cannot be decoded, is not of its picture's shape, or not what its spec
            says.
    """
    maps, notes = {}, []
    for name, data in files.items():
        spec = specs[name]
        try:
            read, lossy = _read(data)
            fitted, note = fit_map(_as_spec_says(read, spec), image_hw, transform, spec.resample)
        except (ImageError, MapError) as error:
            raise MapError(f"the source's own {name} map: {error}") from error
        maps[name] = ConditionMap(cast(MapPixels, fitted), spec)
        notes += [f"{name}-{words}" for words in (note, lossy) if words]
    return maps, tuple(notes)


def _read(data: bytes) -> tuple[MapPixels, str]:
    """The pixels, and what to note: a map that is no PNG may have lost something before."""
    if data.startswith(_PNG):
        return imageio.read_map(data), ""
    return imageio.decode(data).image, "was-no-png"


def _as_spec_says(pixels: MapPixels, spec: ConditionSpec) -> MapPixels:
    """The map with the channels of its spec: grey becomes equal channels, and back.

    Raises:
        MapError: if it has colours or a depth that the spec has not.
    """
    if pixels.dtype != np.dtype(spec.dtype):
        raise MapError(f"expected {spec.dtype} pixels, got {pixels.dtype}")
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels == spec.channels:
        return pixels
    if channels == 1 and spec.channels == 3:
        return cast(MapPixels, np.repeat(pixels[:, :, None], 3, axis=2))
    grey = channels == 3 and spec.channels == 1
    if grey and (pixels == pixels[:, :, :1]).all():
        return cast(MapPixels, np.ascontiguousarray(pixels[:, :, 0]))
    raise MapError(f"expected {spec.channels} channel(s), got {channels}")
