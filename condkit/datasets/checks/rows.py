"""One row of a dataset: does everything in it decode, fit together, and mean what its spec says?"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from condkit.datasets.checks.faults import Fault
from condkit.datasets.checks.labels import LabelRules
from condkit.datasets.checks.pictures import (
    Unreadable,
    changes,
    decode_map,
    decode_picture,
    size_text,
)
from condkit.datasets.encoded import DataColumn
from condkit.datasets.formats.base import EncodedRow
from condkit.types import ConditionSpec, MapPixels, RgbImage

_REBUILD = "build the dataset again"
_JSON_COLUMNS = ("transform", "scores", "facts")
_ALLOWED_CONTROLS = "\n\t"


@dataclass(frozen=True, slots=True)
class RowRules:
    """What all rows of a dataset have to keep to.

    Attributes:
        conditions: The specs of the maps, by name.
        data: The columns with what the maps were drawn from, by name.
        labels: The classes that labels may name.
    """

    conditions: Mapping[str, ConditionSpec]
    data: Mapping[str, DataColumn]
    labels: LabelRules

    def check(self, row: EncodedRow, where: str) -> list[Fault]:
        """Everything that is wrong with a row, which is called `where`."""
        faults = [*_captions(row, where), *_facts(row, where)]
        decoded = decode_picture(row.image)
        if isinstance(decoded, Unreadable):
            faults.append(_broken(where, "image", decoded))
            image = None
        else:
            image, notes = decoded
            faults += _picture(row, where, image, notes)
        for name, spec in self.conditions.items():
            faults += _map(row.maps.get(name), spec, where, image)
        faults += self._data(row, where, image)
        return faults

    def _data(self, row: EncodedRow, where: str, image: RgbImage | None) -> Iterator[Fault]:
        """Labels and JSON beside the maps."""
        pictures: dict[str, MapPixels] = {}
        texts: dict[str, Any] = {}
        for name, column in self.data.items():
            content = row.data.get(name)
            if content is None:
                yield _absent(where, name)
            elif column.is_picture:
                pixels = decode_map(content)
                if isinstance(pixels, Unreadable):
                    yield _broken(where, name, pixels)
                    continue
                pictures[name] = pixels
                yield from _same_size(where, name, pixels, image)
            else:
                parsed = _parsed(content)
                if isinstance(parsed, Unreadable):
                    yield _bad_json(where, name, parsed.reason)
                else:
                    texts[name] = parsed
        yield from self.labels.check(where, self.data, pictures, texts)


def caption_problem(text: object) -> str | None:
    """Why a caption is no clean text; None where it is."""
    if not isinstance(text, str):
        return f"{type(text).__name__} {text!r}"[:80]
    if "�" in text:
        return "U+FFFD, the mark of text read in a wrong encoding"
    for letter in text:
        kind = unicodedata.category(letter)
        if kind == "Cs" or (kind == "Cc" and letter not in _ALLOWED_CONTROLS):
            return f"the control character U+{ord(letter):04X}"
    return None


def _captions(row: EncodedRow, where: str) -> Iterator[Fault]:
    captions = row.captions or (row.text,)
    for text in dict.fromkeys((row.text, *captions)):
        problem = caption_problem(text)
        if problem is not None:
            yield Fault(
                kind="bad caption",
                where=where,
                expected="a caption of plain text",
                got=problem,
                advice=f"correct the caption's source and {_REBUILD}",
            )
    if captions[0] != row.text:
        yield Fault(
            kind="captions differ",
            where=where,
            expected=f"text to be the first of its captions, {captions[0]!r}"[:120],
            got=repr(row.text)[:120],
            advice=_REBUILD,
        )


def _facts(row: EncodedRow, where: str) -> Iterator[Fault]:
    for name in _JSON_COLUMNS:
        value = row.facts.get(name)
        if not isinstance(value, str):
            yield _bad_json(where, name, f"{type(value).__name__} {value!r}"[:80])
            continue
        parsed = _parsed(value.encode("utf-8", "surrogatepass"))
        if isinstance(parsed, Unreadable):
            yield _bad_json(where, name, parsed.reason)


def _picture(
    row: EncodedRow, where: str, image: RgbImage, notes: tuple[str, ...]
) -> Iterator[Fault]:
    recorded = (row.facts.get("width"), row.facts.get("height"))
    if recorded != (image.shape[1], image.shape[0]):
        yield Fault(
            kind="size differs from record",
            where=where,
            expected=f"a picture of {recorded[0]}x{recorded[1]}, as its row says",
            got=size_text(image),
            advice=_REBUILD,
        )
    if changes(notes):
        yield Fault(
            kind="not plain RGB",
            where=where,
            expected="an upright RGB picture of 8 bits, which all readers see alike",
            got=", ".join(changes(notes)),
            advice=_REBUILD,
        )


def _map(
    data: bytes | None, spec: ConditionSpec, where: str, image: RgbImage | None
) -> Iterator[Fault]:
    if data is None:
        yield _absent(where, spec.name)
        return
    pixels = decode_map(data)
    if isinstance(pixels, Unreadable):
        yield _broken(where, spec.name, pixels)
        return
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels != spec.channels or pixels.dtype != np.dtype(spec.dtype):
        yield Fault(
            kind="wrong kind of map",
            where=f"{where}, {spec.name}",
            expected=f"{spec.channels} channel(s) of {spec.dtype}",
            got=f"{channels} of {pixels.dtype}",
            advice=f"the map was replaced or converted; {_REBUILD}",
        )
    yield from _same_size(where, spec.name, pixels, image)


def _same_size(where: str, name: str, pixels: MapPixels, image: RgbImage | None) -> Iterator[Fault]:
    if image is not None and pixels.shape[:2] != image.shape[:2]:
        yield Fault(
            kind="size differs from picture",
            where=f"{where}, {name}",
            expected=f"the picture's size, {size_text(image)}",
            got=size_text(pixels),
            advice=_REBUILD,
        )


def _parsed(content: bytes) -> Any | Unreadable:  # noqa: ANN401 - any JSON value
    try:
        return json.loads(content.decode("utf-8"))
    except ValueError as error:
        return Unreadable(str(error))


def _broken(where: str, name: str, found: Unreadable) -> Fault:
    return Fault(
        kind="broken picture",
        where=f"{where}, {name}",
        expected="a picture that decodes in full",
        got=found.reason,
        advice=f"restore the file from a copy, or {_REBUILD}",
    )


def _absent(where: str, name: str) -> Fault:
    return Fault(
        kind="missing map",
        where=f"{where}, {name}",
        expected="a picture or text in every row",
        got="nothing",
        advice=_REBUILD,
    )


def _bad_json(where: str, name: str, reason: str) -> Fault:
    return Fault(
        kind="broken JSON",
        where=f"{where}, {name}",
        expected="JSON text",
        got=reason,
        advice=_REBUILD,
    )
