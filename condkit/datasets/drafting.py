"""From what a source offers to the inputs of a plan: looked at, compared, chosen, numbered."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from condkit.datasets.fingerprints import Fingerprint, Fingerprinter
from condkit.datasets.plan_store import PlanStore, fingerprint_of, read_only_address, reported
from condkit.datasets.sources.base import Source, SourceEntry
from condkit.errors import ConfigError
from condkit.types import Rejection

_AT_ONCE = 10_000
_PER_TASK = 64
_TABLES = """
CREATE TABLE found (
    relative TEXT PRIMARY KEY,
    stamp TEXT NOT NULL,
    location TEXT NOT NULL,
    stage TEXT,
    reason TEXT
) WITHOUT ROWID;
CREATE TABLE looked (
    relative TEXT PRIMARY KEY,
    entry_stamp TEXT NOT NULL,
    stamp TEXT NOT NULL,
    location TEXT NOT NULL,
    sha256 BLOB,
    beside TEXT NOT NULL,
    stage TEXT,
    reason TEXT
) WITHOUT ROWID;
"""
_KNOWN = "k.entry_stamp, k.stamp, k.location, k.sha256, k.beside, k.stage, k.reason"

Chooses: TypeAlias = Callable[[Iterable[tuple[int, SourceEntry]]], Iterable[tuple[int, str]]]
"""Takes all inputs that are left, numbered, in the order of their names; tells the numbers of those
to leave out, and why."""
OnLooked: TypeAlias = Callable[[int, int], None]
"""Told now and then how many inputs have been looked at, and how many there are."""


class Draft:
    """A plan in the making, in an SQLite file that vanishes with it."""

    def __init__(self, source: Source, begun: PlanStore | None) -> None:
        """Find all entries.

        Args:
            source: Where they come from.
            begun: What was found when the dataset was begun.

        Raises:
            ConfigError: if there is none, or two have one name.
            DatasetError: if the source cannot be read.
        """
        self._source = source
        with reported(None):
            # The empty name makes a file that only this connection knows.
            self._store = sqlite3.connect("", uri=True, check_same_thread=False)
            self._store.execute("PRAGMA journal_mode = OFF")
            self._store.executescript(_TABLES)
            known = "CREATE TEMP TABLE known (relative, entry_stamp, stamp, location, sha256, "
            known += "beside, stage, reason)"
            if begun is None or begun.path is None:
                self._store.execute(known)
                self._known = "known"
            else:
                self._store.execute("ATTACH ? AS begun", (read_only_address(begun.path),))
                self._known = "begun.entries"
            self._find()

    def _find(self) -> None:
        added = 0
        entries = iter(self._source.scan())
        while batch := [_found(entry) for entry in itertools.islice(entries, _AT_ONCE)]:
            before = self._store.total_changes
            self._store.executemany("INSERT OR IGNORE INTO found VALUES (?, ?, ?, ?, ?)", batch)
            if self._store.total_changes - before < len(batch):
                raise ConfigError(self._named_twice(batch))
            added += len(batch)
        self._count = added
        if not added:
            left_out = self._source.left_out
            counts = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
            raise ConfigError(
                "no images in the source" + (f" (left out: {counts})" if counts else "")
            )

    def _named_twice(self, batch: list[tuple[Any, ...]]) -> str:
        names = [row[0] for row in batch]
        name = next((name for name in names if names.count(name) > 1), names[0])
        return (
            f"two inputs of the source are called {name!r}; names must be unique, so rename one of "
            "them"
        )

    def changes(self, look: Fingerprinter, workers: int, *, most: int) -> list[str]:
        """What is not as it was when the dataset was begun, in words.

        Args:
            look: Looks at entries that may have changed.
            workers: Threads that do.
            most: No more than this many are named.
        """
        found: list[str] = []
        gone = (
            f"SELECT relative FROM {self._known} WHERE relative NOT IN (SELECT relative FROM found)"
        )
        new = (
            f"SELECT relative FROM found WHERE relative NOT IN (SELECT relative FROM {self._known})"
        )
        spoilt = (
            f"SELECT f.relative FROM found AS f JOIN {self._known} AS k ON k.relative = f.relative "
            f"WHERE f.reason IS NOT NULL AND f.reason IS NOT k.reason LIMIT {most}"
        )
        with reported(None):
            found += [f"{name} is gone" for (name,) in self._store.execute(f"{gone} LIMIT {most}")]
            found += [f"{name} is new" for (name,) in self._store.execute(f"{new} LIMIT {most}")]
            found += [f"{n} has other content" for (n,) in self._store.execute(spoilt)]
        for before, now in self._looked_at(look, workers):
            if len(found) >= most:
                break
            if before is None or before.content == now.content:
                continue
            name = now.entry.relative
            if before.sha256 != now.sha256 or before.problem != now.problem:
                found.append(f"{name} has other content")
            else:
                found.append(f"what lies beside {name} (its caption, fields or maps) has changed")
        return sorted(found)[:most]

    def look(self, look: Fingerprinter, workers: int, on_looked: OnLooked | None = None) -> None:
        """Look at all entries, and leave out those that cannot be read and exact duplicates.

        The first of several with the same bytes is kept, in the order of their names.

        Args:
            look: How.
            workers: Threads that do.
            on_looked: See `OnLooked`.
        """
        looked = (now for _, now in self._looked_at(look, workers))
        count = 0
        while batch := [_looked(one) for one in itertools.islice(looked, 1000)]:
            with reported(None):
                self._store.executemany("INSERT INTO looked VALUES (?, ?, ?, ?, ?, ?, ?, ?)", batch)
            count += len(batch)
            if on_looked is not None:
                on_looked(count, self._count)
        with reported(None):
            self._store.execute(
                "INSERT INTO looked SELECT relative, stamp, stamp, location, NULL, '', stage, "
                "reason FROM found WHERE stage IS NOT NULL"
            )
            self._leave_out_duplicates()

    def _leave_out_duplicates(self) -> None:
        self._store.execute("CREATE INDEX by_content ON looked (sha256, relative)")
        self._store.execute(
            "UPDATE looked SET stage = 'filter', reason = 'same bytes as ' || first.relative "
            "FROM (SELECT sha256, min(relative) AS relative FROM looked WHERE sha256 IS NOT NULL "
            "GROUP BY sha256 HAVING count(*) > 1) AS first "
            "WHERE looked.sha256 = first.sha256 AND looked.relative > first.relative"
        )

    def leave_out(self, chooses: Chooses) -> None:
        """Let a filter over the whole source choose."""
        with reported(None):
            self._store.execute(
                "CREATE TEMP TABLE candidates (number INTEGER PRIMARY KEY, relative TEXT)"
            )
            self._store.execute(
                "INSERT INTO candidates (relative) SELECT relative FROM looked "
                "WHERE stage IS NULL ORDER BY relative"
            )
            entries = (
                (number, SourceEntry(relative=name, stamp=stamp, where=where))
                for number, name, stamp, where in self._store.execute(
                    "SELECT c.number, l.relative, l.entry_stamp, l.location FROM candidates AS c "
                    "JOIN looked AS l ON l.relative = c.relative ORDER BY c.number"
                )
            )
            chosen = [(reason, number) for number, reason in chooses(entries)]
            self._store.executemany(
                "UPDATE looked SET stage = 'filter', reason = ? WHERE relative = "
                "(SELECT relative FROM candidates WHERE number = ?)",
                chosen,
            )

    def save(self, store: PlanStore) -> None:
        """Number the inputs and keep them all."""
        with reported(None):
            store.fill(
                self._store.execute(
                    "SELECT relative, entry_stamp, stamp, location, sha256, beside, stage, reason "
                    "FROM looked ORDER BY relative"
                )
            )

    def _looked_at(
        self, look: Fingerprinter, workers: int
    ) -> Iterator[tuple[Fingerprint | None, Fingerprint]]:
        """What each usable entry was when the dataset was begun, and what it is now, by name."""

        def look_at(rows: list[tuple[Any, ...]]) -> list[tuple[Fingerprint | None, Fingerprint]]:
            pairs = []
            for relative, stamp, location, *known in rows:
                before = fingerprint_of((relative, *known))
                entry = SourceEntry(relative=relative, stamp=stamp, where=location)
                pairs.append((before, look.look(entry, before)))
            return pairs

        with reported(None):
            rows = self._store.execute(
                f"SELECT f.relative, f.stamp, f.location, {_KNOWN} FROM found AS f "
                f"LEFT JOIN {self._known} AS k ON k.relative = f.relative "
                "WHERE f.stage IS NULL ORDER BY f.relative"
            )
            with ThreadPoolExecutor(workers, thread_name_prefix="condkit-hash") as pool:
                # Bit by bit: a million futures at once are a gigabyte.
                while tasks := _tasks(rows, 8 * workers):
                    for pairs in pool.map(look_at, tasks):
                        yield from pairs

    def close(self) -> None:
        """Forget everything."""
        self._store.close()


def _tasks(rows: Iterator[tuple[Any, ...]], most: int) -> list[list[tuple[Any, ...]]]:
    tasks = (list(itertools.islice(rows, _PER_TASK)) for _ in range(most))
    return [task for task in tasks if task]


def _found(entry: SourceEntry | Rejection) -> tuple[Any, ...]:
    if isinstance(entry, Rejection):
        return entry.source, "", "", entry.stage, entry.reason
    return entry.relative, entry.stamp, entry.where, None, None


def _looked(one: Fingerprint) -> tuple[Any, ...]:
    stage, reason = ("decode", one.problem) if one.problem else (None, None)
    sha256 = bytes.fromhex(one.sha256) if one.sha256 else None
    entry = one.entry
    return (
        entry.relative,
        entry.stamp,
        one.stamp,
        entry.where,
        sha256,
        one.beside,
        stage,
        reason,
    )
