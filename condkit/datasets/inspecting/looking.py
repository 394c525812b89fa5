"""What is measured in one row, on a thread of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condkit.datasets.checks.pictures import Unreadable, decode_map, decode_picture
from condkit.datasets.contact_sheet import shown_as_rgb, thumbnail
from condkit.datasets.encoded import DataColumn
from condkit.datasets.formats.base import EncodedRow
from condkit.datasets.measures import is_one_value
from condkit.datasets.near_duplicates import perceptual_hash
from condkit.types import ConditionSpec, MapPixels, RgbImage

THUMBNAIL = 144
"""Longest side in pixels of the pictures on the page."""


BODY_JOINT_NAMES = (
    "nose",
    "neck",
    "right shoulder",
    "right elbow",
    "right wrist",
    "left shoulder",
    "left elbow",
    "left wrist",
    "right hip",
    "right knee",
    "right ankle",
    "left hip",
    "left knee",
    "left ankle",
    "right eye",
    "left eye",
    "right ear",
    "left ear",
)
"""The 18 joints of OpenPose's COCO model, in its order."""


@dataclass(frozen=True, slots=True)
class MapLook:
    """What a map holds.

    Attributes:
        coverage: Share of the pixels that are not background, 0 to 1.
        flat: Whether all pixels are alike.
    """

    coverage: float
    flat: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A row to look at: small pictures, (h, w, 3) uint8 RGB."""

    text: str
    source: str
    image: RgbImage
    maps: dict[str, RgbImage]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLook:
    """What is known of a row after looking at it.

    Attributes:
        size: Width and height of the picture.
        original: Width and height of the input.
        picture: 64-bit hash of the pixels.
        phash: Perceptual hash; None for a flat picture.
        text: The caption.
        captions: How many captions the row has.
        maps: By condition.
        facts: By condition, what was counted in its map.
        scores: What the filters measured.
        classes: By condition, share of the picture by class name.
        joints: By condition, the joints that were found, of each person.
        captioner: Where the caption comes from.
        notes: What decoding did.
        shown: For the contact sheet; None for most rows.
    """

    size: tuple[int, int]
    original: tuple[int, int] | None
    picture: int
    phash: int | None
    text: str
    captions: int
    maps: dict[str, MapLook]
    facts: dict[str, dict[str, float]]
    scores: dict[str, float]
    classes: dict[str, dict[str, float]]
    joints: dict[str, list[tuple[str, ...]]]
    captioner: str
    notes: tuple[str, ...]
    shown: Shown | None = None


@dataclass(frozen=True, slots=True)
class Looker:
    """Looks at the rows of a dataset.

    Attributes:
        conditions: The specs of the maps, by name.
        data: The columns with what the maps were drawn from, by name.
    """

    conditions: Mapping[str, ConditionSpec]
    data: Mapping[str, DataColumn] = field(default_factory=dict)

    def look(self, row: EncodedRow, *, shown: bool) -> RowLook | Unreadable:
        """Decode and measure a row; why not, where it cannot be."""
        decoded = decode_picture(row.image)
        if isinstance(decoded, Unreadable):
            return Unreadable(f"image {decoded.reason}")
        image = decoded[0]
        maps: dict[str, MapPixels] = {}
        for name in self.conditions:
            found = decode_map(row.maps[name])
            if isinstance(found, Unreadable):
                return Unreadable(f"{name} {found.reason}")
            maps[name] = found
        facts = row.facts
        return RowLook(
            size=(image.shape[1], image.shape[0]),
            original=_original(facts),
            picture=hash_pixels(image),
            phash=perceptual_hash(image),
            text=row.text,
            captions=len(row.captions or (row.text,)),
            maps={name: _map(pixels, self.conditions[name]) for name, pixels in maps.items()},
            facts={name: _numbers(values) for name, values in _json(facts.get("facts")).items()},
            scores=_numbers(_json(facts.get("scores"))),
            classes={name: classes_of(told) for name, told in self._told(row, "classes")},
            joints={name: joints_of(told) for name, told in self._told(row, "people")},
            captioner=str(facts.get("captioner") or ""),
            notes=tuple(note for note in str(facts.get("notes") or "").split(", ") if note),
            shown=_shown(row, image, maps) if shown else None,
        )

    def _told(self, row: EncodedRow, key: str) -> Iterator[tuple[str, list[Any]]]:
        """Condition and list, for each JSON beside a map that has such a list."""
        for name, column in self.data.items():
            told = {} if column.is_picture else _json(row.data.get(name, b"").decode("utf-8"))
            if isinstance(told.get(key), list):
                yield column.condition, told[key]


def classes_of(classes: list[Any]) -> dict[str, float]:
    """The share of the picture of each class, of the list that `seg` writes."""
    return {str(c["name"]): float(c["share"]) for c in classes if "share" in c}


def joints_of(people: list[Any]) -> list[tuple[str, ...]]:
    """The names of the body joints that each person of OpenPose JSON has."""
    found = []
    for person in people:
        scores = (person.get("pose_keypoints_2d") or ())[2::3]
        named = zip(BODY_JOINT_NAMES, scores, strict=False)
        found.append(tuple(name for name, score in named if score > 0))
    return found


def hash_pixels(pixels: NDArray[Any]) -> int:
    """64 bits of a hash over pixels and shape: equal pictures have equal ones."""
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(pixels).data)
    return int.from_bytes(digest.digest())


def hash_text(text: str) -> int:
    """64 bits of a hash over a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def coverage(pixels: MapPixels, background: int) -> float:
    """Share of the pixels of a map that are not background, 0 to 1."""
    differs = pixels != background
    if differs.ndim == 3:
        differs = differs.any(axis=2)
    return float(differs.mean())


def _map(pixels: MapPixels, spec: ConditionSpec) -> MapLook:
    return MapLook(coverage(pixels, spec.background), is_one_value(pixels))


def _original(facts: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = facts.get("original_width"), facts.get("original_height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def _json(text: object) -> dict[str, Any]:
    """A JSON object of a row; `validate` is who complains of a broken one."""
    try:
        values = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _numbers(values: object) -> dict[str, float]:
    """The numbers of a JSON object, those of objects inside under dotted names."""
    found: dict[str, float] = {}
    for name, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": number for inner, number in _numbers(value).items()}
        elif isinstance(value, int | float):
            found[name] = float(value)
    return found


def _shown(row: EncodedRow, image: RgbImage, maps: Mapping[str, MapPixels]) -> Shown:
    return Shown(
        text=row.text,
        source=str(row.facts.get("source") or ""),
        image=thumbnail(image, THUMBNAIL),
        maps={name: thumbnail(shown_as_rgb(pixels), THUMBNAIL) for name, pixels in maps.items()},
    )
