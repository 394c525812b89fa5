"""Writing that either happened whole or not at all: temporary sibling, fsync, rename.

Every file that matters goes through here, so a killed run never leaves half a file under a final
name.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from condkit.errors import OutputError

TEMPORARY_PREFIX = ".condkit-tmp-"
"""Names that begin so are unfinished; a scan leaves them out and anybody may delete them."""

_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})


def write_bytes(path: Path, data: bytes, *, fsync: bool = True) -> None:
    """Replace `path` by `data` in one step; its parent folders are made.

    Args:
        path: The final name.
        data: The whole content.
        fsync: Wait until the content is on the disk. Batches of small files that are committed
            together by a later record may leave it out.

    Raises:
        OutputError: if the place cannot be written; what stood there before is unharmed.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _new_sibling(path)
        with temporary.open("xb") as file:
            file.write(data)
            if fsync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
        if fsync:
            _fsync_folder(path.parent)
    except OSError as error:
        raise OutputError(_cannot_write(path, error)) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, fsync: bool = True) -> None:
    """Replace `path` by UTF-8 `text` with Unix line ends, in one step.

    Raises:
        OutputError: if the place cannot be written.
    """
    write_bytes(path, text.encode("utf-8"), fsync=fsync)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Replace `path` by UTF-8 text that comes bit by bit, each piece with its line end.

    Raises:
        OutputError: if the place cannot be written; what stood there before is unharmed.
    """
    with (
        new_file(path) as temporary,
        temporary.open("x", encoding="utf-8", newline="\n") as file,
    ):
        file.writelines(lines)


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Replace `path` by `value` as indented JSON, in one step; the keys keep their order.

    Raises:
        OutputError: if the place cannot be written.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def new_file(final: Path) -> Iterator[Path]:
    """Fill a temporary sibling file that becomes `final` when the block ends well.

    Yields:
        The temporary file's path; there is nothing yet.

    Raises:
        OutputError: if the file cannot be brought to the disk or renamed, or the disk gets full in
            the block.
    """
    temporary: Path | None = None
    try:
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            temporary = _new_sibling(final)
        except OSError as error:
            raise OutputError(_cannot_write(final, error)) from error
        with _told_where(final, temporary):
            yield temporary
        try:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(final)
            _fsync_folder(final.parent)
        except OSError as error:
            raise OutputError(_cannot_write(final, error)) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Fill a temporary sibling folder that becomes `final` when the block ends well.

    A `final` that exists is replaced. When the block raises, nothing of it stays and `final` is
    as before.

    Yields:
        The temporary folder, empty.

    Raises:
        OutputError: if the folder cannot be made or renamed, or the disk gets full in the block.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = _new_sibling(final)
        temporary.mkdir()
    except OSError as error:
        raise OutputError(_cannot_write(final, error)) from error
    try:
        with _told_where(final, temporary):
            yield temporary
        try:
            _fsync_tree(temporary)
            _swap(temporary, final)
        except OSError as error:
            raise OutputError(_cannot_write(final, error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _told_where(final: Path, temporary: Path) -> Iterator[None]:
    """Name the place when a block cannot write there; every other error is the block's own."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        at_place = str(error.filename).startswith(str(temporary))
        if not at_place and error.errno not in _DISK_ERRORS:
            raise
        raise OutputError(_cannot_write(final, error)) from error


def _swap(temporary: Path, final: Path) -> None:
    """Rename over `final`; an old folder steps aside first, since renames do not replace those."""
    if not final.exists():
        temporary.replace(final)
    else:
        aside = _new_sibling(final)
        aside.mkdir()
        final.replace(aside / final.name)
        try:
            temporary.replace(final)
        except OSError:
            (aside / final.name).replace(final)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    _fsync_folder(final.parent)


def _new_sibling(path: Path) -> Path:
    """A free name beside `path`; not `tempfile`, whose files only their owner may read."""
    return path.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"


def _fsync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _fsync_folder(folder)


def _fsync_folder(folder: Path) -> None:
    """Make a rename durable; some systems cannot open folders, there the rename is all there is."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _cannot_write(path: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"cannot write {path}: {reason}; check that the folder is writable and the disk not full"
