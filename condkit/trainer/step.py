"""One optimizer step.

Nothing in a step reads from the device, so the device never waits for the host.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from condkit.device import free_memory, is_out_of_memory
from condkit.errors import DeviceMemoryError
from condkit.trainer.base_model import BaseModel
from condkit.trainer.batch import BatchMaker, HostBatch
from condkit.trainer.config import TrainConfig
from condkit.trainer.data import Example
from condkit.trainer.distributed import Ranks
from condkit.trainer.latents import LatentEncoder
from condkit.trainer.loss import min_snr_weights, prediction, sample_losses, target
from condkit.trainer.sharding import is_shared_out

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

    Attributes:
        prepare: Makes samples ready on the host; may be called ahead, in another thread.
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
        self.prepare = BatchMaker(base, config)
        self._is_sharded = any(is_shared_out(p) for p in control_net.parameters())
        self._at_once: int | None = None

    def __call__(
        self, step: int, micro_batches: Iterable[HostBatch | Sequence[Example]], rate: float
    ) -> StepResult:
        """Train on the micro-batches of one optimizer step; every sample counts alike.

        Args:
            step: Optimizer steps done when this one is through.
            micro_batches: The batches, usually `optim.accumulation` of them; what `prepare` has
                not seen yet is prepared now.
            rate: The learning rate.

        Raises:
            DeviceMemoryError: if the device's memory does not hold one sample.
        """
        import torch

        batches = [b if isinstance(b, HostBatch) else self.prepare(b) for b in micro_batches]
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        losses = self._backward_within_memory(step, batches)
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        if not self._is_sharded:
            self._ranks.average_gradients(parameters, len(losses))
        clip = self._config.optim.clip_norm or math.inf
        norm: Any = torch.nn.utils.clip_grad_norm_(parameters, clip)
        norm = norm.full_tensor() if is_shared_out(norm) else norm
        self._update(step)
        self._optimizer.zero_grad(set_to_none=True)
        examples = [example for batch in batches for example in batch.examples]
        keys, sizes = tuple(e.key for e in examples), tuple(self._latent_hw(e) for e in examples)
        return StepResult(step, keys, losses, norm.detach(), sizes)

    def _update(self, step: int) -> None:
        """Move the weights; this cannot be tried again, as some may have moved already."""
        try:
            self._optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise DeviceMemoryError(
                f"step {step}: the device's memory does not hold what the optimizer remembers "
                f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); set "
                "optim.name=adamw8bit or adafactor, or lower data.batch_size"
            ) from error

    def _latent_hw(self, example: Example) -> tuple[int, int]:
        height, width = example.size_hw
        return height // self._base.vae_stride, width // self._base.vae_stride

    def _backward_within_memory(self, step: int, batches: Sequence[HostBatch]) -> torch.Tensor:
        """The gradient of all batches; all ranks go back and halve if one has too little memory."""
        if self._is_sharded:
            # The ranks are in the middle of sharing weights out: none of them can go back.
            return self._backward(batches)
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

    def _backward(self, batches: Sequence[HostBatch]) -> torch.Tensor:
        """Leave the gradient of the mean loss; (samples,) losses."""
        import torch

        total = sum(len(batch) for batch in batches)
        losses: list[torch.Tensor] = []
        for batch in self._passes(batches):
            per_sample = self._losses(batch)
            (per_sample.sum() / total).backward()  # type: ignore[no-untyped-call]
            losses.append(per_sample.detach())
        return torch.cat(losses)

    def _passes(self, batches: Sequence[HostBatch]) -> Iterator[HostBatch]:
        for batch in batches:
            size = self._at_once or len(batch)
            for first in range(0, len(batch), size):
                yield batch.part(first, first + size)

    def _halve(self, step: int, batches: Sequence[HostBatch], problem: str) -> None:
        """Go on with half as many samples at once, for good."""
        largest = max(len(batch) for batch in self._passes(batches))
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

    def _losses(self, batch: HostBatch) -> torch.Tensor:
        import torch

        base, send = self._base, self._base.compute.send
        latents = self._encoder(batch.examples, batch.posterior)
        drawn, timesteps = send(batch.noise), send(batch.timesteps)
        noisy = base.scheduler.add_noise(latents, drawn, timesteps)
        with torch.no_grad(), base.compute.autocast():
            text = base.encode_text([example.caption for example in batch.examples])
        hint, sizes = send(batch.hint), send(batch.time_ids)
        predicted = prediction(base, self._control_net, noisy, timesteps, text, hint, sizes)
        losses = sample_losses(predicted, target(base, latents, drawn, timesteps))
        gamma = self._config.loss.min_snr_gamma
        return losses if gamma is None else losses * min_snr_weights(base, timesteps, gamma)


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
