"""Whether a picture file decodes, and what it turns out to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from condkit import imageio
from condkit.errors import ImageError
from condkit.types import MapPixels, RgbImage

_CHANGED_BY_DECODING = ("transposed", "grey-to-rgb", "scaled", "stretched", "cmyk", "alpha")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A picture that cannot be decoded.

    Attributes:
        reason: Why, in a few words.
    """

    reason: str


def decode_picture(data: bytes | Path) -> tuple[RgbImage, tuple[str, ...]] | Unreadable:
    """Decode a picture in full.

    Args:
        data: Its file, or its bytes.

    Returns:
        The (H, W, 3) uint8 pixels and what decoding had to do, or why there are none.
    """
    try:
        decoded = imageio.decode(data, name="picture")
    except ImageError as error:
        return Unreadable(str(error).removeprefix("picture: "))
    return decoded.image, decoded.notes


def decode_map(data: bytes) -> MapPixels | Unreadable:
    """Decode a map as it was written, or say why not."""
    try:
        return imageio.read_map(data)
    except ImageError as error:
        return Unreadable(str(error).removeprefix("map data: "))


def changes(notes: tuple[str, ...]) -> tuple[str, ...]:
    """Those notes of decoding that mean that a plain reader sees other pixels than ours."""
    return tuple(note for note in notes if any(word in note for word in _CHANGED_BY_DECODING))


def size_text(pixels: MapPixels | RgbImage) -> str:
    """Width and height as people write them: "512x384"."""
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
