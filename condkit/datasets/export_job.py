"""One export: its shards written one by one, then everything that describes the whole."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
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
from condkit.datasets.formats.base import DatasetFormat, EncodedRow, RowReader
from condkit.datasets.in_order import map_in_order
from condkit.datasets.lock import RECORDS
from condkit.datasets.planning import ShardLayout, Split
from condkit.datasets.reader import PairedDataset, open_dataset
from condkit.datasets.resuming import check_same_settings
from condkit.datasets.shards import ShardCommitter
from condkit.datasets.workspace import ShardFile, ShardRecord, Workspace
from condkit.errors import OutputError

RECORD = f"{RECORDS}/export.json"
"""Says, in the output, what is exported; without it the folder is no export of ours."""

OnRows = Callable[[int, int], None]
"""Called with the rows that are through and all rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What an export changes in the rows.

    Attributes:
        manifest: Entries of the manifest that become others; an export is gone on with only where
            they are the same.
        rows: Takes the rows of a shard in order and gives as many, each with the same index, split
            and columns.
    """

    manifest: Mapping[str, Any]
    rows: Callable[[Iterator[EncodedRow]], Iterator[EncodedRow]]


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


@dataclass(frozen=True, slots=True)
class CopiedRows:
    """The rows of a split and their indices, in order."""

    reader: RowReader
    indices: NDArray[np.int64]

    def between(self, first: int, last: int) -> range:
        """The numbers of the rows whose indices are from `first` on and below `last`."""
        start, stop = np.searchsorted(self.indices, (first, last))
        return range(int(start), int(stop))


@dataclass(slots=True, kw_only=True)
class ExportJob:
    """One call of `export_dataset`."""

    source: PairedDataset
    workspace: Workspace
    values: dict[str, Any]
    layout: DatasetFormat
    rows: dict[Split, CopiedRows]
    revision: Revision | None
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
        if self.revision is not None:
            settings["revision"] = dict(self.revision.manifest)
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
            rows = map_in_order(self._read, self._picks(shard), workers=workers)
            for row in rows if self.revision is None else self.revision.rows(rows):
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
