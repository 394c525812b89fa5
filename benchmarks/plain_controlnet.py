"""A plain loop that trains as diffusers' train_controlnet.py does, for `training.py`.

Written from that script's behaviour, with torch's and diffusers' parts alone: the frozen parts in
the type of the arithmetic, the ControlNet in fp32 under autocast and its outputs in fp32 again, a
picture's latents and its caption's states made anew in each step, AdamW as torch gives it, the
gradient clipped at 1 and set to zeros instead of freed, the loss read after each step. The script
for SDXL encodes captions once, before the first step; so does the loop. Attention is fused, as
diffusers does by itself.

Three things are easier for it here than for the script: its pictures are decoded already; SDXL's
VAE is in the type of the arithmetic and not in fp32; and the search for the fastest convolutions,
which condkit turns on, is on for it too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from condkit.datasets.reader import open_dataset
from condkit.trainer.base_model import BaseModel, TextStates
from condkit.trainer.config import ControlConfig
from condkit.trainer.control_net import new_control_net
from condkit.trainer.data import hint_from_map, pixels_from_image


class PlainLoop:
    """The loop, some steps at a time.

    Args:
        base: The frozen model; its parts are cast.
        pairs: A dataset that `condkit build` made, with canny maps.
        batch: Samples per step.
    """

    def __init__(self, base: BaseModel, pairs: Path, batch: int) -> None:
        self._base, self._dtype = base, base.compute.dtype
        self._device = base.compute.device
        self._control_net = new_control_net(base, ControlConfig(), 0).train()
        for module in base.modules.values():
            module.to(self._dtype)
        self._optimizer = torch.optim.AdamW(
            self._control_net.parameters(), lr=5e-6, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8
        )
        self._known: dict[str, TextStates] = {}
        self._samples = self._batches(pairs, batch)

    def __call__(self, steps: int) -> None:
        """Do so many optimizer steps."""
        for _ in range(steps):
            loss = self._loss(*next(self._samples))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._control_net.parameters(), 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=False)
            loss.detach().item()

    def close(self) -> None:
        """Nothing is left behind."""

    def _loss(self, pixels: torch.Tensor, hint: torch.Tensor, captions: list[str]) -> torch.Tensor:
        base, dtype = self._base, self._dtype
        pixels, hint = pixels.to(self._device, dtype), hint.to(self._device, dtype)
        with torch.no_grad():
            latents = base.vae.encode(pixels).latent_dist.sample()
            latents = latents * base.vae.config.scaling_factor
            text = self._states(captions)
        noise = torch.randn_like(latents)
        count = base.scheduler.config.num_train_timesteps
        times = torch.randint(0, count, (len(captions),), device=self._device)
        noisy = base.scheduler.add_noise(latents.float(), noise.float(), times).to(dtype)
        given: dict[str, Any] = {"encoder_hidden_states": text.hidden}
        if base.is_xl:
            side = pixels.shape[-1]
            sizes = torch.tensor([[side, side, 0, 0, side, side]], device=self._device)
            given["added_cond_kwargs"] = {
                "text_embeds": text.pooled,
                "time_ids": sizes.repeat(len(captions), 1),
            }
        with base.compute.autocast():
            down, middle = self._control_net(
                noisy, times, controlnet_cond=hint, return_dict=False, **given
            )
        # accelerate gives the outputs of what it prepared in fp32; the base was not prepared.
        down, middle = [part.float() for part in down], middle.float()
        predicted = base.unet(
            noisy,
            times,
            down_block_additional_residuals=[part.to(dtype) for part in down],
            mid_block_additional_residual=middle.to(dtype),
            **given,
        ).sample
        return F.mse_loss(predicted.float(), noise.float())

    def _states(self, captions: list[str]) -> TextStates:
        if not self._base.is_xl:
            return self._base.read_text(captions)
        for caption in captions:
            if caption not in self._known:
                self._known[caption] = self._base.read_text([caption])
        known = [self._known[caption] for caption in captions]
        pooled = torch.cat([states.pooled for states in known if states.pooled is not None])
        return TextStates(torch.cat([states.hidden for states in known]), pooled)

    @staticmethod
    def _batches(pairs: Path, batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, list[str]]]:
        rows = open_dataset(pairs).split("train")
        samples = [
            (pixels_from_image(row.image), hint_from_map(row.maps["canny"]), row.text)
            for row in (rows[number] for number in range(len(rows)))
        ]
        endless = itertools.cycle(samples)
        while True:
            pixels, hints, captions = zip(*itertools.islice(endless, batch), strict=True)
            yield (
                torch.from_numpy(np.stack(pixels)),
                torch.from_numpy(np.stack(hints)),
                list(captions),
            )
