"""`build`: a paired dataset of pictures, captions and condition maps."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from condkit import atomic
from condkit.annotators.annotator import AnnotationPlan, Annotator
from condkit.captions.base import Captioner
from condkit.datasets import manifest
from condkit.datasets.card import write_card
from condkit.datasets.encoded import DataColumn
from condkit.datasets.formats import get_format
from condkit.datasets.formats.base import DatasetFormat, EncodedRow
from condkit.datasets.lock import locked
from condkit.datasets.planning import BuildPlan, PlannedInput, hash_file, plan_inputs
from condkit.datasets.resuming import check_same_environment, check_same_plan
from condkit.datasets.shards import ShardCommitter
from condkit.datasets.sources.walk import scan
from condkit.datasets.workspace import ShardFile, ShardRecord, Workspace
from condkit.errors import ConfigError, DatasetError
from condkit.pipeline import streaming
from condkit.pipeline.encoding import data_columns
from condkit.pipeline.execution import (
    all_that_decides,
    arithmetic,
    check_counts,
    default_batch_size,
)
from condkit.pipeline.rows import RowMaker
from condkit.pipeline.runs import Meter, OnProgress, RunSummary, default_workers
from condkit.runtime import Runtime
from condkit.types import Rejection

_log = logging.getLogger(__name__)

SQUARE = "middle square of the image, resized to size x size"
ORIGINAL = "the image's own size"


def build(
    source: Path,
    output: Path,
    plan: AnnotationPlan,
    runtime: Runtime,
    *,
    captioner: Captioner,
    size: int | None = 512,
    format: str = "parquet",
    val: float = 0.02,
    seed: int = 0,
    shard_size: int = 1000,
    batch_size: int | None = None,
    workers: int | None = None,
    data: bool = True,
    overwrite: bool = False,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
) -> RunSummary:
    """Make a dataset of the images in a folder; called again, it goes on where it was.

    Each image is decoded once, brought to its final size, captioned and annotated at that size.
    Inputs are hashed first; of files with the same bytes the first is kept. The work is cut into
    shards, each committed whole; a run that is killed anywhere and started again ends with the same
    bytes as one that was not.

    Args:
        source: Folder of images, with its subfolders.
        output: Folder of the dataset.
        plan: The conditions and their settings.
        runtime: Where networks run.
        captioner: Where the texts come from.
        size: Side in pixels of the square pictures (the middle square of each image); None keeps
            each image's size.
        format: "parquet" or "imagefolder".
        val: Share of the rows in the validation split, in [0, 1).
        seed: Draws the split.
        shard_size: Inputs per shard.
        batch_size: Images per call of a network; None chooses.
        workers: Threads that hash, decode and encode; None takes all cores.
        data: Keep what the maps were drawn from (key points, labels) in columns of their own.
        overwrite: Remove the dataset that is in `output` and begin anew.
        dry_run: Only say what would be done.
        on_progress: Called after each image, from a thread of its own.

    Raises:
        ConfigError: if a value is impossible or no image is found.
        DatasetError: if the source cannot be read, changes meanwhile, or every input is rejected.
        OutputError: if the output holds something else, was begun with other settings or inputs,
            belongs to another run, or cannot be written.
        WeightsError: if weights cannot be had.
    """
    started = time.monotonic()
    check_counts(size=size, shard_size=shard_size, batch_size=batch_size, workers=workers)
    if not 0 <= val < 1:
        raise ConfigError(f"val: expected a share of at least 0 and below 1, got {val}")
    if not plan.conditions:
        raise ConfigError("no condition is asked for; name at least one")
    if not source.is_dir():
        raise ConfigError(f"{source}: expected a folder of images, there is none")
    columns = data_columns(plan) if data else ()
    job = _Job(
        source=source,
        workspace=Workspace(output),
        layout=get_format(format, [spec.name for spec in plan.specs], columns),
        plan=plan,
        columns=columns,
        runtime=runtime,
        captioner=captioner,
        size=size,
        val=val,
        seed=seed,
        shard_size=shard_size,
        batch_size=batch_size,
        workers=workers or default_workers(),
    )
    job.workspace.check_ours()
    if dry_run:
        return job.preview(started, overwrite=overwrite)
    with locked(output):
        if overwrite:
            job.workspace.clear()
        return job.run(started, on_progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One call of `build`."""

    source: Path
    workspace: Workspace
    layout: DatasetFormat
    plan: AnnotationPlan
    columns: tuple[DataColumn, ...]
    runtime: Runtime
    captioner: Captioner
    size: int | None
    val: float
    seed: int
    shard_size: int
    batch_size: int | None
    workers: int

    def preview(self, started: float, *, overwrite: bool) -> RunSummary:
        begun = None if overwrite else self.workspace.load_plan()
        plan = self._plan(begun, fetch=False)
        records = {} if overwrite else self._finished(plan)
        return self._summary(started, plan, records, written=0, dry_run=True)

    def run(self, started: float, on_progress: OnProgress | None) -> RunSummary:
        begun = self.workspace.load_plan()
        plan = self._plan(begun, fetch=True)
        if begun is None:
            self.workspace.save_plan(plan)
        self.workspace.clean()
        records = self._finished(plan)
        before = sum(len(plan.shard(index)) for index in records)
        meter = Meter(len(plan.inputs) + len(plan.rejections), before, on_progress)
        pending = [index for index in range(plan.shards) if index not in records]
        if pending:
            if begun is not None:
                check_same_environment(
                    self.workspace.dataset, begun.environment, self._environment()
                )
            for _ in plan.rejections:
                meter.count(rejected=True)
            self._work(plan, pending, records, meter)
        if pending or not (self.workspace.dataset / manifest.NAME).is_file():
            self._finish(plan, [records[index] for index in range(plan.shards)])
        self.workspace.clean()
        return self._summary(started, plan, records, written=meter.written)

    def _plan(self, begun: BuildPlan | None, *, fetch: bool) -> BuildPlan:
        """Find and hash the inputs; the same again as what was begun, or an error."""
        found = scan([self.source], output=self.workspace.dataset)
        known = {item.relative: item for item in begun.inputs} if begun else {}
        inputs, rejections = plan_inputs(
            found.files, beside=self.captioner.reads, known=known, workers=self.workers
        )
        plan = BuildPlan(
            parameters={
                "annotation": all_that_decides(self.plan, self.runtime.store, fetch=fetch),
                "data": [column.name for column in self.columns],
                "captions": self.captioner.as_dict(),
                "size": self.size,
                "geometry": ORIGINAL if self.size is None else SQUARE,
                "format": self.layout.name,
                "val": self.val,
                "seed": self.seed,
            },
            shard_size=self.shard_size,
            inputs=inputs,
            rejections=(*found.rejections, *rejections),
            left_out=found.left_out,
            environment=begun.environment if begun else self._environment(),
        )
        if begun is not None:
            check_same_plan(self.workspace.dataset, begun, plan)
        return plan

    def _environment(self) -> dict[str, str]:
        return {**manifest.installed_versions(), **arithmetic(self.plan, self.runtime)}

    def _finished(self, plan: BuildPlan) -> dict[int, ShardRecord]:
        records = ((index, self.workspace.load_record(index)) for index in range(plan.shards))
        return {index: record for index, record in records if record is not None}

    def _work(
        self, plan: BuildPlan, pending: list[int], records: dict[int, ShardRecord], meter: Meter
    ) -> None:
        def keep(record: ShardRecord) -> None:
            records[record.index] = record

        committer = ShardCommitter(plan, self.workspace, self.layout, keep)

        def commit(item: PlannedInput, result: EncodedRow | Rejection) -> None:
            committer.commit(item, result)
            meter.count(rejected=isinstance(result, Rejection))

        with Annotator(self.plan, self.runtime) as annotator:
            maker = RowMaker(
                source=self.source,
                annotator=annotator.load(),
                captioner=self.captioner,
                columns=self.columns,
                size=self.size,
                val=self.val,
                seed=self.seed,
            )
            streaming.run(
                (item for index in pending for item in plan.shard(index)),
                streaming.Stages(
                    load=maker.load,
                    predict=maker.predict,
                    finish=maker.encode,
                    commit=commit,
                ),
                workers=self.workers,
                batch_size=self.batch_size or default_batch_size(self.plan, self.runtime),
            )

    def _finish(self, plan: BuildPlan, records: list[ShardRecord]) -> None:
        """Write everything that describes the whole; the manifest comes last."""
        dataset = self.workspace.dataset
        contents = manifest.summarise(plan, records)
        manifest.write_rejected(dataset, contents.rejections)
        if not contents.rows:
            raise DatasetError(
                f"all {len(contents.rejections)} inputs of {self.source} were rejected; see "
                f"{dataset / manifest.REJECTED}"
            )
        if self.val > 0 and "validation" not in contents.rows:
            _log.warning("no row fell into the validation split; more images, or a larger --val")
        extra = [_shard_file(dataset, p) for p in self.layout.finish(dataset, contents.splits)]
        visible = [file for file in contents.files if not file.path.startswith(".")]
        files = sorted([*visible, *extra], key=lambda file: file.path)
        atomic.write_text(dataset / manifest.CHECKSUMS, manifest.checksums(files))
        values = manifest.describe(plan, records, contents, self.plan.specs, self.columns)
        settings = self.layout.card_settings(contents.splits)
        atomic.write_text(dataset / "README.md", write_card(values, settings))
        atomic.write_json(dataset / manifest.NAME, values)

    def _summary(
        self,
        started: float,
        plan: BuildPlan,
        records: dict[int, ShardRecord],
        *,
        written: int,
        dry_run: bool = False,
    ) -> RunSummary:
        contents = manifest.summarise(plan, records.values())
        return RunSummary(
            output=self.workspace.dataset,
            planned=len(plan.inputs) + len(plan.rejections),
            written=written,
            skipped=sum(contents.rows.values()) - written,
            rejections=contents.rejections,
            left_out=plan.left_out,
            seconds=time.monotonic() - started,
            dry_run=dry_run,
        )


def _shard_file(dataset: Path, relative: str) -> ShardFile:
    path = dataset / relative
    return ShardFile(path=relative, size=path.stat().st_size, sha256=hash_file(path))
