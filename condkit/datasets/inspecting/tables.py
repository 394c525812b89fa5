"""The figures of an inspection as titled tables: the same ones on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from condkit.datasets.inspecting.findings import (
    SHOWN_CAPTIONS,
    SHOWN_CLASSES,
    Copies,
    Inspection,
    MapFigures,
)
from condkit.datasets.inspecting.plots import number, sparkline
from condkit.datasets.inspecting.tallies import Spread

_STOP_WORDS = frozenset(
    {"a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "has", "in", "into", "is"}
    | {"it", "its", "of", "on", "or", "that", "the", "their", "there", "this", "to", "with"}
)
_SHOWN_WORDS = 24
_SHOWN_SIZES = 8
_SHOWN_REASONS = 20
_SPREAD = ("", "rows", "min", "5 %", "median", "95 %", "max", "mean", "spread")
_SHARES = ("share", "fraction", "covered")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a title."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def all_tables(found: Inspection) -> Iterator[Table]:
    """Everything there is to say, in the order in which it is read; empty tables left out."""
    yield Table("rows", ("split", "rows", "looked at"), tuple(_splits(found)))
    spreads = (
        _sizes_table(found),
        *_captions_tables(found),
        *(table for name, maps in found.maps.items() for table in _map_tables(name, maps)),
        _spread_table("scores of filters", found.scores),
        Table("copies", ("", "rows", "across splits", "examples"), tuple(_copies(found))),
        _rejections(found),
        Table("what decoding did", ("note", "rows"), _counted(found.notes.most_common(20))),
        Table("rows that cannot be read", ("row", "reason"), tuple(found.unreadable)),
    )
    yield from (table for table in spreads if table.rows)


def frequent_words(found: Inspection) -> tuple[tuple[str, int], ...]:
    """The words in most captions, without articles and the like."""
    frequent = found.captions.frequent
    words = frequent.most_common(_SHOWN_WORDS + len(_STOP_WORDS))
    return tuple(item for item in words if item[0] not in _STOP_WORDS)[:_SHOWN_WORDS]


def is_share(name: str) -> bool:
    """Whether a fact is a share from 0 to 1, by its name."""
    return name.endswith(_SHARES)


def _splits(found: Inspection) -> Iterator[tuple[str, ...]]:
    for name, total in found.chosen.total.items():
        yield name, f"{total:,}", f"{found.chosen.rows[name]:,}"


def _sizes_table(found: Inspection) -> Table:
    sizes = found.sizes
    spreads = {
        "short side, px": sizes.short,
        "width / height": sizes.aspect,
        "short side of the input, px": sizes.original_short,
        "megapixels of the input": sizes.original_megapixels,
    }
    table = _spread_table("sizes", spreads)
    counts = sizes.counts.most_common(_SHOWN_SIZES)
    more = len(sizes.counts.counts) - len(counts)
    rows = [(size, f"{count:,}", *[""] * 7) for size, count in counts]
    if more > 0:
        rows.append((f"{more:,} more sizes", *[""] * 8))
    return Table("sizes", table.columns, (*table.rows, *rows))


def _captions_tables(found: Inspection) -> Iterator[Table]:
    captions = found.captions
    lengths = {
        "characters": captions.characters,
        "words": captions.words,
        "captions of a row": captions.per_row,
    }
    yield _spread_table("captions", lengths)
    counts = (
        ("empty captions", captions.empty),
        ("rows whose caption comes more than once", captions.repeated_rows),
        ("different words", len(captions.frequent.counts)),
    )
    yield Table("captions, counted", ("", "count"), _counted(counts))
    yield Table("captioners", ("captioner", "rows"), _counted(captions.captioners.most_common(10)))
    words = frequent_words(found)
    yield Table("frequent words", ("word", "captions"), _counted(words))
    repeated = ((_short(text), count) for text, count in captions.repeated[:SHOWN_CAPTIONS])
    yield Table("repeated captions", ("caption", "rows"), _counted(tuple(repeated)))


def _map_tables(name: str, maps: MapFigures) -> Iterator[Table]:
    coverage = _spread_row("pixels that are not background", maps.coverage, unit="%")
    facts = (_spread_row(n, s, unit="%" * is_share(n)) for n, s in maps.facts.items())
    counts = (("empty (all background)", maps.empty), ("flat (one value)", maps.flat))
    counted = ((label, f"{count:,}", *[""] * 7) for label, count in counts)
    joints_each = _spread_row("body joints of a person (of 18)", maps.joints_each)
    figures = (row for rows in (coverage, counted, *facts, joints_each) for row in rows)
    yield Table(f"map {name}", _SPREAD, tuple(figures))
    classes = tuple(
        (label, f"{rows:,}", number(maps.class_shares[label].mean, "%"))
        for label, rows in maps.classes.most_common(SHOWN_CLASSES)
    )
    joints = tuple(
        (joint, f"{persons:,}", number(persons / maps.bodies, "%"))
        for joint, persons in maps.joints.most_common(len(maps.joints.counts))
    )
    yield Table(f"body joints of {name}", ("joint", "persons", "of all bodies"), joints)
    yield Table(f"classes of {name}", ("class", "rows", "mean share where it is"), classes)


def _copies(found: Inspection) -> Iterator[tuple[str, ...]]:
    kinds = (
        ("equal pixels", found.equal),
        (f"alike (within {found.near_bits} of 64 bits)", found.near),
    )
    for name, copies in kinds:
        yield name, f"{copies.rows:,}", f"{copies.across:,}", _examples(copies)


def _examples(copies: Copies) -> str:
    return "; ".join(" = ".join(group) for group in copies.examples[:3])


def _rejections(found: Inspection) -> Table:
    reasons = found.rejections.reasons.most_common(_SHOWN_REASONS)
    rows = [
        (stage, kind, f"{count:,}")
        for (stage, _, kind), count in ((reason.partition(": "), n) for reason, n in reasons)
    ]
    return Table("left out when it was made", ("stage", "reason", "inputs"), tuple(rows))


def _spread_table(title: str, spreads: dict[str, Spread]) -> Table:
    rows = (row for name, spread in spreads.items() for row in _spread_row(name, spread))
    return Table(title, _SPREAD, tuple(rows))


def _spread_row(name: str, spread: Spread, *, unit: str = "") -> Iterator[tuple[str, ...]]:
    if not spread.count:
        return
    quantiles = spread.quantiles()
    values = (
        spread.least,
        quantiles["p5"],
        quantiles["p50"],
        quantiles["p95"],
        spread.largest,
        spread.mean,
    )
    cells = (number(value, unit) for value in values)
    yield name, f"{spread.count:,}", *cells, sparkline(spread)


def _counted(
    items: tuple[tuple[str, int], ...] | list[tuple[str, int]],
) -> tuple[tuple[str, ...], ...]:
    return tuple((name, f"{count:,}") for name, count in items)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 100 else line[:99] + "…"
