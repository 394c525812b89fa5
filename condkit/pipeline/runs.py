"""What a run tells while it goes, and when it is over."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from condkit.types import Rejection


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        done: Images that are through, rejected and skipped ones too.
        total: Images of the run.
        rejected: Those of `done` that were rejected.
        images_per_second: Rate of this run, without what was skipped.
        stage: What is done to them: "" for the run's own work, "hash" while it is planned.
    """

    done: int
    total: int
    rejected: int
    images_per_second: float
    stage: str = ""


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What a run did.

    Attributes:
        output: Where it wrote.
        planned: Images found.
        written: Images finished by this run.
        skipped: Images that were finished before.
        rejections: Images left out, sorted by name; of very many the first ones.
        by_stage: Images left out, by stage; None where `rejections` has them all.
        left_out: Entries that the search for images did not take, by reason.
        seconds: How long it took.
        dry_run: Whether nothing was done; `remaining` says what would have been.
        rejections_listed: Whether `rejected.jsonl` in the output lists the rejections.
    """

    output: Path
    planned: int
    written: int
    skipped: int
    rejections: tuple[Rejection, ...] = ()
    by_stage: dict[str, int] | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    seconds: float
    dry_run: bool = False
    rejections_listed: bool = True

    @property
    def remaining(self) -> int:
        """Images that are neither finished nor rejected."""
        return self.planned - self.written - self.skipped - self.rejected

    @property
    def rejected(self) -> int:
        """Images left out."""
        return sum(self.rejected_by_stage.values())

    @property
    def images_per_second(self) -> float:
        """Images that this run finished, per second of it."""
        return self.written / self.seconds if self.seconds > 0 else 0.0

    @property
    def rejected_by_stage(self) -> dict[str, int]:
        """Rejections counted by stage."""
        if self.by_stage is not None:
            return self.by_stage
        return dict(sorted(Counter(rejection.stage for rejection in self.rejections).items()))

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "output": str(self.output),
            "dry_run": self.dry_run,
            "planned": self.planned,
            "written": self.written,
            "skipped": self.skipped,
            "remaining": self.remaining,
            "rejected": self.rejected,
            "rejected_by_stage": self.rejected_by_stage,
            "rejections": [rejection.as_dict() for rejection in self.rejections],
            "left_out": self.left_out,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.images_per_second, 3),
        }

    def lines(self) -> list[str]:
        """The same for a person."""
        if self.dry_run:
            counts = f"{self.remaining} to make, {self.skipped} there already"
        else:
            counts = f"{self.written} written, {self.skipped} skipped"
        rejected = f"{self.rejected} rejected"
        if self.rejections:
            rejected += f" ({_counts(self.rejected_by_stage)})"
        lines = [f"{self.planned} images: {counts}, {rejected}"]
        if not self.dry_run:
            rate = f"{self.images_per_second:.1f} images/s"
            lines[0] += f", in {self.seconds:.1f} s ({rate})"
            if self.rejections and self.rejections_listed:
                lines.append(f"rejections: {self.output / 'rejected.jsonl'}")
        if self.left_out:
            lines.append(f"left out of the search: {_counts(self.left_out)}")
        lines.append(f"output: {self.output}")
        return lines


class Meter:
    """Counts what is through, and reports it."""

    def __init__(self, total: int, skipped: int, on_progress: OnProgress | None) -> None:
        self._total = total
        self._skipped = skipped
        self._on_progress = on_progress
        self._started = time.monotonic()
        self.written = 0
        self.rejected = 0
        self.rejected_before = 0

    def count(self, *, rejected: bool = False) -> None:
        """One more image is through."""
        self.rejected += rejected
        self.written += not rejected
        if self._on_progress is None:
            return
        through = self.written + self.rejected
        seconds = max(time.monotonic() - self._started, 1e-9)
        self._on_progress(
            Progress(
                through + self._skipped,
                self._total,
                self.rejected + self.rejected_before,
                through / seconds,
            )
        )


def default_workers() -> int:
    """The processor cores that this process may use, at most 16."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(16, cores)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
