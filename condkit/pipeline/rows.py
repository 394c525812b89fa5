"""How an input of a build becomes a row: decoded once, resized, captioned, annotated, encoded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from condkit import imageio
from condkit.annotators.annotator import Annotator, Predictions
from condkit.captions.base import Captioner, Captions
from condkit.datasets.encoded import DataColumn
from condkit.datasets.filters import Filters
from condkit.datasets.fingerprints import hash_beside, hash_picture
from condkit.datasets.formats.base import EncodedRow
from condkit.datasets.planning import PlannedInput, split_of
from condkit.datasets.sources.base import Source, SourceEntry, SourceSample
from condkit.errors import DatasetError
from condkit.pipeline.encoding import encode_maps
from condkit.pipeline.given_maps import read_given
from condkit.sizing import SizePolicy
from condkit.types import ConditionMap, ConditionSpec, Rejection, RgbImage, SourceFile

if TYPE_CHECKING:
    from condkit.geometry import Transform


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image at its final size, and what is known of it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        file: Its name and what its source says of it.
        given: The maps that its source has, at the same size.
        original_hw: Height and width of the upright input.
        transform: What was done to its upright pixels.
        notes: What decoding did.
        scores: What the filters measured.
    """

    image: RgbImage
    file: SourceFile
    given: Mapping[str, ConditionMap]
    original_hw: tuple[int, int]
    transform: Transform
    notes: tuple[str, ...]
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Predicted:
    """What was found out about a picture.

    Attributes:
        captions: What is said of it.
        scores: What the filters measured in that.
        predictions: What its maps are drawn from.
    """

    captions: Captions
    scores: Mapping[str, float]
    predictions: Predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class RowMaker:
    """The stages of a build.

    Attributes:
        source: Where the inputs come from.
        annotator: Makes the maps that the source lacks.
        captioner: Makes the texts.
        given: What the source's own maps mean, by condition.
        columns: Which of the maps' data is kept; none of a condition that the source has maps of.
        sizes: The pictures' sizes.
        filters: Which rows are left out.
        val: Share of the validation split.
        seed: Draws the split.
    """

    source: Source
    annotator: Annotator
    captioner: Captioner
    given: Mapping[str, ConditionSpec]
    columns: tuple[DataColumn, ...]
    sizes: SizePolicy
    filters: Filters
    val: float
    seed: int

    def load(self, item: PlannedInput) -> Picture | Rejection:
        """Read, decode and resize an input.

        Raises:
            DatasetError: if the input is gone or not the one that was planned.
        """
        sample = self._read(item)
        lacking = [name for name in self.given if name not in (*sample.maps, *self._made)]
        if lacking:
            reason = f"the source has no map of {', '.join(lacking)} for it, and condkit makes none"
            return Rejection(item.relative, "decode", reason)
        data = sample.image
        if isinstance(data, Path) and data.stat().st_size <= imageio.DecodePolicy().max_bytes:
            data = data.read_bytes()
        decoded = imageio.decode_or_reject(data, item.relative)
        if isinstance(decoded, Rejection):
            return decoded
        original = self.filters.of_source(decoded.original_hw)
        too_small = original.reason or self.sizes.too_small(decoded.original_hw)
        if too_small:
            return Rejection(item.relative, "filter", too_small)
        transform = self.sizes.transform_for(decoded.original_hw, key=item.sha256)
        image = transform.apply(decoded.image, "image")
        looked = self.filters.of_picture(image)
        if looked.reason:
            return Rejection(item.relative, "filter", looked.reason)
        given, more = read_given(sample.maps, self.given, decoded.original_hw, transform)
        return Picture(
            image=image,
            file=sample.file,
            given=given,
            original_hw=decoded.original_hw,
            transform=transform,
            notes=(*decoded.notes, *more),
            scores={**original.scores, **looked.scores},
        )

    def _read(self, item: PlannedInput) -> SourceSample:
        entry = SourceEntry(relative=item.relative, stamp="", where=item.where)
        try:
            sample = self.source.read(entry)
            sha256 = hash_picture(sample.image)
            beside = hash_beside(sample, self.captioner.reads(sample.file))
        except OSError as error:
            raise DatasetError(
                f"{item.relative} was there when the build was planned, and cannot be read now: "
                f"{error.strerror or error}; restore it and start again, finished shards are kept"
            ) from error
        if sha256 != item.sha256:
            raise DatasetError(
                f"{item.relative} has changed since the build was planned; restore it, or begin "
                "anew in another output folder"
            )
        if beside != item.beside:
            raise DatasetError(
                f"what lies beside {item.relative} (its caption, fields or maps) has changed since "
                "the build was planned; restore it, or begin anew in another output folder"
            )
        return sample

    def predict(
        self, items: Sequence[PlannedInput], pictures: Sequence[Picture]
    ) -> list[Predicted | Rejection]:
        """Caption a batch, and predict on those images that are kept."""
        said = self.captioner([p.image for p in pictures], [p.file for p in pictures])
        results = [self._judged(item, told) for item, told in zip(items, said, strict=True)]
        kept = [
            picture
            for picture, result in zip(pictures, results, strict=True)
            if not isinstance(result, Rejection)
        ]
        predictions: Iterator[Predictions] = iter(
            self.annotator.predict(
                [picture.image for picture in kept],
                [[n for n in self._made if n not in picture.given] for picture in kept],
            )
            if kept
            else ()
        )
        return [
            result if isinstance(result, Rejection) else Predicted(*result, next(predictions))
            for result in results
        ]

    def _judged(
        self, item: PlannedInput, told: Captions | Rejection
    ) -> tuple[Captions, Mapping[str, float]] | Rejection:
        if isinstance(told, Rejection):
            return told
        verdict = self.filters.of_caption(told.texts)
        if verdict.reason:
            return Rejection(item.relative, "filter", verdict.reason)
        return told, verdict.scores

    def encode(
        self, item: PlannedInput, picture: Picture, predicted: Predicted
    ) -> EncodedRow | Rejection:
        """Draw the maps of an input and encode its row."""
        maps = {**picture.given, **self.annotator.render(predicted.predictions)}
        verdict = self.filters.of_maps(maps)
        if verdict.reason:
            return Rejection(item.relative, "filter", verdict.reason)
        scores = {**picture.scores, **predicted.scores, **verdict.scores}
        captions = predicted.captions
        encoded = encode_maps(maps, data=bool(self.columns))
        facts = {name: one.facts for name, one in encoded.items()}
        height, width = picture.image.shape[:2]
        return EncodedRow(
            index=item.index,
            split=split_of(item.sha256, validation=self.val, seed=self.seed),
            text=captions.texts[0],
            captions=captions.texts,
            image=imageio.encode_png(picture.image),
            maps={name: encoded[name].png for name in self._order},
            data={c.name: encoded[c.condition].data[c.suffix] for c in self.columns},
            facts={
                "source": item.relative,
                "sha256": item.sha256,
                "width": width,
                "height": height,
                "original_width": picture.original_hw[1],
                "original_height": picture.original_hw[0],
                "transform": json.dumps(picture.transform.as_dict()),
                "notes": ", ".join(picture.notes),
                "captioner": captions.captioner,
                "scores": json.dumps(scores, allow_nan=False),
                "facts": json.dumps({name: facts[name] for name in self._order}, allow_nan=False),
            },
        )

    @property
    def _order(self) -> tuple[str, ...]:
        """The columns of maps: the plan's, then what only the source has."""
        return (*self._made, *(name for name in self.given if name not in self._made))

    @property
    def _made(self) -> tuple[str, ...]:
        """The conditions that can be made."""
        return tuple(spec.name for spec in self.annotator.plan.specs)
