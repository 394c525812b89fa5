"""What a training step costs: condkit against a plain loop, and against training the base itself.

    python benchmarks/training.py [--kind sd15] [--batch 32] [--steps 10] [--warmup 3]
                                  [--rounds 3] [--device cuda] [--dtype bf16] [--ways NAME ...]
                                  [--json FILE]

It needs no file but the repository: the models are of the published shapes with random weights
(`sd15` at 512, `sdxl` at 1024), or the built-in base (`tiny` at 64). On CPUs the ways take turns;
on a card, whose memory is measured too, one comes after the other. All start from the same
weights:

- `condkit`: latents cached, captions encoded in the step, frozen weights held in the arithmetic's
  type, channels last, fused AdamW, nothing read from the device within a step.
- `condkit compiled`: the same with `compute.compile`.
- `plain`: what diffusers' train_controlnet.py does: pictures encoded by the VAE in each step, AdamW
  as torch gives it, the loss read after each step. Frozen parts in the arithmetic's type, weights
  that are trained in fp32, autocast; fused attention, as diffusers does by itself.
- `fine-tuning`: the UNet trained without a ControlNet, with everything that `condkit` has.

Model FLOPs utilisation is the counted arithmetic of the ControlNet's step (with cached latents;
what is computed twice counts once) over time and the device's best by its data sheet.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, UNet2DConditionModel
from training_models import KINDS, Kind, make_base

from condkit.device import free_memory
from condkit.trainer.arithmetic import peak_of, step_arithmetic
from condkit.trainer.base_model import BaseModel
from condkit.trainer.batch import ahead
from condkit.trainer.compute import Compute, training_compute
from condkit.trainer.config import TrainConfig
from condkit.trainer.control_net import embedding_channels_for, new_control_net
from condkit.trainer.data import Example
from condkit.trainer.latents import LatentCache, LatentEncoder
from condkit.trainer.learner import Learner
from condkit.trainer.meta import meta_networks
from condkit.trainer.precision import hold_base
from condkit.trainer.recipes import load_recipe
from condkit.trainer.step import OptimizerStep

Steps = Callable[[int], None]
"""Does so many optimizer steps."""


@dataclass(frozen=True)
class Row:
    """What was measured of one way.

    Attributes:
        kind: Which model.
        way: Which way.
        batch: Samples per step.
        images_per_second: From the median time of a round.
        speed: As a multiple of the plain loop's.
        mfu: Share of the device's best; None where that is not known.
        peak_gb: The most memory that tensors took, 10^9 bytes; None on CPUs.
    """

    kind: str
    way: str
    batch: int
    images_per_second: float
    speed: float
    mfu: float | None
    peak_gb: float | None


class Pictures:
    """A ring of random samples, as a loader would give them."""

    def __init__(self, base: BaseModel, kind: Kind, batch: int) -> None:
        rng, side = np.random.default_rng(0), kind.side
        channels, small = int(base.vae.config.latent_channels), side // base.vae_stride
        self.examples = [
            Example(
                key=f"row {i}",
                use=0,
                caption="a red circle on a blue ground" if i % 2 else "",
                pixels=rng.uniform(-1, 1, (3, side, side)).astype(np.float32),
                hint=rng.uniform(0, 1, (3, side, side)).astype(np.float32),
                picture_hw=(side, side),
                box=(0, 0, side, side),
                flipped=False,
                crop_repeats=True,
                moments=torch.rand(2 * channels, small, small).to(torch.bfloat16),
            )
            for i in range(2 * batch)
        ]
        self.batch = batch

    def batches(self, count: int) -> Iterator[list[Example]]:
        """So many batches."""
        for i in range(count):
            first = i % 2 * self.batch
            yield self.examples[first : first + self.batch]


def condkit(base: BaseModel, config: TrainConfig, pictures: Pictures) -> Steps:
    """The trainer's own step, fed as its loop feeds it."""
    control_net = new_control_net(base, config.control, 0)
    hold_base(base, config)
    if config.compute.channels_last:
        for module in (base.unet, control_net):
            module.to(memory_format=torch.channels_last)
    learner = Learner(base, control_net, config)
    encoder = LatentEncoder(base, LatentCache(0))
    step = OptimizerStep(base, learner.network, learner.optimizer, encoder, config)

    def run(count: int) -> None:
        made = ahead(pictures.batches(count), step.prepare, 2)
        results = [step(done, [batch], 1e-5) for done, batch in enumerate(made, start=1)]
        # As a log line does.
        torch.cat([result.losses for result in results]).mean().item()

    return run


