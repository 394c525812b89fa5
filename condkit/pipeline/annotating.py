"""`annotate`: condition maps of images in files and folders, as files."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from condkit import geometry, imageio
from condkit.annotators.annotator import AnnotationPlan, Annotator, Predictions
from condkit.datasets.encoded import EncodedMap
from condkit.datasets.lock import locked
from condkit.datasets.manifest import write_rejected
from condkit.datasets.maps_folder import MapsFolder
from condkit.datasets.sources.walk import Scan, scan
from condkit.errors import ConfigError, ImageError
from condkit.pipeline import streaming
from condkit.pipeline.encoding import data_columns, encode_maps
from condkit.pipeline.execution import (
    all_that_decides,
    arithmetic,
    check_counts,
    default_batch_size,
)
from condkit.pipeline.runs import Meter, OnProgress, RunSummary, default_workers
from condkit.runtime import Runtime
from condkit.types import Rejection, RgbImage, SourceFile


@dataclass(frozen=True, slots=True)
class _Picture:
    """An image at its final size, and what it was read from."""

    image: RgbImage
    sha256: str
    status: os.stat_result


@dataclass(frozen=True, slots=True)
class _Maps:
    """Encoded maps by condition, and what they were made from."""

    maps: dict[str, EncodedMap]
    sha256: str
    status: os.stat_result


def annotate(
    paths: Sequence[Path],
    output: Path,
    plan: AnnotationPlan,
    runtime: Runtime,
    *,
    size: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    data: bool = True,
    overwrite: bool = False,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
) -> RunSummary:
    """Write the condition maps of images to `output/CONDITION/RELATIVE PATH.png`.

    A map's name is its source's whole name with `.png` behind it (`sub/cat.jpg.png`), so nothing
    collides. What it was drawn from lies beside it (`sub/cat.jpg.json`), and what was counted in
    all maps stands in `output/facts.jsonl`. Maps that are there from an earlier run are kept, if
    they were made with the same settings from the same source; only missing ones are made. Inputs
    that cannot be used are listed in `output/rejected.jsonl`.

    Args:
        paths: Image files and folders, with their subfolders.
        output: Folder for the maps; it may lie inside one of the folders.
        plan: The conditions and their settings.
        runtime: Where networks run.
        size: Short side in pixels to which each image is resized first; None keeps its size.
        batch_size: Images per call of a network; None chooses.
        workers: Threads that decode and encode; None takes all cores.
        data: Write what the maps were drawn from (key points, labels) beside them.
        overwrite: Make all maps again, whatever is there.
        dry_run: Only say what would be done.
        on_progress: Called after each image, from a thread of its own.

    Raises:
        ConfigError: if a value is impossible, a path does not exist, or no image is found.
        OutputError: if the folder holds maps of other settings, belongs to another run, or cannot
            be written.
        WeightsError: if weights cannot be had.
    """
    started = time.monotonic()
    check_counts(size=size, batch_size=batch_size, workers=workers)
    if not plan.conditions:
        raise ConfigError("no condition is asked for; name at least one")
    _refuse_own_maps(paths, output, plan)
    found = scan(paths, output=output)
    settings = _settings(plan, runtime, size, fetch=not dry_run)
    beside: dict[str, list[str]] = {}
    for column in data_columns(plan) if data else ():
        beside.setdefault(column.condition, []).append(column.suffix)
    open_folder = partial(MapsFolder, output, settings, beside)
    folder = open_folder()
    folder.check(found.files, overwrite=overwrite)
    if dry_run:
        run = _Run(found, folder, plan, overwrite=overwrite, data=data)
        return run.summary(started, dry_run=True)
    with locked(output):
        folder = open_folder()
        folder.check(found.files, overwrite=overwrite)
        run = _Run(found, folder, plan, overwrite=overwrite, data=data)
        try:
            with folder:
                run.work(runtime, size, batch_size, workers, on_progress)
        finally:
            write_rejected(output, run.sorted_rejections())
        return run.summary(started)


class _Run:
    """One call of `annotate`."""

    def __init__(
        self,
        found: Scan,
        folder: MapsFolder,
        plan: AnnotationPlan,
        *,
        overwrite: bool,
        data: bool,
    ) -> None:
        self._found = found
        self._data = data
        self._folder = folder
        self._plan = plan
        self._written = 0
        self.rejections = [*found.rejections, *folder.impossible(found.files)]
        self._todo: dict[tuple[str, ...], list[SourceFile]] = {}
        refused = {rejection.source for rejection in self.rejections}
        for source in found.files:
            if source.relative not in refused:
                missing = folder.missing(source, overwrite=overwrite)
                self._todo.setdefault(missing, []).append(source)
        self._skipped = len(self._todo.pop((), ()))

    def sorted_rejections(self) -> tuple[Rejection, ...]:
        return tuple(sorted(self.rejections, key=lambda r: r.source))

    def summary(self, started: float, *, dry_run: bool = False) -> RunSummary:
        return RunSummary(
            output=self._folder.output,
            planned=len(self._found.files) + len(self._found.rejections),
            written=self._written,
            skipped=self._skipped,
            rejections=self.sorted_rejections(),
            left_out=self._found.left_out,
            seconds=time.monotonic() - started,
            dry_run=dry_run,
        )

    def work(
        self,
        runtime: Runtime,
        size: int | None,
        batch_size: int | None,
        workers: int | None,
        on_progress: OnProgress | None,
    ) -> None:
        """Make what is missing; images that lack the same conditions go together."""
        total = self._skipped + sum(map(len, self._todo.values())) + len(self.rejections)
        meter = Meter(total, self._skipped + len(self.rejections), on_progress)
        for conditions, sources in self._todo.items():
            part = AnnotationPlan(
                tuple(p for p in self._plan.conditions if p.condition.spec.name in conditions)
            )
            with Annotator(part, runtime) as annotator:
                annotator.load()
                streaming.run(
                    sources,
                    streaming.Stages(
                        load=partial(_load, size=size),
                        predict=partial(_predict, annotator),
                        finish=partial(_finish, annotator, self._data),
                        commit=partial(self._commit, meter),
                    ),
                    workers=workers or default_workers(),
                    batch_size=batch_size or default_batch_size(part, runtime),
                )

    def _commit(self, meter: Meter, source: SourceFile, result: _Maps | Rejection) -> None:
        if isinstance(result, Rejection):
            self.rejections.append(result)
        else:
            self._folder.add(source, result.status, result.sha256, result.maps)
            self._written += 1
        meter.count(rejected=isinstance(result, Rejection))


def _load(source: SourceFile, *, size: int | None) -> _Picture | Rejection:
    try:
        status = source.path.stat()
        too_big = status.st_size > imageio.DecodePolicy().max_bytes
        data = source.path if too_big or not source.path.is_file() else source.path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    decoded = imageio.decode_or_reject(data, source.relative)
    if isinstance(decoded, Rejection):
        return decoded
    image = decoded.image
    if size is not None:
        height, width = image.shape[:2]
        image = geometry.resize(image, geometry.size_for_short_side((height, width), size), "image")
    sha256 = hashlib.sha256(data).hexdigest() if isinstance(data, bytes) else ""
    return _Picture(image, sha256, status)


def _predict(
    annotator: Annotator, sources: Sequence[SourceFile], pictures: Sequence[_Picture]
) -> list[Predictions]:
    return annotator.predict([picture.image for picture in pictures])


def _finish(
    annotator: Annotator,
    data: bool,
    source: SourceFile,
    picture: _Picture,
    predictions: Predictions,
) -> _Maps:
    maps = encode_maps(annotator.render(predictions), data=data)
    return _Maps(maps, picture.sha256, picture.status)


def _settings(
    plan: AnnotationPlan, runtime: Runtime, size: int | None, *, fetch: bool
) -> dict[str, dict[str, Any]]:
    """For each condition all that decides its maps."""
    settings = {}
    numbers = arithmetic(plan, runtime)
    used = {name: numbers[name] for name in ("dtype", "backend") if name in numbers}
    for name, values in all_that_decides(plan, runtime.store, fetch=fetch).items():
        settings[name] = {**values, "size": size}
        if values["weights"]:
            settings[name] |= used
    return settings


def _refuse_own_maps(paths: Sequence[Path], output: Path, plan: AnnotationPlan) -> None:
    """Maps written into a folder that is read would become inputs of the next run."""
    for path in paths:
        for spec in plan.specs:
            place = (output / spec.name).resolve()
            if path.resolve() == place or place in path.resolve().parents:
                raise ConfigError(
                    f"{path} is where the {spec.name} maps would be written; name another output"
                )
