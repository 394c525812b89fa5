"""How an input of a build becomes a row: decoded once, resized, captioned, annotated, encoded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from condkit import geometry, imageio
from condkit.annotators.annotator import Annotator, Predictions
from condkit.captions.base import Captioner, Captions
from condkit.datasets.encoded import DataColumn
from condkit.datasets.formats.base import EncodedRow
from condkit.datasets.planning import PlannedInput, hash_file, split_of
from condkit.errors import DatasetError
from condkit.pipeline.encoding import encode_maps
from condkit.types import Rejection, RgbImage, SourceFile


@dataclass(frozen=True, slots=True)
class Picture:
    """An image at its final size, and what it was.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        original_hw: Height and width of the upright input.
        notes: What decoding did.
        transform: What was done to its upright pixels.
    """

    image: RgbImage
    transform: geometry.Transform
    original_hw: tuple[int, int]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowMaker:
    """The stages of a build.

    Attributes:
        source: Folder that the inputs' names are relative to.
        annotator: Makes the maps.
        captioner: Makes the texts.
        columns: Which of the maps' data is kept.
        size: Side of the square pictures in pixels; None keeps each image's size.
        val: Share of the validation split.
        seed: Draws the split.
    """

    source: Path
    annotator: Annotator
    captioner: Captioner
    columns: tuple[DataColumn, ...]
    size: int | None
    val: float
    seed: int

    def load(self, item: PlannedInput) -> Picture | Rejection:
        """Read, decode and resize an input.

        Raises:
            DatasetError: if the file is gone or not the one that was planned.
        """
        path = self.source / item.relative
        too_big = item.size > imageio.DecodePolicy().max_bytes
        try:
            data = path if too_big else path.read_bytes()
            sha256 = hash_file(path) if isinstance(data, Path) else hashlib.sha256(data).hexdigest()
        except OSError as error:
            raise DatasetError(
                f"{path} was there when the build was planned, and cannot be read now: "
                f"{error.strerror}; restore it and start again, finished shards are kept"
            ) from error
        if sha256 != item.sha256:
            raise DatasetError(
                f"{path} has changed since the build was planned; restore it, or begin anew in "
                "another output folder"
            )
        decoded = imageio.decode_or_reject(data, item.relative)
        if isinstance(decoded, Rejection):
            return decoded
        if self.size is None:
            image, transform = decoded.image, geometry.unchanged(decoded.original_hw)
        else:
            image, transform = geometry.fit_square(decoded.image, self.size)
        return Picture(image, transform, decoded.original_hw, decoded.notes)

    def predict(
        self, items: Sequence[PlannedInput], pictures: Sequence[Picture]
    ) -> list[tuple[Captions, Predictions] | Rejection]:
        """Caption a batch, and predict on those images that have a caption."""
        sources = [SourceFile(self.source / item.relative, item.relative) for item in items]
        texts = self.captioner([picture.image for picture in pictures], sources)
        captioned = [
            picture.image
            for picture, text in zip(pictures, texts, strict=True)
            if not isinstance(text, Rejection)
        ]
        predictions: Iterator[Predictions] = iter(
            self.annotator.predict(captioned) if captioned else ()
        )
        return [
            text if isinstance(text, Rejection) else (text, next(predictions)) for text in texts
        ]

    def encode(
        self,
        item: PlannedInput,
        picture: Picture,
        predicted: tuple[Captions, Predictions],
    ) -> EncodedRow:
        """Draw the maps of an input and encode its row."""
        captions, predictions = predicted
        maps = encode_maps(self.annotator.render(predictions), data=bool(self.columns))
        facts = {name: encoded.facts for name, encoded in maps.items()}
        height, width = picture.image.shape[:2]
        return EncodedRow(
            index=item.index,
            split=split_of(item.sha256, validation=self.val, seed=self.seed),
            text=captions.texts[0],
            captions=captions.texts,
            image=imageio.encode_png(picture.image),
            maps={name: encoded.png for name, encoded in maps.items()},
            data={c.name: maps[c.condition].data[c.suffix] for c in self.columns},
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
                "scores": "{}",
                "facts": json.dumps(facts, allow_nan=False),
            },
        )
