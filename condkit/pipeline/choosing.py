"""Filters that look at a whole source before rows are made of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from condkit.datasets.drafting import Chooses
from condkit.datasets.examining import Examined, Examiner
from condkit.datasets.filters import FilterSettings
from condkit.datasets.in_order import map_in_order
from condkit.datasets.sources.base import Source, SourceEntry
from condkit.errors import ImageError
from condkit.sizing import SizePolicy


def chooser(
    settings: FilterSettings, source: Source, sizes: SizePolicy, workers: int
) -> Chooses | None:
    """What chooses among all inputs of a source; None where no filter needs them all.

    Args:
        settings: The filters.
        source: Where the inputs come from.
        sizes: What final sizes forbid.
        workers: Threads that look at the pictures.
    """
    examiner = Examiner(settings, sizes.too_small)
    if not examiner.is_needed:
        return None

    def examine(numbered: tuple[int, SourceEntry]) -> tuple[int, str, Examined] | None:
        number, entry = numbered
        try:
            found = examiner.examine(source.read(entry).image)
        except (ImageError, OSError):
            # It cannot be decoded: it takes part in nothing, and is rejected when its turn comes.
            return None
        return number, entry.relative, found

    def choose(entries: Iterable[tuple[int, SourceEntry]]) -> Iterator[tuple[int, str]]:
        found = map_in_order(examine, entries, workers=workers)
        return examiner.select(one for one in found if one is not None)

    return choose
