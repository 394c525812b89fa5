"""Procedurally drawn scenes: a few coloured shapes on a plain background.

The scenes are what the built-in base model was trained on and what the demo's data set is made
of.  A scene's caption names the colour and the kind of every shape and the colour of the
background, never a place or a size: those are left for a control image to decide.

The module also reads pictures back (`read_scene`), so that what a model generates can be
compared with what its caption asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from condkit.atomic import write_bytes
from condkit.errors import ConfigError

__all__ = [
    "COLOURS",
    "KINDS",
    "SIZE",
    "Reading",
    "Scene",
    "Shape",
    "caption_of",
    "contrasting_colours",
    "draw_scene",
    "read_scene",
    "render",
    "write_scenes",
]

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

SIZE = 64
"""Width and height of a scene in pixels."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 35, 40),
    "green": (35, 160, 60),
    "blue": (35, 70, 215),
    "yellow": (250, 220, 40),
    "orange": (250, 130, 20),
    "purple": (130, 40, 170),
    "pink": (250, 150, 195),
    "cyan": (60, 210, 220),
    "brown": (125, 70, 25),
    "white": (248, 248, 248),
    "gray": (130, 130, 130),
    "black": (16, 16, 16),
}
"""RGB value of every colour a caption can name."""

KINDS = ("circle", "square", "triangle", "cross")
"""Every shape a caption can name."""

# A step of 90 in one channel passes the usual Canny thresholds (100, 200) even where
# anti-aliasing spreads it over two pixels.
_MIN_STEP = 90
# Anti-aliasing: shapes are drawn this many times larger, then averaged down.
_OVERSAMPLE = 4
# Fixed-point bits of the coordinates that cv2.fillPoly takes.
_SHIFT = 6
_MARGIN = 2.0
_GAP = 3.0
# Smallest and largest half-width by the number of shapes: more shapes, smaller ones.
_RADII = {1: (10.0, 20.0), 2: (9.0, 14.0), 3: (8.0, 11.0)}
_ARM = 0.36
# Euclidean RGB distance from the background at which a pixel counts as part of a shape.
_FOREGROUND = 55.0
_MIN_AREA = 30


@dataclass(frozen=True)
class Shape:
    """One shape of a scene.

    Attributes:
        kind: One of `KINDS`.
        colour: One of the names in `COLOURS`.
        x: Horizontal centre in pixels.
        y: Vertical centre in pixels.
        radius: Half the width and half the height in pixels.
    """

    kind: str
    colour: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """A drawn scene.

    Attributes:
        image: RGB picture, (`SIZE`, `SIZE`, 3), uint8.
        caption: Sentence that names shapes, colours and background.
        shapes: The shapes in the order in which the caption names them.
        background: Name of the background's colour.
    """

    image: Image
    caption: str
    shapes: tuple[Shape, ...]
    background: str


@dataclass(frozen=True)
class Reading:
    """What `read_scene` recognised in a picture.

    Attributes:
        background: Name of the background's colour.
        kind: Kind of the largest shape, None where there is no shape.
        colour: Colour of the largest shape, None where there is no shape.
        count: How many separate shapes were seen.
    """

    background: str
    kind: str | None
    colour: str | None
    count: int


def contrasting_colours(background: str) -> tuple[str, ...]:
    """List the colours whose outline an edge detector can see on a background.

    Args:
        background: Name of the background's colour.

    Returns:
        Names from `COLOURS`, in that order.

    Raises:
        ConfigError: The background is not a known colour.
    """
    base = np.array(_colour_value(background))
    return tuple(
        name for name, value in COLOURS.items() if np.abs(np.array(value) - base).max() >= _MIN_STEP
    )


def caption_of(shapes: Sequence[Shape], background: str) -> str:
    """Write the caption of a scene.

    Args:
        shapes: The scene's shapes.
        background: Name of the background's colour.

    Returns:
        For example "a red circle and a blue square on a yellow background".
    """
    names = [f"{_article(shape.colour)} {shape.colour} {shape.kind}" for shape in shapes]
    listed = names[-1] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{listed} on {_article(background)} {background} background"


