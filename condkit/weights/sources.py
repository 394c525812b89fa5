"""Where weight files come from: the Hugging Face hub, an address, a member of a zip behind one.

A source only brings the bytes; the store decides which source is asked, checks the hash and keeps
the file. `FetchError` says why one source could not deliver. Network modules are imported where
they are used: listing needs none of them.
"""

from __future__ import annotations

import fnmatch
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_URL_TIMEOUT_S = 30


class FetchError(Exception):
    """Why one source could not deliver; `WeightStore` collects these into one `WeightsError`."""


class Source(Protocol):
    """One place a weight file can come from."""

    @property
    def place(self) -> str:
        """The place in words, for messages."""
        ...

    @property
    def key(self) -> str:
        """What names this file among all others, and stays the same over releases of condkit."""
        ...

    @property
    def cached_at(self) -> Path | None:
        """The folder of a cache outside condkit's own that may have the file; None without one."""
        ...

    def local(self) -> Path | None:
        """The file, where an earlier download outside condkit's own cache left it on this disk.

        Cheap and without network; the content is not looked at.
        """
        ...

    def fetch(self, folder: Path) -> Path:
        """Bring the file, over the network if need be.

        Args:
            folder: An empty folder for whatever has to be written.

        Returns:
            The file: inside `folder`, or where the source's own cache keeps it.

        Raises:
            FetchError: with the reason.
        """
        ...


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file in a repository on the Hugging Face hub.

    `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` act as they do
    everywhere; the file stays in the hub's own cache, so it is not kept twice.

    Attributes:
        repo: Such as "lllyasviel/Annotators".
        filename: Path inside the repository.
        revision: A full commit hash, or a branch or tag such as "main": then the commit that the
            hub's cache last saw under that name counts, without network.
    """

    repo: str
    filename: str
    revision: str = "main"

    @property
    def place(self) -> str:
        """The repository and file."""
        return f"{self.repository}/{self.filename}"

    @property
    def repository(self) -> str:
        """The repository in words."""
        return f"Hugging Face hub {self.repo}"

    @property
    def key(self) -> str:
        """Repository, revision and file."""
        return f"hub:{self.repo}@{self.revision}/{self.filename}"

    @property
    def cached_at(self) -> Path:
        """The repository's folder in the hub's cache."""
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE, hub_cache_name(self.repo))

    def local(self) -> Path | None:
        """The snapshot file in the hub's cache, if it is there."""
        # The hub's own look-up imports its web client (0.2 s), too slow for listing conditions.
        return in_hub_cache(self.cached_at, self.filename, self.revision)

    def fetch(self, folder: Path) -> Path:
        """Download through `huggingface_hub` into its cache; `folder` is not used."""
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.repo, self.filename, revision=self.revision))
        # The hub client passes through errors of several HTTP libraries without a common base.
        except Exception as error:
            raise FetchError(first_line(error)) from error


def hub_cache_name(repo: str) -> str:
    """The folder of a repository in the hub's cache."""
    return f"models--{repo.replace('/', '--')}"


def in_hub_cache(folder: Path, filename: str, revision: str) -> Path | None:
    """A file of one repository's folder in a cache laid out as the hub's, or None.

    Args:
        folder: Such as `~/.cache/huggingface/hub/models--lllyasviel--Annotators`.
        filename: Path inside the repository.
        revision: A full commit hash, or a branch or tag.
    """
    try:
        commit = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        commit = revision
    path = folder / "snapshots" / commit / filename
    return path if path.is_file() else None


class Uncached:
    """Of a source that keeps nothing outside condkit's own cache: an address, a wheel."""

    __slots__ = ()

    @property
    def cached_at(self) -> None:
        """None: there is no other cache."""
        return

    def local(self) -> Path | None:
        """Always None: there is no other cache."""
        return None


@dataclass(frozen=True, slots=True)
class UrlFile(Uncached):
    """A file behind an http(s) address.

    Attributes:
        url: The address; proxies set in the environment are used.
    """

    url: str

    def __post_init__(self) -> None:
        _require_web_address("UrlFile", self.url)

    @property
    def place(self) -> str:
        """The address."""
        return self.url

    @property
    def key(self) -> str:
        """The address."""
        return self.url

    def fetch(self, folder: Path) -> Path:
        """Stream the answer into `folder`."""
        return _download(self.url, folder / "download")


@dataclass(frozen=True, slots=True)
class ZipMember(Uncached):
    """One file of a zip archive behind an http(s) address.

    The archive's own names are never used as paths, so it cannot write anywhere.

    Attributes:
        url: Of the archive; proxies set in the environment are used.
        member: Name of the file inside, or a pattern such as "*/end2end.onnx"; exactly one member
            must fit.
    """

    url: str
    member: str

    def __post_init__(self) -> None:
        _require_web_address("ZipMember", self.url)

    @property
    def place(self) -> str:
        """The archive's address and the member."""
        return f"{self.url} (member {self.member})"

    @property
    def key(self) -> str:
        """The archive's address and the member."""
        return f"{self.url}!{self.member}"

    def fetch(self, folder: Path) -> Path:
        """Stream the archive into `folder` and take the one member out of it."""
        archive = _download(self.url, folder / "archive.zip")
        target = extract(archive, self.member, folder / "member")
        archive.unlink()
        return target


def extract(archive: Path, pattern: str, target: Path) -> Path:
    """Copy the one member that fits a pattern out of a zip.

    Args:
        archive: The zip.
        pattern: A member's name, or a pattern as of `fnmatch` that exactly one member fits.
        target: The file to write.

    Returns:
        `target`.

    Raises:
        FetchError: if the archive is damaged, or no member or several fit.
    """
    import zipfile
    import zlib

    try:
        with zipfile.ZipFile(archive) as opened:
            names = [info.filename for info in opened.infolist() if not info.is_dir()]
            fitting = [n for n in names if n == pattern] or fnmatch.filter(names, pattern)
            if len(fitting) != 1:
                found = ", ".join(fitting) or f"none of its {len(names)} files"
                raise FetchError(f"{archive.name}: expected one member {pattern}, found {found}")
            with opened.open(fitting[0]) as member, target.open("wb") as file:
                shutil.copyfileobj(member, file, 1 << 20)
    # zipfile raises RuntimeErrors for members that are encrypted or packed in a way it cannot read.
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise FetchError(f"{archive.name}: {first_line(error)}") from error
    return target


def _download(url: str, target: Path) -> Path:
    import http.client
    import urllib.request

    try:
        with (
            urllib.request.urlopen(url, timeout=_URL_TIMEOUT_S) as answer,
            target.open("wb") as file,
        ):
            shutil.copyfileobj(answer, file, 1 << 20)
            expected = answer.headers.get("Content-Length")
            written = file.tell()
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(first_line(error)) from error
    # A connection that breaks off looks like an end to `read(n)`; unpinned files need this check.
    if expected is not None and expected.isdigit() and int(expected) != written:
        raise FetchError(f"the answer broke off after {written} of {expected} bytes")
    return target


def _require_web_address(kind: str, url: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{kind}: expected an http or https address, got {url!r}")


def first_line(error: BaseException) -> str:
    """An error as one line: its class and the first line of its message."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
