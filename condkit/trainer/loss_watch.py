"""The losses of a run, which stay on the device until a log line is due."""

from __future__ import annotations

from collections.abc import Sequence

from condkit.errors import TrainingError
from condkit.trainer.distributed import Ranks
from condkit.trainer.step import StepResult


class LossWatch:
    """Collects step results and reads them now and then, all at once.

    So the device never waits within a step, and a bad loss is still found before anything is saved.
    """

    def __init__(self) -> None:
        self._results: list[StepResult] = []

    def add(self, result: StepResult) -> None:
        """Remember a step's result without reading it."""
        self._results.append(result)

    def mean(self, ranks: Ranks | None = None) -> tuple[float, float]:
        """Mean loss, over all ranks, and mean gradient norm since the last call.

        Raises:
            TrainingError: if a loss or a gradient was not finite; it names the step and the
                samples.
        """
        import torch

        ranks = ranks or Ranks()
        results, self._results = self._results, []
        losses = torch.cat([result.losses for result in results]).cpu()
        norms = torch.stack([result.gradient_norm for result in results]).cpu()
        good = bool(losses.isfinite().all()) and bool(norms.isfinite().all())
        seen = ranks.gather((float(losses.mean()), None if good else _describe_bad(results)))
        problems = [problem for _, problem in seen if problem is not None]
        if problems:
            # A rank with a bad loss knows its samples; a bad gradient is everybody's.
            raise TrainingError(min(problems, key=lambda text: _GRADIENT in text))
        return sum(mean for mean, _ in seen) / len(seen), float(norms.mean())


_GRADIENT = "the gradient is not finite"


def _describe_bad(results: Sequence[StepResult]) -> str:
    """Name the first bad step: what comes after it only inherits the damage."""
    for result in results:
        finite = result.losses.isfinite().tolist()
        bad = [key for key, good in zip(result.keys, finite, strict=True) if not good]
        if bad or not bool(result.gradient_norm.isfinite()):
            what = "the loss is not finite" if bad else _GRADIENT
            keys = ", ".join(bad or result.keys)
            return (
                f"step {result.step}: {what}; the samples are {keys}. Nothing was "
                "saved since. Look at these rows, or lower optim.lr, and go on with --resume"
            )
    raise AssertionError("called without a bad result")
