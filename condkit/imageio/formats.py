"""Which image files are opened, and how: still-image formats only, whole or not at all.

Pillow is driven through its registered plugins, one named format at a time. `PIL.Image.open` is
left aside because its size limit is a process-wide global and its answer to an oversized picture a
warning, and because it would try every plugin there is, one of which starts Ghostscript.
"""

from __future__ import annotations

import importlib
import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from condkit.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

_SUFFIXES = """
    .jpg .jpeg .jpe .jfif .mpo .png .apng .webp .tif .tiff .bmp .dib .gif .ppm .pgm .pbm .pnm .pfm
    .avif .avifs .jp2 .j2k .jpx .jpf .j2c .psd .tga .heic .heif
"""
IMAGE_SUFFIXES: frozenset[str] = frozenset(_SUFFIXES.split())
"""Lower-case suffixes of files that a scan of a folder takes for pictures.

The content decides what a file is, not its suffix; TGA alone has no signature and needs its suffix.
"""

_PLUGINS = {
    "JPEG": "PIL.JpegImagePlugin",
    "PNG": "PIL.PngImagePlugin",
    "WEBP": "PIL.WebPImagePlugin",
    "TIFF": "PIL.TiffImagePlugin",
    "GIF": "PIL.GifImagePlugin",
    "BMP": "PIL.BmpImagePlugin",
    "AVIF": "PIL.AvifImagePlugin",
    "JPEG2000": "PIL.Jpeg2KImagePlugin",
    "PPM": "PIL.PpmImagePlugin",
    "PSD": "PIL.PsdImagePlugin",
}
_SUFFIX_ONLY = {"TGA": ("PIL.TgaImagePlugin", (".tga",))}
_FRAMED = frozenset({"GIF", "PNG", "WEBP", "AVIF", "TIFF", "MPO"})
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])")


@cache
def _registered() -> tuple[str, ...]:
    for module in _PLUGINS.values():
        importlib.import_module(module)
    importlib.import_module("PIL.MpoImagePlugin")
    try:
        pillow_heif = importlib.import_module("pillow_heif")
    except ImportError:
        return tuple(_PLUGINS)
    pillow_heif.register_heif_opener()
    return (*_PLUGINS, "HEIF")


def open_image(data: bytes, *, name: str) -> ImageFile:
    """Read a picture's header; no pixel is decoded.

    Args:
        data: The whole file.
        name: The file's name, for the formats that have no signature.

    Returns:
        A Pillow image that is not loaded yet, larger than zero in both directions.

    Raises:
        ImageError: if no known format fits, or one fits and its header is broken.
    """
    from PIL import Image

    formats = list(_registered())
    for suffix_format, (module, suffixes) in _SUFFIX_ONLY.items():
        if name.lower().endswith(suffixes):
            importlib.import_module(module)
            formats.append(suffix_format)
    for known in formats:
        factory, accept = Image.OPEN[known]
        accepted = accept(data[:16]) if accept is not None else True
        if isinstance(accepted, str):
            raise ImageError(f"this Pillow cannot read {known}: {accepted}")
        if not accepted:
            continue
        try:
            picture = factory(io.BytesIO(data), "")
        except Exception as error:
            raise ImageError(_why_not_opened(known, error)) from error
        if min(picture.size) < 1:
            raise ImageError(f"has a size of zero: {picture.width}x{picture.height} pixels")
        return picture
    raise ImageError(
        f"is not a picture in a known format ({', '.join((*formats, *_unavailable(formats)))})"
    )


def _why_not_opened(known: str, error: Exception) -> str:
    from PIL import PngImagePlugin

    why = describe(error)
    if "MAX_TEXT" in why:
        limits = f"{PngImagePlugin.MAX_TEXT_CHUNK} and {PngImagePlugin.MAX_TEXT_MEMORY}"
        why = f"texts larger than the limits of {limits} bytes per text and in all"
    elif "not identified by this driver" in why:
        why = "its header is cut off or says a size of zero"
    return f"is a {known} file by its signature, but cannot be opened: {why}"


def _unavailable(formats: list[str]) -> tuple[str, ...]:
    return () if "HEIF" in formats else ("HEIC once pillow-heif is installed",)


