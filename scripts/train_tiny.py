"""Train the built-in base model from nothing, on scenes drawn by `condkit.scenes`.

The result is a Stable-Diffusion-shaped model in plain diffusers layout: an autoencoder, a CLIP
text model with its own small tokenizer, a UNet and a DDIM scheduler.  Run from the repository:

    python scripts/train_tiny.py --output condkit/assets/tiny --work build/tiny

Stages (`--stage`), each of which can be run alone and goes on where it was stopped:

    init      write a model with random weights, to develop against
    vae       train the autoencoder
    latents   encode a fixed pool of scenes once
    decoder   train the autoencoder's decoder further, on latents with small errors
    unet      train the UNet together with the text model on the stored latents
    evaluate  measure the model and write its model card
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from condkit.scenes import COLOURS, KINDS, SIZE, Scene, draw_scene, read_scene

STAGES = ("init", "vae", "latents", "decoder", "unet", "evaluate")
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
TOKENS = 32
TEXT_WIDTH = 96
LATENT_CHANNELS = 4
LATENT_SIZE = SIZE // 4
UNET_CHANNELS = (96, 128, 128)
BATCHES = {"vae": 16, "decoder": 16, "unet": 64}

# Scenes of different purposes never share a seed: the second number keeps them apart.
VAE_SCENES, POOL_SCENES, TEST_SCENES = 1, 2, 3

Picture = np.ndarray[Any, np.dtype[np.uint8]]
Pool = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How long and how hard one network is trained.

    Attributes:
        steps: Optimizer steps after which the learning rate reaches zero.
        minutes: The same as a time limit, for slow machines; whichever comes first.
        batch: Scenes per step.
        rate: Highest learning rate.
        seed: Seed of everything random.
        muon: Train weight matrices with Muon, only the rest with AdamW.
    """

    steps: int
    minutes: float
    batch: int
    rate: float
    seed: int
    muon: bool = False


# ---------------------------------------------------------------------------------------------
# The parts of the model
# ---------------------------------------------------------------------------------------------


def build_tokenizer() -> CLIPTokenizer:
    """Make a byte-level BPE tokenizer that has one token for every word of the captions."""
    words = [*COLOURS, *KINDS, "a", "an", "and", "on", "background"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Split(Regex(r"\S+"), behavior="removed", invert=True)
    trainer = trainers.BpeTrainer(
        vocab_size=4096, min_frequency=1, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(words, trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    # Every byte with and without the end-of-word mark, so that any text can be tokenized.
    pieces = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    pieces += ["".join(pair) for pair in merges]
    pieces = [*dict.fromkeys(pieces), BOS, EOS]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TOKENS)


def build_text_model(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Make the text model with random weights."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_vae() -> AutoencoderKL:
    """Make the autoencoder with random weights: a quarter of the width and height."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=16,
        sample_size=SIZE,
        force_upcast=False,
    )
    # Start with little noise on the latents: at its usual scale of one it drowns them for
    # hundreds of steps.
    with torch.no_grad():
        vae.quant_conv.bias[LATENT_CHANNELS:] = -6.0
    return vae


def build_unet() -> UNet2DConditionModel:
    """Make the UNet with random weights."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=UNET_CHANNELS,
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        cross_attention_dim=TEXT_WIDTH,
    )


def build_scheduler() -> DDIMScheduler:
    """Make the noise schedule: its last step is pure noise, so it samples "trailing"."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # without effect on trailing steps, but diffusers warns about 0
    )


def save_model(
    output: Path, vae: torch.nn.Module, text_model: torch.nn.Module, unet: torch.nn.Module
) -> None:
    """Write the whole model in diffusers layout with half-precision weights."""
    pipeline = StableDiffusionPipeline(
        vae=copy.deepcopy(vae),
        text_encoder=copy.deepcopy(text_model),
        tokenizer=build_tokenizer(),
        unet=copy.deepcopy(unet),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline.save_pretrained(partial, safe_serialization=True)
    _write_vocabulary(partial / "tokenizer")
    _set_json(partial / "text_encoder" / "config.json", dtype="float32")
    card = output / "README.md"
    if card.exists():
        shutil.copy2(card, partial / card.name)
    for path in partial.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(output, ignore_errors=True)
    partial.replace(output)


def _write_vocabulary(folder: Path) -> None:
    # transformers 4 reads these two files where transformers 5 reads tokenizer.json.
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    vocab = json.dumps(model["vocab"], ensure_ascii=False)
    (folder / "vocab.json").write_text(f"{vocab}\n", encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _set_json(path: Path, **values: object) -> None:
    # transformers loads weights in the type named here: without this the text model alone
    # would stay in half precision, and the UNet would refuse what it returns.
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}, indent=2) + "\n")


# ---------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------


def scene_at(seed: int, purpose: int, index: int, count: int | None = None) -> Scene:
    """Draw scene number `index` of one purpose."""
    return draw_scene(np.random.default_rng([seed, purpose, index]), count)


def to_tensor(images: list[Picture]) -> torch.Tensor:
    """Stack RGB byte pictures to a float tensor (N, 3, H, W) from -1 to 1."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return (stacked.float() / 127.5 - 1.0).contiguous(memory_format=torch.channels_last)


def to_images(tensor: torch.Tensor) -> Picture:
    """Turn a float tensor (N, 3, H, W) from -1 to 1 into RGB byte pictures (N, H, W, 3)."""
    scaled = ((tensor.float() + 1.0) * 127.5).round().clamp(0, 255)
    return scaled.permute(0, 2, 3, 1).to(torch.uint8).numpy()


def rate_at(progress: float) -> float:
    """Share of the highest learning rate: a short warm-up, then half a cosine to zero."""
    warm = 0.02
    if progress < warm:
        return max(progress, 1e-3) / warm
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (progress - warm) / (1.0 - warm))))


