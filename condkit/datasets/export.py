"""`export`: a finished dataset again, in another format.

Rows are copied one by one, their picture files byte for byte, in the shards of the build. So the
export is the dataset that the build would have written in that format. Like a build it can be
killed at any moment and goes on when it is started again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from condkit.datasets import manifest
from condkit.datasets.export_job import CopiedRows, ExportJob, ExportSummary, OnRows, Revision
from condkit.datasets.fingerprints import hash_file
from condkit.datasets.formats import available_formats, format_of
from condkit.datasets.lock import locked
from condkit.datasets.planning import SPLITS, Split
from condkit.datasets.reader import PairedDataset, open_dataset
from condkit.datasets.workspace import Workspace
from condkit.errors import ConfigError, DatasetError, OutputError
from condkit.settings import choose

__all__ = ["ExportSummary", "OnRows", "Revision", "export_dataset"]


def export_dataset(
    dataset: Path,
    output: Path,
    *,
    format: str,
    conditions: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    revision: Revision | None = None,
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
        revision: What to change in the rows; None copies them.
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
    values = _describe(source, format, conditions, _chosen_splits(source, splits), revision)
    job = ExportJob(
        source=source,
        workspace=Workspace(output),
        values=values,
        layout=format_of(values),
        rows=_open_rows(source, values),
        revision=revision,
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
    source: PairedDataset,
    format: str,
    conditions: Sequence[str] | None,
    splits: Sequence[Split],
    revision: Revision | None,
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
    if revision is not None:
        values |= revision.manifest
    return {**values, "columns": list(format_of(values).columns.names)}


def _open_rows(source: PairedDataset, values: dict[str, Any]) -> dict[Split, CopiedRows]:
    """The rows of the splits, with no more columns than the export wants."""
    stored = {key: source.manifest.get(key, False) for key in ("format", "many_captions")}
    layout = format_of({**values, **stored})
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
        opened[split] = CopiedRows(reader, indices)
    return opened
