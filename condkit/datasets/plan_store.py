"""The inputs of a plan on the disk: an SQLite file, so that a million of them need no memory."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import urllib.parse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from condkit.datasets.fingerprints import Fingerprint
from condkit.datasets.planning import PlannedInput
from condkit.datasets.sources.base import SourceEntry
from condkit.errors import DatasetError, OutputError
from condkit.types import Rejection

_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (
    place INTEGER PRIMARY KEY,
    relative TEXT NOT NULL,
    entry_stamp TEXT NOT NULL,
    stamp TEXT NOT NULL,
    location TEXT NOT NULL,
    sha256 BLOB,
    beside TEXT NOT NULL,
    stage TEXT,
    reason TEXT,
    number INTEGER
);
"""
_INDICES = """
CREATE UNIQUE INDEX by_relative ON entries (relative);
CREATE UNIQUE INDEX by_number ON entries (number) WHERE number IS NOT NULL;
"""
_CACHE_KIB = 32 * 1024


class PlanStore:
    """All entries of a source in the order of their names, with what became of each."""

    def __init__(self, path: Path | None, *, new: bool = False) -> None:
        """Open a store; with `path` None it is a new one that vanishes when it is closed."""
        self.path = path
        with reported(path):
            self.connection = _connect(path, read_only=not new and path is not None)
            if new or path is None:
                self.connection.executescript(_TABLES)

    def fill(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Add all entries, in the order of their names; once.

        Args:
            rows: relative, entry_stamp, stamp, location, sha256, beside, stage, reason.
        """
        with reported(self.path), self.connection as connection:
            connection.executemany(
                "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", _numbered(rows)
            )
            connection.executescript(_INDICES)

    def save_facts(self, **values: Any) -> None:
        """Keep JSON values beside the entries."""
        texts = [(name, json.dumps(value, ensure_ascii=False)) for name, value in values.items()]
        with reported(self.path), self.connection as connection:
            connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", texts)

    def facts(self) -> dict[str, Any]:
        """The JSON values that were kept."""
        with reported(self.path):
            rows = self.connection.execute("SELECT name, value FROM facts").fetchall()
        return {name: json.loads(value) for name, value in rows}

    def span(self, start: int, stop: int) -> tuple[PlannedInput, ...]:
        """See `PlannedInputs`."""
        with reported(self.path):
            rows = self.connection.execute(
                "SELECT number, relative, location, sha256, beside FROM entries "
                "WHERE number >= ? AND number < ? ORDER BY number",
                (start, stop),
            ).fetchall()
        return tuple(
            PlannedInput(index=number, relative=name, where=where, sha256=key.hex(), beside=beside)
            for number, name, where, key, beside in rows
        )

    def rejections(self) -> Iterator[Rejection]:
        """See `PlannedInputs`."""
        for name, stage, reason in self._all(
            "SELECT relative, stage, reason FROM entries WHERE number IS NULL ORDER BY place"
        ):
            yield Rejection(name, stage, reason)

    def counts(self) -> tuple[int, int]:
        """How many inputs there are, and how many are left out."""
        with reported(self.path):
            inputs, everything = self.connection.execute(
                "SELECT count(number), count(*) FROM entries"
            ).fetchone()
        return inputs, everything - inputs

    def source_sha256(self) -> str:
        """One hash over names and contents of all entries."""
        digest = hashlib.sha256()
        for name, key, beside, reason in self._all(
            "SELECT relative, sha256, beside, reason FROM entries ORDER BY place"
        ):
            text = f"{key.hex() if key else ''} {beside} {name} {reason or ''}\n"
            digest.update(text.encode())
        return digest.hexdigest()

    def _all(self, query: str) -> Iterator[tuple[Any, ...]]:
        with reported(self.path):
            yield from self.connection.execute(query)

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()


def fingerprint_of(row: tuple[Any, ...]) -> Fingerprint | None:
    """An entry's fingerprint from relative, entry_stamp, stamp, location, sha256, beside, stage and
    reason; None where there is none.
    """  # noqa: D205
    relative, entry_stamp, stamp, location, sha256, beside, stage, reason = row
    if stamp is None:
        return None
    return Fingerprint(
        entry=SourceEntry(relative=relative, stamp=entry_stamp, where=location),
        stamp=stamp,
        sha256=sha256.hex() if sha256 else None,
        beside=beside,
        problem=reason if stage == "decode" else "",
    )


@contextmanager
def reported(path: Path | None) -> Iterator[None]:
    """Turn the database's errors into ours.

    Raises:
        OutputError: if it cannot be written.
        DatasetError: if it is broken.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OutputError(
            f"cannot keep the plan in {path or 'a temporary file'}: {error}; check space and "
            "permissions, then start again"
        ) from error
    except sqlite3.DatabaseError as error:
        raise DatasetError(
            f"{path} cannot be read ({error}); use another output folder, or --overwrite to begin "
            "anew"
        ) from error


def _connect(path: Path | None, *, read_only: bool) -> sqlite3.Connection:
    # Built once under a temporary name and then renamed, so no journal is needed.
    place = (
        "" if path is None else f"file:{_quoted(path)}{'?mode=ro&immutable=1' if read_only else ''}"
    )
    connection = sqlite3.connect(place, uri=True, check_same_thread=False)
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    if not read_only:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
    return connection


def read_only_address(path: Path) -> str:
    """How a finished store is opened: nobody writes to it any more."""
    return f"file:{_quoted(path)}?mode=ro&immutable=1"


def _quoted(path: Path) -> str:
    return urllib.parse.quote(str(path.absolute()))


def _numbered(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Each row with its place, and those that are taken with their number."""
    number = 0
    for place, row in enumerate(rows):
        taken = row[6] is None
        yield (place, *row, number if taken else None)
        number += taken
