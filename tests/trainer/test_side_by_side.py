"""Side by side with what diffusers' train_controlnet.py documents: the same losses, step by step.

The loop here is written from that script's documented behaviour with diffusers' and torch's parts
alone: pictures to [-1, 1], maps to [0, 1], a draw from the VAE's distribution, noise, uniform
timesteps, mean squared error, AdamW, clipping at 1, a constant rate. Samples and random numbers are
given to it, since every seed has another order in another program.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from condkit.datasets.reader import open_dataset
from condkit.trainer import noise
from condkit.trainer import step as step_module
from condkit.trainer.recipes import load_recipe
from condkit.trainer.train import train

STEPS = 6
SETTINGS = {
    "run.steps": str(STEPS),
    "run.log_every": "1",
    "run.trackers": "none",
    "data.batch_size": "2",
    "data.resolution": "none",
    "data.flip": "0",
    "data.caption_dropout": "0",
    "optim.lr": "1e-4",
    "optim.accumulation": "2",
    "checkpoint.every": "100",
    "preview.every": "0",
}


class PlainLoop:
    """Trains as the script does.

    Args:
        base: A diffusers folder.
        control_net: The ControlNet at the beginning.
        accumulation: Passes per step.
    """

    def __init__(self, base, control_net, accumulation: int) -> None:
        from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        self.vae = AutoencoderKL.from_pretrained(base, subfolder="vae").requires_grad_(False)
        self.unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
        self.unet.requires_grad_(False)
        self.text = CLIPTextModel.from_pretrained(base, subfolder="text_encoder")
        self.tokenizer = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer")
        self.scheduler = DDPMScheduler.from_pretrained(base, subfolder="scheduler")
        self.control_net, self.accumulation = control_net.train(), accumulation
        self.optimizer = torch.optim.AdamW(
            control_net.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8
        )

    def step(self, batches) -> float:
        """One optimizer step on lists of (row, caption, posterior draw, noise, timestep)."""
        losses = []
        for batch in batches:
            loss = self._loss(*(list(column) for column in zip(*batch, strict=True)))
            (loss / self.accumulation).backward()
            losses.append(float(loss.detach()))
        torch.nn.utils.clip_grad_norm_(self.control_net.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return sum(losses) / len(losses)

    def _loss(self, rows, captions, draws, noises, timesteps):
        pixels = np.stack([row.image for row in rows]).astype(np.float32) / 255
        maps = np.stack([np.repeat(row.maps["canny"][..., None], 3, 2) for row in rows])
        pixels = torch.from_numpy(pixels.transpose(0, 3, 1, 2))
        hint = torch.from_numpy(maps.transpose(0, 3, 1, 2).astype(np.float32) / 255)
        with torch.no_grad():
            found = self.vae.encode((pixels - 0.5) / 0.5).latent_dist
            latents = found.mean + found.std * torch.from_numpy(np.stack(draws))
            latents = latents * self.vae.config.scaling_factor
            ids = self.tokenizer(
                captions,
                max_length=self.tokenizer.model_max_length,
                padding="max_length",
                truncation=True,
                return_tensors="pt",
            ).input_ids
            states = self.text(ids)[0]
        drawn, times = torch.from_numpy(np.stack(noises)), torch.tensor(timesteps)
        noisy = self.scheduler.add_noise(latents, drawn, times)
        down, middle = self.control_net(
            noisy, times, encoder_hidden_states=states, controlnet_cond=hint, return_dict=False
        )
        predicted = self.unet(
            noisy,
            times,
            encoder_hidden_states=states,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        if self.scheduler.config.prediction_type == "v_prediction":
            return F.mse_loss(predicted, self.scheduler.get_velocity(latents, drawn, times))
        return F.mse_loss(predicted, drawn)


def ours(dataset, base, output, **changed):
    """Losses of our run, and what each step was made of."""
    seen, losses = [], []
    original = step_module.OptimizerStep.__call__

    def look(self, step, micro_batches, rate):
        batches = list(micro_batches)
        seen.append([[(e.key, e.use, e.caption) for e in batch.examples] for batch in batches])
        result = original(self, step, batches, rate)
        losses.append(float(result.losses.mean()))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module.OptimizerStep, "__call__", look)
        config = load_recipe("canny", SETTINGS | changed)
        train(config, dataset, output, base=str(base), device="cpu", dtype="fp32")
    return losses, seen


def theirs(dataset, base, steps, *, caption_of):
    """Losses of the plain loop on the same samples with the same numbers."""
    from condkit.trainer.base_loading import load_base
    from condkit.trainer.compute import resolve_compute
    from condkit.trainer.config import ControlConfig
    from condkit.trainer.control_net import new_control_net

    model = load_base(str(base), resolve_compute("cpu", "fp32"))
    rows = open_dataset(dataset).split("train")
    by_key = {row.key: row for row in (rows[i] for i in range(len(rows)))}
    loop = PlainLoop(base, new_control_net(model, ControlConfig(), 0), 2)

    def sample(key, use, caption):
        row = by_key[key]
        height, width = row.image.shape[:2]
        shape = (4, height // model.vae_stride, width // model.vae_stride)
        draws = [noise.normal(0, purpose, key, use, shape) for purpose in ("posterior", "noise")]
        return row, caption_of(row, caption), *draws, noise.timestep(0, key, use, 1000)

    return [
        loop.step([[sample(*place) for place in batch] for batch in batches]) for batches in steps
    ]


@pytest.mark.parametrize("kind", ["epsilon_base", "velocity_base"])
def test_losses_are_those_of_the_documented_loop(dataset, tmp_path, request, kind):
    base = request.getfixturevalue(kind)
    mine, steps = ours(dataset, base, tmp_path / "run")
    others = theirs(dataset, base, steps, caption_of=lambda row, caption: row.text)
    assert len(mine) == STEPS
    assert mine == pytest.approx(others, rel=2e-4)
    # The weights have moved: equal losses of two standing models would prove nothing.
    again = theirs(dataset, base, [steps[0]] * 4, caption_of=lambda row, caption: row.text)
    assert again[-1] < again[0]


def test_the_first_dropped_caption_is_the_first_difference(dataset, epsilon_base, tmp_path):
    """That script drops none unless it is told to; the paper's method drops half of them."""
    changed = {"data.caption_dropout": "0.1", "run.seed": "0"}
    mine, steps = ours(dataset, epsilon_base, tmp_path / "run", **changed)
    others = theirs(dataset, epsilon_base, steps, caption_of=lambda row, caption: row.text)
    dropped = [any(place[2] == "" for batch in step for place in batch) for step in steps]
    first = dropped.index(True)
    assert first > 0
    assert mine[:first] == pytest.approx(others[:first], rel=2e-4)
    assert mine[first] != pytest.approx(others[first], rel=2e-4)
    # And that is the only one: with the captions we used the losses agree to the end.
    same = theirs(dataset, epsilon_base, steps, caption_of=lambda row, caption: caption)
    assert mine == pytest.approx(same, rel=2e-4)
