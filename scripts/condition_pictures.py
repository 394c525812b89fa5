"""Draws the pictures of docs/conditions.md and the README: photographs and their condition maps.

Run: python scripts/condition_pictures.py docs (needs scikit-image; weights are fetched or found as
`condkit annotate` does). The photographs come with scikit-image and are in the public domain:
astronaut (NASA), chelsea (CC0, S. van der Walt), coffee (CC0, R. Michetti), rocket (CC0, SpaceX).
Where a condition's networks cannot be had everywhere, its map is drawn from a made-up prediction,
and the picture says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from condkit import load
from condkit.annotators import LoadedCondition
from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.geometry import fit_square
from condkit.predictions import (
    ClassLabels,
    InverseDepth,
    People,
    Person,
    Prediction,
    Segments,
    SurfaceNormals,
)

SIDE = 320
SHOWN = 232
GAP = 6
LABEL_HEIGHT = 24
# Pages to look at, not maps to train on: JPEG keeps them small.
QUALITY = 86
FREE_HED = {"weights": "bsds500"}

Pixels: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
Panel: TypeAlias = tuple[str, Pixels]


def photograph(name: str) -> NDArray[np.uint8]:
    """One of scikit-image's, as a square of `SIDE` pixels."""
    import skimage.data

    picture: NDArray[np.uint8] = fit_square(getattr(skimage.data, name)(), SIDE)[0]
    return picture


def made(condition: str, photo: str, **settings: object) -> Pixels:
    """A condition's map of a photograph."""
    with load(condition, **settings) as loaded:
        return loaded(photograph(photo))


def drawn(condition: str, prediction: Prediction, **settings: object) -> Pixels:
    """A condition's map of a made-up prediction; no network is loaded."""
    plan = plan_annotation([condition], {f"{condition}.{k}": v for k, v in settings.items()})
    picture = np.zeros((*prediction.size_hw, 3), np.uint8)
    return LoadedCondition(Annotator(plan)).render([prediction], [picture])[0].pixels


