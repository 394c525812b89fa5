"""What the commands share that go over many images: their plan, their progress, their end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from condkit import terminal
from condkit.cli_options import EXIT_SOME_REJECTED, Backend, Dtype, weight_store

if TYPE_CHECKING:
    from condkit.annotators.annotator import AnnotationPlan
    from condkit.pipeline import Progress, RunSummary
    from condkit.runtime import Runtime

SHOWN_REJECTIONS = 10
"""Rejected inputs that are named on the terminal; the file has them all."""


def annotation_plan(
    conditions: list[str],
    assignments: list[str] | None,
    detect_size: int | None,
    seed: int,
    commercial_only: bool,
) -> AnnotationPlan:
    """The plan of the conditions that were asked for, checked.

    Raises:
        ConfigError: if a setting is impossible, or a licence forbids commercial use.
        UnknownNameError: for a condition or setting that there is not.
    """
    from condkit.annotators.annotator import plan_annotation
    from condkit.annotators.licensing import require_commercial_use
    from condkit.settings import parse_assignments

    plan = plan_annotation(
        conditions, parse_assignments(assignments or ()), detect_size=detect_size, seed=seed
    )
    if commercial_only:
        require_commercial_use(plan)
    return plan


def runtime_of(
    device: str,
    dtype: Dtype,
    weights_dir: list[Path] | None,
    offline: bool,
    backend: Backend = Backend.torch,
) -> Runtime:
    """Where networks run."""
    from condkit.runtime import Runtime

    store = weight_store(weights_dir, offline=offline)
    return Runtime(device=device, dtype=dtype.value, backend=backend.value, store=store)


def show_images(bar: terminal.Bar) -> Callable[[Progress], None]:
    """Shows a run's progress on a bar."""

    def show(progress: Progress) -> None:
        note = f"{progress.images_per_second:.1f} images/s"
        if progress.stage:
            note = f"{progress.stage}, {note}"
        if progress.rejected:
            note += f", {progress.rejected} rejected"
        bar.update(progress.done, progress.total, note)

    return show


def finish(summary: RunSummary, *, json: bool, quiet: bool) -> None:
    """Print what a run did, and leave with 3 where some inputs were rejected."""
    if json:
        terminal.result_json(summary.as_dict())
    elif not quiet:
        for rejection in summary.rejections[:SHOWN_REJECTIONS]:
            terminal.say(f"rejected {rejection.source} ({rejection.stage}): {rejection.reason}")
        if len(summary.rejections) > SHOWN_REJECTIONS:
            terminal.say(f"rejected {len(summary.rejections) - SHOWN_REJECTIONS} more")
        for line in summary.lines():
            terminal.result(line)
    if summary.rejections:
        raise typer.Exit(EXIT_SOME_REJECTED)
