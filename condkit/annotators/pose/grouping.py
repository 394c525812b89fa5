"""Persons from connected joints: CMU's greedy assembly, limb by limb."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from condkit.annotators.pose.affinity import GROUPED_LIMBS, Connections
from condkit.annotators.pose.peaks import Peaks
from condkit.predictions import BODY_JOINTS

_FEWEST_JOINTS = 4
_LEAST_MEAN = 0.4
# The last two pairs, shoulder to ear, may complete a person but never begin one.
_BEGINNERS = 17


@dataclass(slots=True)
class _Group:
    """A person in the making: joint to peak, the sum of all scores, and how often one was set."""

    peaks: dict[int, int] = field(default_factory=dict)
    score: float = 0.0
    count: int = 0


def assemble(
    peaks: Peaks, connections: Connections, images: int
) -> list[list[NDArray[np.float32]]]:
    """The persons of each image of a batch, the surest first.

    Args:
        peaks: All candidates.
        connections: Which of them may belong together.
        images: How many images the batch has.

    Returns:
        For each image, (18, 3) float32 x, y, score of each person; 0, 0, 0 where a joint is not
        found. Persons have at least 4 joints and a mean score of at least 0.4.

    Source: Z. Cao et al., CVPR 2017, as in CMU's parser for 18 joints.
    """
    groups: list[list[_Group]] = [[] for _ in range(images)]
    used: set[tuple[int, int, int]] = set()
    score = peaks.score.tolist()
    image_of = peaks.place[:, 0].tolist()
    for limb, (a, b), value in zip(
        connections.limb.tolist(),
        connections.ends.tolist(),
        connections.score.tolist(),
        strict=True,
    ):
        # Within one limb the surest pairs come first, and each joint is in one pair only.
        if (limb, 0, a) in used or (limb, 1, b) in used:
            continue
        used |= {(limb, 0, a), (limb, 1, b)}
        _join(groups[image_of[a]], limb, a, b, score, value)
    return [[_points(group, peaks) for group in _people(found)] for found in groups]


def _join(
    groups: list[_Group], limb: int, a: int, b: int, score: list[float], value: float
) -> None:
    """Add one limb: to the person that has one of its joints, or to a new one."""
    start, end = GROUPED_LIMBS[limb]
    having = [g for g in groups if g.peaks.get(start) == a or g.peaks.get(end) == b]
    if not having:
        if limb < _BEGINNERS:
            groups.append(_Group({start: a, end: b}, score[a] + score[b] + value, 2))
        return
    first = having[0]
    if len(having) > 1 and not first.peaks.keys() & having[1].peaks.keys():
        first.peaks |= having[1].peaks
        first.score += having[1].score + value
        first.count += having[1].count
        groups.remove(having[1])
    elif len(having) > 1 or first.peaks.get(end) != b:
        first.peaks[end] = b
        first.score += score[b] + value
        first.count += 1


def _people(groups: list[_Group]) -> list[_Group]:
    kept = [
        group
        for group in groups
        if group.count >= _FEWEST_JOINTS and group.score / group.count >= _LEAST_MEAN
    ]
    return sorted(kept, key=lambda group: -group.score / group.count)


def _points(group: _Group, peaks: Peaks) -> NDArray[np.float32]:
    points = np.zeros((BODY_JOINTS, 3), np.float32)
    for joint, peak in group.peaks.items():
        points[joint] = (*peaks.place[peak, :1:-1], peaks.score[peak])
    return points
