"""Members of tar files by their place, read without unpacking anything."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from condkit.datasets.sources.directories import SYSTEM_NAMES
from condkit.datasets.sources.folder import stamp_of
from condkit.errors import DatasetError

_COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a tar.

    Attributes:
        name: Its name there.
        offset: Its first byte in the tar.
        size: Its bytes.
    """

    name: str
    offset: int
    size: int


def members(path: Path, left_out: Counter[str]) -> Iterator[Member]:
    """The files of an uncompressed tar, in their order; memory does not grow with their number.

    Args:
        path: The tar.
        left_out: Counts members that are no files, or hidden or of the system, by reason.

    Raises:
        DatasetError: if it cannot be read, is compressed, broken, ends early or goes on after its
            end.
    """
    _refuse_compressed(path)
    try:
        with tarfile.open(path, "r:") as tar:
            while True:
                found = tar.next()
                if found is None:
                    break
                # The library keeps every member; a shard of a million would fill the memory.
                tar.members = []  # type: ignore[attr-defined]
                reason = _why_not(found)
                if reason is None:
                    yield Member(found.name, found.offset_data, found.size)
                elif reason != "folder":
                    left_out[reason] += 1
            _check_end(path, tar.offset)
    except (tarfile.TarError, EOFError) as error:
        raise _truncated(path, str(error)) from error
    except OSError as error:
        raise _cannot_read(path, error) from error


def read_member(path: Path, offset: int, size: int, stamp: str) -> bytes:
    """The bytes of a member; from any thread.

    Args:
        path: The tar.
        offset: The member's first byte.
        size: Its bytes.
        stamp: What `stamp_of` said of the tar when the member was found; "" for not known.

    Raises:
        DatasetError: if the tar cannot be read or has changed.
    """
    try:
        changed = bool(stamp) and stamp_of(str(path)) != stamp
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise _cannot_read(path, error) from error
    if changed or len(data) != size:
        raise DatasetError(
            f"{path} has changed since it was searched for pictures; restore it, or begin anew"
        )
    return data


def _why_not(member: tarfile.TarInfo) -> str | None:
    """Why a member is not taken: no file of its own, hidden, or left by an operating system."""
    if member.isdir():
        return "folder"
    parts = member.name.split("/")
    if any(part.startswith(".") and part not in (".", "..") for part in parts):
        return "hidden"
    if any(part.lower() in SYSTEM_NAMES for part in parts):
        return "system"
    if member.issym() or member.islnk():
        return "link"
    return None if member.isreg() and not member.issparse() else "special file"


def _refuse_compressed(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise _cannot_read(path, error) from error
    for mark, name in _COMPRESSIONS.items():
        if head.startswith(mark):
            raise DatasetError(
                f"{path} is compressed ({name}), so its members cannot be read one by one; "
                "decompress it first (pictures are compressed already)"
            )
    if not head:
        raise _truncated(path, "it is empty")


def _check_end(path: Path, offset: int) -> None:
    """A whole tar ends with blocks of zeros, and nothing comes behind them."""
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE:
            raise _truncated(path, "its end mark is missing")
        if any(block):
            raise _truncated(path, f"there is no member header at byte {offset}")
        while piece := file.read(_PIECE):
            if piece.count(0) != len(piece):
                raise DatasetError(
                    f"{path} goes on behind its end mark, as tars do that were joined byte by "
                    "byte; give the single tars, or join them with `tar --concatenate`"
                )


def _truncated(path: Path, why: str) -> DatasetError:
    return DatasetError(
        f"{path} is broken or was cut off ({why}); fetch or write it again, or leave it out"
    )


def _cannot_read(path: Path, error: OSError) -> DatasetError:
    return DatasetError(f"cannot read {path}: {error.strerror or error}; give access to it")
