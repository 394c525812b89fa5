"""`inspect`: look at the rows of a dataset, once, and count."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from condkit.datasets.encoded import DataColumn
from condkit.datasets.formats import format_of
from condkit.datasets.formats.base import RowReader
from condkit.datasets.in_order import map_in_order
from condkit.datasets.inspecting.findings import (
    Chosen,
    Inspection,
)
from condkit.datasets.inspecting.looking import Looker
from condkit.datasets.inspecting.tally import Tally
from condkit.datasets.planning import SPLITS, Split
from condkit.datasets.reader import open_dataset
from condkit.errors import ConfigError

OnProgress: TypeAlias = Callable[[int, int], None]


def inspect_dataset(
    path: Path,
    *,
    rows: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> Inspection:
    """Look at the rows of a dataset and sum up what is in them.

    Every picture and map is decoded once. Counters and a sample of each figure are kept, and about
    fifty bytes a row to find copies: memory does not depend on what the rows hold.

    Args:
        path: The dataset's folder; nothing in it is changed.
        rows: Look at a sample of so many rows; None looks at all.
        seed: Draws the sample.
        workers: Threads that decode; None takes all cores.
        on_progress: Called with the rows done and to do.

    Raises:
        DatasetError: if the folder is no finished dataset, or a split of it cannot be read at all.
        ConfigError: if `rows` or `workers` is below 1.
    """
    for name, value in (("rows", rows), ("workers", workers)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}: expected at least 1, got {value}")
    opened = open_dataset(path)
    layout = format_of(opened.manifest)
    splits = [split for split in SPLITS if split in opened.splits]
    readers = {split: layout.reader(path, split, opened.conditions) for split in splits}
    chosen = _choose(readers, rows, seed)
    columns = opened.manifest.get("data", {})
    looker = Looker(opened.conditions, {name: DataColumn(**c) for name, c in columns.items()})
    tally = Tally(readers, chosen, looker)
    total = sum(chosen.rows.values())
    looked = map_in_order(tally.look, tally.places(), workers=workers)
    for done, (place, look) in enumerate(looked, start=1):
        tally.add(done - 1, place, look)
        if on_progress is not None:
            on_progress(done, total)
    return tally.summary(path, opened.manifest)


def _choose(readers: dict[Split, RowReader], rows: int | None, seed: int) -> Chosen:
    total: dict[str, int] = {split: len(reader) for split, reader in readers.items()}
    count = sum(total.values())
    if rows is None or rows >= count:
        return Chosen(rows=total, total=total, seed=seed)
    drawn = sorted(random.Random(seed).sample(range(count), rows))
    numbers: dict[str, tuple[int, ...]] = {}
    start = 0
    for split, length in total.items():
        numbers[split] = tuple(n - start for n in drawn if start <= n < start + length)
        start += length
    return Chosen(
        rows={split: len(n) for split, n in numbers.items()},
        total=total,
        seed=seed,
        numbers=numbers,
    )
