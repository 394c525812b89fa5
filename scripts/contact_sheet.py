"""Draws docs/maps.jpg: photographs that scikit-image ships and their condition maps.

Run: python scripts/contact_sheet.py docs/maps.jpg (needs scikit-image; HED's weights are fetched or
found as `condkit annotate` does). The photographs are in the public domain: astronaut (NASA),
chelsea (CC0, S. van der Walt), coffee (CC0, R. Michetti), rocket (CC0, SpaceX).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from condkit import load
from condkit.geometry import fit_square

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
SETTINGS: dict[str, dict[str, object]] = {
    "canny": {},
    "lines": {},
    "softedge": {"weights": "bsds500"},
    "scribble": {"weights": "bsds500"},
}
SIDE = 320
LABEL_HEIGHT = 28
GAP = 6


def photographs() -> dict[str, NDArray[np.uint8]]:
    """The photographs, cropped to squares of `SIDE` pixels."""
    import skimage.data

    return {name: fit_square(getattr(skimage.data, name)(), SIDE)[0] for name in PHOTOS}


def sheet(rows: list[list[NDArray[np.uint8]]], labels: list[str]) -> Image.Image:
    """Pictures in rows under their column's label, on white."""
    width = len(labels) * (SIDE + GAP) + GAP
    height = LABEL_HEIGHT + len(rows) * (SIDE + GAP) + GAP
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(18)
    for column, label in enumerate(labels):
        draw.text((GAP + column * (SIDE + GAP) + 4, 4), label, "black", font)
    for index, row in enumerate(rows):
        for column, pixels in enumerate(row):
            place = (GAP + column * (SIDE + GAP), LABEL_HEIGHT + GAP + index * (SIDE + GAP))
            page.paste(Image.fromarray(pixels).convert("RGB"), place)
    return page


def main() -> None:
    """Draw the sheet to the file that the command line names."""
    target = Path(sys.argv[1])
    photos = photographs()
    columns = [list(photos.values())]
    columns += [load(name, **settings)(columns[0]) for name, settings in SETTINGS.items()]
    page = sheet([list(row) for row in zip(*columns, strict=True)], ["photograph", *SETTINGS])
    # A page to look at, not maps to train on: JPEG keeps it small enough for a README.
    page.save(target, quality=88)
    print(target)


if __name__ == "__main__":
    main()
