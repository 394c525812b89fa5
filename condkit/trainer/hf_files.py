"""Pictures and maps in the cells of a Hugging Face dataset: bytes, paths, of any file format."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from condkit import geometry, imageio
from condkit.errors import DatasetError, ImageError
from condkit.geometry import Size
from condkit.types import ConditionSpec, MapPixels, RgbImage

_GREY_TOLERANCE = 8
"""How far red, green and blue of a grey map may lie apart: JPEG moves them a little."""

_TURNED = (5, 6, 7, 8)
_ORIENTATION = 274


def bytes_of(cell: Any, root: Path | None, where: str) -> bytes:  # noqa: ANN401 - a cell
    """A cell's file.

    Args:
        cell: What `datasets` gives for a picture that it does not decode, raw bytes, or a path.
        root: The folder that relative paths begin at.
        where: Row and column, for messages.

    Raises:
        DatasetError: if there is no file in it, or it cannot be read.
    """
    if isinstance(cell, bytes):
        return cell
    path = cell.get("path") if isinstance(cell, dict) else cell
    data = cell.get("bytes") if isinstance(cell, dict) else None
    if data is not None:
        return bytes(data)
    if not isinstance(path, str) or not path:
        raise DatasetError(f"{where}: expected a picture, got {type(cell).__name__} {cell!r:.60}")
    if "://" in path or "::" in path:
        return _remote(path, where)
    place = Path(path) if Path(path).is_absolute() or root is None else root / path
    try:
        return place.read_bytes()
    except OSError as error:
        raise DatasetError(f"{where}: cannot read {place}: {error.strerror}") from error


def _remote(path: str, where: str) -> bytes:
    import fsspec  # type: ignore[import-untyped]

    try:
        with fsspec.open(path, "rb") as file:
            return bytes(file.read())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{where}: cannot read {path}: {error}") from error


@dataclass(frozen=True)
class CellFiles:
    """The picture and the map of one row.

    Attributes:
        image_bytes: The picture's file.
        map_bytes: The map's file.
        spec: What the map means.
        resize_map: Whether a map of another size than its picture's is brought to it.
        where: Dataset and row, for messages.
    """

    image_bytes: bytes
    map_bytes: bytes
    spec: ConditionSpec
    resize_map: bool
    where: str

    def content(self) -> str:
        """sha256 of the picture's file."""
        return hashlib.sha256(self.image_bytes).hexdigest()

    def image(self) -> RgbImage:
        """The picture, upright sRGB."""
        try:
            return imageio.decode(self.image_bytes).image
        except ImageError as error:
            raise DatasetError(f"{self.where}: its picture: {error}") from error

    @cached_property
    def image_hw(self) -> Size:
        """The upright picture's height and width, from the file's head alone."""
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(io.BytesIO(self.image_bytes)) as picture:
                turned = picture.getexif().get(_ORIENTATION) in _TURNED
                width, height = picture.size
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise DatasetError(f"{self.where}: its picture: {error}") from error
        return (width, height) if turned else (height, width)

    def map(self) -> MapPixels:
        """The map, with the channels and the type of its condition, of its picture's size."""
        try:
            pixels = fitted(_decoded(self.map_bytes), self.spec)
        except ImageError as error:
            raise DatasetError(f"{self.where}: its map: {error}") from error
        hw = (int(pixels.shape[0]), int(pixels.shape[1]))
        if hw == self.image_hw:
            return pixels
        if not self.resize_map or not _same_shape(hw, self.image_hw):
            advice = (
                "set data.resize=cover to bring it to the picture's size"
                if _same_shape(hw, self.image_hw)
                else "it is of another shape, or lies on its side"
            )
            raise DatasetError(
                f"{self.where}: its picture has height and width {self.image_hw} and its map "
                f"{hw}; {advice}"
            )
        resized = geometry.resize(pixels, self.image_hw, self.spec.resample)
        return cast("MapPixels", resized)


def _same_shape(one: Size, other: Size) -> bool:
    """Whether two sizes have one aspect, to a pixel."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(*one, *other)


def _decoded(data: bytes) -> MapPixels:
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        try:
            return imageio.read_map(data)
        except ImageError:
            # With a palette, say: no map as condkit writes them, but a picture.
            pass
    return imageio.decode(data).image


def fitted(pixels: MapPixels, spec: ConditionSpec) -> MapPixels:
    """A decoded map with the channels and the type of its condition.

    Raises:
        ImageError: if it has colours, a mask or a depth that the condition has not.
    """
    if pixels.dtype != np.dtype(spec.dtype):
        raise ImageError(f"expected {spec.dtype} for {spec.name!r}, got {pixels.dtype}")
    channels = 1 if pixels.ndim == 2 else int(pixels.shape[2])
    if channels == spec.channels:
        return pixels
    if spec.channels == 3 and channels == 1:
        return cast("MapPixels", np.dstack([pixels] * 3))
    if spec.channels == 1 and channels == 3:
        wide = pixels.astype(np.int32)
        if int((wide.max(axis=2) - wide.min(axis=2)).max()) <= _GREY_TOLERANCE:
            return cast("MapPixels", np.rint(wide.mean(axis=2)).astype(pixels.dtype))
        raise ImageError(f"expected a grey map for {spec.name!r}, got one with colours")
    raise ImageError(f"expected {spec.channels} channel(s) for {spec.name!r}, got {channels}")
