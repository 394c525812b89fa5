"""One run of `build`: plan, make what is missing shard by shard, describe the whole."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condkit import atomic
from condkit.annotators.annotator import AnnotationPlan, Annotator
from condkit.captions.base import Captioner
from condkit.datasets import manifest
from condkit.datasets.card import write_card
from condkit.datasets.contact_sheet import write_contact_sheet
from condkit.datasets.drafting import Draft, OnLooked
from condkit.datasets.encoded import DataColumn
from condkit.datasets.filters import Filters
from condkit.datasets.fingerprints import Fingerprinter, hash_file
from condkit.datasets.formats.base import DatasetFormat, EncodedRow
from condkit.datasets.plan_store import PlanStore
from condkit.datasets.planning import BuildPlan, PlannedInput, ShardLayout
from condkit.datasets.reader import open_dataset
from condkit.datasets.resuming import (
    SHOWN,
    check_same_environment,
    check_same_settings,
    check_same_source,
)
from condkit.datasets.shards import ShardCommitter
from condkit.datasets.sources.base import Source
from condkit.datasets.workspace import FORMAT_VERSION, ShardFile, ShardRecord, Workspace
from condkit.errors import DatasetError
from condkit.pipeline import streaming
from condkit.pipeline.choosing import chooser
from condkit.pipeline.execution import (
    all_that_decides,
    arithmetic,
    captions_that_decide,
    default_batch_size,
)
from condkit.pipeline.rows import RowMaker
from condkit.pipeline.runs import Meter, OnProgress, Progress, RunSummary
from condkit.runtime import Runtime
from condkit.sizing import SizePolicy
from condkit.types import ConditionSpec, Rejection

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildJob:
    """One call of `build`, everything decided; see there."""

    source: Source
    workspace: Workspace
    layout: DatasetFormat
    plan: AnnotationPlan
    specs: tuple[ConditionSpec, ...]
    given: Mapping[str, ConditionSpec]
    columns: tuple[DataColumn, ...]
    runtime: Runtime
    captioner: Captioner
    sizes: SizePolicy
    filters: Filters
    val: float
    seed: int
    shard_size: int
    batch_size: int | None
    workers: int
    licence: str

    def preview(self, started: float, *, overwrite: bool) -> RunSummary:
        """Say what would be done; nothing is written."""
        with ExitStack() as stack:
            begun = None if overwrite else self._begun(stack)
            settings = self._settings(fetch=False)
            if begun is None:
                store = stack.enter_context(closing(PlanStore(None)))
                self._draft(store, settings, None)
            else:
                self._check(begun, settings)
                store = begun
            plan = _plan_in(store)
            finished = _Finished(self.workspace, plan) if begun else _Finished(None, plan)
            return self._summary(started, plan, finished, written=0, dry_run=True)

    def run(self, started: float, on_progress: OnProgress | None) -> RunSummary:
        """Make what is missing."""
        with ExitStack() as stack:
            begun = self._begun(stack)
            settings = self._settings(fetch=True)
            if begun is None:
                with self.workspace.new_plan() as store:
                    self._draft(store, settings, on_progress)
                begun = self._begun(stack)
                resumed = False
            else:
                self._check(begun, settings)
                resumed = True
            assert begun is not None
            plan = _plan_in(begun)
            self.workspace.clean()
            finished = _Finished(self.workspace, plan)
            pending = [i for i in range(plan.layout.shards) if i not in finished.indices]
            meter = Meter(plan.planned, plan.rejected + finished.inputs, on_progress)
            meter.rejected_before = plan.rejected + finished.rejected
            if pending:
                if resumed:
                    check_same_environment(
                        self.workspace.dataset, plan.environment, self._environment()
                    )
                self._work(plan, pending, finished, meter)
            if pending or not (self.workspace.dataset / manifest.NAME).is_file():
                self._finish(plan, finished)
            self.workspace.clean()
            return self._summary(started, plan, finished, written=meter.written)

    def _begun(self, stack: ExitStack) -> PlanStore | None:
        store = self.workspace.open_plan()
        return None if store is None else stack.enter_context(closing(store))

    def _settings(self, *, fetch: bool) -> dict[str, Any]:
        """Everything that decides the rows, as JSON values."""
        return {
            "annotation": all_that_decides(self.plan, self.runtime.store, fetch=fetch),
            "source": {"kind": self.source.kind, **self.source.as_dict()},
            "given": {name: spec.as_dict() for name, spec in self.given.items()},
            "data": [column.name for column in self.columns],
            "captions": captions_that_decide(self.captioner, self.runtime.store, fetch=fetch),
            "many_captions": self.captioner.many,
            "filters": self.filters.settings.as_dict(),
            "size": self.sizes.size if self.sizes.mode == "square" else None,
            "geometry": self.sizes.as_dict(),
            "format": self.layout.name,
            "image_suffix": ".png",
            "val": self.val,
            "seed": self.seed,
            "shard_size": self.shard_size,
            "licence": self.licence,
        }

    def _environment(self) -> dict[str, str]:
        return {
            **manifest.installed_versions(),
            **arithmetic(self.plan, self.runtime, self.captioner.weights),
        }

    def _draft(
        self, store: PlanStore, settings: dict[str, Any], on_progress: OnProgress | None
    ) -> None:
        """Find, hash and choose the inputs, and keep them."""
        look = Fingerprinter(self.source, self.captioner.reads)
        with closing(Draft(self.source, None)) as draft:
            draft.look(look, self.workers, _hashing(on_progress))
            choose = chooser(self.filters.settings, self.source, self.sizes, self.workers)
            if choose is not None:
                draft.leave_out(choose)
            draft.save(store)
        store.save_facts(
            version=FORMAT_VERSION,
            parameters=settings,
            left_out=self.source.left_out,
            environment=self._environment(),
            source_sha256=store.source_sha256(),
        )

    def _check(self, begun: PlanStore, settings: dict[str, Any]) -> None:
        """Refuse to go on with other settings or another source."""
        dataset = self.workspace.dataset
        check_same_settings(dataset, begun.facts()["parameters"], settings)
        look = Fingerprinter(self.source, self.captioner.reads)
        with closing(Draft(self.source, begun)) as draft:
            check_same_source(dataset, draft.changes(look, self.workers, most=SHOWN + 1))

    def _work(self, plan: BuildPlan, pending: list[int], finished: _Finished, meter: Meter) -> None:
        committer = ShardCommitter(plan.layout, self.workspace, self.layout, finished.add)

        def commit(item: PlannedInput, result: EncodedRow | Rejection) -> None:
            committer.commit(item.index, result)
            meter.count(rejected=isinstance(result, Rejection))

        with Annotator(self.plan, self.runtime) as annotator, closing(self.captioner):
            if not self.given:
                annotator.load()
            maker = RowMaker(
                source=self.source,
                annotator=annotator,
                captioner=self.captioner,
                given=self.given,
                columns=self.columns,
                sizes=self.sizes,
                filters=self.filters,
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
                batch_size=self.batch_size
                or default_batch_size(self.plan, self.runtime, self.captioner.weights),
            )

    def _finish(self, plan: BuildPlan, finished: _Finished) -> None:
        """Write everything that describes the whole; the manifest comes last."""
        dataset = self.workspace.dataset
        contents = manifest.Contents()
        for record in finished.records():
            contents.add(record)
        manifest.write_rejected(dataset, _counted(contents, plan, finished))
        if not contents.splits:
            raise DatasetError(
                f"all {plan.planned} inputs were rejected; see {dataset / manifest.REJECTED}"
            )
        if self.val > 0 and "validation" not in contents.splits:
            _log.warning("no row fell into the validation split; more images, or a larger --val")
        extra = [_shard_file(dataset, p) for p in self.layout.finish(dataset, contents.splits)]
        manifest.write_checksums(dataset, finished.records(), extra)
        values = manifest.describe(plan, contents, self.specs, self.columns)
        sheet = write_contact_sheet(dataset, open_dataset(dataset, values))
        settings = self.layout.card_settings(contents.splits)
        atomic.write_text(
            dataset / "README.md",
            write_card(values, settings, license=self.licence, contact_sheet=sheet),
        )
        atomic.write_json(dataset / manifest.NAME, values)

    def _summary(
        self,
        started: float,
        plan: BuildPlan,
        finished: _Finished,
        *,
        written: int,
        dry_run: bool = False,
    ) -> RunSummary:
        contents = manifest.Contents()
        for rejection in manifest.all_rejections(plan, finished.records()):
            contents.leave_out(rejection)
        return RunSummary(
            output=self.workspace.dataset,
            planned=plan.planned,
            written=written,
            skipped=finished.rows - written,
            rejections=tuple(contents.named),
            by_stage=dict(sorted(contents.rejected.items())),
            left_out=plan.left_out,
            seconds=time.monotonic() - started,
            dry_run=dry_run,
        )


class _Finished:
    """The finished shards: which they are, and their records, read one at a time."""

    def __init__(self, workspace: Workspace | None, plan: BuildPlan) -> None:
        self._workspace = workspace
        self._layout = plan.layout
        self.indices: set[int] = set()
        self.rows = 0
        self.rejected = 0
        for index in range(plan.layout.shards if workspace else 0):
            record = workspace.load_record(index) if workspace else None
            if record is not None:
                self.add(record)

    def add(self, record: ShardRecord) -> None:
        """One more shard is finished."""
        self.indices.add(record.index)
        self.rows += sum(record.rows.values())
        self.rejected += len(record.rejections)

    @property
    def inputs(self) -> int:
        """Inputs of all finished shards."""
        return self.rows + self.rejected

    def records(self) -> Iterator[ShardRecord]:
        """All records, in order."""
        for index in sorted(self.indices):
            record = self._workspace.load_record(index) if self._workspace else None
            if record is None:
                raise DatasetError(
                    f"the record of shard {index} has vanished meanwhile; start the build again"
                )
            yield record


def _counted(
    contents: manifest.Contents, plan: BuildPlan, finished: _Finished
) -> Iterator[Rejection]:
    """All rejections, each counted on its way."""
    for rejection in manifest.all_rejections(plan, finished.records()):
        contents.leave_out(rejection)
        yield rejection


def _hashing(on_progress: OnProgress | None) -> OnLooked | None:
    """Reports how far the planning is."""
    if on_progress is None:
        return None
    started = time.monotonic()

    def report(done: int, total: int) -> None:
        rate = done / max(time.monotonic() - started, 1e-9)
        on_progress(Progress(done, total, 0, rate, stage="hash"))

    return report


def _plan_in(store: PlanStore) -> BuildPlan:
    facts = store.facts()
    inputs, rejected = store.counts()
    return BuildPlan(
        parameters=facts["parameters"],
        layout=ShardLayout(inputs=inputs, shard_size=facts["parameters"]["shard_size"]),
        inputs=store,
        rejected=rejected,
        source_sha256=facts["source_sha256"],
        left_out=facts["left_out"],
        environment=facts["environment"],
    )


def _shard_file(dataset: Path, relative: str) -> ShardFile:
    path = dataset / relative
    return ShardFile(path=relative, size=path.stat().st_size, sha256=hash_file(path))
