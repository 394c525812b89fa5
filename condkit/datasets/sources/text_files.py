"""Rows of a text file by their place in it, so that a row is read without those before it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from condkit.errors import DatasetError

UTF8_MARK = b"\xef\xbb\xbf"
_OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a file.

    Attributes:
        offset: Its first byte.
        length: Its bytes.
        digest: What they are, short.
    """

    offset: int
    length: int
    digest: str

    def __str__(self) -> str:
        """The text that `parse` reads."""
        return f"{self.offset}+{self.length}@{self.digest}"

    @classmethod
    def parse(cls, text: str) -> Span:
        """The inverse of `str`."""
        place, _, digest = text.partition("@")
        offset, _, length = place.partition("+")
        return cls(int(offset), int(length), digest)

    @classmethod
    def of(cls, data: bytes, offset: int) -> Span:
        """The stretch that begins at `offset` and holds `data`."""
        return cls(offset, len(data), digest_of(data))


def digest_of(data: bytes) -> str:
    """Sixteen hexadecimal digits that stand for `data`."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def read_span(path: Path, span: Span) -> bytes:
    """The bytes of a stretch; from any thread.

    Raises:
        DatasetError: if they cannot be read or are not what they were.
    """
    try:
        with path.open("rb") as file:
            file.seek(span.offset)
            data = file.read(span.length)
    except OSError as error:
        raise cannot_read(path, error) from error
    if digest_of(data) != span.digest:
        raise DatasetError(
            f"{path} has changed since it was searched for pictures (at byte {span.offset}); "
            "restore it, or begin anew"
        )
    return data


def start_of_text(path: Path) -> int:
    """Where the text of a UTF-8 file begins: behind its byte order mark.

    Raises:
        DatasetError: if it cannot be read or its mark is of another encoding.
    """
    try:
        with path.open("rb") as file:
            head = file.read(3)
    except OSError as error:
        raise cannot_read(path, error) from error
    if head.startswith(_OTHER_MARKS):
        raise DatasetError(f"{path} is UTF-16; save it as UTF-8")
    return len(UTF8_MARK) if head == UTF8_MARK else 0


def cannot_read(path: Path, error: OSError) -> DatasetError:
    """The error for a table that cannot be read."""
    return DatasetError(f"cannot read {path}: {error.strerror or error}; give access to it")


def fault_of_encoding(data: bytes) -> str | None:
    """Why bytes are no UTF-8 text, where they are not."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"is not UTF-8 (byte {error.start} of it); save the table as UTF-8"
    return None
