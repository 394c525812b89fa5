"""Watching control during training: generate, detect again, score, always the same pairs.

Nothing of the training changes by it: weights, averages and random states are as before.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from condkit import atomic
from condkit.device import free_memory, is_out_of_memory
from condkit.trainer.base_model import BaseModel
from condkit.trainer.config import TrainConfig
from condkit.trainer.control_curve import Bounds, Point, set_in, steepest, stop_reason
from condkit.trainer.control_plot import control_svg
from condkit.trainer.control_scores import Hint, score_of
from condkit.trainer.data import Example, hint_from_map
from condkit.trainer.examples import ExampleMaker
from condkit.trainer.generation import Painter, Sampling, through_vae
from condkit.trainer.grid import picture_from_pixels
from condkit.trainer.learner import Learner
from condkit.trainer.loop import Judgement
from condkit.trainer.rows import PairedRows
from condkit.trainer.run_folder import RunFolder
from condkit.trainer.run_log import read_metrics
from condkit.trainer.sample import hint_padding
from condkit.types import ConditionSpec, MapPixels, RgbImage

logger = logging.getLogger(__name__)

SCORE = "control/score"
"""Name of the score in `metrics.jsonl` and the trackers."""

Redetector = Callable[[Sequence[RgbImage]], list[MapPixels]]
"""From pictures to the maps of the run's condition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlReport:
    """How control went in a run.

    Attributes:
        score: Of the last evaluation.
        share: How far that is from the floor (0) to the ceiling (1); None without room.
        set_in: The step at which control set in, or None.
        best: The step of the best score.
    """

    score: float
    share: float | None
    set_in: int | None
    best: int


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


class ControlWatch:
    """Keeps the course of a run's control score, and judges its checkpoints by it.

    Args:
        meter: Makes the meter; called once, by the process that writes.
        folder: The run.
        config: The settings.
        identity: What scores depend on beside the settings of `watch`, such as the base's hash.
    """

    def __init__(
        self,
        meter: Callable[[], ControlMeter],
        folder: RunFolder,
        config: TrainConfig,
        identity: Mapping[str, Any],
    ) -> None:
        self._make, self._folder, self._config = meter, folder, config
        self._identity = {**identity, "start_from": config.control.start_from}
        self._meter: ControlMeter | None = None
        self._bounds: Bounds | None = None
        self.curve: list[Point] = []

    def begin(self, learner: Learner, start: int) -> Judgement | None:
        """Measure floors and ceiling where they are not known, and take up the course so far.

        Args:
            learner: As it is at `start`.
            start: The step the run goes on from.

        Returns:
            The judgement of `start` where it was not written down (the run was killed in between)
            or ends the run; else None.

        Raises:
            CondkitError: if the condition cannot be detected; nothing has been trained then.
        """
        self._meter = self._make()
        known = self._known(start)
        if known is None:
            with unchanged_random_state():
                self._bounds = self._meter.bounds()
                score = self._bounds.floor_none
                # Zero convolutions: a fresh ControlNet changes nothing yet.
                if start > 0 or self._config.control.start_from is not None:
                    score = self._meter.control(learner.control_net)
            known = Point(start, score)
        self.curve = [known, *self._logged(known.step, start)]
        self.write()
        if not self._reference.has_room:
            logger.warning(
                "watch: real pictures score %.3f, no more than the floor of %.3f, so that the "
                "score cannot show control; is this the detector that made the maps?",
                self._reference.ceiling,
                self._reference.floor,
            )
        if self.curve[-1].step == start:
            judgement = self._judgement() if len(self.curve) > 1 else None
            return judgement if judgement and judgement.stop else None
        return self(learner, start)

    def __call__(self, learner: Learner, step: int) -> Judgement | None:
        """The judgement of a step, where it is due; None too where the memory does not suffice."""
        if not self._is_due(step) or self._meter is None:
            return None
        try:
            with unchanged_random_state():
                score = self._meter.control(learner.control_net)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            logger.warning("step %d: no memory to measure control; training goes on", step)
            free_memory()
            return None
        known = set_in(self.curve, self._reference)
        self.curve.append(Point(step, score))
        self.write()
        if known is None and (found := set_in(self.curve, self._reference)) is not None:
            logger.info("step %d: control has set in (score %.3f)", found, score)
        return self._judgement()

    def report(self) -> ControlReport | None:
        """How it went, after the first evaluation."""
        if len(self.curve) < 2:
            return None
        last, share = self.curve[-1], self._reference.share(self.curve[-1].score)
        return ControlReport(
            score=last.score,
            share=share if self._reference.has_room else None,
            set_in=set_in(self.curve, self._reference),
            best=max(self.curve[1:], key=lambda point: point.score).step,
        )

    def write(self) -> None:
        """Write `control.json` and `control.svg`."""
        meter, bounds = self._meter, self._reference
        report, rise = self.report(), steepest(self.curve)
        values = {
            "condition": self._config.condition,
            "score": meter.score_name if meter else "",
            "measured": self._key(),
            "bounds": asdict(bounds),
            "curve": [point._asdict() for point in self.curve],
            "steepest": rise._asdict() if rise else None,
            "report": asdict(report) if report else None,
        }
        atomic.write_json(self._folder.control, values)
        title = f"{self._config.condition}: {values['score']} of what was asked for"
        atomic.write_text(self._folder.control_plot, control_svg(self.curve, bounds, title))

    @property
    def _reference(self) -> Bounds:
        if self._bounds is None:
            raise RuntimeError("begin() comes first")
        return self._bounds

    def _is_due(self, step: int) -> bool:
        return step % self._config.watch.every == 0 or step == self._config.run.steps

    def _judgement(self) -> Judgement:
        point, bounds = self.curve[-1], self._reference
        figures = {SCORE: point.score}
        figures |= {f"control/{name}": value for name, value in asdict(bounds).items()}
        if bounds.has_room:
            figures["control/share"] = bounds.share(point.score)
        found = set_in(self.curve, bounds)
        if found is not None:
            figures["control/set_in"] = found
        is_last = point.step == self._config.run.steps
        stop = None if is_last else stop_reason(self.curve, bounds, self._config.stop)
        return Judgement(score=point.score, figures=figures, stop=stop)

    def _key(self) -> dict[str, Any]:
        """What scores depend on but the ControlNet: with another one they cannot be compared."""
        watch, meter = self._config.watch, self._meter
        return {
            **self._identity,
            "keys": [example.key for example in meter.examples] if meter else [],
            "steps": watch.steps,
            "guidance": watch.guidance,
            "seed": watch.seed,
        }

    def _known(self, start: int) -> Point | None:
        """The curve's first point, with the bounds, where the folder holds them for this set."""
        try:
            values = json.loads(self._folder.control.read_text(encoding="utf-8"))
            first = Point(**values["curve"][0])
            if values["measured"] != self._key() or first.step > start:
                logger.info("watch: measured anew from step %d: other pairs or settings", start)
                return None
            self._bounds = Bounds(**values["bounds"])
            return first
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            logger.warning("cannot read %s (%s); measured anew", self._folder.control, error)
            return None

    def _logged(self, first: int, start: int) -> Iterator[Point]:
        """The scores of `metrics.jsonl` that lie on the grid (a shorter run's end does not)."""
        for entry in read_metrics(self._folder):
            step = int(entry["step"])
            if first < step <= start and self._is_due(step) and SCORE in entry:
                yield Point(step, float(entry[SCORE]))


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
