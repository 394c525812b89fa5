"""`caption` of a dataset: the same dataset again, with other captions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from condkit import imageio
from condkit.annotators.annotator import AnnotationPlan
from condkit.captions.base import Captioner, Captions
from condkit.datasets.export import Revision, export_dataset
from condkit.datasets.formats.base import EncodedRow
from condkit.datasets.reader import open_dataset
from condkit.errors import DatasetError, ImageError
from condkit.pipeline.execution import (
    arithmetic,
    captions_that_decide,
    check_counts,
    default_batch_for,
)
from condkit.pipeline.runs import Meter, OnProgress, RunSummary
from condkit.runtime import Runtime
from condkit.types import Rejection, SourceFile


def caption_dataset(
    dataset: Path,
    captioner: Captioner,
    runtime: Runtime,
    *,
    output: Path,
    overwrite: bool = False,
    batch_size: int | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
) -> RunSummary:
    """Write a finished dataset again, with captions where it has none; called again, it goes on.

    Pictures, maps and splits are the same bytes. The dataset itself is not changed.

    Args:
        dataset: Folder of a dataset.
        captioner: Where the texts come from; it sees the row's columns `text` and `captions`. It is
            closed at the end.
        runtime: Where its networks run.
        output: Folder of the new dataset.
        overwrite: Replace all captions, also those that are not empty.
        batch_size: Pictures per call of a network; None chooses.
        workers: Threads that read; None takes all cores.
        dry_run: Only say how many rows there are.
        on_progress: Called after each row.

    Raises:
        ConfigError: if a value is impossible.
        DatasetError: if the dataset is none, unfinished or broken, or a row cannot be captioned.
        OutputError: if the output holds something else, was begun with other captions, or cannot be
            written.
        WeightsError: if weights cannot be had.
    """
    started = time.monotonic()
    check_counts(batch_size=batch_size, workers=workers)
    source = open_dataset(dataset)
    total = sum(source.manifest["rows"].values())
    if dry_run:
        seconds = time.monotonic() - started
        return RunSummary(
            output=output, planned=total, written=0, skipped=0, seconds=seconds, dry_run=True
        )
    texts = _Texts(
        place=dataset,
        captioner=captioner,
        overwrite=overwrite,
        batch_size=batch_size or default_batch_for(captioner.weights, runtime),
    )
    progress = _Progress(on_progress)
    try:
        done = export_dataset(
            dataset,
            output,
            format=source.manifest["format"],
            revision=Revision(
                manifest=_told(source.manifest, captioner, runtime, overwrite=overwrite),
                rows=texts.revised,
            ),
            workers=workers,
            on_progress=progress,
        )
    finally:
        captioner.close()
    return RunSummary(
        output=output,
        planned=total,
        written=done.written,
        skipped=done.skipped,
        seconds=time.monotonic() - started,
    )


def _told(
    before: dict[str, Any], captioner: Captioner, runtime: Runtime, *, overwrite: bool
) -> dict[str, Any]:
    """What the new manifest says of the captions."""
    told = captions_that_decide(captioner, runtime.store, fetch=True)
    told |= {"rows": "all" if overwrite else "those without a caption"}
    if not overwrite:
        told["others"] = before["captions"]
    if captioner.weights:
        told["environment"] = arithmetic(AnnotationPlan(()), runtime, captioner.weights)
    many = captioner.many or (not overwrite and bool(before.get("many_captions", False)))
    return {"captions": told, "many_captions": many}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Texts:
    """Puts new captions into rows."""

    place: Path
    captioner: Captioner
    overwrite: bool
    batch_size: int

    def revised(self, rows: Iterator[EncodedRow]) -> Iterator[EncodedRow]:
        """Each row with its caption, in order; a few are read ahead."""
        while batch := list(islice(rows, self.batch_size)):
            wanting = [row for row in batch if self.overwrite or not any(_captions(row))]
            made = iter(self._made(wanting))
            for row in batch:
                yield next(made) if any(row is one for one in wanting) else row

    def _made(self, rows: list[EncodedRow]) -> list[EncodedRow]:
        if not rows:
            return []
        images = []
        for row in rows:
            try:
                images.append(imageio.decode(row.image).image)
            except ImageError as error:
                raise self._error(row, str(error)) from error
        said = self.captioner(images, [self._file(row) for row in rows])
        return [self._with(row, found) for row, found in zip(rows, said, strict=True)]

    def _file(self, row: EncodedRow) -> SourceFile:
        fields = {"text": row.text, "captions": list(_captions(row))}
        return SourceFile(self.place, str(row.facts["source"]), beside=(), fields=fields)

    def _with(self, row: EncodedRow, found: Captions | Rejection) -> EncodedRow:
        if isinstance(found, Rejection):
            raise self._error(row, found.reason)
        facts = {**row.facts, "captioner": found.captioner}
        scores = json.loads(str(facts["scores"]))
        measured = {"caption_chars": len(found.texts[0].strip())}
        measured["caption_words"] = len(found.texts[0].split())
        # What the filters have measured in the old caption is no longer so.
        scores |= {name: float(value) for name, value in measured.items() if name in scores}
        facts["scores"] = json.dumps(scores, allow_nan=False)
        return replace(row, text=found.texts[0], captions=found.texts, facts=facts)

    def _error(self, row: EncodedRow, reason: str) -> DatasetError:
        return DatasetError(
            f"{self.place}: row {row.index} ({row.facts['source']}) cannot be captioned: {reason}; "
            "what is finished is kept"
        )


class _Progress:
    """Tells of rows as of images; the rows that were there before are no part of the rate."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self._meter: Meter | None = None

    def __call__(self, done: int, total: int) -> None:
        """One more row is through."""
        if self._meter is None:
            self._meter = Meter(total, done - 1, self._on_progress)
        self._meter.count()


def _captions(row: EncodedRow) -> tuple[str, ...]:
    return row.captions or (row.text,)