def plain(base: BaseModel, config: TrainConfig, pictures: Pictures) -> Steps:
    """A loop that does what diffusers' script does."""
    control_net = new_control_net(base, config.control, 0)
    device, dtype = base.compute.device, base.compute.dtype
    for module in base.modules.values():
        module.to(dtype)
    optimizer = torch.optim.AdamW(control_net.parameters(), lr=1e-5, weight_decay=1e-2)

    def run(count: int) -> None:
        for examples in pictures.batches(count):
            pixels = torch.from_numpy(np.stack([e.pixels for e in examples])).to(device, dtype)
            hint = torch.from_numpy(np.stack([e.hint for e in examples])).to(device, dtype)
            with torch.no_grad():
                latents = base.vae.encode(pixels).latent_dist.sample()
                latents = latents * base.vae.config.scaling_factor
                text = base.encode_text([e.caption for e in examples])
            added = {}
            if base.is_xl:
                sizes = torch.tensor([e.time_ids for e in examples], device=device)
                added["added_cond_kwargs"] = {"text_embeds": text.pooled, "time_ids": sizes}
            noise = torch.randn_like(latents)
            times = torch.randint(0, 1000, (len(examples),), device=device)
            noisy = base.scheduler.add_noise(latents.float(), noise.float(), times).to(dtype)
            with base.compute.autocast():
                down, middle = control_net(
                    noisy,
                    times,
                    encoder_hidden_states=text.hidden,
                    controlnet_cond=hint,
                    return_dict=False,
                    **added,
                )
                predicted = base.unet(
                    noisy,
                    times,
                    encoder_hidden_states=text.hidden,
                    down_block_additional_residuals=[part.to(dtype) for part in down],
                    mid_block_additional_residual=middle.to(dtype),
                    **added,
                ).sample
            loss = F.mse_loss(predicted.float(), noise.float())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(control_net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            loss.detach().item()

    return run


def fine_tuning(base: BaseModel, config: TrainConfig, pictures: Pictures) -> Steps:
    """The UNet alone, trained as well as condkit trains a ControlNet."""
    unet, send = base.unet, base.compute.send
    unet.to(memory_format=torch.channels_last).train().requires_grad_(True)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-5, weight_decay=1e-2, fused=True)
    encoder = LatentEncoder(base, LatentCache(0))
    prepare = OptimizerStep(base, unet, optimizer, encoder, config).prepare

    def run(count: int) -> None:
        losses = []
        for batch in ahead(pictures.batches(count), prepare, 2):
            latents = encoder(batch.examples, batch.posterior)
            noise, times = send(batch.noise), send(batch.timesteps)
            noisy = base.scheduler.add_noise(latents, noise, times)
            with torch.no_grad(), base.compute.autocast():
                text = base.encode_text([e.caption for e in batch.examples])
            added = {}
            if base.is_xl:
                sizes = send(batch.time_ids)
                added["added_cond_kwargs"] = {"text_embeds": text.pooled, "time_ids": sizes}
            with base.compute.autocast():
                predicted = unet(noisy, times, encoder_hidden_states=text.hidden, **added).sample
            loss = (predicted.float() - noise).square().mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
        torch.stack(losses).mean().item()

    return run


WAYS: dict[str, Callable[[BaseModel, TrainConfig, Pictures], Steps]] = {
    "condkit": condkit,
    "condkit compiled": condkit,
    "plain": plain,
    "fine-tuning": fine_tuning,
}


