"""The segmentation networks of transformers as plain functions of pixels.

Each gives scores per class, as its own post-processing in transformers does before the last resize.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from condkit.annotators.backends import runner
from condkit.annotators.nets.class_maps import semantic_scores
from condkit.annotators.nets.normalised import Normalised
from condkit.annotators.nets.semantic import Framing, SemanticDetector, half_precision
from condkit.annotators.palettes import palette_of_weights
from condkit.budget import Budget
from condkit.errors import WeightsError
from condkit.pretrained import load_pretrained
from condkit.runtime import Runtime
from condkit.weights import ModelSpec

# What only training used, and indices that follow from a window's size: old files hold them.
_MAY_HAVE = (
    r"relative_position_index$",
    r"(^|\.)criterion\.",
    r"(^|\.)text_mapper\.",
    r"(^|\.)logit_scale$",
)

# "the task is semantic" in CLIP's vocabulary, with its marks for start and end.
_TASK_TOKENS = (49406, 518, 10549, 533, 29119, 1550, 49407)


class ClassScores(Normalised):
    """A segmentation model that takes pixels as they are."""

    @property
    def classes(self) -> int:
        """How many classes it knows, without "no object"."""
        raise LookupError(f"{type(self).__name__} counts no classes")

    def prepared(self, device: torch.device, dtype: torch.dtype) -> ClassScores:
        """Itself, on the device, frozen, computing in `dtype` in channels-last layout."""
        self.to(device)
        half_precision(self._heavy_part(), dtype)
        self.model.to(memory_format=torch.channels_last)
        return self.eval().requires_grad_(False)

    def _heavy_part(self) -> nn.Module:
        """What computes in half precision; the rest stays in float32."""
        part: nn.Module = self.model
        return part


class OneFormerScores(ClassScores):
    """OneFormer, asked for its semantic task.

    Source: J. Jain et al., CVPR 2023 (arXiv 2211.06220).
    """

    task: torch.Tensor

    def __init__(self, model: Any, folder: Path) -> None:  # noqa: ANN401
        """Encode the task once; it is the same for every image."""
        super().__init__(model, folder)
        tokens = torch.zeros(1, model.config.task_seq_len)
        tokens[0, : len(_TASK_TOKENS)] = torch.tensor(_TASK_TOKENS)
        with torch.inference_mode():
            task = model.model.task_encoder(tokens)
        self.register_buffer("task", task.clone(), persistent=False)

    @property
    def classes(self) -> int:
        """How many classes it knows, without "no object"."""
        return int(self.model.model.transformer_module.decoder.class_embed.out_features) - 1

    def _heavy_part(self) -> nn.Module:
        # The positions that the deformable attention of the decoder samples need float32.
        part: nn.Module = self.model.model.pixel_level_module.encoder
        return part

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scores per class.

        Args:
            pixels: (N, 3, h, w) float32 RGB in [0, 255]; h and w are multiples of 32.

        Returns:
            (N, C, h / 4, w / 4) float32.
        """
        model = self.model.model
        features = model.pixel_level_module(self.normalised(pixels), False)
        found = model.transformer_module(
            multi_scale_features=features.decoder_features,
            mask_features=features.decoder_last_feature,
            task_token=self.task.expand(len(pixels), -1),
            output_attentions=False,
        )
        return semantic_scores(found.prediction_class, found.prediction_masks)


class Mask2FormerScores(ClassScores):
    """Mask2Former.

    Source: B. Cheng et al., CVPR 2022 (arXiv 2112.01527).
    """

    @property
    def classes(self) -> int:
        """How many classes it knows, without "no object"."""
        return int(self.model.class_predictor.out_features) - 1

    def _heavy_part(self) -> nn.Module:
        # As OneFormer's.
        part: nn.Module = self.model.model.pixel_level_module.encoder
        return part

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scores per class.

        Args:
            pixels: (N, 3, h, w) float32 RGB in [0, 255]; h and w are multiples of 32.

        Returns:
            (N, C, h, w) float32: the masks are brought to the input's size before they become
            probabilities, as its authors do; transformers brings all to 384x384, which stretches.
        """
        found = self.model(self.normalised(pixels), output_auxiliary_logits=False)
        size_hw = int(pixels.shape[2]), int(pixels.shape[3])
        return semantic_scores(found.class_queries_logits, found.masks_queries_logits, size_hw)


class EomtScores(ClassScores):
    """EoMT: a plain vision transformer, on square windows of the size that it was trained at.

    Source: T. Kerssies et al., CVPR 2025 (arXiv 2503.19108).
    """

    @property
    def classes(self) -> int:
        """How many classes it knows, without "no object"."""
        return int(self.model.class_predictor.out_features) - 1

    @property
    def window(self) -> int:
        """Side in pixels of what the network sees at once."""
        return int(self.model.config.image_size)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scores per class; where windows overlap, their mean.

        Args:
            pixels: (N, 3, h, w) float32 RGB in [0, 255]; one side is the window's, the other at
                least that.

        Returns:
            (N, C, h, w) float32.
        """
        along = 2 if pixels.shape[2] > pixels.shape[3] else 3
        normalised = self.normalised(pixels)
        starts = window_starts(int(pixels.shape[along]), self.window)
        if len(starts) == 1:
            return self._window(normalised)
        scores = pixels.new_zeros(len(pixels), self.classes, *pixels.shape[2:])
        times = pixels.new_zeros(1, 1, *pixels.shape[2:])
        for start in starts:
            part = self._window(normalised.narrow(along, start, self.window))
            scores.narrow(along, start, self.window).add_(part)
            times.narrow(along, start, self.window).add_(1)
        return scores.div_(times)

    def _window(self, normalised: torch.Tensor) -> torch.Tensor:
        found = self.model(normalised)
        size_hw = self.window, self.window
        return semantic_scores(found.class_queries_logits, found.masks_queries_logits, size_hw)


