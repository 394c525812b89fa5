"""Strokes that differ from image to image, so that a scribble ControlNet learns to take any pen.

The first scribble ControlNet was trained on edge maps with random thresholds, randomly masked
strokes, random morphology and random non-maximum suppression; 1.1 went further in morphology, to
strokes 1 to 24 pixels wide on a canvas of 512. The code was never published: which steps there are
is the authors', how each is done and how far it goes is chosen here.

Lengths are in pixels of a map whose short side is 512, and grow and shrink with it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.base import require

_CANVAS = 512
# Shorter lines are grain; a wide pen would make dots of them.
_SPECK = 12
# Cells of the noise that masks strokes, along the short side: patches of about an eighth of it.
_MASK_CELLS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentParams:
    """Settings of random strokes; every range is two numbers, the smallest and the largest.

    What is drawn depends on the seed, the condition and the image's pixels alone, and is recorded
    with the map.

    Attributes:
        augment: Draw the strokes of each image at random, as laid down below.
        seed: Of all that is drawn, at least 0.
        width_range: Width of the strokes in pixels at a short side of 512, 1 to 512. Without
            non-maximum suppression it is the most that an edge keeps of its own width.
        masking_range: Share of the strokes' length that is left out, in patches, 0 to 1.
        morphology_range: Pixels at a short side of 512 by which edges grow (above 0) or shrink
            (below 0) before strokes are found on them, -64 to 64.
        nms_share: How often non-maximum suppression reduces an edge to a line, which is then drawn
            with an even width; otherwise it keeps its shape. 0 (never) to 1 (always).
    """

    augment: bool = False
    seed: int = 0
    width_range: tuple[float, float] = (1, 24)
    masking_range: tuple[float, float] = (0, 0.4)
    morphology_range: tuple[float, float] = (-1, 3)
    nms_share: float = 0.5

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"scribble.seed: expected at least 0, got {self.seed}")
        check_range("width_range", self.width_range, 1, _CANVAS)
        check_range("masking_range", self.masking_range, 0, 1)
        check_range("morphology_range", self.morphology_range, -64, 64)
        require(
            0 <= self.nms_share <= 1, f"scribble.nms_share: expected 0 to 1, got {self.nms_share}"
        )

    def refuse_idle(self, fixed: tuple[str, ...], drawn: tuple[str, ...]) -> None:
        """Refuse settings that nothing reads, which are a mistake and not a wish.

        Args:
            fixed: The settings that only drawing without augmentation reads.
            drawn: Those that only augmentation reads, beside the ones of this class.

        Raises:
            ConfigError: if one of them is not at its default.
        """
        ranges = ("width_range", "masking_range", "morphology_range", "nms_share")
        idle = fixed if self.augment else (*ranges, *drawn)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(
                field.name not in idle or value == field.default,
                f"scribble.{field.name}: expected to be left out with scribble.augment="
                f"{str(self.augment).lower()}, where nothing reads it, got {value}",
            )


def check_range(name: str, ends: tuple[float, float], least: float, most: float) -> None:
    """Refuse a range of the scribble condition that is turned around or goes too far.

    Raises:
        ConfigError: if it is one.
    """
    require(
        least <= ends[0] <= ends[1] <= most,
        f"scribble.{name}: expected two numbers in ascending order from {least} to {most}, got "
        f"{ends[0]} and {ends[1]}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StrokeStyle:
    """What was drawn for one image; the units are those of `AugmentParams`.

    Attributes:
        threshold: Edge strength that a stroke needs, in the detector's own grey levels.
        nms: Whether edges are reduced to lines.
        morphology: By how much edges grow or shrink.
        width: Of the strokes.
        masked: Share of the strokes' length that is left out.
    """

    threshold: float
    nms: bool
    morphology: float
    width: float
    masked: float

    def facts(self) -> dict[str, float | int]:
        """The same for the map's record; `nms` is 0 or 1."""
        return {
            "threshold": self.threshold,
            "nms": int(self.nms),
            "morphology": self.morphology,
            "width": self.width,
            "masked": self.masked,
        }


def draw_style(
    params: AugmentParams, threshold_range: tuple[float, float], generator: np.random.Generator
) -> StrokeStyle:
    """Choose an image's strokes; each number is uniform in its range and independent of the others.

    Args:
        params: The ranges.
        threshold_range: Of the threshold.
        generator: What chooses; takes the same number of draws whatever the ranges are.
    """
    return StrokeStyle(
        threshold=float(generator.uniform(*threshold_range)),
        nms=bool(generator.random() < params.nms_share),
        morphology=float(generator.uniform(*params.morphology_range)),
        width=float(generator.uniform(*params.width_range)),
        masked=float(generator.uniform(*params.masking_range)),
    )


