"""The dataset as a whole: counts against the manifest, keys, splits, rejections."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from condkit.datasets import manifest as manifests
from condkit.datasets.checks.faults import Findings
from condkit.datasets.formats import format_of
from condkit.datasets.formats.base import RowReader
from condkit.datasets.planning import SPLIT_RULE, SPLITS, Split, split_of
from condkit.datasets.reader import PairedDataset
from condkit.errors import DatasetError

_REBUILD = "build the dataset again"


def open_splits(opened: PairedDataset, findings: Findings) -> dict[Split, RowReader]:
    """A reader of each split that can be read at all, its row count compared with the manifest."""
    layout = format_of(opened.manifest)
    readers: dict[Split, RowReader] = {}
    for split in (name for name in SPLITS if name in opened.splits):
        expected = opened.manifest["rows"][split]
        try:
            reader = layout.reader(opened.path, split, opened.conditions)
        except DatasetError as error:
            findings.add(
                "unreadable split",
                f"split {split}",
                expected=f"{expected} rows",
                got=str(error),
                advice=f"restore the file from a copy, or {_REBUILD}",
            )
            continue
        if len(reader) != expected:
            findings.add(
                "row count",
                f"split {split}",
                expected=f"{expected} rows, as the manifest says",
                got=str(len(reader)),
                advice=f"files are missing or were added; {_REBUILD}",
            )
        readers[split] = reader
    return readers


def check_counts(opened: PairedDataset, findings: Findings) -> None:
    """What the manifest says of shards, rows and rejections has to add up."""
    manifest = opened.manifest
    by_shard: Counter[str] = Counter()
    for shard in manifest.get("shards", ()):
        by_shard.update(shard.get("rows", {}))
    if manifest.get("shards") and dict(+by_shard) != dict(manifest["rows"]):
        findings.add(
            "row count",
            manifests.NAME,
            expected=f"the rows of all shards to be {_rows(manifest['rows'])}",
            got=_rows(by_shard),
            advice=f"the manifest was changed; {_REBUILD}",
        )
    expected = manifest.get("rejected") or {}
    found = _rejected_lines(opened.path / manifests.REJECTED)
    if found != sum(expected.values()):
        findings.add(
            "rejection count",
            manifests.REJECTED,
            expected=f"{sum(expected.values())} lines, as the manifest says",
            got=str(found),
            advice=f"the file was changed; {_REBUILD}",
        )


def _rows(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {split}" for split, count in counts.items()) or "0"


def _rejected_lines(path: Path) -> int:
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


class KeyCheck:
    """Looks at the key of every row: a hash, unique, in the split that it belongs to.

    Keeps eight bytes per row.
    """

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        rule = manifest.get("split") or {}
        self._share, self._seed = rule.get("validation"), rule.get("seed")
        self._by_rule = rule.get("rule") == SPLIT_RULE and self._share is not None
        self._places: dict[str, array[int]] = {}

    def add(self, split: str, key: object, where: str, findings: Findings) -> None:
        """The next row of a split; its key is None where the row could not be read."""
        places = self._places.setdefault(split, array("Q"))
        if key is None:
            places.append(0)
            return
        if not isinstance(key, str) or not _is_sha256(key):
            places.append(0)
            findings.add(
                "bad key",
                where,
                expected="a sha256 in hexadecimal",
                got=repr(key)[:80],
                advice=_REBUILD,
            )
            return
        places.append(int(key[:16], 16))
        if not self._by_rule or self._share is None:
            return
        wanted = split_of(key, validation=self._share, seed=self._seed or 0)
        if wanted != split:
            findings.add(
                "wrong split",
                where,
                expected=f"split {wanted}, which its hash and the share of {self._share} give",
                got=split,
                advice=f"rows were moved between splits; {_REBUILD}",
            )

    def repeated(self) -> Iterator[tuple[tuple[str, int], tuple[str, int]]]:
        """Split and number of each row whose key came before, behind those of the first one."""
        names = list(self._places)
        if not names:
            return
        keys = np.concatenate([np.frombuffer(self._places[n], np.uint64) for n in names])
        starts = np.cumsum([0, *(len(self._places[n]) for n in names)])
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero((keys[order][1:] == keys[order][:-1]) & (keys[order][1:] != 0))

        def place(row: int) -> tuple[str, int]:
            number = int(np.searchsorted(starts, row, side="right")) - 1
            return names[number], row - int(starts[number])

        first = 0
        for position in same.tolist():
            if position == 0 or keys[order[position]] != keys[order[position - 1]]:
                first = int(order[position])
            yield place(first), place(int(order[position + 1]))


def _is_sha256(key: str) -> bool:
    return len(key) == 64 and all(letter in "0123456789abcdef" for letter in key)
