"""Pictures from a trained run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condkit import imageio
from condkit.errors import ConfigError, MapError
from condkit.trainer.base_loading import load_base
from condkit.trainer.base_model import BaseModel
from condkit.trainer.checkpoint import saved_control_net
from condkit.trainer.compute import Compute, resolve_compute
from condkit.trainer.control_net import load_control_net
from condkit.trainer.data import HIDDEN, hint_from_map
from condkit.trainer.decoder import use_decoder
from condkit.trainer.generation import Painter, Sampling
from condkit.trainer.run_folder import RunRecord, read_record
from condkit.types import ConditionSpec, MapPixels, RgbImage

_BATCH = 8


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A run, ready to generate.

    Attributes:
        record: What it was trained on.
        base: The frozen model.
        control_net: diffusers.ControlNetModel.
    """

    record: RunRecord
    base: BaseModel
    control_net: Any


def open_run(
    run: Path, compute: Compute, *, base: str | None = None, offline: bool = False
) -> TrainedRun:
    """Load a run's ControlNet (the newest checkpoint's while it is not finished) and its base.

    Args:
        run: Folder of the run.
        compute: Device and precision.
        base: Another base model of the same shape than the one it was trained on.
        offline: Take hub files from the local cache alone.

    Raises:
        TrainingError: if the folder is no run, has saved nothing yet, or does not fit the base.
    """
    record = read_record(run)
    weights = saved_control_net(run, record)
    # Another base says for itself what it predicts.
    prediction = record.prediction if base is None else None
    model = load_base(base or record.base, compute, offline=offline, prediction=prediction)
    control_net = load_control_net(weights, model)
    use_decoder(model, weights, record.base_fingerprint)
    return TrainedRun(record, model, control_net)


def sample(
    run: Path,
    condition_map: MapPixels,
    prompt: str,
    *,
    negative_prompt: str = "",
    steps: int = 20,
    guidance: float = 7.5,
    control_scale: float = 1.0,
    count: int = 1,
    seed: int = 0,
    base: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = False,
) -> list[RgbImage]:
    """Generate pictures that follow a condition map.

    Args:
        run: Folder of a training run.
        condition_map: (H, W), (H, W, 3) or (H, W, 4) uint8 or uint16, as the dataset's maps are. A
            size that the model cannot have is padded with "nothing here" and the result cropped.
        prompt: What the picture should show.
        negative_prompt: What it should not show.
        steps: DDIM steps.
        guidance: Classifier-free guidance scale.
        control_scale: Factor on the ControlNet's outputs; 0 switches it off.
        count: How many pictures.
        seed: Seed of the first picture's noise; the next one takes the next number.
        base: Another base model than the run's.
        device: "auto", "cpu", "cuda", ...
        dtype: "auto", "fp32", "bf16" or "fp16".
        offline: Take hub files from the local cache alone.

    Returns:
        `count` pictures, (H, W, 3) uint8, of the map's size.

    Raises:
        TrainingError: if the run or its base cannot be used.
        MapError: if the map is none of this condition.
        ConfigError: if a setting is impossible.
    """
    if count < 1:
        raise ConfigError(f"count: expected at least 1 picture, got {count}")
    sampling = Sampling(
        steps=steps,
        guidance=guidance,
        negative_prompt=negative_prompt,
        control_scale=control_scale,
    )
    trained = open_run(run, resolve_compute(device, dtype), base=base, offline=offline)
    spec = trained.record.condition
    hint = hint_from_map(checked_map(condition_map, spec))
    painter = Painter(trained.base, trained.control_net)
    pictures: list[RgbImage] = []
    for first in range(0, count, _BATCH):
        seeds = range(seed + first, seed + min(first + _BATCH, count))
        size = len(seeds)
        pictures += painter(
            [prompt] * size, [hint] * size, list(seeds), sampling, padding=hint_padding(spec)
        )
    return pictures


def read_condition_map(path: Path, spec: ConditionSpec) -> MapPixels:
    """A condition map from a file, with the mask or the 16 bits that the condition has.

    Args:
        path: A PNG as condkit writes maps; where the map is plain 8-bit, any picture file.
        spec: The condition.

    Raises:
        ImageError: if it cannot be decoded.
    """
    if spec.channels == 4 or spec.dtype == "uint16":
        return imageio.read_map(path)
    return imageio.decode(path).image


def checked_map(pixels: MapPixels, spec: ConditionSpec) -> MapPixels:
    """A map of a condition, grey where the condition is grey.

    Raises:
        MapError: if it has colours and the condition has none, lacks the mask or has one too many,
            or is of another type.
    """
    if pixels.dtype != spec.dtype:
        raise MapError(
            f"expected a {spec.name} map of {spec.dtype}, got {pixels.dtype}; make the map with "
            f"condkit annotate --condition {spec.name}"
        )
    if spec.channels == 4 and pixels.shape[2:] != (4,):
        raise MapError(
            f"expected an RGBA {spec.name} map, alpha 0 where the picture is hidden, got "
            f"{'a grey' if pixels.ndim == 2 else 'an RGB'} picture without alpha"
        )
    if spec.channels != 4 and pixels.shape[2:] == (4,):
        raise MapError(f"expected a {spec.name} map without alpha, got an RGBA picture")
    if pixels.ndim == 3 and spec.channels == 1:
        if not ((pixels == pixels[:, :, :1]).all()):
            raise MapError(
                f"expected a grey {spec.name} map, got a coloured picture; make the map of a "
                f"photograph first: condkit annotate PHOTO -o maps --condition {spec.name}"
            )
        return pixels[:, :, 0]
    if pixels.ndim == 2 and spec.channels == 3:
        raise MapError(f"expected an RGB {spec.name} map, got a grey picture")
    return pixels


def hint_padding(spec: ConditionSpec) -> float:
    """The hint value of "nothing here", in [0, 1]; `HIDDEN` for maps with a mask."""
    if spec.channels == 4:
        return HIDDEN
    return spec.background / (255.0 if spec.dtype == "uint8" else 65535.0)
