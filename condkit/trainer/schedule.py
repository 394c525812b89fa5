"""The learning rate of each optimizer step.

Counted in optimizer steps alone, so that accumulation and the number of devices do not change it.
"""

from __future__ import annotations

import math

from condkit.trainer.config import OptimConfig


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The rate of optimizer step number `step`, counted from 0, of `steps`."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
