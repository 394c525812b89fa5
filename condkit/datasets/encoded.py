"""Maps as they are written: a PNG file, what was counted, and the files that go beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

Facts: TypeAlias = dict[str, int | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedMap:
    """A condition map, encoded.

    Attributes:
        png: The map's file.
        facts: What the renderer counted.
        data: The files beside it, by suffix; empty where they are not wanted.
    """

    png: bytes
    facts: Facts = field(default_factory=dict)
    data: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DataColumn:
    """A column of a dataset with what a condition's maps were drawn from.

    Attributes:
        condition: The condition's name.
        suffix: Of the file beside the map that `annotate` would write: ends with ".json" or ".png".
    """

    condition: str
    suffix: str

    @property
    def is_picture(self) -> bool:
        """Whether it holds PNG files; else JSON text."""
        return self.suffix.endswith(".png")

    @property
    def name(self) -> str:
        """Condition and suffix: `openpose_json`, `seg_labels`."""
        kind = self.suffix.removesuffix(".png").strip(".").replace(".", "_")
        return f"{self.condition}_{kind}"

    def as_dict(self) -> dict[str, str]:
        """The fields as JSON values."""
        return {"condition": self.condition, "suffix": self.suffix}