def strip(panels: Sequence[Panel]) -> Image.Image:
    """Pictures in a row under their labels, on white."""
    width = len(panels) * (SHOWN + GAP) + GAP
    page = Image.new("RGB", (width, LABEL_HEIGHT + SHOWN + 2 * GAP), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(15)
    for column, (label, pixels) in enumerate(panels):
        left = GAP + column * (SHOWN + GAP)
        draw.text((left + 2, 4), label, "black", font)
        page.paste(_shown(pixels), (left, LABEL_HEIGHT + GAP))
    return page


def _shown(pixels: Pixels) -> Image.Image:
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        # What the mask hides is chequered.
        y, x = np.indices(pixels.shape[:2]) // 16
        board = np.where((x + y) % 2, 190, 230).astype(np.uint8)[:, :, None]
        pixels = np.where(pixels[:, :, 3:] > 0, pixels[:, :, :3], board)
    return Image.fromarray(pixels).convert("RGB").resize((SHOWN, SHOWN), Image.Resampling.LANCZOS)


def sheet(rows: Sequence[Sequence[Panel]]) -> Image.Image:
    """Strips below each other."""
    strips = [strip(row) for row in rows]
    page = Image.new("RGB", (strips[0].width, sum(one.height for one in strips)), "white")
    top = 0
    for one in strips:
        page.paste(one, (0, top))
        top += one.height
    return page


def ball() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A ball before a wall: inverse depth, and normals (x left, y up, z to the front)."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    dx, dy = (x - SIDE / 2) / (SIDE * 0.35), (y - SIDE / 2) / (SIDE * 0.35)
    inside = dx**2 + dy**2 < 1
    rise = np.sqrt(np.clip(1 - dx**2 - dy**2, 0, 1))
    inverse = np.where(inside, 600 + 400 * rise, 100 + 200 * y / SIDE).astype(np.float32)
    wall = np.broadcast_to(np.float32([0, 0, 1]), (SIDE, SIDE, 3))
    normals = np.where(inside[:, :, None], np.stack([-dx, -dy, rise], axis=2), wall)
    return inverse, normals.astype(np.float32)


def rooms() -> NDArray[np.int32]:
    """A street as labels: sky, building, tree, road, person, car of ADE20K."""
    ids = np.full((SIDE, SIDE), 2, np.int32)
    page = Image.fromarray(ids)
    draw = ImageDraw.Draw(page)
    draw.rectangle((20, 60, 150, 240), fill=1)
    draw.ellipse((190, 70, 290, 190), fill=4)
    draw.rectangle((232, 180, 248, 240), fill=4)
    draw.rectangle((0, 232, SIDE, SIDE), fill=6)
    draw.rounded_rectangle((40, 215, 140, 262), 12, fill=20)
    draw.ellipse((176, 176, 196, 196), fill=12)
    draw.rectangle((172, 196, 200, 280), fill=12)
    return np.asarray(page).astype(np.int32)


def _hand(wrist: tuple[float, float], size: float, side: int) -> NDArray[np.float32]:
    """An open hand pointing up; `side` is 1 where the thumb is on the right of the picture."""
    points = [(0.0, 0.0)]
    for angle, length in ((52, 0.72), (20, 0.98), (4, 1.05), (-12, 0.98), (-28, 0.85)):
        turn = np.deg2rad(angle) * side
        for share in (0.42, 0.65, 0.84, 1.0):
            points.append((np.sin(turn) * share * length, -np.cos(turn) * share * length))
    xy = np.float32(points) * size + np.float32(wrist)
    return np.column_stack([xy, np.ones(len(xy), np.float32)]).astype(np.float32)


def _arc(
    centre: tuple[float, float], radii: tuple[float, float], degrees: Sequence[float]
) -> list[tuple[float, float]]:
    turns = np.deg2rad(degrees)
    return [(centre[0] + radii[0] * np.cos(t), centre[1] + radii[1] * np.sin(t)) for t in turns]


def _face(centre: tuple[float, float], size: float) -> NDArray[np.float32]:
    """The 68 points of iBUG and two pupils, of a face seen from the front."""
    points = _arc((0, -0.1), (0.75, 1.0), np.linspace(180, 0, 17))
    for x in (-0.38, 0.38):
        points += _arc((x, -0.38), (0.24, 0.1), np.linspace(200, 340, 5))
    points += [(0, y) for y in (-0.25, -0.1, 0.05, 0.2)]
    points += _arc((0, 0.25), (0.16, 0.06), np.linspace(180, 0, 5))
    for x in (-0.36, 0.36):
        points += _arc((x, -0.2), (0.16, 0.07), (180, 240, 300, 0, 60, 120))
    points += _arc((0, 0.53), (0.34, 0.13), np.linspace(180, 510, 12))
    points += _arc((0, 0.53), (0.22, 0.04), np.linspace(180, 495, 8))
    points += [(-0.36, -0.2), (0.36, -0.2)]
    xy = np.float32(points) * size + np.float32(centre)
    return np.column_stack([xy, np.ones(len(xy), np.float32)]).astype(np.float32)


def person() -> Person:
    """Somebody who waves."""
    joints = np.float32(
        [
            *((160, 62), (160, 104), (128, 106), (98, 82), (80, 44), (192, 106), (220, 142)),
            *((246, 174), (140, 190), (136, 244), (132, 298), (180, 190), (184, 244)),
            *((188, 298), (152, 54), (168, 54), (142, 58), (178, 58)),
        ]
    )
    body = np.column_stack([joints, np.ones(len(joints), np.float32)]).astype(np.float32)
    return Person(
        body=body,
        right_hand=_hand((80, 42), 34, 1),
        left_hand=_hand((246, 176), -30, 1),
        face=_face((160, 60), 26),
    )


def people(*persons: Person) -> People:
    """Persons in a square picture."""
    return People(persons, (SIDE, SIDE))


def canny() -> list[Panel]:
    """Thresholds low and high."""
    return [
        ("photograph", photograph("chelsea")),
        ("canny", made("canny", "chelsea")),
        ("low=50, high=100", made("canny", "chelsea", low=50, high=100)),
        ("random=true", made("canny", "chelsea", random=True)),
    ]


def softedge() -> list[Panel]:
    """HED, plain and safe."""
    return [
        ("photograph", photograph("coffee")),
        ("hed", made("softedge", "coffee", **FREE_HED)),
        ("hed, safe=true", made("softedge", "coffee", safe=True, **FREE_HED)),
    ]


def scribble() -> list[Panel]:
    """Strokes of HED's ridges, and of XDoG."""
    return [
        ("photograph", photograph("astronaut")),
        ("hed", made("scribble", "astronaut", **FREE_HED)),
        ("hed, augment=true", made("scribble", "astronaut", augment=True, **FREE_HED)),
        ("xdog", made("scribble", "astronaut", detector="xdog")),
    ]


def lineart() -> list[Panel]:
    """Without a network; the networks' weights are not to be had everywhere."""
    return [
        ("photograph", photograph("chelsea")),
        ("standard", made("lineart", "chelsea", detector="standard")),
    ]


def lines() -> list[Panel]:
    """Segments."""
    return [
        ("photograph", photograph("rocket")),
        ("mlsd, tiny", made("lines", "rocket", detector="mlsd", weights="tiny")),
        ("hough", made("lines", "rocket", detector="hough")),
    ]


def shuffle() -> list[Panel]:
    """The picture swirled."""
    return [
        ("photograph", photograph("coffee")),
        ("seed=0", made("shuffle", "coffee", cell=96)),
        ("seed=1", made("shuffle", "coffee", cell=96, seed=1)),
    ]


def tile() -> list[Panel]:
    """The picture with less detail."""
    return [
        ("photograph", photograph("chelsea")),
        ("down_sample=8", made("tile", "chelsea", down_sample=8)),
    ]


def inpaint() -> list[Panel]:
    """The picture with a hidden part, black here."""
    return [
        ("photograph", photograph("astronaut")),
        *(
            (f"kind={kind}", made("inpaint", "astronaut", kind=kind)[:, :, :3])
            for kind in ("rectangles", "strokes")
        ),
    ]


def depth() -> list[Panel]:
    """A ball before a wall."""
    prediction = InverseDepth(ball()[0])
    return [
        ("made-up: a ball", drawn("depth", prediction)),
        ("clip_far=49", drawn("depth", prediction, clip_far=49)),
        ("near=black", drawn("depth", prediction, near="black")),
    ]


def normal() -> list[Panel]:
    """The ball in both orders of the channels."""
    inverse, normals = ball()
    return [
        ("made-up: a ball, bae", drawn("normal", SurfaceNormals(normals), detector="bae")),
        ("from-depth (v1.0)", drawn("normal", InverseDepth(inverse), detector="from-depth")),
    ]


def seg() -> list[Panel]:
    """A street."""
    return [("made-up: a street", drawn("seg", ClassLabels(rooms(), "ade20k")))]


def segments() -> list[Panel]:
    """The street's parts, two seeds."""
    ids = np.unique(rooms(), return_inverse=True)[1].astype(np.int32).reshape(SIDE, SIDE) + 1
    return [
        ("made-up: a street", drawn("segments", Segments(ids))),
        ("seed=1", drawn("segments", Segments(ids), seed=1)),
    ]


def openpose() -> list[Panel]:
    """Somebody who waves, in both styles."""
    found = people(person())
    return [
        ("photograph", photograph("astronaut")),
        ("mediapipe", made("openpose", "astronaut", detector="mediapipe", pose="wheel")),
        ("made-up: body, hands, face", drawn("openpose", found)),
        ("style=v1.0", drawn("openpose", found, style="v1.0")),
    ]


def hands() -> list[Panel]:
    """Two open hands."""
    both = Person(right_hand=_hand((75, 240), 150, 1), left_hand=_hand((245, 240), 150, -1))
    return [("made-up: two hands", drawn("hands", people(both)))]


def face() -> list[Panel]:
    """A face from the front."""
    return [("made-up: a face", drawn("face", people(Person(face=_face((160, 160), 140)))))]


PICTURES: tuple[Callable[[], list[Panel]], ...] = (
    canny,
    softedge,
    scribble,
    lineart,
    lines,
    depth,
    normal,
    seg,
    segments,
    openpose,
    hands,
    face,
    shuffle,
    tile,
    inpaint,
)


def overview() -> list[list[Panel]]:
    """The README's picture."""
    rows = []
    for photo in ("astronaut", "chelsea", "coffee", "rocket"):
        rows.append(
            [
                ("photograph", photograph(photo)),
                ("canny", made("canny", photo)),
                ("lines", made("lines", photo, detector="hough")),
                ("softedge", made("softedge", photo, **FREE_HED)),
                ("scribble", made("scribble", photo, **FREE_HED)),
            ]
        )
    return rows


def main() -> None:
    """Draw all pictures below the folder that the command line names; others after it choose."""
    docs, chosen = Path(sys.argv[1]), sys.argv[2:]
    (docs / "images").mkdir(exist_ok=True)
    for picture in PICTURES:
        name = picture.__name__
        if not chosen or name in chosen:
            strip(picture()).save(docs / "images" / f"{name}.jpg", quality=QUALITY)
            print(docs / "images" / f"{name}.jpg")
    if not chosen or "maps" in chosen:
        sheet(overview()).save(docs / "maps.jpg", quality=QUALITY)
        print(docs / "maps.jpg")


if __name__ == "__main__":
    main()
