"""Names that are unique among any number, without keeping them in memory."""

from __future__ import annotations

import hashlib
import sqlite3

KEPT_PAGES = 2000
"""Pages of 4 KiB that stay in memory; the rest lies in a temporary file that removes itself."""


class UniqueNames:
    """Remembers which names were given; used by one thread.

    A name that comes a second time gets "#2" at its end, then "#3", as long as that is free.
    """

    def __init__(self) -> None:
        self._store = sqlite3.connect("", isolation_level=None)
        self._store.execute(f"PRAGMA cache_size = {KEPT_PAGES}")
        self._store.execute("PRAGMA journal_mode = OFF")
        self._store.execute("PRAGMA synchronous = OFF")
        self._store.execute("CREATE TABLE seen (name BLOB PRIMARY KEY, times INT) WITHOUT ROWID")
        self._store.execute("BEGIN")

    def unique(self, name: str) -> str:
        """`name`, or `name` with a number where it was given before."""
        times = self.count(name)
        while times > 1:
            numbered = f"{name}#{times}"
            if self.count(numbered) == 1:
                return numbered
            times += 1
        return name

    def count(self, name: str) -> int:
        """How often `name` has been counted, this time included."""
        key = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        row = self._store.execute(
            "INSERT INTO seen VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET times = times + 1 "
            "RETURNING times",
            (key,),
        ).fetchone()
        return int(row[0])

    def close(self) -> None:
        """Forget them all."""
        self._store.close()
