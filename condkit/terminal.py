"""How the command line looks: progress and notes on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclass(slots=True)
class Bar:
    """A progress bar that may be silent; `update` is cheap enough for every image."""

    _progress: Progress | None
    _task: TaskID | None

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` are through, with a short note such as "12.3 images/s"."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total, note=note)


@contextmanager
def progress_bar(title: str, *, quiet: bool) -> Iterator[Bar]:
    """A bar on stderr; nothing where stderr is no terminal or `quiet` is asked for."""
    if quiet or not sys.stderr.isatty():
        yield Bar(None, None)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Bar(progress, progress.add_task(title, total=None, note=""))


def say(text: str, *, quiet: bool = False) -> None:
    """A note for the person who watches, on stderr."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)  # noqa: T201


def result(text: str) -> None:
    """A line of the result, on stdout."""
    print(text)  # noqa: T201


def result_json(value: Any) -> None:  # noqa: ANN401 - any JSON value
    """The whole result as one JSON document, on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))  # noqa: T201


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain aligned table on stdout: it can be read, searched and cut by other tools."""
    widths = [
        max(len(column), *(len(row[index]) for row in rows)) if rows else len(column)
        for index, column in enumerate(columns)
    ]
    for row in (columns, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        result("  ".join(cells).rstrip())


def titled_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table under its title on stdout: drawn on a terminal, plain text in a file or a pipe."""
    if not sys.stdout.isatty():
        result(f"{title}:")
        table(columns, rows)
        result("")
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)
