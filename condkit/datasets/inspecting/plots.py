"""Histograms as the numbers of an SVG, for the page."""

from __future__ import annotations

from dataclasses import dataclass

from condkit.datasets.inspecting.tallies import Spread

BINS = 24
WIDTH, HEIGHT = 300, 110
_TOP, _BOTTOM = 8, 18


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a histogram, in the units of its drawing."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """A drawing of `WIDTH` x `HEIGHT`, the base line at `base`.

    Attributes:
        title: What is counted.
        low: The text at the left end.
        high: The text at the right end.
        note: Mean and median, or the one value.
        bars: From the left; none where all values are alike.
        base: Where the bars stand.
        exact: Whether every value is in it, not only a sample.
    """

    title: str
    low: str
    high: str
    note: str
    bars: tuple[Bar, ...]
    base: int = HEIGHT - _BOTTOM
    exact: bool = True


def histogram(title: str, spread: Spread, *, unit: str = "") -> Histogram | None:
    """Draw how a number is spread; None where there are no values.

    Args:
        title: What is counted.
        spread: The values.
        unit: Behind each number: "px", "%" for shares from 0 to 1.
    """
    if not spread.count:
        return None
    low, high = number(spread.least, unit), number(spread.largest, unit)
    if spread.least == spread.largest:
        return Histogram(title=title, low=low, high=high, note=f"all {low}", bars=())
    counts, edges = spread.histogram(BINS)
    step, most = WIDTH / len(counts), max(counts)
    room = HEIGHT - _TOP - _BOTTOM
    bars = []
    for place, count in enumerate(counts):
        height = max(1.0, room * count / most) if count else 0.0
        ends = f"{number(edges[place], unit)} to {number(edges[place + 1], unit)}"
        top, width = HEIGHT - _BOTTOM - height, max(1.0, step - 1)
        bars.append(Bar(place * step, top, width, height, f"{ends}: {count:,}"))
    median = spread.quantiles()["p50"]
    return Histogram(
        title=title,
        low=low,
        high=high,
        note=f"mean {number(spread.mean, unit)}, median {number(median, unit)}",
        bars=tuple(bars),
        exact=spread.is_exact,
    )


def sparkline(spread: Spread, bins: int = 12) -> str:
    """A histogram of one line of text, such as "▁▂▅█▃▁"; empty without values."""
    counts, _ = spread.histogram(bins)
    blocks, most = " ▁▂▃▄▅▆▇█", max(counts, default=0)
    return "".join(blocks[-(-count * 8 // most)] for count in counts)


def number(value: float, unit: str = "") -> str:
    """A number for people: three significant digits, thousands apart, shares in per cent."""
    if unit == "%":
        value *= 100
    is_whole = value == round(value)
    text = f"{value:,.0f}" if is_whole or abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}" if unit else text
