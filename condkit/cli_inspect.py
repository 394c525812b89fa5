"""`condkit inspect`: what is in a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from condkit import terminal
from condkit.cli_options import EXIT_SOME_REJECTED, Json, Quiet


def inspect(
    dataset: Annotated[
        Path, typer.Argument(help="A dataset made by [b]condkit build[/b] or export.")
    ],
    rows: Annotated[
        int | None,
        typer.Option(min=1, help="Look at a sample of so many rows; default: at all."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the sample.")] = 0,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page with plots and pictures: one file, no network."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads that decode.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Describe a dataset: counts, sizes, captions, maps, copies, scores, what was left out."""
    from condkit.datasets.inspecting.inspection import inspect_dataset

    with terminal.progress_bar("inspect", quiet=quiet) as bar:
        found = inspect_dataset(
            dataset, rows=rows, seed=seed, workers=workers, on_progress=bar.update
        )
    if html is not None:
        from condkit.datasets.inspecting.page import write_page

        write_page(html, found)
        terminal.say(f"page: {html}", quiet=quiet)
    if json:
        terminal.result_json(found.as_dict())
    else:
        from condkit.datasets.inspecting.tables import all_tables

        terminal.say(f"{dataset}: looked at {found.chosen}", quiet=quiet)
        for table in all_tables(found):
            terminal.titled_table(table.title, table.columns, table.rows)
    if found.unreadable_rows:
        terminal.say(
            f"{found.unreadable_rows} rows cannot be read; condkit validate {dataset} names them"
        )
        raise typer.Exit(EXIT_SOME_REJECTED)
