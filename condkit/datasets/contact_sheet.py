"""`contact_sheet.png`: a few rows of a dataset at a glance, each picture beside its maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from condkit import geometry, imageio
from condkit.types import MapPixels, RgbImage

if TYPE_CHECKING:
    from condkit.datasets.formats.base import Row
    from condkit.datasets.reader import PairedDataset

CONTACT_SHEET = "contact_sheet.png"
ROWS = 8
TILE = 192
"""Side in pixels of the square that each picture is fitted into."""

_TILES_ACROSS = 6
_GAP = 8
_HEADER = 26
_LINE = 17
_TEXT_LINES = 2
_TEXT_SIZE = 13
_PAPER, _INK, _MUTED, _MAT = (250, 250, 250), (30, 30, 30), (120, 120, 120), (226, 226, 226)


def write_contact_sheet(path: Path, opened: PairedDataset, *, rows: int = ROWS) -> str:
    """Draw the sheet of a dataset into its folder; the same dataset gives the same bytes.

    The rows are spread evenly over each split, the first split first.

    Args:
        path: The dataset's folder.
        opened: The same dataset.
        rows: How many rows at most.

    Returns:
        The file's name, relative to the dataset.

    Raises:
        DatasetError: if a row cannot be read.
        OutputError: if the file cannot be written.
    """
    chosen = list(_spread(opened, rows))
    imageio.write_map(path / CONTACT_SHEET, draw_contact_sheet(chosen, tuple(opened.conditions)))
    return CONTACT_SHEET


def draw_contact_sheet(rows: Sequence[Row], conditions: Sequence[str]) -> RgbImage:
    """A grid: each row's picture and maps side by side, its caption below.

    With few conditions, several rows stand abreast.

    Args:
        rows: What is shown, from the top; at least one.
        conditions: The columns after the picture.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    names = ("image", *conditions)
    block_width = len(names) * (TILE + _GAP) + _GAP
    across = max(1, min(len(rows), _TILES_ACROSS // len(names)))
    height = TILE + _TEXT_LINES * _LINE + 2 * _GAP
    lines = -(-len(rows) // across)
    sheet = np.full((_HEADER + lines * height, across * block_width, 3), _PAPER, np.uint8)
    for block in range(across):
        _draw_header(sheet, names, block * block_width + _GAP)
    for number, row in enumerate(rows):
        line, block = divmod(number, across)
        _draw_row(sheet, row, names, _HEADER + line * height, block * block_width + _GAP)
    return sheet


def _draw_header(sheet: RgbImage, names: Sequence[str], left: int) -> None:
    for column, name in enumerate(names):
        _write(sheet, _fitting(name, TILE), left + column * (TILE + _GAP), _HEADER - 9, _MUTED)


def _draw_row(sheet: RgbImage, row: Row, names: Sequence[str], top: int, left: int) -> None:
    for column, name in enumerate(names):
        pixels = row.image if name == "image" else row.maps[name]
        x = left + column * (TILE + _GAP)
        sheet[top : top + TILE, x : x + TILE] = _tile(pixels)
    width = len(names) * (TILE + _GAP) - _GAP
    for number, text in enumerate(_wrapped(row.text or "no caption", width), start=1):
        ink = _INK if row.text else _MUTED
        _write(sheet, text, left, top + TILE + number * _LINE, ink)


def thumbnail(pixels: MapPixels | RgbImage, side: int) -> RgbImage:
    """A small picture of a picture or map, for looking at only.

    Args:
        pixels: (H, W), (H, W, 3) or (H, W, 4); uint8 or uint16.
        side: The longest side in pixels at most; a smaller picture keeps its size.

    Returns:
        (h, w, 3) uint8 RGB; 16 bits are scaled to 8, hidden pixels of a mask are black.
    """
    shown = shown_as_rgb(pixels)
    height, width = shown.shape[:2]
    largest = max(height, width)
    if largest <= side:
        return shown
    size = (max(1, round(height * side / largest)), max(1, round(width * side / largest)))
    return geometry.resize(shown, size, "area")


def shown_as_rgb(pixels: MapPixels | RgbImage) -> RgbImage:
    """Any picture or map as (H, W, 3) uint8 RGB."""
    if pixels.dtype == np.uint16:
        pixels = (pixels // 257).astype(np.uint8)
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2).astype(np.uint8)
    if pixels.shape[2] == 4:
        return np.where(pixels[..., 3:] > 0, pixels[..., :3], 0).astype(np.uint8)
    return pixels.astype(np.uint8)


def _spread(opened: PairedDataset, rows: int) -> Iterator[Row]:
    """The rows to show, evenly over each split; three quarters of them from the first split."""
    left = rows
    for place, name in enumerate(opened.splits):
        split = opened.split(name)
        last = place == len(opened.splits) - 1
        wanted = min(len(split), left if last else max(1, left * 3 // 4))
        left -= wanted
        yield from (split[number * len(split) // wanted] for number in range(wanted))


def _tile(pixels: MapPixels | RgbImage) -> NDArray[np.uint8]:
    """A picture in the middle of a square; small ones are enlarged with hard pixels."""
    small = thumbnail(pixels, TILE)
    factor = TILE // max(small.shape[:2])
    if factor > 1:
        small = small.repeat(factor, axis=0).repeat(factor, axis=1)
    tile = np.full((TILE, TILE, 3), _MAT, np.uint8)
    top, left = (TILE - small.shape[0]) // 2, (TILE - small.shape[1]) // 2
    tile[top : top + small.shape[0], left : left + small.shape[1]] = small
    return tile


def _wrapped(text: str, width: int) -> list[str]:
    """A caption on at most two lines, the last one cut with an ellipsis where it is longer."""
    words = " ".join(text.split()).split(" ")
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or _width(longer) <= width:
            lines[-1] = longer
        elif len(lines) == _TEXT_LINES:
            lines[-1] = longer
            break
        else:
            lines.append(word)
    return [_fitting(line, width) for line in lines]


def _fitting(text: str, width: int) -> str:
    """The text, or as much of it as fits, with an ellipsis."""
    text = text[:400]
    if _width(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _width(text[:middle] + "…") <= width else (low, middle - 1)
    return text[:low].rstrip() + "…"


def _width(text: str) -> int:
    import cv2

    box = cv2.getTextSize((1, 1), text, (0, 0), cv2.FontFace("sans"), _TEXT_SIZE)
    return int(box[2])


def _write(
    sheet: NDArray[np.uint8], text: str, left: int, baseline: int, ink: tuple[int, int, int]
) -> None:
    """Draw text in place; OpenCV brings its own fonts, so it looks the same everywhere."""
    import cv2

    cv2.putText(sheet, text, (left, baseline), ink, cv2.FontFace("sans"), _TEXT_SIZE)
