"""What a value of a table says about where a picture lies, and how that picture is called."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from condkit.datasets.sources.directories import readable
from condkit.datasets.sources.folder import stamp_of

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//|[^\\/])")
_DOWNLOADED = frozenset({"http", "https", "ftp", "s3", "gs", "gcs", "hf", "az", "abfs"})


class UnusableValueError(Exception):
    """A value that names no picture; the message is the reason for a person."""


@dataclass(frozen=True, slots=True)
class FileReference:
    """A picture file that a table names.

    Attributes:
        path: Where it is.
        name: What it is called: below the table's folder, or as the table says, without a slash
            or `..` at its front.
    """

    path: str
    name: str

    def stamp(self) -> str:
        """Size and time of change.

        Raises:
            UnusableValueError: if there is no such file.
        """
        try:
            return stamp_of(self.path)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise UnusableValueError(f"the picture {self.name} cannot be read: {why}") from error


def is_embedded(value: object) -> bool:
    """Whether a value is a picture itself and not the name of a file."""
    if isinstance(value, Mapping):
        return value.get("bytes") is not None
    return isinstance(value, bytes)


def is_missing(value: object) -> bool:
    """Whether a value says that there is no picture."""
    if isinstance(value, Mapping):
        return not is_embedded(value) and not value.get("path")
    return value is None or value == ""


def embedded_name(value: object, otherwise: str) -> str:
    """What a picture inside a table is called: by the path it was stored with, or `otherwise`."""
    stored = value.get("path") if isinstance(value, Mapping) else None
    if not stored or not isinstance(stored, str) or readable(stored) is not None:
        return otherwise
    path = stored.replace("\\", "/")
    # Where it lay on the machine that made the table is nobody's business.
    is_inside = not path.startswith("/") and ":" not in path and ".." not in path.split("/")
    return posixpath.normpath(path) if is_inside else posixpath.basename(path) or otherwise


def embedded_bytes(value: object) -> bytes | None:
    """The picture file inside a value, None where it holds none."""
    found = value.get("bytes") if isinstance(value, Mapping) else value
    return found if isinstance(found, bytes) else None


def file_reference(value: object, folder: str) -> FileReference:
    """The file that a value names: a path, relative to `folder` or absolute, or a file:// address.

    Raises:
        UnusableValueError: if it is an address elsewhere or no path at all.
    """
    text = value.get("path") if isinstance(value, Mapping) else value
    if not isinstance(text, str):
        raise UnusableValueError(f"expected the path of a picture, got {_shown(text)}")
    if readable(text) is not None or "\0" in text:
        raise UnusableValueError(f"the path {_shown(readable(text) or text)} is no valid text")
    path = _local(text.strip())
    full = os.path.normpath(os.path.join(folder, path))  # noqa: PTH118 - speed
    return FileReference(full, _name(path, full, folder))


def _local(text: str) -> str:
    """The path behind a file:// address, and slashes as they are here."""
    address = _ADDRESS.match(text)
    scheme = address.group(1).lower() if address else ""
    if scheme == "file":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise UnusableValueError(f"{text} lies on another machine; copy the picture here first")
        return unquote(parts.path)
    if "://" in text or scheme in _DOWNLOADED:
        raise UnusableValueError(
            f"{_shown(text)} is an address and not a file; download the pictures first, for "
            "example with img2dataset"
        )
    if scheme == "data":
        raise UnusableValueError("a picture written as a data: address; save it as a file")
    if os.sep == "/" and "\\" in text and not Path(text).exists():
        return text.replace("\\", "/")
    return text


def _name(path: str, full: str, folder: str) -> str:
    inside = os.path.normpath(folder) + os.sep
    if full.startswith(inside):
        return full[len(inside) :].replace(os.sep, "/")
    name = posixpath.normpath(path.replace(os.sep, "/")).lstrip("/")
    while name.startswith("../"):
        name = name[3:]
    return name


def _shown(value: Any) -> str:  # noqa: ANN401 - any value of a table
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
