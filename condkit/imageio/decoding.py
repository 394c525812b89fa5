"""Decoding image files by one policy.

The policy, in this order, and notes what it did: size limits before any pixel is
decoded; a full decode, so that a truncated file is an error; the first frame; EXIF or XMP
orientation; any mode and bit depth to 8 bits by scaling; colour profiles to sRGB; alpha on a matte.
Input files are never changed. `decode` may run in many threads at once.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from condkit.errors import ConfigError, ImageError
from condkit.imageio import bitdepth, colour, formats
from condkit.types import Rejection, RgbImage

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePolicy:
    """What decoding allows and assumes.

    Attributes:
        max_pixels: Width times height above which a picture is rejected before it is decoded; the
            default is where Pillow, too, takes a picture for a decompression bomb.
        max_bytes: File size above which a file is not even read.
        matte: The sRGB colour, 0 to 255 each, that stands behind transparent pixels.
    """

    max_pixels: int = 178_956_970
    max_bytes: int = 1 << 30
    matte: tuple[int, int, int] = (255, 255, 255)

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if len(self.matte) != 3 or not all(0 <= value <= 255 for value in self.matte):
            raise ConfigError(f"matte: expected three values from 0 to 255, got {self.matte!r}")


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture and how it came about.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright, sRGB, C-contiguous, owned and writable.
        notes: What decoding did beyond reading pixels, in order: "draft-1/4", "first-frame",
            "exif-unreadable", "exif-transposed" or "xmp-transposed", "16-bit-scaled",
            "float-scaled", "integers-stretched-from-LOW..HIGH", "floats-stretched-from-LOW..HIGH",
            "palette-to-rgb", "grey-to-rgb", "cmyk-to-rgb", "lab-to-rgb", "icc-to-srgb",
            "icc-unreadable", "icc-ignored-is-for-SPACE", "cmyk-without-profile",
            "alpha-on-white".
        original_hw: Height and width of the upright picture in the file; `image` is smaller only
            after a scaled decode.
        format: Pillow's name of the file format.
    """

    image: RgbImage
    notes: tuple[str, ...]
    original_hw: tuple[int, int]
    format: str


def decode(
    source: Path | bytes,
    *,
    policy: DecodePolicy | None = None,
    name: str | None = None,
    at_least: int | None = None,
) -> Decoded:
    """Decode one image file by the policy of this module.

    Args:
        source: The file, or its bytes.
        policy: Limits and matte; the defaults of `DecodePolicy` when None.
        name: What messages call it; the path, or "image data", when None.
        at_least: The short side, in pixels, that is enough. A JPEG may then be decoded at 1/2, 1/4
            or 1/8 of its size, never below this, which is faster; its pixels differ from those of
            a full decode that is shrunk. None decodes in full.

    Raises:
        ImageError: if the file cannot be read, is over a limit, unknown, broken or truncated.
        ConfigError: if `at_least` is below 1.
    """
    label = name or (str(source) if isinstance(source, Path) else "image data")
    try:
        return _decode(source, policy or DecodePolicy(), label, at_least)
    except ImageError as error:
        raise ImageError(f"{label}: {error}") from error


def decode_or_reject(
    source: Path | bytes,
    relative: str,
    *,
    policy: DecodePolicy | None = None,
    at_least: int | None = None,
) -> Decoded | Rejection:
    """Decode one image file, or say at which stage and why it was left out.

    Args:
        source: The file, or its bytes.
        relative: The name under which the rejection is reported.
        policy: As for `decode`.
        at_least: As for `decode`.

    Raises:
        ConfigError: if `at_least` is below 1.
    """
    try:
        return _decode(source, policy or DecodePolicy(), relative, at_least)
    except ImageError as error:
        return Rejection(source=relative, stage="decode", reason=str(error))


