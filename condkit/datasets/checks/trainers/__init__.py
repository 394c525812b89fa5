"""The rules of each trainer: what it reads, and what it silently does with the rest."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, cast

from condkit.datasets.checks.faults import Findings
from condkit.datasets.reader import PairedDataset

TRAINERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "diffusers": ("parquet", "imagefolder", "tree", "kohya", "simpletuner", "fill50k"),
        "kohya": ("kohya", "tree"),
        "simpletuner": ("simpletuner",),
        "fill50k": ("fill50k", "tree"),
    }
)
"""By trainer, the formats of condkit's that it reads; the first is the one made for it."""


class Rules(Protocol):
    """A module of this package."""

    def check(self, root: Path, findings: Findings, *, decode: bool, workers: int | None) -> None:
        """Hold a folder against the trainer's rules.

        Args:
            root: The dataset's folder.
            findings: Where faults go.
            decode: Whether to decode the pictures as well; False where that was done already.
            workers: Threads.
        """
        ...


def check_for(
    trainer: str,
    root: Path,
    opened: PairedDataset | None,
    findings: Findings,
    *,
    workers: int | None,
) -> None:
    """Check what a trainer would read of a folder.

    Args:
        trainer: One of `TRAINERS`.
        root: The folder.
        opened: The dataset in it, where it is one of condkit's.
        findings: Where faults go.
        workers: Threads that read and decode.
    """
    formats = TRAINERS[trainer]
    if opened is not None and opened.manifest["format"] not in formats:
        findings.add(
            "layout",
            str(root),
            expected=f"a format that {trainer} reads: {', '.join(formats)}",
            got=str(opened.manifest["format"]),
            advice=f"condkit export --format {formats[0]} makes one of it",
        )
        return
    module = importlib.import_module(f"condkit.datasets.checks.trainers.{trainer}")
    cast(Rules, module).check(root, findings, decode=opened is None, workers=workers)
