"""What a run would train, compute, hold and keep, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from condkit.trainer.arithmetic import Arithmetic
from condkit.trainer.memory import StepMemory
from condkit.trainer.meta import Hw


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPlan:
    """A run before it begins.

    Attributes:
        base: Name of the base model.
        condition: What the maps mean.
        device: Where it would run: "cuda:0", "cpu".
        dtype: Precision of the arithmetic.
        devices: How many devices.
        rows: Training rows; None where a dataset is streamed.
        sizes: Height and width in pixels of the crops, with the share of rows that have them.
        batch: Samples of an optimizer step, on all devices together.
        steps: Optimizer steps.
        trained: Numbers that are trained.
        trained_later: Numbers that join when the decoder is unlocked.
        frozen: Numbers that never change.
        arithmetic: Operations of one sample, as trained at the end, with its latent at hand.
        peak_flops: What one device can do per second; None where that is not known.
        memory: Of one device, at the largest crop.
        checkpoint: Bytes of one checkpoint.
        latent_cache: Bytes of latents that would be encoded and kept on the disk; 0 for none.
        text_cache: Bytes of captions' states that would be kept, at most; 0 for none.
        cache: Where caches would lie.
    """

    base: str
    condition: str
    device: str
    dtype: str
    devices: int
    rows: int | None
    sizes: tuple[tuple[Hw, float], ...]
    batch: int
    steps: int
    trained: int
    trained_later: int
    frozen: int
    arithmetic: Arithmetic
    peak_flops: float | None
    memory: StepMemory
    checkpoint: int
    latent_cache: int
    text_cache: int
    cache: str

    @property
    def step_flops(self) -> int:
        """Operations of one optimizer step, on all devices together."""
        return self.arithmetic.total * self.batch

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return values | {
            "sizes": [{"height_width": list(hw), "share": share} for hw, share in self.sizes],
            "arithmetic": {
                name: getattr(self.arithmetic, name) for name in (*Arithmetic.__slots__, "total")
            },
            "step_flops": self.step_flops,
            "memory": {
                name: getattr(self.memory, name) for name in (*StepMemory.__slots__, "activations")
            },
        }

    def lines(self) -> Iterator[tuple[str, str]]:
        """What and how much, for a table."""
        parts, memory = self.arithmetic, self.memory
        rows = "streamed" if self.rows is None else f"{self.rows:,}"
        yield "base", self.base
        yield "condition", self.condition
        yield "device", f"{self.devices} x {self.device}, {self.dtype}"
        yield "training rows", rows
        yield "crop", _sizes(self.sizes)
        yield "samples per step", f"{self.batch:,}"
        epochs = f", {self.steps * self.batch / self.rows:.1f} epochs" if self.rows else ""
        yield "steps", f"{self.steps:,}{epochs}"
        yield "trained parameters", f"{self.trained:,}"
        if self.trained_later:
            yield "unlocked later", f"{self.trained_later:,}"
        yield "frozen parameters", f"{self.frozen:,}"
        yield "arithmetic per sample", f"{parts.total / 1e12:.4g} TFLOP"
        yield (
            "  of it",
            f"ControlNet {parts.control_forward / 1e12:.4g} forward, "
            f"{parts.control_backward / 1e12:.4g} backward; "
            f"base {parts.base_forward / 1e12:.4g}, {parts.base_backward / 1e12:.4g}",
        )
        yield "arithmetic per step", f"{self.step_flops / 1e12:.4g} TFLOP"
        if self.peak_flops:
            best = self.peak_flops * self.devices / parts.total
            yield "images/s at half the peak", f"{best / 2:.0f}"
        yield "predicted peak memory", f"{_gb(memory.peak)} per device"
        yield (
            "  of it",
            f"weights {_gb(memory.weights)}, gradients {_gb(memory.gradients)}, optimizer "
            f"{_gb(memory.optimizer)}, averages {_gb(memory.averages)}, activations "
            f"{_gb(memory.activations)}",
        )
        yield "one checkpoint", _gb(self.checkpoint)
        yield "latents cached", _cached(self.latent_cache, self.cache, "cache.latents")
        yield "captions cached", _cached(self.text_cache, self.cache, "cache.text")


def _sizes(sizes: tuple[tuple[Hw, float], ...]) -> str:
    shown = sorted(sizes, key=lambda item: -item[1])[:4]
    text = ", ".join(f"{w} x {h} ({share:.0%})" for (h, w), share in shown)
    return text + (f" and {len(sizes) - 4} more" if len(sizes) > 4 else "")


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _cached(size: int, folder: str, setting: str) -> str:
    return f"{_gb(size)} in {folder}" if size else f"none ({setting}=true would)"