def main() -> None:
    """Measure, print a table, and write the figures."""
    arguments = _arguments()
    kind = KINDS[arguments.kind]
    batch = arguments.batch or kind.batch
    compute = training_compute(arguments.device, arguments.dtype)
    if compute.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    on_card = compute.device.type == "cuda"
    times: dict[str, list[float]] = {way: [] for way in arguments.ways}
    peaks: dict[str, float | None] = {}
    for ways in [[way] for way in arguments.ways] if on_card else [arguments.ways]:
        runs = {way: _new_run(way, kind, batch, compute) for way in ways}
        for run in runs.values():
            run(arguments.warmup)
        _reset(compute.device)
        for _ in range(arguments.rounds):
            for way, run in runs.items():
                times[way].append(_seconds(run, arguments.steps, compute.device))
        for way in ways:
            peaks[way] = _peak(compute.device)
            print(f"{way}: {statistics.median(times[way]):.3f} s per step", flush=True)
        del run, runs
        free_memory()
    flops = _flops(kind)
    rows = _rows(kind, batch, times, peaks, flops, peak_of(compute.device, compute.dtype))
    _print(rows, compute.device, flops)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def _new_run(way: str, kind: Kind, batch: int, compute: Compute) -> Steps:
    settings = {"data.batch_size": str(batch), "compute.compile": str("compiled" in way)}
    config = load_recipe("canny", settings)
    base = make_base(kind, compute)
    return WAYS[way](base, config, Pictures(base, kind, batch))


def _seconds(run: Steps, steps: int, device: torch.device) -> float:
    """Seconds per step."""
    _wait(device)
    began = time.perf_counter()
    run(steps)
    _wait(device)
    return (time.perf_counter() - began) / steps


def _flops(kind: Kind) -> int:
    """The counted arithmetic of one sample."""
    if not kind.unet:
        base = make_base(kind, training_compute("cpu", "fp32"))
        unet, stride = base.unet, base.vae_stride
    else:
        with torch.device("meta"):
            unet, stride = UNet2DConditionModel(**kind.unet), 8
    with torch.device("meta"):
        control_net = ControlNetModel.from_unet(
            UNet2DConditionModel.from_config(unet.config),
            conditioning_embedding_out_channels=embedding_channels_for(stride),
            load_weights_from_unet=False,
        )
    side = kind.side // stride
    return step_arithmetic(meta_networks(unet, control_net), (side, side)).total


def _rows(
    kind: Kind,
    batch: int,
    times: dict[str, list[float]],
    peaks: dict[str, float | None],
    flops: int,
    best: float | None,
) -> list[Row]:
    speed = {way: batch / statistics.median(found) for way, found in times.items()}
    reference = speed.get("plain", next(iter(speed.values())))
    return [
        Row(
            kind=kind.name,
            way=way,
            batch=batch,
            images_per_second=speed[way],
            speed=speed[way] / reference,
            mfu=speed[way] * flops / best if best and way != "fine-tuning" else None,
            peak_gb=peaks[way],
        )
        for way in times
    ]


def _print(rows: list[Row], device: torch.device, flops: int) -> None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    print(f"\n{name}, torch {torch.__version__}; {flops / 1e12:.4g} TFLOP per sample\n")
    print("| model | way | batch | images/s | speed | MFU | peak memory |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        share = f"{row.mfu:.0%}" if row.mfu is not None else ""
        memory = f"{row.peak_gb:.1f} GB" if row.peak_gb is not None else ""
        print(
            f"| {row.kind} | {row.way} | {row.batch} | {row.images_per_second:.2f} "
            f"| {row.speed:.2f} × | {share} | {memory} |"
        )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=KINDS, default="tiny")
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=["condkit", "plain", "fine-tuning"]
    )
    parser.add_argument("--json", type=Path, default=None)
    return parser.parse_args()


if __name__ == "__main__":
    main()
