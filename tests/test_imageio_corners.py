"""Every odd file that is known, with what must come of it. Each row was looked at as a picture."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from condkit.errors import ImageError
from condkit.imageio import IMAGE_SUFFIXES, Decoded, decode, decode_or_reject
from condkit.types import Rejection


@dataclass(frozen=True)
class Good:
    hw: tuple[int, int]
    mean_rgb: tuple[float, float, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bad:
    reason: str


HOPPER = (90, 80, 95)
TURNED = ("exif-transposed",)
PILLOW: dict[str, Good | Bad] = {
    "16bit.cropped.tif": Good((64, 64), (1.4, 1.4, 1.4), ("16-bit-scaled", "grey-to-rgb")),
    "1_trns.png": Good((64, 64), (124, 124, 124), ("grey-to-rgb", "alpha-on-white")),
    "balloon.jpf": Good((3701, 2717), (199, 193, 187)),
    "balloon_eciRGBv2_aware.jp2": Bad("cannot be decoded in full"),
    "broken_data_stream.png": Bad("cannot be decoded in full"),
    "delay.png": Good((64, 128), (255, 0, 0), ("first-frame",)),
    "exif.avif": Good((512, 512), (145, 141, 143)),
    "exif_imagemagick_orientation.png": Good((512, 512), (144, 143, 143), TURNED),
    "flower.webp": Good((360, 480), (119, 132, 94)),
    "flower2.jpg": Good((225, 300), (116, 79, 77)),
    "hopper.Lab.tif": Good((128, 128), (89, 80, 95), ("lab-to-rgb",)),
    "hopper.bmp": Good((128, 128), HOPPER),
    "hopper.iccprofile.tif": Good((128, 128), HOPPER),
    "hopper.psd": Good((128, 128), HOPPER),
    "hopper_16bit.pgm": Good((128, 128), (84, 84, 84), ("16-bit-scaled", "grey-to-rgb")),
    "hopper_gray.jpg": Good((128, 128), (85, 85, 85), ("grey-to-rgb",)),
    "hopper_idat_after_image_end.png": Good((128, 128), HOPPER),
    "hopper_orientation_2.webp": Good((128, 128), HOPPER, TURNED),
    "hopper_orientation_4.jpg": Good((128, 128), HOPPER, TURNED),
    "hopper_orientation_5.jpg": Good((128, 128), HOPPER, TURNED),
    "hopper_orientation_6.jpg": Good((128, 128), HOPPER, TURNED),
    "hopper_orientation_6.webp": Good((128, 128), HOPPER, TURNED),
    "hopper_orientation_8.jpg": Good((128, 128), HOPPER, TURNED),
    "hopper_orientation_8.webp": Good((128, 128), HOPPER, TURNED),
    "invalid-exif-without-x-resolution.jpg": Good((200, 300), (0.7, 0.7, 0.7)),
    "iss634.gif": Good((245, 245), (135, 137, 90), ("first-frame", "palette-to-rgb")),
    "iss634.webp": Good((245, 245), (135, 137, 90), ("first-frame",)),
    "jpeg_ff00_header.jpg": Good((225, 300), (116, 79, 77)),
    "lab.tif": Good((10, 10), (254.5, 254.5, 254.5), ("lab-to-rgb",)),
    # Red is 0xff00 here, which is 254 of 255.
    "mode_16bit.png": Good((64, 128), (254, 0, 0), ("first-frame", "16-bit-scaled")),
    "mode_palette_alpha.png": Good((64, 128), (255, 0, 0), ("first-frame", "palette-to-rgb")),
    "multipage.tiff": Good((10, 10), (0, 128, 0), ("first-frame", "palette-to-rgb")),
    "negative_size.ppm": Bad("is a PPM file by its signature, but cannot be opened"),
    "orientation_rectangle.jpg": Good((2, 1), (254, 0, 0), TURNED),
    "padded_idat.png": Good((10, 256), (127.5, 127.5, 127.5), ("grey-to-rgb",)),
    "palette_negative.png": Good((128, 128), (167.5, 167.5, 167.5)),
    "pil123p.png": Good((150, 162), (190, 189, 172), ("palette-to-rgb", "alpha-on-white")),
    "pil_sample_cmyk.jpg": Good((100, 100), (30, 5, 7), ("cmyk-to-rgb", "cmyk-without-profile")),
    "pil_sample_rgb.jpg": Good((100, 100), (28, 4.5, 3.5)),
    "png_decompression_dos.png": Bad("texts larger than the limits of 1048576"),
    "rgb_trns.png": Good((64, 64), (128, 176, 163), ("alpha-on-white",)),
    "rot1mir0.avif": Good((427, 640), (130.5, 138, 97), TURNED),
    "star.avifs": Good((159, 159), (254.5, 248.5, 223), ("first-frame", "alpha-on-white")),
    "sugarshack.mpo": Good((480, 640), (120.5, 109, 99), ("first-frame",)),
    "tiff_16bit_RGB.tiff": Good((40, 100), (42, 29, 22), ("16-bit-scaled",)),
    "tiff_16bit_RGBa.tiff": Good((40, 100), (214, 201, 194), ("16-bit-scaled", "alpha-on-white")),
    "tiff_strip_cmyk_16l_jpeg.tif": Good(
        (100, 100), (30, 5, 7), ("16-bit-scaled", "cmyk-to-rgb", "cmyk-without-profile")
    ),
    "tiny.png": Good((4, 4), (179, 185, 171), ("palette-to-rgb", "alpha-on-white")),
    "transparency.avif": Good((64, 64), (128, 176, 163), ("alpha-on-white",)),
    "transparent.gif": Good((150, 200), (211, 203, 204), ("palette-to-rgb", "alpha-on-white")),
    "transparent.webp": Good((150, 200), (211, 203, 204), ("alpha-on-white",)),
    "truncated_app14.jpg": Good((100, 100), (28, 4.5, 3.5)),
    "ultrahdr.jpg": Bad("cannot be decoded in full (image file is truncated"),
    "unknown_compression_method.png": Bad("Unknown compression method"),
    "xmp_tags_orientation.avif": Good(
        (268, 326), (216, 185, 134), ("xmp-transposed", "icc-to-srgb")
    ),
    "xmp_test.jpg": Good((1072, 2000), (131, 128, 126), ("icc-to-srgb",)),
    "zero_width.gif": Bad("its header is cut off or says a size of zero"),
}
EXIF: dict[str, Good | Bad] = {
    f"{shape}_{value}.jpg": Good(hw, mean, TURNED if value > 1 else ())
    for shape, hw, mean in (
        ("Landscape", (1200, 1800), (98.4, 115.7, 134.1)),
        ("Portrait", (1800, 1200), (144.5, 155.7, 163)),
    )
    for value in range(9)
}
TABLE = {f"pillow/{name}": row for name, row in PILLOW.items()} | {
    f"exif/{name}": row for name, row in EXIF.items()
}
SAME_PICTURE = {
    # file: (the file that shows the same, mean difference that its compression explains)
    "hopper.Lab.tif": ("hopper.bmp", 2.5),
    "hopper.iccprofile.tif": ("hopper.bmp", 0),
    "hopper.psd": ("hopper.bmp", 2),
    "hopper_idat_after_image_end.png": ("hopper.bmp", 0),
    "hopper_orientation_2.webp": ("hopper.bmp", 5),
    "hopper_orientation_4.jpg": ("hopper.bmp", 5),
    "hopper_orientation_5.jpg": ("hopper.bmp", 5),
    "hopper_orientation_6.jpg": ("hopper.bmp", 5),
    "hopper_orientation_6.webp": ("hopper.bmp", 5),
    "hopper_orientation_8.jpg": ("hopper.bmp", 5),
    "hopper_orientation_8.webp": ("hopper.bmp", 5),
    "hopper_16bit.pgm": ("hopper_gray.jpg", 1),
    "jpeg_ff00_header.jpg": ("flower2.jpg", 0),
    "truncated_app14.jpg": ("pil_sample_rgb.jpg", 0),
    "pil_sample_cmyk.jpg": ("pil_sample_rgb.jpg", 5),
    "tiff_strip_cmyk_16l_jpeg.tif": ("pil_sample_cmyk.jpg", 0.1),
    "transparent.webp": ("transparent.gif", 3),
    "transparency.avif": ("rgb_trns.png", 0.5),
    "iss634.gif": ("iss634.webp", 0),
}


@pytest.fixture(scope="module")
def corner(assets: Path) -> Path:
    return assets / "corner"


@pytest.fixture(scope="module")
def outcomes(corner: Path) -> dict[str, Decoded | Rejection]:
    files = sorted(path for path in corner.rglob("*") if path.is_file())
    names = [path.relative_to(corner).as_posix() for path in files]
    return {name: decode_or_reject(path, name) for name, path in zip(names, files, strict=True)}


def test_every_odd_file_has_its_row(outcomes):
    assert set(outcomes) == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_an_odd_file_comes_out_as_its_row_says(outcomes, name):
    expected, outcome = TABLE[name], outcomes[name]
    if isinstance(expected, Bad):
        assert isinstance(outcome, Rejection), outcome
        assert (outcome.source, outcome.stage) == (name, "decode")
        assert expected.reason in outcome.reason
        return
    assert isinstance(outcome, Decoded), outcome
    assert outcome.image.shape == (*expected.hw, 3)
    assert outcome.original_hw == expected.hw
    assert outcome.notes == expected.notes
    np.testing.assert_allclose(outcome.image.mean(axis=(0, 1)), expected.mean_rgb, atol=1)


@pytest.mark.parametrize("name", SAME_PICTURE)
def test_files_of_the_same_picture_look_the_same(outcomes, name):
    twin, tolerance = SAME_PICTURE[name]
    assert difference(outcomes[f"pillow/{name}"], outcomes[f"pillow/{twin}"]) <= tolerance


@pytest.mark.parametrize("shape", ["Landscape", "Portrait"])
@pytest.mark.parametrize("value", range(9))
def test_every_exif_orientation_gives_the_upright_picture(outcomes, shape, value):
    # The number of the orientation is written into each picture, and each was compressed anew.
    turned, upright = outcomes[f"exif/{shape}_{value}.jpg"], outcomes[f"exif/{shape}_1.jpg"]
    assert difference(turned, upright) < 4


@pytest.mark.parametrize(
    "name", [name for name, row in PILLOW.items() if isinstance(row, Good) and row.notes == TURNED]
)
def test_orientation_agrees_with_pillows_own(corner, outcomes, name):
    with Image.open(corner / "pillow" / name) as picture:
        theirs = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    np.testing.assert_array_equal(outcomes[f"pillow/{name}"].image, theirs)


def test_threads_decode_what_one_after_the_other_decodes(corner, outcomes):
    names = [name for name in outcomes if name.startswith("pillow/") and "balloon" not in name]
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(lambda name: decode_or_reject(corner / name, name), names * 2))
    for name, outcome in zip(names * 2, threaded, strict=True):
        alone = outcomes[name]
        if isinstance(alone, Rejection):
            assert outcome == alone
        else:
            assert outcome.notes == alone.notes
            np.testing.assert_array_equal(outcome.image, alone.image)


def test_decoding_leaves_the_input_files_as_they_are(corner, outcomes):
    for name in ("pillow/hopper_orientation_6.jpg", "pillow/tiff_16bit_RGBa.tiff"):
        before = (corner / name).read_bytes()
        decode(corner / name)
        assert (corner / name).read_bytes() == before


def test_a_photograph_cut_anywhere_is_an_error_also_when_it_is_scaled_down(corner):
    data = (corner / "exif" / "Landscape_6.jpg").read_bytes()
    for share in (0.001, 0.02, 0.1, 0.5, 0.9, 0.99):
        for at_least in (None, 150):
            with pytest.raises(ImageError, match=r"decoded in full|cannot be opened"):
                decode(data[: int(len(data) * share)], at_least=at_least)


@pytest.mark.parametrize("name", ["exif/Landscape_6.jpg", "pillow/sugarshack.mpo"])
def test_a_scaled_decode_is_large_enough_and_noted(corner, outcomes, name):
    full, scaled = outcomes[name], decode(corner / name, at_least=120)
    factor = full.image.shape[0] // scaled.image.shape[0]
    assert factor in (4, 8)
    assert scaled.notes[0] == f"draft-1/{factor}"
    assert min(scaled.image.shape[:2]) >= 120
    assert scaled.original_hw == full.image.shape[:2]
    shrunk = np.asarray(
        Image.fromarray(full.image).resize(scaled.image.shape[1::-1], Image.Resampling.BOX)
    )
    assert np.abs(shrunk.astype(int) - scaled.image).mean() < 4


def test_every_picture_file_has_a_known_suffix(outcomes):
    assert {Path(name).suffix.lower() for name in outcomes} <= IMAGE_SUFFIXES


def difference(one: Decoded | Rejection, other: Decoded | Rejection) -> float:
    assert isinstance(one, Decoded), one
    assert isinstance(other, Decoded), other
    assert one.image.shape == other.image.shape
    return float(np.abs(one.image.astype(int) - other.image).mean())
