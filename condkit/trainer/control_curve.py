"""The course of a control score: when control sets in, and when a run has enough of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from condkit.trainer.config import StopConfig

SET_IN_SHARE = 0.5
"""Control has set in at this share of the way from the floor to the ceiling."""

_ROOM = 1e-6


class Point(NamedTuple):
    """A score at a step."""

    step: int
    score: float


class Rise(NamedTuple):
    """How far the score rose between two neighbouring evaluations."""

    before: int
    after: int
    rise: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What scores are measured against; measured once and kept.

    Attributes:
        floor_none: Generated from the same captions and noise without a ControlNet.
        floor_shuffled: The real picture of another pair, against this pair's condition: what
            following the wrong map to perfection would give.
        ceiling: The real pictures after the base's VAE.
    """

    floor_none: float
    floor_shuffled: float
    ceiling: float

    @property
    def floor(self) -> float:
        """The higher of both floors."""
        return max(self.floor_none, self.floor_shuffled)

    @property
    def has_room(self) -> bool:
        """Whether the ceiling is above the floor; otherwise nothing can be told from a score."""
        return self.ceiling - self.floor > _ROOM

    def share(self, score: float) -> float:
        """How far a score is on the way from the floor (0) to the ceiling (1); NaN without room."""
        return (score - self.floor) / (self.ceiling - self.floor) if self.has_room else math.nan


def set_in(curve: Sequence[Point], bounds: Bounds) -> int | None:
    """The step of the first evaluation at which control is there after it was not.

    There is `SET_IN_SHARE` of the way from the floor to the ceiling, or more. A curve that was
    there from its first point on has no such step, nor has one without room.

    Args:
        curve: By step; the first point is the score that the run began with.
        bounds: Floors and ceiling.
    """
    for before, point in pairwise(curve):
        if bounds.share(before.score) < SET_IN_SHARE <= bounds.share(point.score):
            return point.step
    return None


def is_there(curve: Sequence[Point], bounds: Bounds) -> bool:
    """Whether control was there at any point."""
    return any(bounds.share(point.score) >= SET_IN_SHARE for point in curve)


def steepest(curve: Sequence[Point]) -> Rise | None:
    """The neighbours between which the score rose most per step; the first of equals, or None."""
    best, speed = None, 0.0
    for before, after in pairwise(curve):
        rise = after.score - before.score
        if rise / (after.step - before.step) > speed:
            best, speed = (
                Rise(before.step, after.step, rise),
                rise / (after.step - before.step),
            )
    return best


def without_improvement(curve: Sequence[Point]) -> int:
    """Evaluations since the one with the best score, the first of equals."""
    if not curve:
        return 0
    scores = [point.score for point in curve]
    return len(scores) - 1 - scores.index(max(scores))


def stop_reason(curve: Sequence[Point], bounds: Bounds, stop: StopConfig) -> str | None:
    """Why a run should end after the last point of its curve, or None.

    The plateau before control sets in ends no run: control comes suddenly, after many evaluations
    at the floor.
    """
    if len(curve) < 2:
        return None
    score, wanted, patience = curve[-1].score, stop.control_score, stop.plateau
    if wanted is not None and score >= wanted:
        return f"the control score is {score:.3f} (stop.control_score = {wanted:g})"
    if patience is None or not is_there(curve, bounds):
        return None
    stale = without_improvement(curve)
    if stale < patience:
        return None
    best = max(curve, key=lambda point: point.score)
    return (
        f"the control score has not risen in {stale} evaluations (stop.plateau = {patience}); "
        f"the best was {best.score:.3f} at step {best.step}"
    )
