"""Promises of the one place that decodes and encodes image files."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import ExifTags, Image, ImageCms, ImageFile

from condkit.errors import ConfigError, ImageError, MapError
from condkit.imageio import (
    Decoded,
    DecodePolicy,
    decode,
    decode_or_reject,
    encode_png,
    read_map,
    write_map,
)
from condkit.types import Rejection

SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 24), st.sampled_from([1, 3])).map(
    lambda shape: shape[:2] if shape[2] == 1 else shape
)
RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)
UPRIGHT = np.zeros((24, 40, 3), np.uint8)
UPRIGHT[:8, :16] = (255, 0, 0)
UPRIGHT[16:, 24:] = (0, 0, 255)


def encoded(picture: Image.Image, form: str, **settings) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **settings)
    return stream.getvalue()


def photo(height=97, width=141) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 255 // width, y * 255 // height, (x * y) % 256], axis=-1)
    return Image.fromarray(rgb.astype(np.uint8))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(width, height, bits, colour, data=b"", chunks=b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + chunks
        + png_chunk(b"IDAT", zlib.compress(data))
        + png_chunk(b"IEND", b"")
    )


def png_16(samples: np.ndarray, colour: int, chunks=b"") -> bytes:
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return raw_png(width, height, 16, colour, rows, chunks)


def scaled(samples: np.ndarray) -> np.ndarray:
    return np.floor(samples / 257 + 0.5).astype(np.uint8)


# ---- round trips


@given(hnp.arrays(st.sampled_from([np.uint8, np.uint16]), SHAPES))
def test_a_map_comes_back_bit_for_bit(pixels):
    data = encode_png(pixels)
    back = read_map(data)
    assert back.dtype == pixels.dtype
    np.testing.assert_array_equal(back, pixels)
    assert back.flags.writeable
    assert back.flags.owndata
    assert encode_png(back) == data


@given(hnp.arrays(np.uint8, SHAPES))
def test_an_image_of_8_bits_comes_back_bit_for_bit(pixels):
    rgb = np.stack([pixels] * 3, axis=-1) if pixels.ndim == 2 else pixels
    np.testing.assert_array_equal(decode(encode_png(pixels)).image, rgb)


@given(hnp.arrays(np.uint16, SHAPES))
def test_an_image_of_16_bits_comes_back_divided_by_257_and_rounded(pixels):
    rgb = np.stack([pixels] * 3, axis=-1) if pixels.ndim == 2 else pixels
    decoded = decode(encode_png(pixels))
    np.testing.assert_array_equal(decoded.image, scaled(rgb))
    assert "16-bit-scaled" in decoded.notes


def test_a_map_keeps_its_single_channel_and_its_colour_order_on_disk(tmp_path):
    write_map(tmp_path / "deep" / "grey.png", np.zeros((4, 5), np.uint8))
    write_map(tmp_path / "red.png", np.full((4, 5, 3), (255, 0, 0), np.uint8))
    with Image.open(tmp_path / "deep" / "grey.png") as grey:
        assert (grey.mode, grey.size) == ("L", (5, 4))
    with Image.open(tmp_path / "red.png") as red:
        assert red.getpixel((0, 0)) == (255, 0, 0)
    assert read_map(tmp_path / "red.png")[0, 0].tolist() == [255, 0, 0]


def test_a_view_encodes_like_its_copy():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    for view in (pixels[::2, 3:], pixels[:, ::-1], pixels[..., 0]):
        assert encode_png(view) == encode_png(view.copy())


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 4), np.uint16),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_what_does_not_fit_into_a_png_is_named(pixels):
    with pytest.raises(MapError, match="a PNG holds"):
        encode_png(pixels)


def test_a_one_bit_map_is_read_as_0_and_255():
    data = encoded(Image.fromarray(np.eye(9, dtype=np.uint8) * 255).convert("1"), "PNG")
    np.testing.assert_array_equal(read_map(data), np.eye(9, dtype=np.uint8) * 255)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(photo(), "JPEG"), "is a JPEG file; maps are lossless PNG"),
        (encoded(photo().convert("P"), "PNG"), "pixel mode P"),
        (encoded(photo().convert("LA"), "PNG"), "pixel mode LA"),
        (encoded(photo(), "PNG")[:300], "cannot be decoded in full"),
        (b"no picture", "is not a picture in a known format"),
    ],
)
def test_what_is_no_map_is_named(data, reason):
    with pytest.raises(ImageError, match=reason):
        read_map(data)


# ---- the result


@pytest.mark.parametrize(
    "form", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "TGA"]
)
def test_a_decoded_image_is_contiguous_owned_and_writable(form):
    decoded = decode(encoded(photo(), form), name=f"picture.{form.lower()}")
    assert decoded.format == form
    assert decoded.image.shape == (97, 141, 3)
    assert decoded.image.dtype == np.uint8
    flags = decoded.image.flags
    assert flags.c_contiguous
    assert flags.owndata
    assert flags.writeable


def test_a_decode_from_a_path_and_from_bytes_agree_and_the_file_stays(tmp_path):
    path = tmp_path / "été 写真.jpg"
    path.write_bytes(encoded(photo(), "JPEG"))
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    np.testing.assert_array_equal(decode(path).image, decode(path.read_bytes()).image)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


# ---- limits


def test_a_bomb_is_rejected_by_its_header_with_the_limit_named():
    bomb = raw_png(60000, 60000, 8, 2)
    with pytest.raises(ImageError, match=r"60000x60000 = 3600000000 pixels.*178956970"):
        decode(bomb)


def test_the_limit_is_the_policys_and_not_pillows(monkeypatch):
    data = encoded(photo(), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode(data).image.shape == (97, 141, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode(data, policy=DecodePolicy(max_pixels=97 * 141))
    with pytest.raises(ImageError, match=f"more than the limit of {97 * 141 - 1} "):
        decode(data, policy=DecodePolicy(max_pixels=97 * 141 - 1))


def test_a_compressed_text_bomb_in_a_png_is_rejected_with_the_limit_named():
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * (1 << 21)))
    with pytest.raises(ImageError, match="texts larger than the limits of 1048576"):
        decode(raw_png(1, 1, 8, 0, b"\0\0", text))


def test_a_file_over_the_byte_limit_is_not_read(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(encoded(photo(), "PNG"))
    with pytest.raises(ImageError, match=r"bytes, more than the limit of 100 \(max_bytes\)"):
        decode(path, policy=DecodePolicy(max_bytes=100))
    with pytest.raises(ImageError, match="max_bytes"):
        decode(path.read_bytes(), policy=DecodePolicy(max_bytes=100))


@pytest.mark.parametrize(
    "values", [{"max_pixels": 0}, {"max_bytes": -1}, {"matte": (1, 2)}, {"matte": (0, 0, 256)}]
)
def test_an_impossible_policy_is_named(values):
    with pytest.raises(ConfigError, match=f"^{next(iter(values))}: expected"):
        DecodePolicy(**values)


def test_an_impossible_at_least_is_named():
    with pytest.raises(ConfigError, match="at_least"):
        decode(encoded(photo(), "JPEG"), at_least=0)


# ---- whole or not at all

JPEGS = {
    "baseline": encoded(photo(), "JPEG"),
    "progressive": encoded(photo(), "JPEG", progressive=True),
    "grey": encoded(photo().convert("L"), "JPEG"),
    "cmyk": encoded(photo().convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("kind", JPEGS)
@given(data=st.data())
def test_a_jpeg_truncated_at_any_point_is_an_error(kind, data):
    whole = JPEGS[kind]
    cut = data.draw(st.integers(0, len(whole) - 1))
    at_least = data.draw(st.sampled_from([None, 20]))
    with pytest.raises(ImageError):
        decode(whole[:cut], at_least=at_least)


WHOLE = {
    "PNG": {},
    "GIF": {},
    "WEBP": {},
    "TIFF": {"compression": "tiff_lzw"},
    "BMP": {},
    "PPM": {},
    "AVIF": {"speed": 10},
    "JPEG2000": {},
    "TGA": {},
}


@pytest.mark.parametrize("form", WHOLE)
@given(data=st.data())
@settings(max_examples=40)
def test_a_file_cut_anywhere_is_an_error_or_the_whole_picture(form, data):
    whole, full = cut_case(form)
    cut = data.draw(st.integers(0, len(whole) - 1))
    outcome = decode_or_reject(whole[:cut], f"cut.{form.lower()}")
    if isinstance(outcome, Decoded):
        np.testing.assert_array_equal(outcome.image, full)


_cut_cases: dict[str, tuple[bytes, np.ndarray]] = {}


def cut_case(form):
    if form not in _cut_cases:
        whole = encoded(photo(29, 41), form, **WHOLE[form])
        _cut_cases[form] = whole, decode(whole, name=f"whole.{form.lower()}").image
    return _cut_cases[form]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", WHOLE)
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6))
@settings(max_examples=40)
def test_a_damaged_file_is_an_error_or_a_picture_and_nothing_else(form, flips):
    damaged = bytearray(cut_case(form)[0])
    for place, value in flips:
        damaged[place % len(damaged)] = value
    policy = DecodePolicy(max_pixels=1 << 22)
    outcome = decode_or_reject(bytes(damaged), f"damaged.{form.lower()}", policy=policy)
    assert isinstance(outcome, Decoded | Rejection)


@given(st.binary(max_size=200))
def test_any_bytes_at_all_are_a_picture_or_an_image_error(data):
    outcome = decode_or_reject(data, "some.tga", policy=DecodePolicy(max_pixels=1 << 22))
    assert isinstance(outcome, Decoded | Rejection)


def test_truncation_is_an_error_even_where_other_code_made_pillow_lenient(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    whole = JPEGS["baseline"]
    cut = whole[: len(whole) // 2]
    Image.open(io.BytesIO(cut)).load()  # Pillow would hand out grey rows here
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda data: decode_or_reject(data, "x"), [cut, whole] * 20))
    assert [isinstance(outcome, Rejection) for outcome in outcomes] == [True, False] * 20
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_decoding_touches_no_global_of_pillow():
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    decode(JPEGS["baseline"])
    decode_or_reject(JPEGS["baseline"][:500], "cut")
    after = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    assert after == before


# ---- what is no picture


def test_a_place_that_is_no_file_is_named_with_its_reason(tmp_path):
    for path, reason in [
        (tmp_path / "none.jpg", "cannot be read: No such file"),
        (tmp_path, "is a folder; an image file was expected"),
        (tmp_path / "nul\0.jpg", "cannot be read: .*null"),
    ]:
        with pytest.raises(ImageError, match=reason) as caught:
            decode(path)
        assert str(path) in str(caught.value)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        decode(tmp_path / "pipe.jpg")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(photo(), "PNG"))
    path.chmod(0)
    with pytest.raises(ImageError, match="Permission denied"):
        decode(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"hello, this is text", "is not a picture in a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture in a known"),
        (raw_png(0, 4, 8, 2), "size of zero"),
        (encoded(photo(), "BMP").replace(struct.pack("<ii", 141, 97), bytes(8)), "size of zero"),
        (b"P5 0 4 255\n", "size of zero"),
        (b"\xff\xd8\xff\xe0", "is a JPEG file by its signature"),
    ],
)
def test_what_is_no_picture_is_rejected_with_its_name_and_reason(data, reason):
    with pytest.raises(ImageError, match=f"^odd.jpg: .*{reason}"):
        decode(data, name="odd.jpg")
    rejected = decode_or_reject(data, "sub/odd.jpg")
    assert isinstance(rejected, Rejection)
    assert (rejected.source, rejected.stage) == ("sub/odd.jpg", "decode")
    assert "odd.jpg" not in rejected.reason


def test_the_content_decides_what_a_file_is_not_its_suffix():
    assert decode(encoded(photo(), "PNG"), name="wrong.jpg").format == "PNG"


# ---- orientation

STORED_AS = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels, -1),
}
LOSSLESS = {
    "PNG": {},
    "TIFF": {},
    "TIFF-lzw": {"compression": "tiff_lzw"},
    "WEBP": {"lossless": True},
    "JPEG": {"quality": 100, "subsampling": 0},
    "AVIF": {"quality": 100, "subsampling": "4:4:4", "speed": 10},
}
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description %s</rdf:Description></x:xmpmeta>'


def stored(value):
    return Image.fromarray(np.ascontiguousarray(STORED_AS[value](UPRIGHT)))


def assert_upright(decoded, tolerance=3):
    assert decoded.image.shape == UPRIGHT.shape
    assert decoded.original_hw == UPRIGHT.shape[:2]
    assert np.abs(decoded.image.astype(int) - UPRIGHT).max() <= tolerance


@pytest.mark.parametrize("form", LOSSLESS)
@pytest.mark.parametrize("value", STORED_AS)
def test_every_exif_orientation_gives_the_same_upright_picture(form, value):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    decoded = decode(encoded(stored(value), form.split("-")[0], exif=exif, **LOSSLESS[form]))
    assert_upright(decoded)
    assert decoded.notes == (("exif-transposed",) if value > 1 else ())


@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG", "AVIF", "TIFF"])
@pytest.mark.parametrize("spelling", ['tiff:Orientation="%d">', "tiff:Orientation='%d'>"])
def test_xmp_orientation_counts_where_exif_says_nothing(form, spelling):
    decoded = decode(with_xmp(form, spelling % 6, None))
    assert_upright(decoded)
    assert decoded.notes == ("xmp-transposed",)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG", "TIFF"])
def test_exif_and_xmp_that_both_speak_turn_the_picture_once(form):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    decoded = decode(with_xmp(form, "><tiff:Orientation>6</tiff:Orientation>", exif))
    assert_upright(decoded)
    assert decoded.notes == ("exif-transposed",)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG", "TIFF"])
def test_exif_that_says_upright_outweighs_xmp(form):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 1
    decoded = decode(with_xmp(form, 'tiff:Orientation="6">', exif))
    assert decoded.image.shape[:2] == (40, 24)
    assert decoded.notes == ()


def with_xmp(form, body, exif):
    packet = XMP % body.encode()
    if form == "TIFF":
        return encoded(stored(6), form, tiffinfo={700: packet} | dict(exif or {}))
    settings = dict(LOSSLESS[form], exif=exif) if exif is not None else dict(LOSSLESS[form])
    if form != "PNG":
        return encoded(stored(6), form, **settings, xmp=packet)
    plain = encoded(stored(6), form, **settings)
    chunk = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet)
    return plain[:33] + chunk + plain[33:]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG"])
@given(st.binary(min_size=1, max_size=60))
@settings(max_examples=40)
def test_broken_exif_does_not_kill_a_good_picture(form, noise):
    decoded = decode(encoded(stored(1), form, exif=b"Exif\0\0" + noise, **LOSSLESS[form]))
    np.testing.assert_allclose(np.sort(decoded.image, axis=None).mean(), UPRIGHT.mean(), atol=2)


def test_broken_exif_is_noted():
    decoded = decode(encoded(stored(1), "WEBP", exif=b"Exif\0\0nothing sensible", lossless=True))
    assert decoded.notes == ("exif-unreadable",)
    assert_upright(decoded, 0)


def test_a_scaled_jpeg_is_upright_too_and_keeps_its_original_size():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encoded(photo(300, 401), "JPEG", exif=exif)
    decoded = decode(data, at_least=75)
    assert decoded.image.shape == (101, 75, 3)
    assert decoded.original_hw == (401, 300)
    assert decoded.notes == ("draft-1/4", "exif-transposed")


@pytest.mark.parametrize(("at_least", "factor"), [(1, 8), (38, 4), (75, 4), (76, 2), (151, 1)])
def test_a_scaled_decode_never_falls_below_what_is_needed(at_least, factor):
    decoded = decode(encoded(photo(300, 400), "JPEG"), at_least=at_least)
    assert decoded.notes == ((f"draft-1/{factor}",) if factor > 1 else ())
    assert decoded.image.shape[0] == -(-300 // factor) >= min(at_least, 300)


def test_only_jpeg_is_decoded_scaled():
    assert decode(encoded(photo(), "PNG"), at_least=4).image.shape == (97, 141, 3)


# ---- bit depth


def test_a_16_bit_gradient_stays_monotone_and_reaches_both_ends():
    colour = np.stack([RAMP] * 3, axis=-1)
    premultiplied_full = np.concatenate([colour, np.full((256, 256, 1), 65535)], axis=-1)
    files = {
        "png grey": encoded(Image.fromarray(RAMP), "PNG"),
        "tiff grey": encoded(Image.fromarray(RAMP), "TIFF"),
        "png rgb": png_16(colour, 2),
        "png rgba": png_16(premultiplied_full, 6),
        "pgm": b"P5 256 256 65535\n" + RAMP.astype(">u2").tobytes(),
        "tiff rgb": tiff_16(colour, photometric=2),
        "tiff rgb big endian": tiff_16(colour, photometric=2, order=">"),
    }
    for name, data in files.items():
        decoded = decode(data)
        np.testing.assert_array_equal(decoded.image, scaled(colour), err_msg=name)
        assert "16-bit-scaled" in decoded.notes, name
        steps = np.diff(decoded.image[..., 1].reshape(-1).astype(int))
        assert steps.min() == 0, name
        assert steps.max() == 1, name


def test_grey_with_alpha_of_16_bits_is_scaled_within_one_level():
    opaque = np.stack([RAMP, np.full_like(RAMP, 65535)], axis=-1)
    grey = decode(png_16(opaque, 4)).image
    assert np.abs(grey[..., 0].astype(int) - scaled(RAMP)).max() <= 1
    assert (grey.min(), grey.max()) == (0, 255)


def test_a_16_bit_tiff_whose_white_is_zero_is_not_a_negative():
    data = tiff_16(RAMP[..., None], photometric=0)
    np.testing.assert_array_equal(decode(data).image[..., 0], scaled(65535 - RAMP))


def test_16_bit_planes_that_pillow_would_misread_are_refused():
    with pytest.raises(ImageError, match="separate planes"):
        decode(tiff_16(np.stack([RAMP] * 3, axis=-1), photometric=2, planar=2))


def test_colour_keys_of_16_bits_are_compared_with_all_16_bits():
    grey = np.array([[1000, 1001, 1255]], np.uint16)
    decoded = decode(png_16(grey, 0, png_chunk(b"tRNS", struct.pack(">H", 1001))))
    assert decoded.image[0, :, 0].tolist() == [4, 255, 5]
    colour = np.stack([grey] * 3, axis=-1)
    decoded = decode(png_16(colour, 2, png_chunk(b"tRNS", struct.pack(">HHH", *[1001] * 3))))
    assert decoded.image[0, :, 0].tolist() == [4, 255, 5]


@given(st.floats(0, 1), st.floats(0, 1))
def test_floats_from_0_to_1_are_scaled_by_255(one, other):
    samples = np.array([[one, other]], np.float32)
    decoded = decode(encoded(Image.fromarray(samples), "TIFF"))
    wanted = np.floor(samples.astype(float) * 255 + 0.5)
    np.testing.assert_array_equal(decoded.image[..., 0], wanted)
    assert decoded.notes == ("float-scaled", "grey-to-rgb")


def test_other_floats_and_wide_integers_are_stretched_and_the_note_says_from_where():
    floats = np.linspace(-3, 5, 256, dtype=np.float32).reshape(16, 16)
    decoded = decode(encoded(Image.fromarray(floats), "TIFF"))
    assert decoded.image[..., 0].reshape(-1).tolist() == list(range(256))
    assert decoded.notes == ("floats-stretched-from--3..5", "grey-to-rgb")
    integers = (np.arange(256, dtype=np.int32).reshape(16, 16) - 100) * 70000
    decoded = decode(encoded(Image.fromarray(integers), "TIFF"))
    assert decoded.image[..., 0].reshape(-1).tolist() == list(range(256))
    assert decoded.notes == ("integers-stretched-from--7e+06..1.085e+07", "grey-to-rgb")


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.array([[0, np.nan]], np.float32), "NaN or infinite"),
        (np.array([[0, np.inf]], np.float32), "NaN or infinite"),
        (np.full((2, 2), 7, np.float32), "floats that all equal 7"),
        (np.full((2, 2), 7, np.int32), "integers that all equal 7"),
    ],
)
def test_samples_without_a_range_are_an_error(samples, reason):
    with pytest.raises(ImageError, match=reason):
        decode(encoded(Image.fromarray(samples), "TIFF"))


def tiff_16(samples, *, photometric, order="<", planar=1):
    """An uncompressed TIFF of 16-bit samples, written by hand."""
    height, width, channels = samples.shape
    body = (samples if planar == 1 else samples.transpose(2, 0, 1)).astype(f"{order}u2").tobytes()
    plane = len(body) // (channels if planar == 2 else 1)
    strips = channels if planar == 2 else 1
    extra = 8 + len(body)
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    offsets = struct.pack(f"{order}{strips}I", *(8 + i * plane for i in range(strips)))
    counts = struct.pack(f"{order}{strips}I", *[plane] * strips)
    places = (extra, extra + len(bits), extra + len(bits) + len(offsets))

    def value(kind, count, packed, place):
        padded = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(f"{order}I", place)
        return struct.pack(f"{order}HI", kind, count) + padded

    short = struct.Struct(f"{order}H").pack
    tags = [
        (256, value(3, 1, short(width), 0)),
        (257, value(3, 1, short(height), 0)),
        (258, value(3, channels, bits, places[0])),
        (259, value(3, 1, short(1), 0)),
        (262, value(3, 1, short(photometric), 0)),
        (273, value(4, strips, offsets, places[1])),
        (277, value(3, 1, short(channels), 0)),
        (278, value(3, 1, short(height), 0)),
        (279, value(4, strips, counts, places[2])),
        (284, value(3, 1, short(planar), 0)),
    ]
    directory = short(len(tags)) + b"".join(short(tag) + entry for tag, entry in tags) + bytes(4)
    start = extra + len(bits) + len(offsets) + len(counts)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}I", start) + body + bits + offsets + counts + directory


# ---- modes, profiles, transparency


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "LA", "RGBA"])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_every_mode_gives_the_colours_it_shows(mode, form):
    if (mode, form) == ("CMYK", "PNG"):
        pytest.skip("PNG has no CMYK")
    colours = Image.fromarray(UPRIGHT if mode not in ("1", "L", "LA") else UPRIGHT // 255 * 255)
    picture = colours.convert("L").convert(mode) if mode in ("1", "LA") else colours.convert(mode)
    decoded = decode(encoded(picture, form))
    wanted = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(decoded.image, wanted)


@pytest.mark.parametrize("matte", [(255, 255, 255), (0, 0, 0), (10, 200, 30)])
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_composited_on_the_matte(matte, form):
    alpha = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rgba = np.dstack([np.full((16, 16, 3), (200, 100, 0), np.uint8), alpha])
    settings = {"lossless": True, "exact": True} if form == "WEBP" else {}
    decoded = decode(
        encoded(Image.fromarray(rgba), form, **settings), policy=DecodePolicy(matte=matte)
    )
    share = alpha[..., None] / 255
    wanted = np.round(rgba[..., :3] * share + np.array(matte) * (1 - share))
    assert np.abs(decoded.image - wanted).max() <= 1
    name = {(255, 255, 255): "white", (0, 0, 0): "black"}.get(matte, "#0ac81e")
    assert decoded.notes == (f"alpha-on-{name}",)


def test_alpha_that_hides_nothing_is_no_news():
    data = encoded(photo().convert("RGBA"), "PNG")
    assert decode(data).notes == ()


def test_grey_with_alpha_and_palettes_with_transparency_show_the_matte():
    grey_alpha = Image.merge("LA", [Image.new("L", (2, 1), 0), Image.new("L", (2, 1), 0)])
    assert (decode(encoded(grey_alpha, "PNG")).image == 255).all()
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([9, 9, 9, 8, 8, 8])
    palette.putpixel((1, 0), 1)
    decoded = decode(encoded(palette, "PNG", transparency=0))
    assert decoded.image[0].tolist() == [[255, 255, 255], [8, 8, 8]]


def test_premultiplied_16_bit_colour_on_a_matte_is_the_straight_composite(assets):
    path = assets / "corner" / "pillow" / "tiff_16bit_RGBa.tiff"
    white = decode(path).image.astype(int)
    black = decode(path, policy=DecodePolicy(matte=(0, 0, 0))).image.astype(int)
    covered = 255 - (white - black)
    assert np.ptp(covered, axis=2).max() <= 2, "the same alpha in all three channels"
    with Image.open(path) as picture:
        theirs = np.asarray(picture.split()[3]).astype(int)
    assert np.abs(covered.mean(axis=2) - theirs).max() <= 2


def test_a_cmyk_jpeg_as_adobe_writes_it_is_no_negative():
    cmyk = Image.new("CMYK", (16, 16), (0, 0, 0, 0))
    decoded = decode(encoded(cmyk, "JPEG"))
    assert (decoded.image >= 254).all()
    assert decoded.notes == ("cmyk-to-rgb", "cmyk-without-profile")


def test_an_srgb_profile_leaves_the_pixels_alone():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    decoded = decode(encoded(photo(), "PNG", icc_profile=profile))
    np.testing.assert_array_equal(decoded.image, np.asarray(photo()))
    assert decoded.notes == ()


def test_a_wide_profile_is_converted_to_srgb(assets):
    with Image.open(assets / "corner" / "pillow" / "xmp_test.jpg") as picture:
        adobe = picture.info["icc_profile"]
    data = encoded(Image.new("RGB", (8, 8), (100, 180, 90)), "PNG", icc_profile=adobe)
    decoded = decode(data)
    # Adobe RGB (1998): linear by gamma 2.19921875, its primaries to XYZ and on to sRGB.
    linear = (np.array([100, 180, 90]) / 255) ** 2.19921875
    matrix = np.array([[1.39836, -0.39836, 0], [0, 1, 0], [0, -0.04293, 1.04293]])
    srgb = np.clip(matrix @ linear, 0, 1)
    wanted = 255 * np.where(srgb <= 0.0031308, 12.92 * srgb, 1.055 * srgb ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(decoded.image[0, 0], wanted, atol=2)
    assert decoded.notes == ("icc-to-srgb",)
    halved = Image.new("RGBA", (8, 8), (100, 180, 90, 128))
    mixed = decode(encoded(halved, "PNG", icc_profile=adobe))
    np.testing.assert_allclose(mixed.image[0, 0], wanted * 0.502 + 255 * 0.498, atol=2)
    assert mixed.notes == ("icc-to-srgb", "alpha-on-white")


@pytest.mark.parametrize(
    ("mode", "profile", "note"),
    [
        ("RGB", b"this is no profile", "icc-unreadable"),
        ("RGB", "LAB", "icc-ignored-is-for-lab"),
        ("L", b"nor is this" * 20, "icc-unreadable"),
    ],
)
def test_a_profile_that_is_broken_or_for_something_else_keeps_the_pixels(mode, profile, note):
    if isinstance(profile, str):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile(profile)).tobytes()
    picture = photo().convert(mode)
    decoded = decode(encoded(picture, "PNG", icc_profile=profile))
    np.testing.assert_array_equal(decoded.image, np.asarray(picture.convert("RGB")))
    assert note in decoded.notes


def test_an_rgb_profile_also_serves_grey_pixels():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = photo().convert("L")
    decoded = decode(encoded(grey, "PNG", icc_profile=profile))
    np.testing.assert_array_equal(decoded.image, np.asarray(grey.convert("RGB")))
    assert decoded.notes == ("grey-to-rgb",)


def test_the_first_frame_of_an_animation_is_taken_and_noted():
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    for form in ("GIF", "PNG", "WEBP", "TIFF"):
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
        decoded = decode(data)
        assert "first-frame" in decoded.notes, form
        np.testing.assert_allclose(decoded.image, np.asarray(frames[0]), atol=3)
