"""The hidden folder of a dataset under construction: its plan and what is finished of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condkit import atomic
from condkit.datasets.lock import RECORDS, sweep
from condkit.datasets.plan_store import PlanStore
from condkit.datasets.planning import SPLITS
from condkit.errors import DatasetError, OutputError
from condkit.types import Rejection

FORMAT_VERSION = 2
PLAN = "plan.sqlite"
"""The plan's file in the hidden folder."""
PRODUCTS = (
    "manifest.json",
    "README.md",
    "SHA256SUMS",
    "rejected.jsonl",
    "contact_sheet.png",
    "data",
    "train",
    "validation",
)
"""Everything that a build puts into its folder, beside the hidden one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFile:
    """A finished file of a shard.

    Attributes:
        path: Relative to the dataset, forward slashes.
        size: Bytes.
        sha256: Of its bytes.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """A finished shard.

    Attributes:
        index: Its place, from 0.
        rows: Rows per split.
        files: Its files, sorted by path.
        rejections: Its inputs that became no row, in order.
    """

    index: int
    rows: dict[str, int]
    files: tuple[ShardFile, ...]
    rejections: tuple[Rejection, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "index": self.index,
            "rows": self.rows,
            "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in self.files],
            "rejections": [rejection.as_dict() for rejection in self.rejections],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ShardRecord:
        """The inverse of `as_dict`."""
        return cls(
            index=values["index"],
            rows=dict(values["rows"]),
            files=tuple(ShardFile(**file) for file in values["files"]),
            rejections=tuple(Rejection(**rejection) for rejection in values["rejections"]),
        )


class Workspace:
    """`DATASET/.condkit`: plan, hashes of the inputs, records of finished shards, partial files."""

    def __init__(self, dataset: Path) -> None:
        self.dataset = dataset
        self._folder = dataset / RECORDS
        self._plan = self._folder / PLAN
        self._shards = self._folder / "shards"
        self._partial = self._folder / "partial"
        self._lines = self._folder / "metadata"

    def check_ours(self) -> None:
        """Refuse a folder that holds anything but a dataset of ours.

        Raises:
            OutputError: if it is a file, or a folder with other things in it.
        """
        if not self.dataset.exists():
            return
        if not self.dataset.is_dir():
            raise OutputError(f"{self.dataset}: expected a folder, this is a file")
        if self._plan.is_file():
            return
        strangers = sorted(path.name for path in self.dataset.iterdir() if path.name != RECORDS)
        if strangers or (self._folder / "annotate.json").exists():
            raise OutputError(
                f"{self.dataset} holds other things ({', '.join(strangers[:3]) or 'maps'}) and no "
                "dataset that condkit began; name an empty or a new folder"
            )

    def clear(self) -> None:
        """Remove the dataset that is there, and nothing else.

        Raises:
            OutputError: if something cannot be removed.
        """
        # The plan goes last: without it the folder would not be known as ours.
        for path in (
            *(self.dataset / name for name in PRODUCTS),
            self._partial,
            self._shards,
            self._lines,
            self._plan,
        ):
            _remove(path)

    def new_plan(self) -> AbstractContextManager[PlanStore]:
        """A place for the plan; it becomes the dataset's when the block ends well.

        Raises:
            OutputError: if the folder cannot be written.
        """
        return _new_plan(self._plan)

    def open_plan(self) -> PlanStore | None:
        """The plan of the dataset that is there; None where there is none yet.

        Raises:
            DatasetError: if it cannot be read.
        """
        if not self._plan.is_file():
            return None
        store = PlanStore(self._plan)
        version = store.facts().get("version")
        if version != FORMAT_VERSION:
            store.close()
            raise DatasetError(
                f"{self._plan}: version {version}, this condkit reads {FORMAT_VERSION}; use "
                "another output folder"
            )
        return store

    def staging(self, shard: int) -> Path:
        """An empty folder for the unfinished files of a shard; a stale one is emptied.

        Raises:
            OutputError: if it cannot be made.
        """
        path = self._partial / f"{shard:05d}"
        _remove(path)
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise OutputError(f"cannot make {path}: {error.strerror}") from error
        return path

    def clean(self) -> None:
        """Remove unfinished files; only while the lock is held."""
        _remove(self._partial)
        tables = (self.dataset / split for split in SPLITS)
        sweep((self.dataset, self._folder, self._shards, *tables), deep=False)

    def save_record(self, record: ShardRecord) -> None:
        """Note that a shard is finished; its files must be in their places."""
        atomic.write_json(self._record_path(record.index), record.as_dict())

    def load_record(self, shard: int) -> ShardRecord | None:
        """The record of a shard; None where it is not finished, or a file of it is gone or cut."""
        try:
            values = json.loads(self._record_path(shard).read_text(encoding="utf-8"))
            record = ShardRecord.from_dict(values)
            sizes = [(self.dataset / file.path).stat().st_size for file in record.files]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if sizes == [file.size for file in record.files] else None

    def _record_path(self, shard: int) -> Path:
        return self._shards / f"{shard:05d}.json"


@contextmanager
def _new_plan(path: Path) -> Iterator[PlanStore]:
    with atomic.new_file(path) as temporary:
        store = PlanStore(temporary, new=True)
        try:
            yield store
        finally:
            store.close()


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror}") from error
