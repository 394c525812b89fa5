"""Tables of sizes for pictures of different aspect: about as many pixels in each.

Sizes are (height, width) in pixels.
"""

from __future__ import annotations

import math
from functools import lru_cache

from condkit.geometry import Size

# D. Podell et al., "SDXL", arXiv 2307.01952, appendix I: (height, width), as it is printed there,
# where 704 x 1344 has no upright counterpart.
_SDXL: tuple[Size, ...] = (
    *((512, width) for width in (2048, 1984, 1920, 1856)),
    *((576, width) for width in (1792, 1728, 1664)),
    *((640, 1600), (640, 1536), (704, 1472), (704, 1408), (704, 1344), (768, 1344), (768, 1280)),
    *((832, 1216), (832, 1152), (896, 1152), (896, 1088), (960, 1088), (960, 1024), (1024, 1024)),
    *((1024, 960), (1088, 960), (1088, 896), (1152, 896), (1152, 832), (1216, 832), (1280, 768)),
    *((1344, 768), (1408, 704), (1472, 704), (1536, 640), (1600, 640)),
    *((height, 576) for height in (1664, 1728, 1792)),
    *((height, 512) for height in (1856, 1920, 1984, 2048)),
)


@lru_cache
def budget_buckets(
    pixels: int, *, step: int, min_side: int, max_side: int, max_aspect: float | None = None
) -> tuple[Size, ...]:
    """For each side the largest other side whose product stays within a number of pixels.

    Args:
        pixels: The most height times width may be.
        step: What both sides are multiples of.
        min_side: The shortest side; it, too, is taken to the next multiple.
        max_side: The longest side.
        max_aspect: Long side by short side, at most; None leaves it to the sides.

    Returns:
        Sizes, sorted, upright and lying alike; empty where nothing fits.

    Source: kohya-ss/sd-scripts, whose buckets these are.
    """
    root = math.isqrt(pixels)
    found = {(root // step * step,) * 2} if root // step * step >= min_side else set()
    for one in range(-(-min_side // step) * step, max_side + 1, step):
        other = min(max_side // step * step, pixels // one // step * step)
        if other >= min_side:
            found |= {(one, other), (other, one)}
    wide = max_aspect or math.inf
    return tuple(sorted((h, w) for h, w in found if max(h, w) <= wide * min(h, w)))


BUCKET_TABLES: dict[str, tuple[Size, ...]] = {
    # The defaults of kohya-ss/sd-scripts at 512: sides of 256 to 1024 in steps of 64.
    "sd15": budget_buckets(512 * 512, step=64, min_side=256, max_side=1024),
    "sdxl": _SDXL,
}


def nearest_bucket(hw: Size, buckets: tuple[Size, ...]) -> Size:
    """The bucket that cuts the least off a picture: the nearest ratio of its sides.

    Ratios are compared by their quotient, so that upright and lying pictures are treated alike. Of
    equally near ones the one with more pixels is taken, then the wider one.
    """
    height, width = hw

    def cost(bucket: Size) -> tuple[float, int, int]:
        ratio = abs(math.log(bucket[0] * width / (bucket[1] * height)))
        return round(ratio, 12), -bucket[0] * bucket[1], -bucket[1]

    return min(buckets, key=cost)
