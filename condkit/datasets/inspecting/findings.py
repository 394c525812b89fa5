"""What `inspect` finds: the figures of a dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from condkit.datasets.inspecting.looking import Shown
from condkit.datasets.inspecting.rejections import Rejections
from condkit.datasets.inspecting.tallies import Frequencies, Spread

SHOWN_WORDS = 40
SHOWN_CAPTIONS = 20
SHOWN_SIZES = 20
SHOWN_CLASSES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Which rows were looked at.

    Attributes:
        rows: By split, how many.
        total: By split, how many there are.
        seed: Of the draw.
        numbers: By split, which ones, in order; empty where all were looked at.
    """

    rows: dict[str, int]
    total: dict[str, int]
    seed: int
    numbers: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        """For people: "all 1000 rows" or "100 of 1000 rows, drawn with seed 0"."""
        rows, total = sum(self.rows.values()), sum(self.total.values())
        if not self.numbers:
            return f"all {total} rows"
        return f"{rows} of {total} rows, drawn with seed {self.seed}"

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "looked_at": str(self),
            "seed": self.seed,
            "splits": {
                name: {"rows": self.total[name], "looked_at": self.rows[name]}
                for name in self.total
            },
            "numbers": {name: list(numbers) for name, numbers in self.numbers.items()},
        }


@dataclass(slots=True)
class Sizes:
    """Sizes of the pictures, in pixels.

    Attributes:
        counts: By size, such as "512x512".
        short: The short side.
        aspect: Width through height.
        originals: The short side of the inputs.
        original_megapixels: Of the inputs.
    """

    counts: Frequencies = field(default_factory=Frequencies)
    short: Spread = field(default_factory=Spread)
    aspect: Spread = field(default_factory=Spread)
    original_short: Spread = field(default_factory=Spread)
    original_megapixels: Spread = field(default_factory=Spread)

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "different": len(self.counts.counts),
            "most_frequent": dict(self.counts.most_common(SHOWN_SIZES)),
            "short_side": self.short.as_dict(),
            "aspect": self.aspect.as_dict(),
            "original_short_side": self.original_short.as_dict(),
            "original_megapixels": self.original_megapixels.as_dict(),
        }


@dataclass(slots=True)
class CaptionFigures:
    """The captions.

    Attributes:
        empty: How many are empty.
        characters: Their lengths.
        words: Words in each.
        per_row: Captions of each row.
        frequent: How many captions have each word.
        captioners: How many come from each captioner.
        repeated: Captions that come more than once, with their counts, the most frequent first.
        repeated_rows: Rows with such a caption, all of them.
    """

    empty: int = 0
    characters: Spread = field(default_factory=Spread)
    words: Spread = field(default_factory=Spread)
    per_row: Spread = field(default_factory=Spread)
    frequent: Frequencies = field(default_factory=Frequencies)
    captioners: Frequencies = field(default_factory=Frequencies)
    repeated: list[tuple[str, int]] = field(default_factory=list)
    repeated_rows: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "empty": self.empty,
            "characters": self.characters.as_dict(),
            "words": self.words.as_dict(),
            "captions_per_row": self.per_row.as_dict(),
            "vocabulary": len(self.frequent.counts),
            "frequent_words": dict(self.frequent.most_common(SHOWN_WORDS)),
            "captioners": dict(self.captioners.most_common(SHOWN_WORDS)),
            "repeated_rows": self.repeated_rows,
            "repeated": [{"text": text, "rows": count} for text, count in self.repeated],
        }


@dataclass(slots=True)
class MapFigures:
    """The maps of a condition.

    Attributes:
        coverage: Share of the pixels that are not background.
        empty: Maps that are all background.
        flat: Maps of which all pixels are alike, empty ones too.
        facts: What was counted in them.
        classes: Rows in which each class is.
        class_shares: Of those rows, the share of the picture that the class covers.
        bodies: Persons with at least one body joint.
        joints: How many of them have each joint.
        joints_each: Joints of each of them.
    """

    coverage: Spread = field(default_factory=Spread)
    empty: int = 0
    flat: int = 0
    facts: dict[str, Spread] = field(default_factory=dict)
    classes: Frequencies = field(default_factory=Frequencies)
    class_shares: dict[str, Spread] = field(default_factory=dict)
    bodies: int = 0
    joints: Frequencies = field(default_factory=Frequencies)
    joints_each: Spread = field(default_factory=Spread)

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "coverage": self.coverage.as_dict(),
            "empty": self.empty,
            "flat": self.flat,
            "facts": {name: spread.as_dict() for name, spread in self.facts.items()},
            "classes": [
                {"name": name, "rows": rows, "mean_share": self.class_shares[name].mean}
                for name, rows in self.classes.most_common(len(self.classes.counts))
            ],
            "bodies": self.bodies,
            "body_joints": dict(self.joints.counts.most_common()),
            "body_joints_each": self.joints_each.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class Copies:
    """Rows that show the same.

    Attributes:
        rows: How many rows are copies of another one that comes before.
        across: How many of those come before in another split.
        examples: Some of them: sources of rows that belong together, the first one first.
    """

    rows: int
    across: int
    examples: tuple[tuple[str, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        examples = [list(group) for group in self.examples]
        return {"rows": self.rows, "across_splits": self.across, "examples": examples}


@dataclass(slots=True, kw_only=True)
class Inspection:
    """All figures of a dataset.

    Attributes:
        path: Its folder.
        manifest: Its manifest.
        chosen: Which rows were looked at.
        sizes: Of the pictures.
        captions: The captions.
        maps: By condition.
        scores: What filters measured, by name.
        notes: How often decoding noted what.
        equal: Rows whose pictures have the same pixels.
        near: Rows whose pictures look alike, without those.
        near_bits: In how many of 64 bits of the perceptual hash such pictures may differ.
        rejections: What was left out when the dataset was made.
        unreadable: Rows that could not be read, and why; the first few.
        unreadable_rows: How many there are.
        shown: Rows to look at, by split.
    """

    path: str
    manifest: dict[str, Any]
    chosen: Chosen
    sizes: Sizes
    captions: CaptionFigures
    maps: dict[str, MapFigures]
    scores: dict[str, Spread]
    notes: Frequencies
    equal: Copies
    near: Copies
    near_bits: int
    rejections: Rejections
    unreadable: list[tuple[str, str]]
    unreadable_rows: int
    shown: dict[str, list[Shown]]

    def as_dict(self) -> dict[str, Any]:
        """All figures as JSON values, without pictures."""
        manifest = self.manifest
        return {
            "path": self.path,
            "format": manifest["format"],
            "conditions": list(manifest["conditions"]),
            "columns": manifest.get("columns", []),
            "rows": self.chosen.as_dict(),
            "sizes": self.sizes.as_dict(),
            "captions": self.captions.as_dict(),
            "maps": {name: figures.as_dict() for name, figures in self.maps.items()},
            "scores": {name: spread.as_dict() for name, spread in self.scores.items()},
            "notes": dict(self.notes.most_common(SHOWN_WORDS)),
            "duplicates": {
                "equal_pictures": self.equal.as_dict(),
                "near_pictures": {"most_bits": self.near_bits, **self.near.as_dict()},
            },
            "rejections": self.rejections.as_dict(),
            "unreadable": {
                "rows": self.unreadable_rows,
                "examples": [{"where": w, "reason": r} for w, r in self.unreadable],
            },
        }
