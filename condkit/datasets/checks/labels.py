"""Whether label pictures name only classes that there are."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condkit.datasets.checks.faults import Fault
from condkit.datasets.encoded import DataColumn
from condkit.types import MapPixels


@dataclass(frozen=True, slots=True)
class LabelRules:
    """Which classes the labels of a row may name: what the JSON beside them lists.

    `seg` says its palette and the grey level that means no class; `segments` lists its segments,
    numbered from 1, with 0 for none.
    """

    def check(
        self,
        where: str,
        columns: Mapping[str, DataColumn],
        pictures: Mapping[str, MapPixels],
        texts: Mapping[str, Any],
    ) -> Iterator[Fault]:
        """Compare each label picture with the JSON of its condition.

        Args:
            where: What the row is called.
            columns: All data columns.
            pictures: Label pictures that decoded, by column.
            texts: JSON values that parsed, by column.
        """
        for name, pixels in pictures.items():
            if pixels.ndim != 2:
                continue
            condition = columns[name].condition
            for other, told in texts.items():
                if columns[other].condition == condition and isinstance(told, dict):
                    yield from _check(f"{where}, {name}", pixels, told)


def palette_names(name: str) -> tuple[str, ...] | None:
    """The classes of a palette in order; None for one that is not among condkit's."""
    file = resources.files("condkit") / "assets" / "palettes" / f"{name}.json"
    return _read(name) if file.is_file() else None


@functools.cache
def _read(name: str) -> tuple[str, ...]:
    file = resources.files("condkit") / "assets" / "palettes" / f"{name}.json"
    return tuple(entry[0] for entry in json.loads(file.read_text("utf-8"))["classes"])


def _check(where: str, pixels: MapPixels, told: Mapping[str, Any]) -> Iterator[Fault]:
    found: NDArray[np.int64] = np.unique(pixels).astype(np.int64)
    if isinstance(told.get("palette"), str):
        names = palette_names(told["palette"])
        if names is not None:
            strangers = found[(found >= len(names)) & (found != told.get("no_class"))]
            yield from _strangers(where, strangers, f"0 to {len(names) - 1} of {told['palette']}")
        yield from _counts(where, pixels, told.get("classes"))
    elif isinstance(told.get("segments"), list):
        count = len(told["segments"])
        yield from _strangers(where, found[found > count], f"0 to {count}, its segments")


def _strangers(where: str, strangers: NDArray[Any], known: str) -> Iterator[Fault]:
    if strangers.size:
        yield Fault(
            kind="unknown label",
            where=where,
            expected=f"only labels of {known}",
            got=", ".join(map(str, strangers[:8].tolist())) + ("…" if strangers.size > 8 else ""),
            advice="labels were resampled or replaced; build the dataset again",
        )


def _counts(where: str, pixels: MapPixels, classes: object) -> Iterator[Fault]:
    """The pixels of each class, as the JSON tells them."""
    if not isinstance(classes, list):
        return
    counts = np.bincount(pixels.ravel())
    for entry in classes:
        number, told = entry.get("id"), entry.get("pixels")
        if not isinstance(number, int) or not isinstance(told, int):
            continue
        found = int(counts[number]) if 0 <= number < len(counts) else 0
        if found != told:
            yield Fault(
                kind="labels differ from record",
                where=where,
                expected=f"{told} pixels of {entry.get('name', number)}, as the JSON says",
                got=str(found),
                advice="labels were replaced; build the dataset again",
            )