def render(shapes: Sequence[Shape], background: str) -> Image:
    """Draw shapes on a plain background, anti-aliased.

    Args:
        shapes: What to draw, first to last.
        background: Name of the background's colour.

    Returns:
        RGB picture, (`SIZE`, `SIZE`, 3), uint8.

    Raises:
        ConfigError: A colour or a kind is unknown.
    """
    large = SIZE * _OVERSAMPLE
    canvas = np.full((large, large, 3), _colour_value(background), dtype=np.uint8)
    for shape in shapes:
        points = _outline(shape.kind) * shape.radius + np.array([shape.x, shape.y])
        _fill(canvas, points * _OVERSAMPLE, _colour_value(shape.colour))
    return np.asarray(cv2.resize(canvas, (SIZE, SIZE), interpolation=cv2.INTER_AREA), np.uint8)


def draw_scene(rng: np.random.Generator, count: int | None = None) -> Scene:
    """Draw one random scene.

    Args:
        rng: Source of every random choice; the same state gives the same scene.
        count: Number of shapes, 1 to 3; chosen at random where None.

    Returns:
        The scene.

    Raises:
        ConfigError: The count is out of range.
    """
    if count is None:
        count = int(rng.integers(1, len(_RADII) + 1))
    if count not in _RADII:
        raise ConfigError(f"a scene has 1 to {len(_RADII)} shapes, not {count}")
    background = str(rng.choice(list(COLOURS)))
    places = _places(rng, count)
    looks = _looks(rng, count, background)
    shapes = tuple(
        Shape(kind, colour, *place) for (kind, colour), place in zip(looks, places, strict=True)
    )
    return Scene(render(shapes, background), caption_of(shapes, background), shapes, background)


def write_scenes(folder: str | Path, count: int, seed: int = 0) -> list[Path]:
    """Write scenes as an image folder with caption files.

    Scene number `i` depends only on the seed and on `i`, so a longer run repeats a shorter
    one's files.  Each file appears under its name only when it is complete.

    Args:
        folder: Where to write `scene-00000.png`, `scene-00000.txt` and so on; made if missing.
        count: Number of scenes.
        seed: Seed of the scenes.

    Returns:
        The pictures' paths in order.

    Raises:
        ConfigError: The count or the seed is negative.
    """
    if count < 0 or seed < 0:
        raise ConfigError(f"count and seed must not be negative: count={count}, seed={seed}")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(count):
        scene = draw_scene(np.random.default_rng([seed, index]))
        path = target / f"scene-{index:05d}.png"
        # The caption first: whoever sees the picture finds its caption too.
        write_bytes(path.with_suffix(".txt"), f"{scene.caption}\n".encode(), fsync=False)
        write_bytes(path, _png(scene.image), fsync=False)
        paths.append(path)
    return paths


