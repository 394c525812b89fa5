"""Commits a build's rows shard by shard: a shard is there whole, or not at all."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from condkit.datasets.formats.base import DatasetFormat, EncodedRow, ShardWriter
from condkit.datasets.planning import ShardLayout
from condkit.datasets.workspace import ShardFile, ShardRecord, Workspace
from condkit.errors import OutputError
from condkit.types import Rejection

_SYNCS_AT_ONCE = 16


class ShardCommitter:
    """Takes result or rejection of every input of the unfinished shards, in order."""

    def __init__(
        self,
        layout: ShardLayout,
        workspace: Workspace,
        format: DatasetFormat,
        on_record: Callable[[ShardRecord], None],
    ) -> None:
        self._layout = layout
        self._workspace = workspace
        self._format = format
        self._on_record = on_record
        self._open: tuple[Path, ShardWriter] | None = None
        self._rows: Counter[str] = Counter()
        self._rejections: list[Rejection] = []

    def commit(self, index: int, result: EncodedRow | Rejection) -> None:
        """Add an input's outcome; with the last one of its shard, the shard is finished.

        Args:
            index: The input's place in the plan.
            result: Its row, or why there is none.

        Raises:
            OutputError: if something cannot be written.
        """
        shard = self._layout.shard_of(index)
        if self._open is None:
            staging = self._workspace.staging(shard)
            writer = self._format.shard_writer(staging, shard, self._layout.shards)
            self._open = (staging, writer)
        staging, writer = self._open
        if isinstance(result, Rejection):
            self._rejections.append(result)
        else:
            writer.write(result)
            self._rows[result.split] += 1
        if self._layout.ends_shard(index):
            self._finish(shard, staging, writer)

    def end_shard(self, shard: int) -> None:
        """Finish a shard whose last inputs are not committed; without any, it is finished empty.

        Raises:
            OutputError: if something cannot be written.
        """
        if self._open is None:
            staging = self._workspace.staging(shard)
            self._open = (staging, self._format.shard_writer(staging, shard, self._layout.shards))
        self._finish(shard, *self._open)

    def _finish(self, shard: int, staging: Path, writer: ShardWriter) -> None:
        writer.close()
        record = ShardRecord(
            index=shard,
            rows=dict(sorted(self._rows.items())),
            files=_move_into_place(staging, self._workspace.dataset),
            rejections=tuple(self._rejections),
        )
        self._workspace.save_record(record)
        self._open, self._rows, self._rejections = None, Counter(), []
        self._on_record(record)


def _move_into_place(staging: Path, dataset: Path) -> tuple[ShardFile, ...]:
    """Bring every staged file to the disk and under its final name.

    Killed in between, some files have their final names while the shard has no record; the next
    run makes the shard again and replaces them by the same bytes.
    """
    try:
        paths = sorted(path for path in staging.rglob("*") if path.is_file())
        # Many at once: the disk brings them down together.
        with ThreadPoolExecutor(_SYNCS_AT_ONCE, thread_name_prefix="condkit-sync") as pool:
            files = tuple(pool.map(lambda path: _bring_to_disk(path, staging), paths))
        for path, file in zip(paths, files, strict=True):
            (dataset / file.path).parent.mkdir(parents=True, exist_ok=True)
            path.replace(dataset / file.path)
        for folder in {(dataset / file.path).parent for file in files}:
            _fsync_folder(folder)
    except OSError as error:
        raise OutputError(
            f"cannot finish a shard of {dataset}: {error.strerror}; check space and permissions"
        ) from error
    return files


def _bring_to_disk(path: Path, staging: Path) -> ShardFile:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    relative = path.relative_to(staging).as_posix()
    return ShardFile(path=relative, size=path.stat().st_size, sha256=sha256)


def _fsync_folder(folder: Path) -> None:
    """Make renames durable before the record tells of them, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
