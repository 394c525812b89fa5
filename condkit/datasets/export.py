"""`export`: a finished dataset again, in another format.

Rows are copied one by one, their picture files byte for byte, in the shards of the build. So the
export is the dataset that the build would have written in that format. Like a build it can be
killed at any moment and goes on when it is started again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condkit import atomic
from condkit.datasets import manifest
from condkit.datasets.card import write_card
from condkit.datasets.contact_sheet import write_contact_sheet
from condkit.datasets.fingerprints import hash_file
from condkit.datasets.formats import available_formats, format_of
from condkit.datasets.formats.base import DatasetFormat, EncodedRow, RowReader
from condkit.datasets.in_order import map_in_order
from condkit.datasets.lock import RECORDS, locked
from condkit.datasets.planning import SPLITS, ShardLayout, Split
from condkit.datasets.reader import PairedDataset, open_dataset
from condkit.datasets.resuming import check_same_settings
from condkit.datasets.shards import ShardCommitter
from condkit.datasets.workspace import ShardFile, ShardRecord, Workspace
from condkit.errors import ConfigError, DatasetError, OutputError
from condkit.settings import choose

RECORD = f"{RECORDS}/export.json"
"""Says, in the output, what is exported; without it the folder is no export of ours."""

OnRows = Callable[[int, int], None]
"""Called with the rows that are through and all rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSummary:
    """What an export did.

    Attributes:
        output: Folder of the new dataset.
        format: Its format.
        rows: Rows per split.
        written: Rows written by this run.
        skipped: Rows that were there before.
        seconds: How long it took.
    """

    output: Path
    format: str
    rows: dict[str, int]
    written: int
    skipped: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {**values, "output": str(self.output), "seconds": round(self.seconds, 3)}


def export_dataset(
    dataset: Path,
    output: Path,
    *,
    format: str,
    conditions: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    on_progress: OnRows | None = None,
) -> ExportSummary:
    """Write a finished dataset in another format; called again, it goes on where it was.

    Args:
        dataset: Folder of a dataset.
        output: Folder of the new one.
        format: One of `available_formats()`.
        conditions: The conditions to take, in their new order; None takes all. The first is the one
            that formats with a single condition name first.
        splits: The splits to take; None takes all.
        overwrite: Remove the export that is in `output` and begin anew.
        workers: Threads that read rows; None takes all cores.
        on_progress: Called after each row.

    Raises:
        UnknownNameError: for a format, condition or split that does not exist.
        ConfigError: if nothing is asked for, or the format cannot hold the rows.
        DatasetError: if the dataset is none, unfinished or broken.
        OutputError: if the output holds something else, an export of something else, belongs to
            another run, or cannot be written.
    """
    started = time.monotonic()
    choose(format, available_formats(), what="dataset format")
    source = open_dataset(dataset)
    _check_apart(dataset, output)
    values = _describe(source, format, conditions, _chosen_splits(source, splits))
    job = _Job(
        source=source,
        workspace=Workspace(output),
        values=values,
        layout=format_of(values),
        rows=_open_rows(source, values),
    )
    job.check_ours()
    with locked(output):
        if overwrite:
            job.clear()
        return job.run(started, workers, on_progress or (lambda done, total: None))


def _check_apart(dataset: Path, output: Path) -> None:
    source, target = dataset.resolve(), output.resolve()
    if target == source or source in target.parents:
        raise OutputError(f"{output} is in the dataset that is exported; name another folder")


def _chosen_splits(source: PairedDataset, names: Sequence[str] | None) -> list[Split]:
    for name in names if names is not None else ():
        choose(name, source.splits, what=f"split of {source.path}")
    wanted = source.splits if names is None else names
    return [split for split in SPLITS if split in wanted]


