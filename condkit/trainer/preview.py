"""Pictures during training: always the same pairs, always the same seeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from condkit import atomic
from condkit.imageio import encode_png
from condkit.trainer.base_model import BaseModel
from condkit.trainer.config import PreviewConfig
from condkit.trainer.data import Example
from condkit.trainer.data_config import DataConfig
from condkit.trainer.examples import ExampleMaker
from condkit.trainer.generation import Painter, Sampling
from condkit.trainer.grid import picture_from_pixels, picture_grid
from condkit.trainer.rows import PairedRows
from condkit.types import ConditionSpec, RgbImage


class Previewer:
    """Draws the preview grid of a run.

    Args:
        base: The frozen model.
        control_net: The ControlNet in training.
        rows: The split that the pairs come from; its first rows are taken.
        spec: The condition.
        data: The run's data settings; previews take the central crop, unflipped, with captions.
        config: How many pairs, and how they are sampled.
    """

    def __init__(
        self,
        base: BaseModel,
        control_net: Any,  # noqa: ANN401 - diffusers.ControlNetModel
        rows: PairedRows,
        spec: ConditionSpec,
        data: DataConfig,
        config: PreviewConfig,
    ) -> None:
        still = replace(data, crop="center", flip=0.0, caption_dropout=0.0)
        make = ExampleMaker(spec, still, 0, base.unit)
        self._examples = [make(rows[i], 0) for i in range(min(config.pairs, len(rows)))]
        self._painter = Painter(base, control_net)
        self._control_net = control_net
        self._config = config

    def draw(self) -> RgbImage:
        """One row per pair: condition, generated, real."""
        self._control_net.eval()
        try:
            rows = [self._row(i, example) for i, example in enumerate(self._examples)]
        finally:
            self._control_net.train()
        return picture_grid(rows)

    def _row(self, index: int, example: Example) -> list[RgbImage]:
        sampling = Sampling(steps=self._config.steps, guidance=self._config.guidance)
        seeds = [self._config.seed + index]
        made = self._painter([example.caption], [example.hint], seeds, sampling)
        hint = np.asarray(example.hint * 2 - 1, np.float32)
        return [picture_from_pixels(hint), made[0], picture_from_pixels(example.picture)]


def write_preview(folder: Path, step: int, picture: RgbImage) -> Path:
    """Save a preview grid as `step-00000500.png`."""
    path = folder / f"step-{step:08d}.png"
    atomic.write_bytes(path, encode_png(picture))
    return path
