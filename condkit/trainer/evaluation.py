"""The result of an evaluation: figures, scores per pair, and pictures to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from condkit.types import MapPixels, RgbImage


@dataclass(frozen=True, slots=True, kw_only=True)
class PairScores:
    """Edge F1 of one pair, each against its own condition map.

    Attributes:
        key: The row's key.
        control: Generated with the ControlNet.
        no_control: Generated from the same noise and caption without it.
        shuffled: Generated with the ControlNet, but from another pair's map.
        ceiling: The real picture after the base's VAE.
        real: The real picture itself.
    """

    key: str
    control: float
    no_control: float
    shuffled: float
    ceiling: float
    real: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPair:
    """One pair's pictures.

    Attributes:
        key: The row's key.
        caption: The caption that all pictures were generated from.
        condition: The condition map.
        real: The real picture.
        controlled: Generated with the ControlNet.
        uncontrolled: Generated without it.
        redetected: The condition as detected on `controlled`.
        score: Edge F1 of `redetected` against `condition`.
    """

    key: str
    caption: str
    condition: MapPixels
    real: RgbImage
    controlled: RgbImage
    uncontrolled: RgbImage
    redetected: MapPixels
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How well a ControlNet follows its condition.

    Attributes:
        condition: The condition's name.
        split: Which rows were measured.
        steps: DDIM steps.
        guidance: Classifier-free guidance scale.
        seed: Seed of the first pair's noise.
        scores: Per pair.
        shown: Pictures of the first pairs.
    """

    condition: str
    split: str
    steps: int
    guidance: float
    seed: int
    scores: Sequence[PairScores]
    shown: Sequence[ShownPair]

    @property
    def control(self) -> float:
        """Mean edge F1 with the ControlNet."""
        return self._mean("control")

    @property
    def no_control(self) -> float:
        """Mean edge F1 without it: a floor."""
        return self._mean("no_control")

    @property
    def shuffled(self) -> float:
        """Mean edge F1 when another pair's map was given: a floor."""
        return self._mean("shuffled")

    @property
    def ceiling(self) -> float:
        """Mean edge F1 of the real pictures after the VAE: no generated picture can do better."""
        return self._mean("ceiling")

    @property
    def real(self) -> float:
        """Mean edge F1 of the real pictures themselves; 1 where detection repeats exactly."""
        return self._mean("real")

    @property
    def times_floor(self) -> float:
        """`control` over `no_control`; infinite where the floor is zero."""
        return self.control / self.no_control if self.no_control > 0 else float("inf")

    @property
    def share_of_ceiling(self) -> float:
        """`control` over `ceiling`; zero where the ceiling is zero."""
        return self.control / self.ceiling if self.ceiling > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Figures and scores as JSON values; an infinite ratio is null."""
        ratio = self.times_floor
        return {
            "condition": self.condition,
            "split": self.split,
            "pairs": len(self.scores),
            "sampling": {"steps": self.steps, "guidance": self.guidance, "seed": self.seed},
            "edge_f1": {
                "control": self.control,
                "no_control": self.no_control,
                "shuffled": self.shuffled,
                "ceiling": self.ceiling,
                "real": self.real,
            },
            "times_floor": ratio if np.isfinite(ratio) else None,
            "share_of_ceiling": self.share_of_ceiling,
            "scores": [
                {name: getattr(scores, name) for name in PairScores.__slots__}
                for scores in self.scores
            ],
        }

    def rows(self) -> list[tuple[str, str]]:
        """The figures for a table: name, value."""
        return [
            ("with control", f"{self.control:.3f}"),
            ("floor: no control", f"{self.no_control:.3f}"),
            ("floor: shuffled condition", f"{self.shuffled:.3f}"),
            ("ceiling: real images through the VAE", f"{self.ceiling:.3f}"),
            ("real images", f"{self.real:.3f}"),
            ("times the no-control floor", f"{self.times_floor:.1f}"),
            ("share of the ceiling", f"{self.share_of_ceiling:.3f}"),
            ("pairs", str(len(self.scores))),
        ]

    def _mean(self, name: str) -> float:
        return float(np.mean([getattr(scores, name) for scores in self.scores]))
