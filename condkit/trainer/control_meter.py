"""Scoring a ControlNet during training: generate, detect again, compare, always the same pairs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from condkit.trainer.base_model import BaseModel
from condkit.trainer.config import TrainConfig
from condkit.trainer.control_curve import Bounds
from condkit.trainer.control_scores import Hint, score_of
from condkit.trainer.data import Example, hint_from_map
from condkit.trainer.examples import ExampleMaker
from condkit.trainer.generation import Painter, Sampling, through_vae
from condkit.trainer.grid import picture_from_pixels
from condkit.trainer.rows import PairedRows
from condkit.trainer.sample import hint_padding
from condkit.types import ConditionSpec, MapPixels, RgbImage

Redetector = Callable[[Sequence[RgbImage]], list[MapPixels]]
"""From pictures to the maps of the run's condition."""


class ControlMeter:
    """Scores a ControlNet on a fixed set of pairs.

    Args:
        base: The frozen model.
        rows: The split that the pairs come from; its first rows are taken.
        spec: The condition.
        config: The run's settings; pairs take the central crop, unflipped, with captions.
        detect: Finds the condition on pictures.
    """

    def __init__(
        self,
        base: BaseModel,
        rows: PairedRows,
        spec: ConditionSpec,
        config: TrainConfig,
        detect: Redetector,
    ) -> None:
        still = replace(config.data, crop="center", flip=0.0, caption_dropout=0.0)
        make = ExampleMaker(spec, still, 0, base.unit)
        watch = config.watch
        self.examples = [make(rows[i], 0) for i in range(min(watch.pairs, len(rows)))]
        self._base, self._spec, self._detect = base, spec, detect
        self._sampling = Sampling(steps=watch.steps, guidance=watch.guidance)
        self._seed, self._at_once = watch.seed, config.data.batch_size
        self._score = score_of(spec)

    @property
    def score_name(self) -> str:
        """What the score is called."""
        return self._score.name

    def control(self, control_net: Any) -> float:  # noqa: ANN401 - diffusers.ControlNetModel
        """The mean score with a ControlNet."""
        was_training = control_net.training
        control_net.eval()
        try:
            return self._mean(self._paint(Painter(self._base, control_net)))
        finally:
            control_net.train(was_training)

    def bounds(self) -> Bounds:
        """Floors and ceiling."""
        real = self._by_size(
            lambda places: through_vae(self._base, [self._picture(i) for i in places])
        )
        others = self._others()
        return Bounds(
            floor_none=self._mean(self._paint(Painter(self._base, None))),
            floor_shuffled=self._mean([real[i] for i in others]),
            ceiling=self._mean(real),
        )

    def _picture(self, i: int) -> RgbImage:
        return picture_from_pixels(self.examples[i].picture)

    def _groups(self) -> list[list[int]]:
        """The pairs of each picture size."""
        groups: dict[tuple[int, int], list[int]] = {}
        for i, example in enumerate(self.examples):
            groups.setdefault(example.size_hw, []).append(i)
        return list(groups.values())

    def _others(self) -> list[int]:
        """For each pair the next one of its size; itself where it is alone."""
        found = list(range(len(self.examples)))
        for group in self._groups():
            for place, other in zip(group, group[1:] + group[:1], strict=True):
                found[place] = other
        return found

    def _by_size(self, make: Callable[[list[int]], list[RgbImage]]) -> list[RgbImage]:
        """One picture per pair, made of as many at once as training takes."""
        pictures: dict[int, RgbImage] = {}
        for group in self._groups():
            for first in range(0, len(group), self._at_once):
                places = group[first : first + self._at_once]
                pictures |= dict(zip(places, make(places), strict=True))
        return [pictures[i] for i in range(len(self.examples))]

    def _paint(self, painter: Painter) -> list[RgbImage]:
        def make(places: list[int]) -> list[RgbImage]:
            chosen = [self.examples[i] for i in places]
            return painter(
                [example.caption for example in chosen],
                [example.hint for example in chosen],
                [self._seed + i for i in places],
                self._sampling,
                padding=hint_padding(self._spec),
            )

        return self._by_size(make)

    def _mean(self, pictures: Sequence[RgbImage]) -> float:
        maps = self._detect(pictures) if self._score.detects else pictures
        return float(np.mean([self._of(e, m) for e, m in zip(self.examples, maps, strict=True)]))

    def _of(self, example: Example, found: MapPixels) -> float:
        hint: Hint = hint_from_map(found)
        return self._score.measure(hint, example.hint)


@contextmanager
def unchanged_random_state() -> Iterator[None]:
    """Puts Python's, NumPy's and torch's random states back at the end."""
    import torch

    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002
