"""One optimizer step, and the watch over its losses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from condkit.errors import TrainingError
from condkit.trainer import noise
from condkit.trainer.base_model import BaseModel
from condkit.trainer.config import TrainConfig
from condkit.trainer.data import Example
from condkit.trainer.latents import LatentEncoder
from condkit.trainer.loss import min_snr_weights, prediction, sample_losses, target

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one optimizer step left on the device; reading it would make the device wait.

    Attributes:
        step: Optimizer steps done, this one included.
        keys: The samples' keys.
        losses: (len(keys),) float32.
        gradient_norm: () float32, before clipping.
    """

    step: int
    keys: tuple[str, ...]
    losses: torch.Tensor
    gradient_norm: torch.Tensor


class OptimizerStep:
    """Forward, backward and update.

    Args:
        base: The frozen model.
        control_net: diffusers.ControlNetModel in training.
        optimizer: The optimizer of its parameters.
        encoder: Pictures to latents.
        config: The run's settings.
    """

    def __init__(
        self,
        base: BaseModel,
        control_net: Any,  # noqa: ANN401
        optimizer: Any,  # noqa: ANN401
        encoder: LatentEncoder,
        config: TrainConfig,
    ) -> None:
        self._base = base
        self._control_net = control_net
        self._optimizer = optimizer
        self._encoder = encoder
        self._config = config
        self._parameters = [p for p in control_net.parameters() if p.requires_grad]

    def __call__(
        self, step: int, micro_batches: Iterable[Sequence[Example]], rate: float
    ) -> StepResult:
        """Train on `optim.accumulation` micro-batches.

        Args:
            step: Optimizer steps done when this one is through.
            micro_batches: The batches, all of one length.
            rate: The learning rate.
        """
        import torch

        optim = self._config.optim
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        keys: list[str] = []
        losses: list[torch.Tensor] = []
        for examples in micro_batches:
            per_sample = self._losses(examples)
            (per_sample.mean() / optim.accumulation).backward()  # type: ignore[no-untyped-call]
            losses.append(per_sample.detach())
            keys += [example.key for example in examples]
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, optim.clip_norm or math.inf)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return StepResult(step, tuple(keys), torch.cat(losses), norm.detach())

    def _losses(self, examples: Sequence[Example]) -> torch.Tensor:
        import torch

        base, seed = self._base, self._config.run.seed
        device = base.compute.device
        latents = self._encoder(examples, self._normal("posterior", examples))
        drawn = self._noise(examples).to(device)
        count = int(base.scheduler.config.num_train_timesteps)
        timesteps = torch.tensor(
            [noise.timestep(seed, example.key, example.use, count) for example in examples],
            device=device,
        )
        noisy = base.scheduler.add_noise(latents, drawn, timesteps)
        with torch.no_grad(), base.compute.autocast():
            text = base.encode_text([example.caption for example in examples])
        hint = torch.from_numpy(np.stack([example.hint for example in examples])).to(device)
        sizes = torch.tensor([example.time_ids for example in examples], device=device)
        predicted = prediction(base, self._control_net, noisy, timesteps, text, hint, sizes)
        losses = sample_losses(predicted, target(base, latents, drawn, timesteps))
        gamma = self._config.loss.min_snr_gamma
        return losses if gamma is None else losses * min_snr_weights(base, timesteps, gamma)

    def _noise(self, examples: Sequence[Example]) -> torch.Tensor:
        """(B, C, h, w): what is added to the latents."""
        import torch

        drawn = self._normal("noise", examples)
        offset = self._config.loss.noise_offset
        if offset == 0:
            return drawn
        channels = drawn.shape[1]
        shifts = [
            noise.normal(self._config.run.seed, "offset", e.key, e.use, (channels, 1, 1))
            for e in examples
        ]
        return drawn + offset * torch.from_numpy(np.stack(shifts))

    def _normal(self, purpose: str, examples: Sequence[Example]) -> torch.Tensor:
        """(B, C, h, w) standard normal numbers, one keyed draw per example."""
        import torch

        stride, channels = self._base.vae_stride, int(self._base.vae.config.latent_channels)
        seed = self._config.run.seed
        draws = [
            noise.normal(
                seed,
                purpose,
                example.key,
                example.use,
                (channels, example.pixels.shape[1] // stride, example.pixels.shape[2] // stride),
            )
            for example in examples
        ]
        return torch.from_numpy(np.stack(draws))


class LossWatch:
    """Collects step results and reads them now and then, all at once.

    So the device never waits within a step, and a bad loss is still found before anything is saved.
    """

    def __init__(self) -> None:
        self._results: list[StepResult] = []

    def add(self, result: StepResult) -> None:
        """Remember a step's result without reading it."""
        self._results.append(result)

    def mean(self) -> tuple[float, float]:
        """Mean loss and mean gradient norm since the last call.

        Raises:
            TrainingError: if a loss or a gradient was not finite; it names the step and the
                samples.
        """
        import torch

        results, self._results = self._results, []
        losses = torch.cat([result.losses for result in results]).cpu()
        norms = torch.stack([result.gradient_norm for result in results]).cpu()
        if not (bool(losses.isfinite().all()) and bool(norms.isfinite().all())):
            raise TrainingError(_describe_bad(results))
        return float(losses.mean()), float(norms.mean())


def _describe_bad(results: Sequence[StepResult]) -> str:
    """Name the first bad step: what comes after it only inherits the damage."""
    for result in results:
        finite = result.losses.isfinite().tolist()
        bad = [key for key, good in zip(result.keys, finite, strict=True) if not good]
        if bad or not bool(result.gradient_norm.isfinite()):
            what = "the loss" if bad else "the gradient"
            keys = ", ".join(bad or result.keys)
            return (
                f"step {result.step}: {what} is not finite; the samples are {keys}. Nothing was "
                "saved since. Look at these rows, or lower optim.lr, and go on with --resume"
            )
    raise AssertionError("called without a bad result")