def window_starts(side: int, window: int) -> list[int]:
    """Where as few windows as cover a side begin, spread evenly from its start to its end."""
    count = math.ceil(side / window)
    return [index * (side - window) // max(1, count - 1) for index in range(count)]


class SegformerScores(ClassScores):
    """SegFormer.

    Source: E. Xie et al., NeurIPS 2021 (arXiv 2105.15203).
    """

    @property
    def classes(self) -> int:
        """How many classes it knows."""
        return int(self.model.decode_head.classifier.out_channels)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scores per class.

        Args:
            pixels: (N, 3, h, w) float32 RGB in [0, 255]; h and w are multiples of 32.

        Returns:
            (N, C, h / 4, w / 4) float32.
        """
        logits: torch.Tensor = self.model(self.normalised(pixels)).logits
        return logits


class UperNetScores(ClassScores):
    """UPerNet, without the head that only its training used.

    Source: T. Xiao et al., ECCV 2018 (arXiv 1807.10221).
    """

    @property
    def classes(self) -> int:
        """How many classes it knows."""
        return int(self.model.decode_head.classifier.out_channels)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scores per class.

        Args:
            pixels: (N, 3, h, w) float32 RGB in [0, 255]; h and w are multiples of 32.

        Returns:
            (N, C, h / 4, w / 4) float32.
        """
        model = self.model
        dtype = next(model.parameters()).dtype
        features = model.backbone(self.normalised(pixels).to(dtype)).feature_maps
        logits: torch.Tensor = model.decode_head(features).float()
        return logits


def load_scores(
    model_class: str,
    wrapper: Callable[[Any, Path], ClassScores],
    folder: Path,
    weights: str,
) -> ClassScores:
    """A segmentation network with the weights of a folder, in float32 on the CPU.

    Args:
        model_class: Its class in transformers.
        wrapper: What makes a `ClassScores` of it.
        folder: The model's files.
        weights: The detector's setting, whose palette the classes must fit.

    Raises:
        WeightsError: if the files are not the network's, or it knows another number of classes.
    """
    network = wrapper(load_pretrained(model_class, folder, may_have=_MAY_HAVE), folder)
    wanted = len(palette_of_weights(weights).classes)
    if network.classes != wanted:
        raise WeightsError(
            f"{folder}: the network knows {network.classes} classes, the palette of {weights!r} "
            f"has {wanted}; this is another model"
        )
    return network


def semantic_detector(
    name: str,
    network: ClassScores,
    model: ModelSpec,
    weights: str,
    runtime: Runtime,
    *,
    framing: Framing,
    scale: float,
    antialias: bool = False,
) -> SemanticDetector:
    """A loaded network as a detector.

    Args:
        name: The detector's.
        network: From `load_scores`.
        model: Where it comes from.
        weights: The detector's setting.
        runtime: Where and how it runs.
        framing: At which size it works.
        scale: How much smaller its chunks are than HED's, see `Budget.on`.
        antialias: Whether its scores are smoothed for images smaller than they are.
    """
    device, dtype = runtime.resolve()
    network.prepared(device, dtype)
    run = runner(network, runtime, key=f"{model.name}-{model.files[0].sha256}-{dtype}")
    return SemanticDetector(
        name=name,
        network=run,
        palette=palette_of_weights(weights).name,
        device=device,
        budget=Budget.on(device, name, scale=scale),
        framing=framing,
        antialias=antialias,
    )


def splits_windows(folder: Path) -> bool:
    """Whether a model's `preprocessor_config.json` says that long images are seen in windows.

    Raises:
        WeightsError: if the file is missing or broken.
    """
    path = folder / "preprocessor_config.json"
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get("do_split_image", False))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read: {error}") from error