def _describe(
    source: PairedDataset, format: str, conditions: Sequence[str] | None, splits: Sequence[Split]
) -> dict[str, Any]:
    """The manifest of the export, all but its shards."""
    before = source.manifest
    for name in conditions if conditions is not None else ():
        choose(name, tuple(source.conditions), what=f"condition of {source.path}")
    names = list(source.conditions) if conditions is None else list(dict.fromkeys(conditions))
    if not names or not splits:
        raise ConfigError("export: at least one condition and one split are needed")
    values = {
        **before,
        "format": format,
        "conditions": {name: before["conditions"][name] for name in names},
        "data": {n: c for n, c in before["data"].items() if c["condition"] in names},
        "rows": {split: before["rows"][split] for split in splits},
        "exported_from": hash_file(source.path / manifest.NAME),
    }
    for key in ("annotation", "given"):
        values[key] = {n: v for n, v in before.get(key, {}).items() if n in names}
    return {**values, "columns": list(format_of(values).columns.names)}


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a split and their indices, in order."""

    reader: RowReader
    indices: NDArray[np.int64]

    def between(self, first: int, last: int) -> range:
        """The numbers of the rows whose indices are from `first` on and below `last`."""
        start, stop = np.searchsorted(self.indices, (first, last))
        return range(int(start), int(stop))


def _open_rows(source: PairedDataset, values: dict[str, Any]) -> dict[Split, _Rows]:
    """The rows of the splits, with no more columns than the export wants."""
    layout = format_of({**values, "format": source.manifest["format"]})
    specs = {name: source.conditions[name] for name in values["conditions"]}
    opened = {}
    for split in values["rows"]:
        reader = layout.reader(source.path, split, specs)
        indices = np.fromiter(reader.indices(), np.int64)
        if len(indices) != values["rows"][split] or np.any(np.diff(indices) <= 0):
            raise DatasetError(
                f"{source.path}: split {split!r} has not the {values['rows'][split]} rows in order "
                f"that its manifest tells of, but {len(indices)}; make the dataset again"
            )
        opened[split] = _Rows(reader, indices)
    return opened


@dataclass(slots=True, kw_only=True)
class _Job:
    """One call of `export_dataset`."""

    source: PairedDataset
    workspace: Workspace
    values: dict[str, Any]
    layout: DatasetFormat
    rows: dict[Split, _Rows]
    shards: ShardLayout = field(init=False)
    total: int = field(init=False)

    def __post_init__(self) -> None:
        """Keep the shards of the build, so that the export repeats its files."""
        size = int(self.values["shard_size"])
        end = 1 + max(int(rows.indices[-1]) for rows in self.rows.values())
        shards = max(len(self.values["shards"]), -(-end // size))
        self.shards = ShardLayout(inputs=shards * size, shard_size=size)
        self.total = sum(self.values["rows"].values())

    @property
    def _record(self) -> Path:
        return self.workspace.dataset / RECORD

    def check_ours(self) -> None:
        """Refuse a folder with anything but an export of ours."""
        output = self.workspace.dataset
        if self._record.is_file() or not output.exists():
            return
        if not output.is_dir():
            raise OutputError(f"{output}: expected a folder, this is a file")
        records = output / RECORDS
        strangers = [path.name for path in output.iterdir() if path.name != RECORDS]
        strangers += [path.name for path in records.glob("*") if path.name != "lock"]
        if strangers:
            raise OutputError(
                f"{output} holds other things ({', '.join(sorted(strangers)[:3])}) and no export "
                "that condkit began; name an empty or a new folder"
            )

    def clear(self) -> None:
        """Remove the export that is there, and nothing else."""
        if self._record.is_file():
            self.workspace.clear()
            try:
                self._record.unlink()
            except OSError as error:
                raise OutputError(f"cannot remove {self._record}: {error.strerror}") from error

    def run(self, started: float, workers: int | None, on_progress: OnRows) -> ExportSummary:
        """Write what is missing."""
        self._begin()
        self.workspace.clean()
        done = {record.index: sum(record.rows.values()) for record in self._records()}
        skipped = sum(done.values())
        pending = [index for index in range(self.shards.shards) if index not in done]
        self._write(pending, workers, skipped, on_progress)
        if pending or not (self.workspace.dataset / manifest.NAME).is_file():
            self._finish()
        self.workspace.clean()
        return ExportSummary(
            output=self.workspace.dataset,
            format=self.layout.name,
            rows=dict(self.values["rows"]),
            written=self.total - skipped,
            skipped=skipped,
            seconds=time.monotonic() - started,
        )

    def _begin(self) -> None:
        """Note what is exported, or check that the same was begun."""
        settings = {
            "source": self.values["exported_from"],
            "format": self.layout.name,
            "conditions": list(self.values["conditions"]),
            "splits": list(self.values["rows"]),
            **manifest.installed_versions(("condkit", "pyarrow")),
        }
        if not self._record.is_file():
            atomic.write_json(self._record, settings)
            return
        try:
            begun: dict[str, Any] = json.loads(self._record.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{self._record} cannot be read ({error}); use --overwrite"
            ) from error
        check_same_settings(self.workspace.dataset, begun, settings)

    def _records(self) -> Iterator[ShardRecord]:
        """The records of the finished shards, one at a time."""
        for index in range(self.shards.shards):
            record = self.workspace.load_record(index)
            if record is not None:
                yield record

    def _write(
        self, pending: list[int], workers: int | None, done: int, on_progress: OnRows
    ) -> None:
        finished: set[int] = set()
        committer = ShardCommitter(
            self.shards, self.workspace, self.layout, lambda record: finished.add(record.index)
        )
        for shard in pending:
            for row in map_in_order(self._read, self._picks(shard), workers=workers):
                committer.commit(row.index, row)
                done += 1
                on_progress(done, self.total)
            if shard not in finished:
                committer.end_shard(shard)

    def _picks(self, shard: int) -> list[tuple[Split, int]]:
        """Split and number of each row of a shard, in the order of the build."""
        first, last = self.shards.span(shard)
        found = [
            (int(rows.indices[number]), split, number)
            for split, rows in self.rows.items()
            for number in rows.between(first, last)
        ]
        return [(split, number) for _, split, number in sorted(found)]

    def _read(self, pick: tuple[Split, int]) -> EncodedRow:
        split, number = pick
        return self.rows[split].reader.row(number)

    def _finish(self) -> None:
        """Write everything that describes the whole; the manifest comes last."""
        output = self.workspace.dataset
        contents = manifest.Contents()
        for record in self._records():
            contents.add(record)
        extra = [_shard_file(output, p) for p in self.layout.finish(output, contents.splits)]
        manifest.write_checksums(output, self._records(), extra)
        self._copy_rejected()
        values = {**self.values, "shards": contents.shards}
        sheet = write_contact_sheet(output, open_dataset(output, values))
        settings = self.layout.card_settings(contents.splits)
        card = write_card(
            values, settings, license=values.get("licence", "unknown"), contact_sheet=sheet
        )
        atomic.write_text(output / "README.md", card)
        atomic.write_json(output / manifest.NAME, values)

    def _copy_rejected(self) -> None:
        rejected = self.source.path / manifest.REJECTED
        if rejected.is_file():
            atomic.write_bytes(self.workspace.dataset / manifest.REJECTED, rejected.read_bytes())


def _shard_file(dataset: Path, relative: str) -> ShardFile:
    path = dataset / relative
    return ShardFile(path=relative, size=path.stat().st_size, sha256=hash_file(path))
