"""Work on a store in pieces that ranks and runs share: whoever comes first does each one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from condkit.trainer.tensor_store import TensorStore

Report = Callable[[int, int, str], None]
"""Rows done, rows in all, what is made of them."""


def unreported(done: int, total: int, what: str) -> None:
    """A report to nobody."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows' tensors.

    Attributes:
        name: Hash of what decides them; equal pieces of other runs have the same.
        rows: How many rows they are for.
        make: Writes those that are missing; how many things it has made.
    """

    name: str
    rows: int
    make: Callable[[], int]


def complete(store: TensorStore, pieces: Sequence[Piece], what: str, report: Report) -> int:
    """Do what is not done, and wait for what others are doing.

    Args:
        store: Where the tensors go.
        pieces: The work.
        what: Its name for the report.
        report: Called after each piece.

    Returns:
        How many things this process has made.

    Raises:
        OutputError: if the store's folder cannot be written.
    """
    total, done, made = sum(piece.rows for piece in pieces), 0, 0
    waiting = list(pieces)
    for wait in (False, True):
        # First what nobody is at, then what others were at: they may have died over it.
        now, waiting = waiting, []
        for piece in now:
            count = _do(store, piece, wait=wait)
            if count is None:
                waiting.append(piece)
                continue
            made, done = made + count, done + piece.rows
            report(done, total, what)
    store.refresh()
    return made


def _do(store: TensorStore, piece: Piece, *, wait: bool) -> int | None:
    """Do a piece; None where somebody else is at it."""
    if store.is_done(piece.name):
        return 0
    with store.working_on(piece.name, wait=wait) as mine:
        if not mine:
            return None
        # Whoever held it before may have done it.
        if store.is_done(piece.name):
            return 0
        store.refresh()
        count = piece.make()
        store.set_done(piece.name, count)
        return count
