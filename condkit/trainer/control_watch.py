"""Watching control during training: measuring it, keeping its course, judging checkpoints.

Nothing of the training changes by it: weights, averages and random states are as before.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from condkit import atomic
from condkit.device import free_memory, is_out_of_memory
from condkit.trainer.config import TrainConfig
from condkit.trainer.control_curve import Bounds, Point, set_in, steepest, stop_reason
from condkit.trainer.control_meter import ControlMeter, unchanged_random_state
from condkit.trainer.control_plot import control_svg
from condkit.trainer.learner import Learner
from condkit.trainer.loop import Judgement
from condkit.trainer.run_folder import RunFolder
from condkit.trainer.run_log import read_metrics

logger = logging.getLogger(__name__)

SCORE = "control/score"
"""Name of the score in `metrics.jsonl` and the trackers."""


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
        title = f"Control by {self._config.condition}: {values['score']}"
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