def load(picture: Image) -> None:
    """Decode all pixels of the first frame.

    Raises:
        ImageError: if the file ends early or its data is broken; never grey rows instead.
    """
    if picture.format == "JPEG2000":
        _refuse_unfinished_jpeg2000(picture)
    try:
        with _strictly():
            picture.load()
    except Exception as error:
        raise ImageError(f"cannot be decoded in full ({describe(error)})") from error


def _refuse_unfinished_jpeg2000(picture: Image) -> None:
    """OpenJPEG fills what is missing with zeros and does not say so."""
    stream: Any = getattr(picture, "fp", None)
    if stream is None:
        return
    place = stream.tell()
    stream.seek(0)
    data = stream.read()
    stream.seek(place)
    # Packets hold no 0xFF before a byte above 0x8F, so this is the end marker and nothing else.
    if data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\x93"):
        raise ImageError("cannot be decoded in full (the end of its JPEG 2000 stream is missing)")


def describe(error: Exception) -> str:
    """What a decoder said, in one line, with the error's type where that tells more."""
    text = " ".join(str(error).split())
    return (
        text
        if isinstance(error, OSError | SyntaxError) and text
        else (f"{type(error).__name__}: {text}" if text else type(error).__name__)
    )


_strict_lock = threading.Lock()
_strict_readers = 0
_outside_value = False


@contextmanager
def _strictly() -> Iterator[None]:
    """Keep Pillow from padding truncated files with grey while any thread of ours decodes.

    Pillow offers no switch per picture, only the global `LOAD_TRUNCATED_IMAGES`. It is touched only
    where some other code of the process has turned it on, and put back when the last of our
    decoders is through.
    """
    from PIL import ImageFile

    global _strict_readers, _outside_value
    with _strict_lock:
        if _strict_readers == 0:
            _outside_value = ImageFile.LOAD_TRUNCATED_IMAGES
            if _outside_value:
                ImageFile.LOAD_TRUNCATED_IMAGES = False
        _strict_readers += 1
    try:
        yield
    finally:
        with _strict_lock:
            _strict_readers -= 1
            if _strict_readers == 0 and _outside_value:
                ImageFile.LOAD_TRUNCATED_IMAGES = True


def has_more_frames(picture: ImageFile) -> bool:
    """Whether pictures follow the first: animations, pages, the second eye of an MPO.

    A later frame that cannot even be counted still counts as one.
    """
    if picture.format not in _FRAMED:
        return False
    try:
        return bool(getattr(picture, "is_animated", False))
    except Exception:
        return True


def orientation(picture: Image) -> tuple[int, str]:
    """The EXIF orientation, 1 to 8, and where it was found.

    EXIF goes before XMP (`tiff:Orientation`), and only one of them is heeded. For AVIF, Pillow
    hands the container's own `irot` and `imir` over as EXIF. Unknown values count as 1, upright.

    Returns:
        The orientation and "exif", "xmp", or "unreadable" where the EXIF block is broken.
    """
    origin = "exif"
    try:
        value = _exif_orientation(picture)
    except Exception:
        value, origin = None, "unreadable"
    found = _XMP_ORIENTATION.search(_xmp(picture))
    if found and (value is None or not _has_exif(picture)):
        return int(found.group(1)), "xmp"
    return (value, origin) if isinstance(value, int) and 1 <= value <= 8 else (1, origin)


def pillow_turns(picture: Image, value: int) -> bool:
    """Whether Pillow itself will turn a picture by `value` while it loads, as it does with TIFF."""
    try:
        return picture.format == "TIFF" and _exif_orientation(picture) == value
    except Exception:
        return False


def _exif_orientation(picture: Image) -> object:
    """Pillow's view, which falls back to XMP for most spellings."""
    from PIL import ExifTags

    with _strictly():
        return picture.getexif().get(ExifTags.Base.Orientation)


def _has_exif(picture: Image) -> bool:
    tags = getattr(picture, "tag_v2", {})
    return not {"exif", "Raw profile type exif"}.isdisjoint(picture.info) or 274 in tags


def _xmp(picture: Image) -> bytes:
    packet = picture.info.get("XML:com.adobe.xmp") or picture.info.get("xmp") or b""
    return packet.encode("utf-8", "replace") if isinstance(packet, str) else bytes(packet)


def upright(picture: Image, value: int) -> Image:
    """The picture turned and mirrored as EXIF orientation `value` (1 to 8) demands."""
    from PIL.Image import Transpose

    method = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(value)
    return picture if method is None else picture.transpose(method)