def read_scene(image: Image) -> Reading:
    """Recognise the background and the largest shape of a picture.

    Args:
        image: RGB picture, (H, W, 3), uint8.

    Returns:
        What was recognised.

    Raises:
        ConfigError: The array is not an RGB picture of bytes.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ConfigError(f"need an (H, W, 3) uint8 picture, got {image.shape} {image.dtype}")
    # The median of the outer ring: a shape that touches the border does not change it.
    ring = np.concatenate([image[:2].reshape(-1, 3), image[-2:].reshape(-1, 3)])
    ring = np.concatenate([ring, image[:, :2].reshape(-1, 3), image[:, -2:].reshape(-1, 3)])
    base = np.median(ring, axis=0)
    distance = np.linalg.norm(image.astype(np.float64) - base, axis=2)
    regions = _regions(distance > _FOREGROUND)
    if not regions:
        return Reading(_nearest_colour(base), None, None, 0)
    largest = max(regions, key=lambda mask: int(mask.sum()))
    colour = _nearest_colour(np.median(image[_core(largest)], axis=0))
    return Reading(_nearest_colour(base), _nearest_kind(largest), colour, len(regions))


def _colour_value(name: str) -> tuple[int, int, int]:
    if name not in COLOURS:
        raise ConfigError(f"unknown colour {name!r}; known: {', '.join(COLOURS)}")
    return COLOURS[name]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _outline(kind: str) -> NDArray[np.float64]:
    """Corners of a shape that fills the square from (-1, -1) to (1, 1)."""
    if kind == "circle":
        angles = np.linspace(0.0, 2.0 * np.pi, 64, endpoint=False)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if kind == "square":
        return np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    if kind == "triangle":
        return np.array([[0.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    if kind == "cross":
        arm = np.array([[-_ARM, -_ARM], [-_ARM, -1.0], [_ARM, -1.0]])
        turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
        return np.concatenate([arm @ np.linalg.matrix_power(turn, k) for k in range(4)])
    raise ConfigError(f"unknown shape {kind!r}; known: {', '.join(KINDS)}")


def _fill(canvas: Image, points: NDArray[np.float64], value: tuple[int, int, int]) -> None:
    # Pixel centres lie at half coordinates for INTER_AREA, at whole ones for fillPoly.
    fixed = np.round((points - 0.5) * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(canvas, [fixed], value, shift=_SHIFT)


def _places(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """Choose (x, y, radius) of shapes that keep a gap between their bounding boxes."""
    while True:
        places: list[tuple[float, float, float]] = []
        # A crowded start can leave no room for the last shape: begin anew after some tries.
        for _ in range(40):
            radius = float(rng.uniform(*_RADII[count]))
            edge = radius + _MARGIN
            x, y = (float(value) for value in rng.uniform(edge, SIZE - edge, size=2))
            if all(max(abs(x - u), abs(y - v)) >= radius + r + _GAP for u, v, r in places):
                places.append((x, y, radius))
            if len(places) == count:
                return places


def _looks(rng: np.random.Generator, count: int, background: str) -> list[tuple[str, str]]:
    """Choose (kind, colour) of shapes that are pairwise different."""
    colours = contrasting_colours(background)
    looks: list[tuple[str, str]] = []
    while len(looks) < count:
        look = (str(rng.choice(KINDS)), str(rng.choice(colours)))
        if look not in looks:
            looks.append(look)
    return looks


def _png(image: Image) -> bytes:
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise ConfigError("the PNG encoder refused a scene")
    return data.tobytes()


def _nearest_colour(value: NDArray[np.float64]) -> str:
    table = np.array(list(COLOURS.values()), dtype=np.float64)
    return list(COLOURS)[int(np.linalg.norm(table - value, axis=1).argmin())]


def _regions(foreground: Mask) -> list[Mask]:
    """Split a mask into its connected regions, specks left out."""
    count, labels = cv2.connectedComponents(foreground.astype(np.uint8), connectivity=4)
    masks = [np.asarray(labels == label) for label in range(1, count)]
    return [mask for mask in masks if int(mask.sum()) >= _MIN_AREA]


def _core(mask: Mask) -> Mask:
    """Shrink a region by a pixel, so that its mixed outline does not count."""
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return np.asarray(inner) if inner.any() else mask


def _nearest_kind(mask: Mask) -> str:
    """Name the shape that, stretched over the region's bounding box, covers it best."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    region = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = region.shape
    scores = {}
    for kind in KINDS:
        template = np.zeros((height * _OVERSAMPLE, width * _OVERSAMPLE, 3), np.uint8)
        _fill(template, (_outline(kind) + 1) / 2 * np.array(template.shape[1::-1]), (255, 255, 255))
        small = cv2.resize(template, (width, height), interpolation=cv2.INTER_AREA)[..., 0] > 127
        scores[kind] = (region & small).sum() / max(1, (region | small).sum())
    return max(scores, key=lambda kind: float(scores[kind]))
