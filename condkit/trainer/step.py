"""One optimizer step, and the watch over its losses.

Nothing in a step reads from the device, so the device never waits for the host.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from condkit.device import free_memory, is_out_of_memory
from condkit.errors import DeviceMemoryError, TrainingError
from condkit.trainer import noise
from condkit.trainer.base_model import BaseModel
from condkit.trainer.config import TrainConfig
from condkit.trainer.data import Example
from condkit.trainer.distributed import Ranks
from condkit.trainer.latents import LatentEncoder
from condkit.trainer.loss import min_snr_weights, prediction, sample_losses, target

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_COMPILED_SIZES = 64
"""Picture sizes that may be compiled in a run; bucket tables have fewer."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one optimizer step left on the device; reading it would make the device wait.

    Attributes:
        step: Optimizer steps done, this one included.
        keys: The samples' keys, of this rank.
        losses: (len(keys),) float32.
        gradient_norm: () float32, before clipping.
        latents_hw: Height and width of each sample's latents.
    """

    step: int
    keys: tuple[str, ...]
    losses: torch.Tensor
    gradient_norm: torch.Tensor
    latents_hw: tuple[tuple[int, int], ...]


class OptimizerStep:
    """Forward, backward and update; a step that does not fit into memory is done in smaller parts.

    Args:
        base: The frozen model.
        control_net: diffusers.ControlNetModel in training.
        optimizer: The optimizer of everything that is trained; groups may be added to it. A
            group's `lr_scale` is a factor on the rate.
        encoder: Pictures to latents.
        config: The run's settings.
        ranks: The other processes, if there are any.
    """

    def __init__(
        self,
        base: BaseModel,
        control_net: Any,  # noqa: ANN401
        optimizer: Any,  # noqa: ANN401
        encoder: LatentEncoder,
        config: TrainConfig,
        ranks: Ranks | None = None,
    ) -> None:
        if config.compute.compile:
            base, control_net = _compiled(base, control_net)
        self._base = base
        self._control_net = control_net
        self._optimizer = optimizer
        self._encoder = encoder
        self._config = config
        self._ranks = ranks or Ranks()
        self._at_once: int | None = None

    def __call__(
        self, step: int, micro_batches: Iterable[Sequence[Example]], rate: float
    ) -> StepResult:
        """Train on the micro-batches of one optimizer step; every sample counts alike.

        Args:
            step: Optimizer steps done when this one is through.
            micro_batches: The batches, usually `optim.accumulation` of them.
            rate: The learning rate.

        Raises:
            DeviceMemoryError: if the device's memory does not hold one sample.
        """
        import torch

        batches = [list(examples) for examples in micro_batches]
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        losses = self._backward_within_memory(step, batches)
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        self._ranks.average_gradients(parameters, len(losses))
        clip = self._config.optim.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        examples = [example for examples in batches for example in examples]
        keys, sizes = tuple(e.key for e in examples), tuple(self._latent_hw(e) for e in examples)
        return StepResult(step, keys, losses, norm.detach(), sizes)

    def _latent_hw(self, example: Example) -> tuple[int, int]:
        height, width = example.size_hw
        return height // self._base.vae_stride, width // self._base.vae_stride

    def _backward_within_memory(
        self, step: int, batches: Sequence[Sequence[Example]]
    ) -> torch.Tensor:
        """The gradient of all batches; all ranks go back and halve if one has too little memory."""
        while True:
            problem = ""
            losses: torch.Tensor | None = None
            try:
                losses = self._backward(batches)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                # The text alone: the error would hold on to the tensors of its frames.
                problem = (str(error) or type(error).__name__).splitlines()[0]
            if not self._ranks.any(losses is None) and losses is not None:
                return losses
            del losses
            self._halve(step, batches, problem or "another process has too little memory")

    def _backward(self, batches: Sequence[Sequence[Example]]) -> torch.Tensor:
        """Leave the gradient of the mean loss; (samples,) losses."""
        import torch

        total = sum(len(examples) for examples in batches)
        losses: list[torch.Tensor] = []
        for examples in self._passes(batches):
            per_sample = self._losses(examples)
            (per_sample.sum() / total).backward()  # type: ignore[no-untyped-call]
            losses.append(per_sample.detach())
        return torch.cat(losses)

    def _passes(self, batches: Sequence[Sequence[Example]]) -> Iterator[Sequence[Example]]:
        for examples in batches:
            size = self._at_once or len(examples)
            for first in range(0, len(examples), size):
                yield examples[first : first + size]

    def _halve(self, step: int, batches: Sequence[Sequence[Example]], problem: str) -> None:
        """Go on with half as many samples at once, for good."""
        largest = max(len(examples) for examples in self._passes(batches))
        if largest == 1:
            raise DeviceMemoryError(
                f"step {step}: the device's memory does not hold one sample ({problem}); lower "
                "data.resolution, or set compute.gradient_checkpointing=true or "
                "optim.name=adamw8bit"
            )
        self._optimizer.zero_grad(set_to_none=True)
        self._at_once = largest // 2
        passes = sum(1 for _ in self._passes(batches))
        logger.warning(
            "step %d: the device's memory does not hold %d samples at once (%s); the step is done "
            "again, and the run goes on, with %d at once in %d passes",
            step,
            largest,
            problem,
            self._at_once,
            passes,
        )
        free_memory()

    def _losses(self, examples: Sequence[Example]) -> torch.Tensor:
        import torch

        base, seed = self._base, self._config.run.seed
        device = base.compute.device
        posterior = torch.from_numpy(self._normal("posterior", examples))
        latents = self._encoder(examples, posterior)
        drawn = on_device(self._noise(examples), device)
        count = int(base.scheduler.config.num_train_timesteps)
        chosen = [noise.timestep(seed, e.key, e.use, count) for e in examples]
        timesteps = on_device(np.array(chosen, np.int64), device)
        noisy = base.scheduler.add_noise(latents, drawn, timesteps)
        with torch.no_grad(), base.compute.autocast():
            text = base.encode_text([example.caption for example in examples])
        hint = on_device(np.stack([example.hint for example in examples]), device)
        sizes = on_device(np.array([example.time_ids for example in examples], np.int64), device)
        predicted = prediction(base, self._control_net, noisy, timesteps, text, hint, sizes)
        losses = sample_losses(predicted, target(base, latents, drawn, timesteps))
        gamma = self._config.loss.min_snr_gamma
        return losses if gamma is None else losses * min_snr_weights(base, timesteps, gamma)

    def _noise(self, examples: Sequence[Example]) -> NDArray[np.float32]:
        """(B, C, h, w) float32: what is added to the latents."""
        drawn = self._normal("noise", examples)
        offset = self._config.loss.noise_offset
        if offset == 0:
            return drawn
        channels = drawn.shape[1]
        shifts = [
            noise.normal(self._config.run.seed, "offset", e.key, e.use, (channels, 1, 1))
            for e in examples
        ]
        return drawn + np.float32(offset) * np.stack(shifts)

    def _normal(self, purpose: str, examples: Sequence[Example]) -> NDArray[np.float32]:
        """(B, C, h, w) standard normal numbers, one keyed draw per example."""
        channels, seed = int(self._base.vae.config.latent_channels), self._config.run.seed
        draws = [
            noise.normal(seed, purpose, e.key, e.use, (channels, *self._latent_hw(e)))
            for e in examples
        ]
        return np.stack(draws)


def _compiled(base: BaseModel, control_net: Any) -> tuple[BaseModel, Any]:  # noqa: ANN401
    """Compiled callables on the same weights; whatever else uses the networks sees them as before.

    Shapes are static: a picture size that was not seen yet is compiled anew.
    """
    import torch

    # torch would give up compiling at the ninth picture size.
    dynamo: Any = import_module("torch._dynamo.config")
    dynamo.recompile_limit = max(dynamo.recompile_limit, _COMPILED_SIZES)

    def whole(module: Any) -> Any:  # noqa: ANN401
        return torch.compile(module, dynamic=False)

    return replace(base, unet=whole(base.unet)), whole(control_net)


def on_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Send an array to a device; a CUDA device copies it while the host goes on."""
    import torch

    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


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
