"""From any picture Pillow can hold to 8-bit sRGB on a matte: modes, profiles, transparency."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from condkit.errors import ImageError
from condkit.imageio.bitdepth import grey_from_floats, grey_from_integers
from condkit.types import RgbImage

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageCms import ImageCmsProfile, ImageCmsTransform

_PROFILE_SPACE = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}
_GREY_WITH_ALPHA = {"1", "L", "LA", "La"}


def to_srgb(
    picture: Image, *, alpha: Image | None = None, matte: tuple[int, int, int]
) -> tuple[RgbImage, tuple[str, ...]]:
    """Convert a loaded picture of any mode.

    Args:
        picture: Any Pillow mode; its colour profile is `info["icc_profile"]`.
        alpha: Its transparency of mode L where that was already taken off.
        matte: The sRGB colour that stands behind transparent pixels.

    Returns:
        (H, W, 3) uint8, owned and writable, and the notes on what was done, in order.

    Raises:
        ImageError: if the mode is unknown or its samples have no range.
    """
    notes: list[str] = []
    profile = picture.info.get("icc_profile")
    colour, own_alpha = _split(picture, notes)
    rgb = _through_profile(colour, profile, notes)
    alpha = alpha or own_alpha
    if alpha is not None and alpha.getextrema() != (255, 255):
        rgb = _on_matte(rgb, alpha, matte)
        notes.append(f"alpha-on-{_colour_name(matte)}")
    return np.array(rgb, dtype=np.uint8, order="C"), tuple(notes)


def _split(picture: Image, notes: list[str]) -> tuple[Image, Image | None]:
    """Part a picture into colour (L, RGB, CMYK or LAB) and alpha (L or None)."""
    mode = picture.mode
    if mode.startswith("I"):
        grey, alpha, note = grey_from_integers(picture)
        notes.append(note)
        return grey, alpha
    if mode == "F":
        grey, note = grey_from_floats(picture)
        notes.append(note)
        return grey, None
    if mode in ("P", "PA"):
        notes.append("palette-to-rgb")
    if mode == "La":
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        straight = picture.convert("LA" if mode in _GREY_WITH_ALPHA else "RGBA")
        *bands, alpha = straight.split()
        return (bands[0] if len(bands) == 1 else straight.convert("RGB")), alpha
    if mode in ("L", "RGB", "CMYK", "LAB"):
        return picture, None
    if mode in ("1", "P", "RGBX", "YCbCr", "HSV"):
        return picture.convert("L" if mode == "1" else "RGB"), None
    raise ImageError(f"has the pixel mode {mode}, which has no rule; save it as RGB with 8 bits")


def _through_profile(colour: Image, profile: bytes | None, notes: list[str]) -> Image:
    """Convert to sRGB through the profile where there is one that fits, else by plain formulas."""
    if colour.mode != "RGB":
        notes.append(f"{ {'L': 'grey'}.get(colour.mode, colour.mode.lower()) }-to-rgb")
    if profile:
        converted = _with_profile(colour, bytes(profile), notes)
        if converted is not None:
            return converted
    if colour.mode == "LAB":
        return _apply(_lab_transform(), colour)
    if colour.mode == "CMYK":
        notes.append("cmyk-without-profile")
    return colour if colour.mode == "RGB" else colour.convert("RGB")


def _with_profile(colour: Image, profile: bytes, notes: list[str]) -> Image | None:
    from PIL import ImageCms

    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = opened.profile.xcolor_space.strip()
        if space == "RGB" and colour.mode == "L":
            colour = colour.convert("RGB")
        if _PROFILE_SPACE[colour.mode] != space:
            notes.append(f"icc-ignored-is-for-{space.lower()}")
            return None
        if colour.mode in ("L", "RGB") and _changes_nothing(profile, colour.mode):
            return colour.convert("RGB")
        converted = _apply(_transform(opened, colour.mode), colour)
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        notes.append("icc-unreadable")
        return None
    notes.append("icc-to-srgb")
    return converted


def _transform(source: ImageCmsProfile, mode: str) -> ImageCmsTransform:
    """Relative colorimetric with black point compensation, as photograph viewers do."""
    from PIL import ImageCms

    return ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def _lab_transform() -> ImageCmsTransform:
    from PIL import ImageCms

    d50 = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    return _transform(d50, "LAB")


def _apply(transform: ImageCmsTransform, picture: Image) -> Image:
    from PIL import ImageCms

    converted = ImageCms.applyTransform(picture, transform)
    if converted is None:
        raise ImageError("could not be converted to sRGB")
    return converted


@lru_cache(maxsize=16)
def _changes_nothing(profile: bytes, mode: str) -> bool:
    """Whether a profile is sRGB but for rounding, so that its pixels are best left alone."""
    from PIL import Image, ImageCms

    steps = np.linspace(0, 255, 18).round().astype(np.uint8)
    lattice = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, steps.size, 3)
    probe = Image.fromarray(lattice if mode == "RGB" else np.arange(256, dtype=np.uint8)[None])
    converted = _apply(_transform(ImageCms.ImageCmsProfile(io.BytesIO(profile)), mode), probe)
    difference = np.asarray(probe.convert("RGB")).astype(int) - np.asarray(converted)
    return int(np.abs(difference).max()) <= 1


def _on_matte(rgb: Image, alpha: Image, matte: tuple[int, int, int]) -> Image:
    from PIL import Image

    canvas = Image.new("RGB", rgb.size, matte)
    canvas.paste(rgb, mask=alpha)
    return canvas


def _colour_name(matte: tuple[int, int, int]) -> str:
    named = {(255, 255, 255): "white", (0, 0, 0): "black"}
    return named.get(matte, "#{:02x}{:02x}{:02x}".format(*matte))
