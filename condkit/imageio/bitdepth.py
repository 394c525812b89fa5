"""From 16-bit, 32-bit and float samples to 8 bits: by scaling, never by wrapping or clipping.

* 16-bit samples are divided by 257 and rounded, so 0 stays 0 and 65535 becomes 255. The type's
  range counts, not the picture's: a dark scan stays dark. 12-bit TIFF samples are scaled by their
  own 4095.
* Float samples in [0, 1] are multiplied by 255 and rounded.
* Other float samples, and 32-bit and signed integers, have no agreed white. They are stretched
  from their smallest to their largest value, which the notes name.

Pillow itself keeps the high byte of 16-bit grey with alpha and of deep JPEG 2000 and AVIF colour;
that is at most one level below the rounded value.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from condkit.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

Samples: TypeAlias = NDArray[np.uint16]

_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANAR = 258, 262, 284
_WHITE_IS_ZERO = 0
_DEEP_COLOUR = ("RGB;16", "RGBA;16", "RGBa;16", "RGBX;16", "CMYK;16")


def scale_to_8_bits(samples: NDArray[Any], *, white: int = 65535) -> NDArray[np.uint8]:
    """Map 0..white linearly onto 0..255, rounded half up.

    Args:
        samples: Unsigned integers of any shape, none above `white`.
        white: The value that becomes 255.

    Returns:
        Array of the same shape.
    """
    table: NDArray[np.uint8] = (
        (np.arange(white + 1, dtype=np.uint32) * 510 + white) // (2 * white)
    ).astype(np.uint8)
    scaled: NDArray[np.uint8] = table[samples]
    return scaled


def grey_from_integers(picture: Image) -> tuple[Image, Image | None, str]:
    """Bring a loaded 16-bit or 32-bit single-channel picture to 8-bit grey.

    Args:
        picture: Mode I or one of the I;16 modes.

    Returns:
        A picture of mode L, its alpha of mode L where one grey was declared transparent (PNG tRNS),
        and the note that names the rule.

    Raises:
        ImageError: if the picture has one value only and no agreed range.
    """
    from PIL import Image

    samples = np.asarray(picture)
    if picture.mode == "I" and picture.format not in ("PNG", "PPM"):
        grey, note = _stretched(samples.astype(np.float64), "integers")
        return Image.fromarray(grey), None, note
    white = 4095 if _bits(picture) == (12,) else 65535
    samples = np.clip(samples, 0, white).astype(np.uint16)
    if getattr(picture, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        samples = (white - samples).astype(np.uint16)
    transparent = picture.info.get("transparency")
    alpha = None
    if isinstance(transparent, int):
        alpha = Image.fromarray(np.where(samples == transparent, 0, 255).astype(np.uint8))
    return Image.fromarray(scale_to_8_bits(samples, white=white)), alpha, "16-bit-scaled"


def grey_from_floats(picture: Image) -> tuple[Image, str]:
    """Bring a loaded picture of mode F to 8-bit grey by the rules of this module.

    Returns:
        A picture of mode L and the note that names the rule.

    Raises:
        ImageError: if a sample is NaN or infinite, or all are the same value outside of [0, 1].
    """
    from PIL import Image

    samples = np.asarray(picture, dtype=np.float64)
    if not np.isfinite(samples).all():
        raise ImageError("has float samples that are NaN or infinite, which no grey stands for")
    if samples.min() >= 0 and samples.max() <= 1:
        return Image.fromarray(np.floor(samples * 255 + 0.5).astype(np.uint8)), "float-scaled"
    grey, note = _stretched(samples, "floats")
    return Image.fromarray(grey), note


def _stretched(samples: NDArray[np.float64], kind: str) -> tuple[NDArray[np.uint8], str]:
    low, high = float(samples.min()), float(samples.max())
    if low == high:
        raise ImageError(
            f"has {kind} that all equal {low:g}, so nothing says what is black and what is white; "
            "save it with 8 or 16 bits, or as floats in [0, 1]"
        )
    grey = np.floor((samples - low) / (high - low) * 255 + 0.5).astype(np.uint8)
    return grey, f"{kind}-stretched-from-{low:g}..{high:g}"


def deep_colour(picture: ImageFile) -> str | None:
    """The raw mode of a picture, not loaded yet, whose colour samples have 16 bits; else None.

    Pillow has no mode for such colour and keeps the high byte of each sample.

    Raises:
        ImageError: if the samples lie in separate planes without compression: Pillow misreads it.
    """
    if picture.format not in ("PNG", "TIFF") or not picture.tile:
        return None
    tags = getattr(picture, "tag_v2", {})
    if picture.tile[0].codec_name != "libtiff" and tags.get(_PLANAR) == 2 and _bits(picture)[0] > 8:
        raise ImageError(
            "is an uncompressed TIFF with 16-bit samples in separate planes, which cannot be read; "
            "save it with interleaved samples (planar configuration 1) or compressed"
        )
    raw = _raw_mode(picture.tile[0].args)
    return raw if raw.startswith(_DEEP_COLOUR) else None


def choose_bytes(picture: ImageFile, raw: str, which: Literal["high", "low"]) -> None:
    """Have a picture, not loaded yet, decode the high or the low bytes of its 16-bit samples.

    The low ones come with the byte order swapped. Colour that was multiplied by alpha is taken as
    it is.

    Args:
        picture: The picture; its tiles are changed.
        raw: What `deep_colour` said.
        which: The bytes.
    """
    name, _, depth = raw.partition(";")
    order = depth[-1] if which == "high" else _swapped(depth[-1])
    wanted = f"{name.upper()};16{order}"
    picture.tile = [tile._replace(args=_with_raw_mode(tile.args, wanted)) for tile in picture.tile]


def samples_16(high: Image, low: Image) -> Samples:
    """(H, W, C) uint16 from the two pictures that `choose_bytes` made, both loaded."""
    samples: Samples = (np.asarray(high).astype(np.uint16) << 8) | np.asarray(low)
    return samples


def join_bytes(high: Image, low: Image, raw: str) -> tuple[Image, Image | None]:
    """Scale 16-bit colour to 8 bits in full precision.

    Args:
        high: The loaded picture of the high bytes.
        low: The loaded picture of the low bytes.
        raw: What `deep_colour` said.

    Returns:
        A picture of mode RGB or CMYK with the info of `high`, and its alpha of mode L or None.
    """
    from PIL import Image

    samples = samples_16(high, low)
    mode: Literal["CMYK", "RGB"] = "CMYK" if raw.startswith("CMYK") else "RGB"
    alpha = None
    if raw.upper().startswith("RGBA"):
        alpha = Image.fromarray(scale_to_8_bits(samples[..., 3]))
        samples = _straight(samples) if raw.startswith("RGBa") else samples[..., :3]
    elif mode == "RGB":
        samples = samples[..., :3]
        alpha = _colour_key(samples, high.info.get("transparency"))
    scaled = scale_to_8_bits(samples)
    height, width = scaled.shape[:2]
    picture = Image.frombytes(mode, (width, height), scaled.tobytes())
    picture.info = {key: value for key, value in high.info.items() if key != "transparency"}
    return picture, alpha


def _swapped(order: str) -> str:
    native_swapped = "B" if sys.byteorder == "little" else "L"
    return {"B": "L", "L": "B", "N": native_swapped}[order]


def _straight(samples: Samples) -> Samples:
    """Undo the multiplication by alpha; what is fully transparent becomes black."""
    alpha = samples[..., 3:].astype(np.uint32)
    colour = samples[..., :3].astype(np.uint32)
    straight = (colour * 65535 + alpha // 2) // np.maximum(alpha, 1)
    return np.where(alpha == 0, 0, np.minimum(straight, 65535)).astype(np.uint16)


def _colour_key(samples: Samples, transparent: object) -> Image | None:
    from PIL import Image

    if not isinstance(transparent, tuple):
        return None
    hidden = (samples == np.asarray(transparent, np.uint16)).all(axis=2)
    return Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8))


def _bits(picture: Image) -> tuple[int, ...]:
    bits = getattr(picture, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))
    return bits if isinstance(bits, tuple) else (bits,)


def _raw_mode(arguments: Any) -> str:  # noqa: ANN401 - whatever the plugin put there
    first = arguments[0] if isinstance(arguments, tuple) else arguments
    return first if isinstance(first, str) else ""


def _with_raw_mode(arguments: Any, raw: str) -> Any:  # noqa: ANN401 - as above
    return (raw, *arguments[1:]) if isinstance(arguments, tuple) else raw
