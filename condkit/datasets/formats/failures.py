"""The errors of files that cannot be written or read."""

from __future__ import annotations

from pathlib import Path

from condkit.errors import DatasetError, OutputError


def cannot_write(path: Path, error: OSError) -> OutputError:
    """The error of a file of an unfinished shard."""
    reason = error.strerror or str(error)
    return OutputError(f"cannot write {path}: {reason}; check space and permissions")


def cannot_read(path: Path, error: Exception | str) -> DatasetError:
    """The error of a file of a finished dataset."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return DatasetError(f"cannot read {path}: {reason}; make the dataset again")
