"""The files of a dataset against `SHA256SUMS`: damaged, missing, or more than there should be."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from condkit.datasets import manifest
from condkit.datasets.checks.faults import Findings
from condkit.datasets.contact_sheet import CONTACT_SHEET
from condkit.datasets.fingerprints import hash_file
from condkit.datasets.in_order import map_in_order

BESIDE = frozenset(
    {"README.md", manifest.NAME, manifest.CHECKSUMS, manifest.REJECTED, CONTACT_SHEET}
)
"""Files at the top of a dataset that `SHA256SUMS` does not list."""

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_REBUILD = "restore it from a copy, or build the dataset again"


def check_files(root: Path, findings: Findings, *, workers: int | None) -> None:
    """Hash every listed file, and look for files that nothing lists."""
    expected = _read_checksums(root, findings)
    if expected is None:
        return
    names = list(expected)
    results = map_in_order(lambda name: _hash(root / name), names, workers=workers)
    for done, (name, found) in enumerate(zip(names, results, strict=True), start=1):
        _compare(name, expected[name], found, findings)
        findings.progress(done, len(names), "hashes")
    findings.files += len(names)
    for name in visible_files(root):
        if name not in expected and name not in BESIDE:
            findings.add(
                "extra file",
                name,
                expected="only files that SHA256SUMS lists",
                got="a file that belongs to no row",
                advice="move it out of the dataset",
            )


def visible_files(root: Path) -> Iterator[str]:
    """All files below a folder, sorted, by their names relative to it; hidden ones left out."""
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield (Path(folder) / name).relative_to(root).as_posix()


def _read_checksums(root: Path, findings: Findings) -> dict[str, str] | None:
    """Hash by file name; None where the list itself cannot be read."""
    try:
        text = (root / manifest.CHECKSUMS).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        findings.add(
            "no checksums",
            manifest.CHECKSUMS,
            expected="the hashes of all files",
            got=reason,
            advice=_REBUILD,
        )
        return None
    expected: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        match = _LINE.fullmatch(line)
        if match:
            expected[match[2]] = match[1]
        elif line:
            findings.add(
                "broken checksums",
                f"{manifest.CHECKSUMS}, line {number}",
                expected="a sha256 and a file name",
                got=repr(line[:80]),
                advice=_REBUILD,
            )
    return expected


def _hash(path: Path) -> str | OSError:
    try:
        return hash_file(path)
    except OSError as error:
        return error


def _compare(name: str, expected: str, found: str | OSError, findings: Findings) -> None:
    if isinstance(found, FileNotFoundError):
        findings.add(
            "missing file",
            name,
            expected="the file that SHA256SUMS lists",
            got="nothing",
            advice=_REBUILD,
        )
    elif isinstance(found, OSError):
        findings.add(
            "unreadable file",
            name,
            expected="a file that can be read",
            got=found.strerror or str(found),
            advice="check its permissions and the disk",
        )
    elif found != expected:
        findings.add(
            "changed file",
            name,
            expected=f"sha256 {expected[:12]}",
            got=f"{found[:12]}",
            advice=_REBUILD,
        )