class Muon(torch.optim.Optimizer):
    """Momentum whose update of every weight matrix is made orthogonal first.

    All directions of a matrix then move equally far, which takes these networks to the same
    loss in far fewer steps than AdamW does. Kernels count as matrices of (outputs, inputs x size).
    """

    def __init__(self, parameters: list[torch.nn.Parameter], rate: float, decay: float) -> None:
        super().__init__(parameters, {"lr": rate, "weight_decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter once."""
        for group in self.param_groups:
            # Matrices of one shape go through the iteration together, which is faster.
            shapes: dict[tuple[int, int], list[torch.nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    matrix = parameter.flatten(1)
                    shapes.setdefault((matrix.shape[0], matrix.shape[1]), []).append(parameter)
            for shape, parameters in shapes.items():
                momenta = torch.stack([self._momentum(p).reshape(shape) for p in parameters])
                # The factor makes a typical weight move as far as under AdamW at this rate.
                size = group["lr"] * 0.2 * max(shape) ** 0.5
                for parameter, update in zip(parameters, orthogonal(momenta), strict=True):
                    parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                    parameter.sub_(update.reshape(parameter.shape), alpha=size)

    def _momentum(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum: torch.Tensor = state["momentum"].lerp_(gradient, 0.05)
        return gradient.lerp(momentum, 0.95)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Bring the singular values of matrices (N, rows, columns) near one, by Newton-Schulz."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16().contiguous()
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.mT if tall else x).float()


def matrices_of(modules: dict[str, torch.nn.Module]) -> list[torch.nn.Parameter]:
    """List the weights that Muon is for: matrices and kernels between hidden layers."""
    outer = ("embedding", "conv_in", "conv_out")
    return [
        parameter
        for module in modules.values()
        for name, parameter in module.named_parameters()
        if parameter.ndim > 1 and not any(part in name for part in outer)
    ]


class Trainer:
    """Trains modules step by step and keeps a checkpoint from which it can go on.

    Attributes:
        modules: The networks by name.
        average: Slowly moving averages of their weights, by the same names.
        step: Steps done so far.
    """

    def __init__(self, modules: dict[str, torch.nn.Module], plan: Plan, path: Path) -> None:
        self.modules = modules
        self.plan = plan
        self.path = path
        self.step = 0
        self.seconds = 0.0
        self._parameters = [p for module in modules.values() for p in module.parameters()]
        matrices = matrices_of(modules) if plan.muon else []
        rest = [p for p in self._parameters if not any(p is matrix for matrix in matrices)]
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=plan.rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
        ]
        if matrices:
            self._optimizers.append(Muon(matrices, plan.rate, decay=1e-2))
        self.average = {name: copy.deepcopy(module) for name, module in modules.items()}
        self._averaged = [p for module in self.average.values() for p in module.parameters()]
        if path.exists():
            self._load()

    @property
    def progress(self) -> float:
        """How much of the plan is done, 0 to 1."""
        return max(self.step / self.plan.steps, self.seconds / 60.0 / self.plan.minutes)

    def run(self, loss_of: Callable[[int], torch.Tensor], every: int) -> Iterator[int]:
        """Train to the end of the plan; yields after every so many steps, for saving."""
        losses: list[float] = []
        first = self.step
        while self.progress < 1.0:
            started = time.monotonic()
            losses.append(self._advance(loss_of(self.step)))
            # The first steps compile the network: a minute that tells nothing about the pace.
            if self.step > first + 2:
                self.seconds += time.monotonic() - started
            if self.step % 50 == 0:
                pace = self.seconds / self.step
                print(
                    f"step {self.step} loss {np.mean(losses):.5f} {pace:.3f} s/step "
                    f"progress {self.progress:.3f}",
                    flush=True,
                )
                losses.clear()
            if self.step % every == 0:
                self._save()
                yield self.step
        self._save()

    def _advance(self, loss: torch.Tensor) -> float:
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.plan.rate * rate_at(self.progress)
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        # A short memory at first, so that the average does not keep the random start.
        keep = min(0.999, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self._averaged, self._parameters, 1.0 - keep)
        return float(loss.detach())

    def _save(self) -> None:
        state = {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "average": {name: module.state_dict() for name, module in self.average.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)

    def _load(self) -> None:
        state = torch.load(self.path, weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
            self.average[name].load_state_dict(state["average"][name])
        for optimizer, stored in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        self.step, self.seconds = state["step"], state["seconds"]
        print(f"going on from step {self.step} of {self.path}", flush=True)


def compiled(function: Callable[..., Any], wanted: bool) -> Callable[..., Any]:
    """Compile a function where wanted; on two CPU cores that saves a third of the time."""
    return torch.compile(function) if wanted else function


def picture_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """How far pictures are from what they should be.

    Squared errors find the shapes soon, absolute ones make colours exact, and those of the
    differences between neighbouring pixels keep outlines crisp.
    """
    error = output - target
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.square().mean() + 0.1 * error.abs().mean() + 0.1 * edges


def train_vae(plan: Plan, work: Path, fast: bool) -> AutoencoderKL:
    """Train the autoencoder, or load it where it is finished."""
    torch.manual_seed(plan.seed)
    vae = build_vae().to(memory_format=torch.channels_last)
    trainer = Trainer({"vae": vae}, plan, work / "vae.pt")

    def passes(images: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        posterior = vae.encode(images).latent_dist
        kl = posterior.mean.square() + posterior.var - 1.0 - posterior.logvar
        return vae.decode(posterior.mean + posterior.std * noise).sample, kl

    forward = compiled(passes, fast)

    def loss_of(step: int) -> torch.Tensor:
        numbers = range(step * plan.batch, (step + 1) * plan.batch)
        images = to_tensor([scene_at(plan.seed, VAE_SCENES, number).image for number in numbers])
        noise = seeded_noise((plan.batch, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE), step)
        with torch.autocast("cpu", torch.bfloat16):
            output, kl = forward(images, noise)
        output = output.float()
        # A touch of KL keeps the latents smooth.
        return picture_loss(output, images) + 2e-5 * kl.float().mean()

    for step in trainer.run(loss_of, every=250):
        print(f"step {step} PSNR {vae_figures(trainer.average['vae'], 64)['psnr']:.2f} dB")
    trained = trainer.average["vae"].eval()
    assert isinstance(trained, AutoencoderKL)
    return trained


def seeded_noise(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Draw Gaussian noise that depends on the seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def encode_pool(vae: AutoencoderKL, plan: Plan, work: Path, size: int) -> Pool:
    """Encode the training pool once; returns latents, token ids and the latents' scale."""
    path = work / "latents.pt"
    if path.exists():
        return dict(torch.load(path, weights_only=True))
    captions, parts = [], []
    for start in range(0, size, 256):
        scenes = [
            scene_at(plan.seed, POOL_SCENES, number)
            for number in range(start, min(start + 256, size))
        ]
        captions += [scene.caption for scene in scenes]
        with torch.autocast("cpu", torch.bfloat16):
            mean = vae.encode(to_tensor([scene.image for scene in scenes])).latent_dist.mean
        parts.append(mean.half().contiguous())
        if start % 5120 == 0:
            print(f"encoded {start} of {size}", flush=True)
    latents = torch.cat(parts)
    pool = {
        "latents": latents,
        "ids": tokenize(build_tokenizer(), captions),
        "scale": 1.0 / float(latents.float().std()),
    }
    partial = path.with_suffix(".partial")
    torch.save(pool, partial)
    partial.replace(path)
    return pool


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Turn captions into token ids, (N, `TOKENS`)."""
    encoded = tokenizer(
        captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    )
    ids: torch.Tensor = encoded.input_ids
    return ids


def train_decoder(
    plan: Plan, work: Path, vae: AutoencoderKL, pool: Pool, fast: bool
) -> AutoencoderKL:
    """Teach the decoder to bear the small errors that a UNet leaves in its latents.

    The encoder stays as it is, and so do the stored latents.
    """
    modules = {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}
    trainer = Trainer(modules, plan, work / "decoder.pt")
    forward = compiled(lambda latents: vae.decode(latents).sample, fast)

    def loss_of(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        picks = torch.randint(len(pool["latents"]), (plan.batch,), generator=generator)
        numbers = picks.tolist()
        images = to_tensor([scene_at(plan.seed, POOL_SCENES, n).image for n in numbers])
        latents = pool["latents"][picks].float()
        noise = torch.randn(latents.shape, generator=generator) / pool["scale"]
        strength = 0.15 * torch.rand((plan.batch, 1, 1, 1), generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            output = forward(latents + strength * noise)
        return picture_loss(output.float(), images)

    for step in trainer.run(loss_of, every=200):
        print(f"step {step}: decoder kept", flush=True)
    for name, module in trainer.average.items():
        modules[name].load_state_dict(module.state_dict())
    return vae


def train_unet(
    plan: Plan, work: Path, output: Path, vae: AutoencoderKL, pool: Pool, fast: bool
) -> None:
    """Train UNet and text model on the stored latents; writes the model now and then."""
    torch.manual_seed(plan.seed)
    text_model = build_text_model(build_tokenizer())
    unet = build_unet().to(memory_format=torch.channels_last)
    trainer = Trainer({"text_model": text_model, "unet": unet}, plan, work / "unet.pt")
    scheduler = build_scheduler()
    vae.register_to_config(scaling_factor=round(float(pool["scale"]), 5))
    empty = tokenize(build_tokenizer(), [""])[0]
    forward = compiled(unet, fast)

    def loss_of(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        picks = torch.randint(len(pool["latents"]), (plan.batch,), generator=generator)
        latents = pool["latents"][picks].float() * vae.config.scaling_factor
        ids = pool["ids"][picks]
        # A tenth of the captions left out, for classifier-free guidance.
        ids[torch.rand(plan.batch, generator=generator) < 0.1] = empty
        noise = torch.randn(latents.shape, generator=generator)
        times = stratified_times(plan.batch, scheduler.config.num_train_timesteps, generator)
        noisy = scheduler.add_noise(latents, noise, times)
        target = scheduler.get_velocity(latents, noise, times)
        with torch.autocast("cpu", torch.bfloat16):
            states = text_model(ids).last_hidden_state
            noisy = noisy.contiguous(memory_format=torch.channels_last)
            predicted = forward(noisy, times, states, return_dict=False)[0]
        return (predicted.float() - target).square().mean()

    for step in trainer.run(loss_of, every=300):
        save_model(output, vae, trainer.average["text_model"], trainer.average["unet"])
        print(f"step {step}: model written to {output}", flush=True)
    save_model(output, vae, trainer.average["text_model"], trainer.average["unet"])


def stratified_times(count: int, steps: int, generator: torch.Generator) -> torch.Tensor:
    """Draw diffusion times spread evenly over a batch: less noise in the loss than plain draws."""
    even = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (even * steps).long()


# ---------------------------------------------------------------------------------------------
# Measuring
# ---------------------------------------------------------------------------------------------


def edge_f1(image: Picture, reference: Picture) -> float:
    """Agreement of two pictures' Canny edges, a pixel of tolerance either way."""
    found, wanted = (cv2.Canny(picture, 100, 200) > 0 for picture in (image, reference))
    if not found.any() or not wanted.any():
        return float(not found.any() and not wanted.any())
    kernel = np.ones((3, 3), np.uint8)
    near_found, near_wanted = (
        cv2.dilate(mask.astype(np.uint8), kernel) > 0 for mask in (found, wanted)
    )
    precision = float((found & near_wanted).sum() / found.sum())
    recall = float((wanted & near_found).sum() / wanted.sum())
    return 2.0 * precision * recall / max(precision + recall, 1e-9)


@torch.no_grad()
def vae_figures(vae: torch.nn.Module, count: int, seed: int = 0) -> dict[str, float]:
    """Compare held-out scenes with their reconstructions: PSNR and edge F1."""
    images = [scene_at(seed, TEST_SCENES, number).image for number in range(count)]
    rebuilt = []
    for start in range(0, count, 64):
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.encode(to_tensor(images[start : start + 64])).latent_dist.mean
            rebuilt += list(to_images(vae.decode(latents).sample))
    pairs = list(zip(rebuilt, images, strict=True))
    errors = [np.square(a.astype(float) - b.astype(float)).mean() for a, b in pairs]
    return {
        "psnr": float(10.0 * np.log10(255.0**2 / np.mean(errors))),
        "edge_f1": float(np.mean([edge_f1(a, b) for a, b in pairs])),
    }


@torch.no_grad()
def generate(
    pipeline: StableDiffusionPipeline, captions: list[str], steps: int, guidance: float, seed: int
) -> list[Picture]:
    """Generate one picture per caption, each from a seed of its own."""
    pictures: list[Picture] = []
    for start in range(0, len(captions), 50):
        chunk = captions[start : start + 50]
        seeds = range(seed + start, seed + start + len(chunk))
        with torch.autocast("cpu", torch.bfloat16):
            images = pipeline(
                chunk,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=[torch.Generator().manual_seed(number) for number in seeds],
                output_type="np",
            ).images
        pictures += list((np.asarray(images) * 255.0).round().astype(np.uint8))
    return pictures


def accuracy(pictures: list[Picture], scenes: list[Scene]) -> dict[str, float]:
    """Share of one-shape pictures that show what their captions say."""
    hits: dict[str, list[bool]] = {name: [] for name in ("shape", "colour", "background", "all")}
    for picture, scene in zip(pictures, scenes, strict=True):
        reading, wanted = read_scene(picture), scene.shapes[0]
        hits["shape"].append(reading.kind == wanted.kind)
        hits["colour"].append(reading.colour == wanted.colour)
        hits["background"].append(reading.background == scene.background)
        right = hits["shape"][-1] and hits["colour"][-1] and hits["background"][-1]
        # A second shape that nobody asked for is a mistake too.
        hits["all"].append(right and reading.count == 1)
    return {name: float(np.mean(values)) for name, values in hits.items()}


def load_pipeline(output: Path) -> StableDiffusionPipeline:
    """Load the finished model for sampling."""
    pipeline = StableDiffusionPipeline.from_pretrained(output, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.to(memory_format=torch.channels_last)
    return pipeline


def write_grid(path: Path, pictures: list[Picture], columns: int = 10) -> None:
    """Write pictures side by side as one PNG, twice as large."""
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    full = [np.hstack(row) for row in rows if len(row) == columns]
    grid = cv2.resize(np.vstack(full), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(path), cv2.cvtColor(grid, cv2.COLOR_RGB2BGR))


def evaluate(output: Path, work: Path, seed: int, count: int) -> dict[str, Any]:
    """Measure a saved model on held-out scenes and keep grids of pictures to look at."""
    pipeline = load_pipeline(output)
    scenes = [scene_at(seed, TEST_SCENES, number, count=1) for number in range(count)]
    pictures = generate(pipeline, [scene.caption for scene in scenes], 25, 3.0, seed=10_000)
    write_grid(work / "one-shape.png", pictures[:60])
    several = [scene_at(seed, TEST_SCENES, number, count=2 + number % 2) for number in range(40)]
    captions = [scene.caption for scene in several]
    write_grid(work / "several.png", generate(pipeline, captions, 25, 3.0, seed=20_000))
    figures: dict[str, Any] = {
        "pictures": count,
        "one_shape": accuracy(pictures, scenes),
        "vae": vae_figures(pipeline.vae, 256, seed),
        "parameters": {
            name: sum(weight.numel() for weight in getattr(pipeline, name).parameters())
            for name in ("vae", "text_encoder", "unet")
        },
        "training": {
            name: training_figures(work / f"{name}.pt")
            for name in BATCHES
            if (work / f"{name}.pt").exists()
        },
    }
    (work / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    (output / "README.md").write_text(model_card(figures), encoding="utf-8")
    print(json.dumps(figures, indent=2), flush=True)
    return figures


def training_figures(path: Path) -> dict[str, float]:
    """Read from a checkpoint how long its network was trained."""
    state = torch.load(path, weights_only=True, mmap=True)
    return {"steps": state["step"], "minutes": round(state["seconds"] / 60.0, 1)}


CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
tags:
- stable-diffusion
- controlnet
- synthetic
---

# condkit tiny

A text-to-image latent diffusion model of {total:.1f} million weights that knows one thing: a few
coloured shapes on a plain background, 64x64 pixels. It is the base model of condkit's demo and
tests. A ControlNet trains on it in minutes on two CPU cores, through the same code that trains
one on Stable Diffusion.

```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("condkit/assets/tiny", safety_checker=None)
pipeline("a red circle on a yellow background", guidance_scale=3.0, num_inference_steps=25)
```

## Parts

| Part | Kind | Weights |
|---|---|---|
| `vae` | `AutoencoderKL`, 4x downsampling, {channels} latent channels | {vae:.2f} M |
| `text_encoder` | `CLIPTextModel`, 2 layers of width {width}, {tokens} tokens | {text:.2f} M |
| `tokenizer` | `CLIPTokenizer`, byte-level: one token per caption word, letters for the rest | |
| `unet` | `UNet2DConditionModel`, {blocks}, v-prediction | {unet:.2f} M |
| `scheduler` | `DDIMScheduler`, squared-cosine schedule, trailing steps | |

All weights are stored in half precision. The UNet's latents are a quarter of the picture's size,
so a ControlNet needs `conditioning_embedding_out_channels=(16, 32, 64)`.

## What it knows

Captions such as "a red circle and a blue square on a yellow background": one to three shapes
({kinds}), {count} colours for shapes and background
({colours}).
The captions of its training data never say where a shape is or how large: place and size follow
from the noise, or from a ControlNet.

## Training

Trained from random weights by `scripts/train_tiny.py` on scenes that `condkit/scenes.py` draws; no
other data and no other model had a part in it. Machine: a virtual machine with two CPU cores
(bfloat16 autocast, float32 master weights), shared with other work; no GPU.

{training}

UNet and text model were trained together on the stored latents of a fixed pool of scenes; a tenth
of the captions was left out, for classifier-free guidance. The autoencoder was trained with AdamW,
the weight matrices of the other two rows with Muon. Each learning rate fell along a cosine to the
end of the minutes above (`--vae-minutes 12 --decoder-minutes 3.5 --unet-minutes 37`). The weights
kept are exponential moving averages.

## Figures

Measured by `scripts/train_tiny.py --stage evaluate` on scenes that no training step saw.

| What | Value |
|---|---|
| Autoencoder: PSNR of 256 reconstructed scenes | {psnr:.1f} dB |
| Autoencoder: F1 of the reconstructions' Canny edges (1 pixel of tolerance) | {edges:.3f} |
| One-shape captions, {pictures} pictures: right shape | {shape:.1%} |
| right colour | {colour:.1%} |
| right background | {background:.1%} |
| all three right, and no second shape | {all:.1%} |

Sampled with DDIM, 25 steps, guidance 3, one fixed seed per picture. The reader that judges the
pictures, `condkit.scenes.read_scene`, made no mistake on hundreds of drawn one-shape scenes.

## Limits

- It draws nothing but such scenes. Words outside of the list above mean nothing to it.
- A purple shape on gray, or a gray one on purple, often comes out as a smear: the autoencoder
  puts both colours close to zero, where its decoder is least exact.
- With two or three shapes it can mix up which colour belongs to which shape, leave one out or
  add one.
- It is meant for tests and demonstrations. How a ControlNet fares here says whether the pipeline
  works, not how the same recipe fares on a large model.
"""


def model_card(figures: dict[str, Any]) -> str:
    """Write the model card from the measured figures."""
    millions = {name: count / 1e6 for name, count in figures["parameters"].items()}
    names = {
        "vae": "autoencoder",
        "decoder": "its decoder, on latents with small errors",
        "unet": "UNet and text model",
    }
    rows = [
        f"| {names[name]} | {took['steps']:,} | {BATCHES[name]} | {took['minutes']:.0f} |"
        for name, took in figures["training"].items()
    ]
    head = ["| Network | Steps | Scenes per step | Minutes |", "|---|---|---|---|"]
    return CARD.format(
        total=sum(millions.values()),
        vae=millions["vae"],
        text=millions["text_encoder"],
        unet=millions["unet"],
        channels=LATENT_CHANNELS,
        width=TEXT_WIDTH,
        tokens=TOKENS,
        blocks=" / ".join(map(str, UNET_CHANNELS)) + " channels",
        kinds=", ".join(KINDS),
        count=len(COLOURS),
        colours=", ".join(COLOURS),
        training="\n".join([*head, *rows]),
        psnr=figures["vae"]["psnr"],
        edges=figures["vae"]["edge_f1"],
        pictures=figures["pictures"],
        **figures["one_shape"],
    )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path("condkit/assets/tiny"))
    parser.add_argument("--work", type=Path, default=Path("build/tiny"))
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vae-steps", type=int, default=1800)
    parser.add_argument("--vae-minutes", type=float, default=math.inf)
    parser.add_argument("--decoder-steps", type=int, default=320)
    parser.add_argument("--decoder-minutes", type=float, default=math.inf)
    parser.add_argument("--unet-steps", type=int, default=2600)
    parser.add_argument("--unet-minutes", type=float, default=math.inf)
    parser.add_argument("--pool", type=int, default=50_000, help="scenes encoded for the UNet")
    parser.add_argument("--pictures", type=int, default=400, help="pictures to measure")
    parser.add_argument("--no-compile", action="store_true", help="do without torch.compile")
    return parser.parse_args()


def main() -> None:
    """Run the wanted stages in order."""
    args = parse_arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    wanted = STAGES[1:] if args.stage == "all" else (args.stage,)
    fast = not args.no_compile
    vae_plan = Plan(args.vae_steps, args.vae_minutes, BATCHES["vae"], 2e-3, args.seed)
    decoder_plan = Plan(
        args.decoder_steps, args.decoder_minutes, BATCHES["decoder"], 1e-3, args.seed, True
    )
    unet_plan = Plan(args.unet_steps, args.unet_minutes, BATCHES["unet"], 2e-3, args.seed, True)
    if "init" in wanted:
        torch.manual_seed(args.seed)
        text_model = build_text_model(build_tokenizer())
        save_model(args.output, build_vae(), text_model, build_unet())
    if {"vae", "latents", "decoder", "unet"} & set(wanted):
        vae = train_vae(vae_plan, args.work, fast)
    if {"latents", "decoder", "unet"} & set(wanted):
        pool = encode_pool(vae, unet_plan, args.work, args.pool)
    if {"decoder", "unet"} & set(wanted):
        vae = train_decoder(decoder_plan, args.work, vae, pool, fast)
    if "unet" in wanted:
        train_unet(unet_plan, args.work, args.output, vae, pool, fast)
    if "evaluate" in wanted:
        evaluate(args.output, args.work, args.seed, args.pictures)


if __name__ == "__main__":
    main()
