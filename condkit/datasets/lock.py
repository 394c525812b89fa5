"""One run at a time may write to a folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from condkit.atomic import TEMPORARY_PREFIX
from condkit.errors import OutputError

RECORDS = ".condkit"
"""The hidden folder in every output folder, where a run notes what it has done."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` (made if need be) for this process; the system lets go if the process dies.

    Raises:
        OutputError: if another run holds it, or it cannot be written.
    """
    from filelock import FileLock, Timeout

    path = folder / RECORDS / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputError(
            f"another condkit run is writing to {folder}; wait for it or use another output folder"
        ) from error
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder}: {error.strerror or error}; choose a writable output folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def sweep(folders: Iterable[Path], *, deep: bool) -> None:
    """Remove the unfinished files that a killed run left; only while the lock is held.

    Args:
        folders: Where to look; those that are not there are passed over.
        deep: In their subfolders too.
    """
    for folder in folders:
        for parent, children, files in os.walk(folder):
            for name in files:
                if name.startswith(TEMPORARY_PREFIX):
                    with suppress(OSError):
                        (Path(parent) / name).unlink()
            if not deep:
                children.clear()