def _decode(source: Path | bytes, policy: DecodePolicy, name: str, at_least: int | None) -> Decoded:
    if at_least is not None and at_least < 1:
        raise ConfigError(f"at_least: expected a short side of 1 pixel or more, got {at_least}")
    data = read_source(source, policy)
    picture = formats.open_image(data, name=name)
    check_size(picture, policy)
    form, size = picture.format or "unknown", picture.size
    drafted = _scale_down(picture, at_least) if at_least is not None else []
    notes = list(drafted)
    if formats.has_more_frames(picture):
        notes.append("first-frame")
    try:
        loaded, alpha, sideways = _load_upright(data, name, picture, notes)
        image, colour_notes = colour.to_srgb(loaded, alpha=alpha, matte=policy.matte)
    except ImageError:
        raise
    except Exception as error:  # one odd file must not end a run of a million
        why = formats.describe(error)
        raise ImageError(f"cannot be brought to 8-bit sRGB ({why})") from error
    original_hw = (image.shape[0], image.shape[1])
    if drafted:
        original_hw = size if sideways else (size[1], size[0])
    return Decoded(image, (*notes, *colour_notes), original_hw, form)


def read_source(source: Path | bytes, policy: DecodePolicy) -> bytes:
    """The bytes of a regular file, or those given, if they are within the policy's limit.

    Raises:
        ImageError: if the file cannot be read or is too large.
    """
    if isinstance(source, Path):
        try:
            status = source.stat()
            if not stat.S_ISREG(status.st_mode):
                kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
                raise ImageError(f"is {kind}; an image file was expected")
            _check_bytes(status.st_size, policy)
            source = source.read_bytes()
        except (OSError, ValueError) as error:
            if isinstance(error, ImageError):
                raise
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise ImageError(f"cannot be read: {reason}") from error
    if not source:
        raise ImageError("is empty (0 bytes)")
    _check_bytes(len(source), policy)
    return source


def _check_bytes(size: int, policy: DecodePolicy) -> None:
    if size > policy.max_bytes:
        raise ImageError(f"has {size} bytes, more than the limit of {policy.max_bytes} (max_bytes)")


def check_size(picture: Image, policy: DecodePolicy) -> None:
    """Refuse a picture whose header promises more pixels than the policy allows.

    Raises:
        ImageError: if it does; the message names the limit.
    """
    width, height = picture.size
    if width * height > policy.max_pixels:
        raise ImageError(
            f"has {width}x{height} = {width * height} pixels, more than the limit of "
            f"{policy.max_pixels} (max_pixels); shrink it or raise the limit if it is meant"
        )


def _scale_down(picture: ImageFile, at_least: int) -> list[str]:
    """Have libjpeg decode at a fraction of the size where that is enough."""
    if picture.format not in ("JPEG", "MPO"):
        return []
    enough = min(picture.size) // at_least
    factor = next((factor for factor in (8, 4, 2) if factor <= enough), 1)
    if factor == 1:
        return []
    picture.draft(None, (at_least, at_least))
    return [f"draft-1/{factor}"]


def _load_upright(
    data: bytes, name: str, picture: ImageFile, notes: list[str]
) -> tuple[Image, Image | None, bool]:
    """Decode all pixels and turn them.

    Returns:
        The picture, its alpha where 16-bit colour made that come apart, and whether height and
        width changed places after loading.
    """
    # TIFF loses its tag while it loads; PNG may bring its EXIF behind the pixels.
    early = picture.format == "TIFF"
    value, origin = formats.orientation(picture) if early else (1, "")
    turned = early and formats.pillow_turns(picture, value)
    loaded, alpha, note = _load(data, name, picture)
    if not early:
        value, origin = formats.orientation(picture)
    if origin == "unreadable":
        notes.append("exif-unreadable")
    elif value != 1:
        notes.append(f"{origin}-transposed")
    if note:
        notes.append(note)
    rest = 1 if turned else value
    upright_alpha = None if alpha is None else formats.upright(alpha, rest)
    return formats.upright(loaded, rest), upright_alpha, rest >= 5


def _load(data: bytes, name: str, picture: ImageFile) -> tuple[Image, Image | None, str]:
    raw = bitdepth.deep_colour(picture)
    if raw is None:
        formats.load(picture)
        return picture, None, ""
    low = load_deep(data, name, picture, raw)
    return *bitdepth.join_bytes(picture, low, raw), "16-bit-scaled"


def load_deep(data: bytes, name: str, picture: ImageFile, raw: str) -> ImageFile:
    """Load the high bytes into `picture` and the low ones into a second picture, returned."""
    low = formats.open_image(data, name=name)
    bitdepth.choose_bytes(picture, raw, "high")
    bitdepth.choose_bytes(low, raw, "low")
    formats.load(picture)
    formats.load(low)
    return low
