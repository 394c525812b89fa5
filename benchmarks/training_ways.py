"""condkit's own training run, and training the UNet alone, some steps at a time: `training.py`."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch

from condkit.trainer.batch import HostBatch, ahead
from condkit.trainer.config import TrainConfig
from condkit.trainer.job import Job, prepare
from condkit.trainer.latents import LatentCache, LatentEncoder
from condkit.trainer.loop import TrainProgress
from condkit.trainer.precision import hold_in
from condkit.trainer.run_folder import RunFolder
from condkit.trainer.step import OptimizerStep
from condkit.trainer.train import train
from condkit.trainer.training_data import new_loader


class _Enough(Exception):  # noqa: N818 - not an error: it ends a run
    """Ends a run from within."""


class CondkitRun:
    """`condkit.trainer.train.train` itself in a thread; it waits when its steps are done.

    Args:
        config: The settings; their base is loaded as that of any run.
        pairs: The dataset.
        folder: Of the run.
        device: As `--device`.
        dtype: As `--dtype`.

    The first step is done when this is made.
    """

    def __init__(
        self, config: TrainConfig, pairs: Path, folder: Path, device: str, dtype: str
    ) -> None:
        self._asked: queue.Queue[int] = queue.Queue()
        self._done: queue.Queue[BaseException | None] = queue.Queue()
        self._left = 1
        self._thread = threading.Thread(
            target=self._train, args=(config, pairs, folder, device, dtype), daemon=True
        )
        self._thread.start()
        self._wait()

    def __call__(self, steps: int) -> None:
        """Do so many optimizer steps.

        Raises:
            CondkitError: if the run failed.
        """
        self._asked.put(steps)
        self._wait()

    def close(self) -> None:
        """End the run; all that it held is free again."""
        if self._thread.is_alive():
            self._asked.put(0)
            self._thread.join()

    def _wait(self) -> None:
        error = self._done.get()
        if error is not None:
            self._thread.join()
            raise error

    def _train(
        self, config: TrainConfig, pairs: Path, folder: Path, device: str, dtype: str
    ) -> None:
        try:
            train(
                config,
                pairs,
                folder,
                device=device,
                dtype=dtype,
                offline=True,
                on_progress=self._stop_and_go,
            )
        except _Enough:
            return
        except BaseException as error:
            # The text alone: the frames would hold on to the device's memory.
            self._done.put(error.with_traceback(None))

    def _stop_and_go(self, progress: TrainProgress) -> None:
        self._left -= 1
        if self._left > 0:
            return
        self._done.put(None)
        self._left = self._asked.get()
        if self._left == 0:
            raise _Enough


class FineTuning:
    """The UNet trained without a ControlNet, with all that condkit has: the same caches and feeds.

    Its own loop, since condkit trains ControlNets alone. Frozen parts are held in the type of the
    arithmetic, weights in fp32, fused AdamW, channels last, nothing read within a step.

    Args:
        config: The settings.
        pairs: The dataset.
        folder: Of the run; nothing is written there.
        device: As `--device`.
        dtype: As `--dtype`.
    """

    def __init__(
        self, config: TrainConfig, pairs: Path, folder: Path, device: str, dtype: str
    ) -> None:
        job = prepare(config, pairs, RunFolder(folder), device=device, dtype=dtype, offline=True)
        self._base, self._optim = job.base, config.optim
        for name, module in job.base.modules.items():
            if name != "unet":
                hold_in(module, job.base.compute.dtype)
        self._unet = job.base.unet.to(memory_format=torch.channels_last)
        self._unet.train().requires_grad_(True)
        self._optimizer = torch.optim.AdamW(
            self._unet.parameters(), lr=config.optim.lr, weight_decay=1e-2, fused=True
        )
        self._encoder = LatentEncoder(job.base, LatentCache(0))
        self._batches = self._made(job, config)

    def __call__(self, steps: int) -> None:
        """Do so many optimizer steps."""
        losses = [self._step(batch) for batch in itertools.islice(self._batches, steps)]
        torch.stack(losses).mean().item()

    def close(self) -> None:
        """Stop preparing batches."""
        self._batches.close()

    def _made(self, job: Job, config: TrainConfig) -> Generator[HostBatch, None, None]:
        loader = new_loader(job.data, config, job.base.unit, latents=job.latents)
        maker = OptimizerStep(job.base, self._unet, self._optimizer, self._encoder, config).prepare
        return ahead(loader.batches(0, config.run.steps), maker, config.data.prefetch)

    def _step(self, batch: HostBatch) -> torch.Tensor:
        base, send = self._base, self._base.compute.send
        latents = self._encoder(batch.examples, batch.posterior)
        noise, times = send(batch.noise), send(batch.timesteps)
        noisy = base.scheduler.add_noise(latents, noise, times)
        with torch.no_grad(), base.compute.autocast():
            text = base.encode_text([example.caption for example in batch.examples])
        given: dict[str, Any] = {"encoder_hidden_states": text.hidden}
        if base.is_xl:
            sizes = send(batch.time_ids)
            given["added_cond_kwargs"] = {"text_embeds": text.pooled, "time_ids": sizes}
        with base.compute.autocast():
            predicted = self._unet(noisy, times, **given).sample
        loss: torch.Tensor = (predicted.float() - noise).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._unet.parameters(), self._optim.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()