def random_strokes(
    levels: NDArray[np.float32],
    smoothing: float,
    style: StrokeStyle,
    generator: np.random.Generator,
) -> NDArray[np.uint8]:
    """Strokes of a drawn style.

    Args:
        levels: (H, W) float32 edge strength, in the units of the style's threshold.
        smoothing: Standard deviation in pixels of the blur before strokes are looked for.
        style: From `draw_style`.
        generator: What chooses the places that are masked.

    Returns:
        (H, W) uint8, 255 on strokes, 0 elsewhere.
    """
    import cv2

    scale = min(levels.shape) / _CANVAS
    changed = grown(levels, style.morphology * scale)
    smooth = cv2.GaussianBlur(changed, (0, 0), smoothing).astype(np.float32)
    edges = smooth > style.threshold
    lines = without_specks(ridges(smooth) & edges, _SPECK * scale)
    lines = masked(lines, style.masked, generator)
    strokes = widened(lines, style.width * scale)
    if not style.nms:
        strokes &= edges
    return strokes.astype(np.uint8) * np.uint8(255)


def grown(levels: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    """Edge strength dilated (radius above 0) or eroded (below 0) by a disc.

    Args:
        levels: (H, W) float32.
        radius: In pixels; rounded.

    Returns:
        (H, W) float32.
    """
    import cv2

    reach = round(abs(radius))
    if reach == 0:
        return levels
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    change = cv2.dilate if radius > 0 else cv2.erode
    return np.asarray(change(levels, disc), np.float32)


def ridges(smooth: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Lines of one pixel along the ridges: non-maximum suppression.

    A pixel belongs to one if it is the highest of three in a row or in a column, whichever bends
    down more. The public fake scribbles look for it in any of four directions, which leaves spurs
    that only a wide blur hides; a stroke of one pixel would show them.

    Args:
        smooth: (H, W) float32.

    Returns:
        (H, W) bool.
    """
    framed = np.pad(smooth, 1, mode="reflect")
    above, below = framed[:-2, 1:-1], framed[2:, 1:-1]
    left, right = framed[1:-1, :-2], framed[1:-1, 2:]
    # Of two equal neighbours one is taken, so that a line stays a single pixel wide.
    over_rows = (smooth > above) & (smooth >= below)
    over_columns = (smooth > left) & (smooth >= right)
    along_rows = above + below < left + right
    return np.asarray(np.where(along_rows, over_rows, over_columns), np.bool_)


def without_specks(lines: NDArray[np.bool_], shortest: float) -> NDArray[np.bool_]:
    """Lines of fewer pixels are left out.

    Args:
        lines: (H, W) bool; pixels that touch, be it at a corner, are one line.
        shortest: Pixels that a line needs.

    Returns:
        (H, W) bool.
    """
    import cv2

    _, labels, statistics, _ = cv2.connectedComponentsWithStats(lines.astype(np.uint8))
    keeps = statistics[:, cv2.CC_STAT_AREA] >= shortest
    return np.asarray(keeps[labels] & lines, np.bool_)


def masked(
    lines: NDArray[np.bool_], share: float, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Lines without the part of them that lies in random patches.

    Args:
        lines: (H, W) bool.
        share: Part of the lines' pixels that is taken away, 0 to 1.
        generator: What chooses the patches.

    Returns:
        (H, W) bool.
    """
    import cv2

    height, width = lines.shape
    cell = max(1, min(height, width) / _MASK_CELLS)
    rough = generator.random((round(height / cell) + 2, round(width / cell) + 2), dtype=np.float32)
    noise = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
    values = noise[lines]
    gone = round(share * values.size)
    if gone == 0:
        return lines
    if gone == values.size:
        return np.zeros_like(lines)
    return np.asarray(lines & (noise >= np.partition(values, gone)[gone]), np.bool_)


def widened(lines: NDArray[np.bool_], width: float) -> NDArray[np.bool_]:
    """Lines of one pixel drawn with a round pen.

    Args:
        lines: (H, W) bool.
        width: Of the pen in pixels, at least 1.

    Returns:
        (H, W) bool.
    """
    import cv2

    if not lines.any():
        return lines
    away = cv2.distanceTransform((~lines).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(away < max(0.5, width / 2), np.bool_)
