"""`condkit validate`: whether a dataset is whole, and whether a trainer will read it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from condkit import terminal
from condkit.cli_options import EXIT_SOME_REJECTED, Json, Quiet

if TYPE_CHECKING:
    from condkit.datasets.checks.faults import Validation

SHOWN_FAULTS = 20
"""Faults that are named on the terminal; --json has them all."""


class Trainer(StrEnum):
    """Whose rules a dataset has to keep to."""

    diffusers = "diffusers"
    kohya = "kohya"
    simpletuner = "simpletuner"
    fill50k = "fill50k"


def validate(
    dataset: Annotated[
        Path, typer.Argument(help="A dataset of condkit's; with --as, any folder of that layout.")
    ],
    trainer: Annotated[
        Trainer | None,
        typer.Option("--as", help="Also check what this trainer wants of a dataset."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that read and decode.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a dataset: files, counts, pictures, maps, captions. Exit code 3: it has faults."""
    from condkit.datasets.checks.validation import validate as check

    with terminal.progress_bar("validate", quiet=quiet) as bar:
        outcome = check(
            dataset,
            trainer=trainer.value if trainer else None,
            workers=workers,
            on_progress=bar.update,
        )
    if json:
        terminal.result_json(outcome.as_dict())
    else:
        _show(outcome, quiet=quiet)
    if outcome.faults:
        raise typer.Exit(EXIT_SOME_REJECTED)


def _show(outcome: Validation, *, quiet: bool) -> None:
    for fault in outcome.faults[:SHOWN_FAULTS]:
        terminal.result(f"{fault.kind}: {fault}")
    if len(outcome.faults) > SHOWN_FAULTS:
        terminal.result(f"... and {len(outcome.faults) - SHOWN_FAULTS} more; --json names all")
    if outcome.faults:
        terminal.result("")
        counts = [(kind, f"{count:,}") for kind, count in outcome.counts.items()]
        terminal.titled_table("faults", ("kind", "count"), counts)
    for note in outcome.notes:
        terminal.say(f"note: {note}", quiet=quiet)
    rules = " and ".join(outcome.rules)
    count = len(outcome.faults)
    verdict = f"{count:,} fault{'s' * (count != 1)}" if count else "no faults"
    terminal.result(
        f"{outcome.path}: {verdict} by the rules of {rules} "
        f"({outcome.rows:,} rows, {outcome.files:,} files hashed)"
    )
