"""A micro-batch as the device needs it, made ready on the host while the device is busy."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from condkit.trainer import noise
from condkit.trainer.base_model import BaseModel
from condkit.trainer.config import TrainConfig
from condkit.trainer.data import Example

if TYPE_CHECKING:
    import torch

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostBatch:
    """Samples of one size with everything that is drawn for them, in page-locked memory for CUDA.

    Attributes:
        examples: The samples.
        posterior: (B, C, h, w) float32 draws from the VAE's distribution.
        noise: (B, C, h, w) float32, what is added to the latents.
        timesteps: (B,) int64.
        hint: (B, 3, H, W) float32.
        time_ids: (B, 6) int64, SDXL's sizes.
    """

    examples: Sequence[Example]
    posterior: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    hint: torch.Tensor
    time_ids: torch.Tensor

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.examples)

    def part(self, first: int, stop: int) -> HostBatch:
        """Samples `first` to `stop` - 1."""
        return HostBatch(**{name: getattr(self, name)[first:stop] for name in HostBatch.__slots__})


@dataclass(frozen=True, slots=True)
class BatchMaker:
    """Draws noise and timesteps for samples, and stacks them.

    Every draw depends on the run's seed, the sample and its use alone; noise is drawn in fp32.

    Attributes:
        base: The model that the batches are for.
        config: Seed and noise.
    """

    base: BaseModel
    config: TrainConfig

    def __call__(self, examples: Sequence[Example]) -> HostBatch:
        """Make the batch; safe to be called from any thread."""
        seed = self.config.run.seed
        count = int(self.base.scheduler.config.num_train_timesteps)
        timesteps = [noise.timestep(seed, e.key, e.use, count) for e in examples]
        return HostBatch(
            examples=examples,
            posterior=self._tensor(self._normal("posterior", examples)),
            noise=self._tensor(self._noise(examples)),
            timesteps=self._tensor(np.array(timesteps, np.int64)),
            hint=self._tensor(np.stack([e.hint for e in examples])),
            time_ids=self._tensor(np.array([e.time_ids for e in examples], np.int64)),
        )

    def _noise(self, examples: Sequence[Example]) -> NDArray[np.float32]:
        drawn = self._normal("noise", examples)
        offset, seed = self.config.loss.noise_offset, self.config.run.seed
        if offset == 0:
            return drawn
        shape = (drawn.shape[1], 1, 1)
        shifts = [noise.normal(seed, "offset", e.key, e.use, shape) for e in examples]
        return drawn + np.float32(offset) * np.stack(shifts)

    def _normal(self, purpose: str, examples: Sequence[Example]) -> NDArray[np.float32]:
        channels, seed = int(self.base.vae.config.latent_channels), self.config.run.seed
        stride = self.base.vae_stride
        draws = []
        for example in examples:
            height, width = example.size_hw
            shape = (channels, height // stride, width // stride)
            draws.append(noise.normal(seed, purpose, example.key, example.use, shape))
        return np.stack(draws)

    def _tensor(self, array: NDArray[np.generic]) -> torch.Tensor:
        import torch

        return self.base.compute.pin(torch.from_numpy(array))


def ahead(items: Iterator[In], make: Callable[[In], Out], count: int) -> Generator[Out, None, None]:
    """`map(make, items)`, with up to `count` results made ahead in one thread, in order.

    An error in one is raised at its turn.
    """
    if count == 0:
        yield from map(make, items)
        return
    pool = ThreadPoolExecutor(1, thread_name_prefix="condkit-ahead")

    def following() -> Out | None:
        for item in items:
            return make(item)
        return None

    waiting: list[Future[Out | None]] = [pool.submit(following) for _ in range(count)]
    try:
        while True:
            result = waiting.pop(0).result()
            if result is None:
                return
            waiting.append(pool.submit(following))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
