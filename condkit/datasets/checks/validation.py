"""`validate`: everything that can be checked of a dataset, and of what a trainer will read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from condkit.datasets import manifest as manifests
from condkit.datasets.checks.faults import Fault, Findings, OnProgress, Validation
from condkit.datasets.checks.files import check_files
from condkit.datasets.checks.labels import LabelRules
from condkit.datasets.checks.rows import RowRules
from condkit.datasets.checks.trainers import TRAINERS, check_for
from condkit.datasets.checks.whole import KeyCheck, check_counts, open_splits
from condkit.datasets.encoded import DataColumn
from condkit.datasets.formats.base import RowReader
from condkit.datasets.in_order import map_in_order
from condkit.datasets.planning import Split
from condkit.datasets.reader import PairedDataset, open_dataset
from condkit.errors import CondkitError, ConfigError, DatasetError
from condkit.settings import choose


def validate(
    path: Path,
    *,
    trainer: str | None = None,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> Validation:
    """Check a dataset, and say everything that is wrong with it.

    Of a dataset of condkit's: hashes, counts, keys, splits; that every picture decodes in full and
    has the size, channels and type that it should have; labels; captions. With a trainer's name,
    its rules as well; a folder that is no dataset of condkit's is checked by those alone.

    Args:
        path: The dataset's folder; nothing in it is changed.
        trainer: "diffusers", "kohya", "simpletuner" or "fill50k".
        workers: Threads that read and decode; None takes all cores.
        on_progress: Told how far it is.

    Raises:
        DatasetError: if there is no such folder, or it is no finished dataset of condkit's and no
            trainer is named.
        UnknownNameError: if there is no such trainer.
    """
    if trainer is not None:
        choose(trainer, TRAINERS, what="trainer")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers: expected at least 1, got {workers}")
    if not path.is_dir():
        raise DatasetError(f"{path}: expected the folder of a dataset, there is none")
    findings = Findings(on_progress=on_progress)
    ours = trainer is None or (path / manifests.NAME).is_file()
    opened = _open(path) if ours else None
    if opened is not None:
        check_files(path, findings, workers=workers)
        check_counts(opened, findings)
        check_rows(opened, findings, workers=workers)
    if trainer is not None:
        check_for(trainer, path, opened, findings, workers=workers)
    rules = ("condkit",) * (opened is not None) + ((trainer,) if trainer else ())
    return Validation(
        path=str(path),
        rules=rules,
        files=findings.files,
        rows=findings.rows,
        faults=tuple(findings.faults),
        notes=tuple(findings.notes),
    )


def _open(path: Path) -> PairedDataset:
    """The dataset; a folder of another tool is told what it can be checked by."""
    try:
        return open_dataset(path)
    except DatasetError as error:
        if (path / manifests.NAME).is_file():
            raise
        raise DatasetError(
            f"{error}; a folder of another tool is checked with --as {', '.join(TRAINERS)}"
        ) from error


@dataclass(frozen=True, slots=True)
class _Checked:
    """What a thread found out about a row."""

    split: Split
    number: int
    where: str
    key: object
    empty: bool
    faults: list[Fault]


def check_rows(opened: PairedDataset, findings: Findings, *, workers: int | None) -> None:
    """Decode every row of a dataset and hold it against the manifest."""
    readers = open_splits(opened, findings)
    columns = opened.manifest.get("data", {})
    rules = RowRules(
        opened.conditions, {name: DataColumn(**c) for name, c in columns.items()}, LabelRules()
    )
    total = sum(len(reader) for reader in readers.values())
    places = ((split, n) for split, reader in readers.items() for n in range(len(reader)))
    keys, empty = KeyCheck(opened.manifest), 0
    checked = map_in_order(
        lambda place: _check_row(readers[place[0]], *place, rules), places, workers=workers
    )
    for done, row in enumerate(checked, start=1):
        findings.faults += row.faults
        empty += row.empty
        keys.add(row.split, row.key, row.where, findings)
        findings.progress(done, total, "rows")
    findings.rows += total
    for place, again in _named(keys, readers):
        findings.add(
            "repeated key",
            again,
            expected="a key of its own",
            got=f"the key of {place}",
            advice="rows were copied; build the dataset again",
        )
    if empty:
        findings.note(f"{empty} of {total} captions are empty")


def _check_row(reader: RowReader, split: Split, number: int, rules: RowRules) -> _Checked:
    where = f"row {number} of {split}"
    try:
        row = reader.row(number)
    except (CondkitError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        fault = Fault(
            kind="unreadable row",
            where=where,
            expected="a row that can be read",
            got=f"{type(error).__name__}: {error}",
            advice="restore the files from a copy, or build the dataset again",
        )
        return _Checked(split, number, where, None, False, [fault])
    where = f"{where} ({row.facts.get('source')})"
    faults = rules.check(row, where)
    return _Checked(split, number, where, row.facts.get("sha256", ""), not row.text, faults)


def _named(keys: KeyCheck, readers: dict[Split, RowReader]) -> Iterator[tuple[str, str]]:
    """Pairs of rows with one key, as people call them."""
    for first, again in keys.repeated():
        yield f"row {first[1]} of {first[0]}", f"row {again[1]} of {again[0]}"
