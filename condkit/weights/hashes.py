"""The sha256 of files, each read once a process as long as nobody touches it."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

_SETTLED_NS = 2_000_000_000

# Only for this process: over restarts a file may rot without its times telling, and reading it
# (0.5 to 2 GB/s) is short beside loading what is in it.
_known: dict[tuple[str, int, int, int, int, int], str] = {}


def sha256_of(path: Path) -> str:
    """Lower-case hex digest of a whole file.

    Raises:
        OSError: if it cannot be read.
    """
    before = _signature(path.stat(), path)
    if (known := _known.get(before)) is not None:
        return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        after = os.fstat(file.fileno())
    # A file written a moment ago may be written again within the clock's step, with equal times.
    settled = time.time_ns() - max(after.st_mtime_ns, after.st_ctime_ns) > _SETTLED_NS
    if settled and _signature(after, path) == before:
        _known[before] = digest
    return digest


def _signature(stat: os.stat_result, path: Path) -> tuple[str, int, int, int, int, int]:
    return (
        str(path),
        stat.st_dev,
        stat.st_ino,
        stat.st_size,
        stat.st_mtime_ns,
        stat.st_ctime_ns,
    )
