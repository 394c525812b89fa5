"""The control score of a run as a drawing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from condkit.trainer.control_curve import Bounds, Point, set_in

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 168, 56, 48
_LABEL = 14
"""Least distance of two labels in pixels."""


def control_svg(curve: Sequence[Point], bounds: Bounds, title: str) -> str:
    """Scores over steps, between dashed floors and ceiling; a line where control sets in.

    Args:
        curve: At least one point.
        bounds: Floors and ceiling.
        title: Stands above.
    """
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            f'width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="12">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
            _text(_LEFT, 22, title, size=14),
            *_Drawing(curve, bounds).lines(),
            "</svg>",
            "",
        ]
    )


class _Drawing:
    def __init__(self, curve: Sequence[Point], bounds: Bounds) -> None:
        self._curve, self._bounds = curve, bounds
        levels = [point.score for point in curve]
        levels += [bounds.floor_none, bounds.floor_shuffled, bounds.ceiling]
        self._low, self._high = min(0.0, *levels), max(1.0, *levels)
        self._first = curve[0].step
        self._last = max(curve[-1].step, self._first + 1)

    def x(self, step: float) -> float:
        share = (step - self._first) / (self._last - self._first)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, score: float) -> float:
        share = (score - self._low) / (self._high - self._low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def lines(self) -> Iterator[str]:
        yield from self._axes()
        yield from self._levels()
        yield from self._set_in()
        points = " ".join(f"{self.x(p.step):.1f},{self.y(p.score):.1f}" for p in self._curve)
        yield f'<polyline points="{points}" fill="none" stroke="#1f5fbf" stroke-width="2"/>'
        for point in self._curve:
            x, y = self.x(point.step), self.y(point.score)
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#1f5fbf"/>'

    def _axes(self) -> Iterator[str]:
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        for tick in range(6):
            score = self._low + tick * (self._high - self._low) / 5
            yield _line(_LEFT, self.y(score), right, self.y(score), "#e5e5e5")
            yield _text(_LEFT - 8, self.y(score) + 4, f"{score:.1f}", anchor="end")
        for step in sorted({self._first + (self._last - self._first) * i // 5 for i in range(6)}):
            yield _text(self.x(step), bottom + 18, str(step), anchor="middle")
        yield _line(_LEFT, bottom, right, bottom, "#555")
        yield _text((_LEFT + right) / 2, bottom + 38, "optimizer steps", anchor="middle")

    def _levels(self) -> Iterator[str]:
        """Dashed lines with their names at the right, moved apart where they are close."""
        bounds, right = self._bounds, _WIDTH - _RIGHT
        named = [
            (bounds.ceiling, "ceiling: real pictures", "#2a7f3f"),
            (bounds.floor_none, "floor: no control", "#b04a2f"),
            (bounds.floor_shuffled, "floor: other map", "#8a6d1f"),
        ]
        above = -float(_LABEL)
        for score, name, colour in sorted(named, reverse=True):
            place = max(self.y(score) + 4, above + _LABEL)
            yield _line(_LEFT, self.y(score), right, self.y(score), colour, dashed=True)
            yield _text(right + 6, place, f"{name} {score:.2f}", colour=colour)
            above = place

    def _set_in(self) -> Iterator[str]:
        step = set_in(self._curve, self._bounds)
        if step is None:
            return
        x, right_half = self.x(step), self.x(step) > (_LEFT + _WIDTH - _RIGHT) / 2
        yield _line(x, _TOP, x, _HEIGHT - _BOTTOM, "#777", dashed=True)
        text = f"control sets in at step {step}"
        beside = (x - 5, "end") if right_half else (x + 5, "start")
        yield _text(beside[0], _TOP - 4, text, anchor=beside[1], colour="#555")


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dash}/>'
    )


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#222", size: int = 12
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" '
        f'font-size="{size}">{escape(text)}</text>'
    )
