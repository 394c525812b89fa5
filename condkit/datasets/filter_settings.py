"""Which filters there are, and their limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from condkit.datasets.near_duplicates import MOST_BITS
from condkit.errors import ConfigError
from condkit.settings import as_mapping, from_mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterSettings:
    """Which pictures are left out; None switches a limit off.

    Attributes:
        min_side: Shortest side of the upright original, in pixels, at least.
        max_side: Longest side of the original, in pixels, at most.
        max_aspect: Long side by short side of the original, at most; at least 1.
        min_megapixels: Height times width of the original in millions of pixels, at least.
        max_megapixels: The same, at most.
        min_sharpness: Variance of the Laplacian of the final picture, in grey levels squared, at
            least. It is measured on 8-bit grey, the short side brought down to 512 pixels where it
            is longer. Sharp photographs have some hundreds and more, blurred ones below 100.
        grey_tolerance: Leaves out grey pictures: those in which 99 % of the pixels differ by at
            most so many levels, 0 to 255, between their strongest and their weakest channel.
        min_chars: Characters of each caption, at least, without blanks at its ends.
        max_chars: The same, at most.
        min_words: Words of each caption, divided by blanks, at least.
        max_words: The same, at most.
        drop_empty: Leaves out a picture with a map whose pixels are all alike: no edge, no line,
            nobody, flat depth.
        min_edge_density: Mean strength of each edge map (canny, softedge, scribble, lines,
            lineart), 0 to 1, at least; where strokes are 255 and the rest 0, as with all of them
            but softedge and lineart, that is the share of pixels with a stroke.
        max_edge_density: The same, at most.
        min_lines: Straight lines in the map `lines`, at least.
        min_persons: Persons in the map `openpose`, at least.
        max_persons: The same, at most.
        min_keypoints: Share of the 18 joints of the body that are found, drawn and inside the
            picture, of the person who has most of them, 0 to 1, at least.
        min_whole_body: The same of all 130 points of body, hands and face.
        near_duplicates: Leaves out near copies: pictures whose 64-bit perceptual hashes differ in
            at most so many bits, 0 to 10; the copy with most pixels is kept. See
            `condkit.datasets.near_duplicates`.
        keep_largest: How many pictures are kept, those with most pixels. See
            `condkit.datasets.examining`.
    """

    min_side: int | None = None
    max_side: int | None = None
    max_aspect: float | None = None
    min_megapixels: float | None = None
    max_megapixels: float | None = None
    min_sharpness: float | None = None
    grey_tolerance: float | None = None
    min_chars: int | None = None
    max_chars: int | None = None
    min_words: int | None = None
    max_words: int | None = None
    drop_empty: bool = False
    min_edge_density: float | None = None
    max_edge_density: float | None = None
    min_lines: int | None = None
    min_persons: int | None = None
    max_persons: int | None = None
    min_keypoints: float | None = None
    min_whole_body: float | None = None
    near_duplicates: int | None = None
    keep_largest: int | None = None

    def __post_init__(self) -> None:
        for name, (low, high, unit) in _RANGES.items():
            value = getattr(self, name)
            fits = value is None or (low <= value and (high is None or value <= high))
            wanted = f"at least {low}" if high is None else f"{low} to {high}"
            _require(fits, f"filters.{name}: expected {wanted}{unit}, got {value}")
        for what in ("side", "megapixels", "chars", "words", "edge_density", "persons"):
            low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            _require(
                low is None or high is None or low <= high,
                f"filters.min_{what} and filters.max_{what}: expected min_{what} <= max_{what}, "
                f"got {low} and {high}",
            )

    def as_dict(self) -> dict[str, Any]:
        """The limits that are on, as JSON values."""
        return {
            name: value for name, value in as_mapping(self).items() if value not in (None, False)
        }


# Smallest and largest possible limit, and the unit for messages.
_RANGES: dict[str, tuple[float, float | None, str]] = {
    "min_side": (1, None, " pixel"),
    "max_side": (1, None, " pixel"),
    "max_aspect": (1, None, ""),
    "min_megapixels": (0, None, " megapixels"),
    "max_megapixels": (0, None, " megapixels"),
    "min_sharpness": (0, None, " grey levels squared"),
    "grey_tolerance": (0, 255, " levels"),
    "min_chars": (0, None, " characters"),
    "max_chars": (0, None, " characters"),
    "min_words": (0, None, " words"),
    "max_words": (0, None, " words"),
    "min_edge_density": (0, 1, ""),
    "max_edge_density": (0, 1, ""),
    "min_lines": (0, None, " lines"),
    "min_persons": (0, None, " persons"),
    "max_persons": (0, None, " persons"),
    "min_keypoints": (0, 1, ""),
    "min_whole_body": (0, 1, ""),
    "near_duplicates": (0, MOST_BITS, " bits"),
    "keep_largest": (1, None, " picture"),
}


def read_filters(
    assignments: Iterable[str], base: Mapping[str, Any] | None = None
) -> FilterSettings:
    """Filters from `NAME=VALUE` words, as `--filter` takes them.

    Args:
        assignments: The words; a later one wins, `NAME=none` switches a limit off.
        base: Limits that hold where no word names them, such as a recipe's.

    Raises:
        ConfigError: if a word has no `=`, or a value is impossible.
        UnknownNameError: if there is no such filter.
    """
    values = dict(base or {})
    for word in assignments:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--filter {word!r}: expected NAME=VALUE, such as min_side=512")
        values[name.strip()] = value.strip()
    if str(values.get("drop_empty", "")).lower() == "none":
        values["drop_empty"] = False
    return from_mapping(FilterSettings, values, where="filters")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
