"""The depth networks of transformers as plain functions of pixels, for any size and arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from condkit.annotators.nets.normalised import Normalised
from condkit.errors import WeightsError
from condkit.pretrained import load_pretrained

# The first fusion layer of DPT has no second input, so this part of it is never run, and published
# files lack it.
_NEVER_RUN = (r"^neck\.fusion_stage\.layers\.0\.residual_layer1\.",)
_NEVER_RUN_PRO = (r"^fusion_stage\.intermediate\.0\.residual_layer1\.",)
# Indices that follow from the image's size; old releases stored them.
_DERIVED = (r"relative_position_index$",)
_POOLER = (r"^dpt\.pooler\.",)

_MULTIPLYING = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
_NORMALISING = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)


class DepthNetwork(Normalised):
    """A depth model that takes pixels as they are."""

    def prepared(self, device: torch.device, dtype: torch.dtype) -> DepthNetwork:
        """Itself, on the device, in channels-last layout, multiplying in `dtype`.

        Sums, norms, the layers that see the colours and those whose result is the depth stay in
        float32: the three digits of bf16 would show there, and they cost little.
        """
        self.to(device)
        if dtype != torch.float32:
            exact = [part for layer in self._last_layers() for part in layer.modules()]
            for layer in self.model.modules():
                if layer in exact or _sees_colours(layer):
                    layer.register_forward_pre_hook(_to_float32, with_kwargs=True)
                elif isinstance(layer, _MULTIPLYING):
                    layer.to(dtype).register_forward_pre_hook(_to(dtype))
                elif isinstance(layer, _NORMALISING):
                    layer.register_forward_pre_hook(_to(torch.float32))
        self.model.to(memory_format=torch.channels_last)
        return self.eval().requires_grad_(False)

    def _last_layers(self) -> tuple[nn.Module, ...]:
        """Those whose result is the depth."""
        return ()


class DptDepth(DepthNetwork):
    """DPT, hybrid or plain, at any size; transformers' own forward takes squares alone.

    Source: R. Ranftl et al., ICCV 2021 (arXiv 2103.13413).
    """

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Relative inverse depth.

        Args:
            pixels: (N, 3, h, w) float32 RGB in [0, 255]; h and w are multiples of 32.

        Returns:
            (N, h, w) float32, at least 0.
        """
        model, config = self.model, self.model.config
        size = {"interpolate_pos_encoding": True} if config.is_hybrid else {}
        embedded = model.dpt.embeddings(self.normalised(pixels), **size)
        hidden = embedded.last_hidden_states
        features = list(embedded.intermediate_activations or ())
        wanted = config.backbone_out_indices[len(features) :]
        for index, layer in enumerate(model.dpt.encoder.layer):
            hidden = layer(hidden)
            if index in wanted:
                features.append(hidden)
        rows, columns = (side // config.patch_size for side in pixels.shape[2:])
        found: torch.Tensor = model.head(model.neck(features, rows, columns))
        return found

    def _last_layers(self) -> tuple[nn.Module, ...]:
        return (self.model.head.head[-2],)


class DepthAnything(DepthNetwork):
    """Depth Anything V2.

    Source: L. Yang et al., NeurIPS 2024 (arXiv 2406.09414).
    """

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Relative inverse depth.

        Args:
            pixels: (N, 3, h, w) float32 RGB in [0, 255]; h and w are multiples of 14.

        Returns:
            (N, h, w) float32, at least 0.
        """
        found: torch.Tensor = self.model(self.normalised(pixels)).predicted_depth
        return found

    def _last_layers(self) -> tuple[nn.Module, ...]:
        return (self.model.head.conv3,)


class ZoeDepth(DepthNetwork):
    """ZoeDepth.

    Attributes:
        flip: Predict the mirrored image as well and take the mean.

    Source: S. F. Bhat et al., arXiv 2302.12288.
    """

    def __init__(self, model: Any, folder: Path, *, flip: bool) -> None:  # noqa: ANN401
        """As for every depth model."""
        super().__init__(model, folder)
        self.flip = flip
        if len(model.config.bin_configurations) > 1:
            model.metric_head = _OneByOne(model.metric_head)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Metric depth.

        Args:
            pixels: (N, 3, h, w) float32 RGB in [0, 255]; h and w are multiples of 32.

        Returns:
            (N, h, w) float32 metres.
        """
        inputs = self.normalised(pixels)
        if self.flip:
            inputs = torch.cat([inputs, inputs.flip(3)])
        found: torch.Tensor = self.model(inputs).predicted_depth
        if self.flip:
            straight, mirrored = found.chunk(2)
            found = (straight + mirrored.flip(2)) / 2
        if found.shape[1:] != pixels.shape[2:]:
            found = F.interpolate(found[:, None], pixels.shape[2:], mode="bicubic")[:, 0]
        return found

    def _last_layers(self) -> tuple[nn.Module, ...]:
        # Logarithms of binomials and a softmax over 64 bins of metres.
        return (self.model.metric_head,)


class _OneByOne(nn.Module):
    """ZoeDepth's choice between its indoor and its outdoor head, for each image by itself.

    In transformers, all images of a batch vote and get the same head, so that an image's depth
    depends on its neighbours.
    """

    def __init__(self, heads: nn.Module) -> None:
        super().__init__()
        self.heads = heads

    def forward(
        self,
        outconv_activation: torch.Tensor,
        bottleneck: torch.Tensor,
        feature_blocks: Sequence[torch.Tensor],
        relative_depth: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        found = [
            self.heads(
                outconv_activation=outconv_activation[one],
                bottleneck=bottleneck[one],
                feature_blocks=[block[one] for block in feature_blocks],
                relative_depth=relative_depth[one],
            )
            for one in (slice(i, i + 1) for i in range(len(bottleneck)))
        ]
        return torch.cat([depth for depth, _ in found]), torch.cat([logits for _, logits in found])


class DepthPro(DepthNetwork):
    """Depth Pro, which takes squares of one size.

    Source: A. Bochkovskii et al., arXiv 2410.02073.
    """

    @property
    def side(self) -> int:
        """Height and width in pixels of what it takes (1536 with the published weights)."""
        config = self.model.config
        side: int = round(config.patch_size / min(config.scaled_images_ratios))
        return side

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Metric inverse depth.

        The network gives it for a camera of unit focal length; the field of view that it estimates
        from the same square makes it metric.

        Args:
            pixels: (N, 3, side, side) float32 RGB in [0, 255].

        Returns:
            (N, side, side) float32, 1/metre.
        """
        outputs = self.model(self.normalised(pixels))
        found: torch.Tensor = outputs.predicted_depth
        if outputs.field_of_view is not None:
            half = torch.deg2rad(outputs.field_of_view.float()) / 2
            found = found * (2 * torch.tan(half))[:, None, None]
        return found

    def _last_layers(self) -> tuple[nn.Module, ...]:
        depth = self.model.head.layers[-2]
        view = self.model.fov_model
        return (depth,) if view is None else (depth, view.head.layers[-1])


def load_dpt(folder: Path, device: torch.device, dtype: torch.dtype) -> DepthNetwork:
    """DPT from a folder as `from_pretrained` reads it.

    Raises:
        WeightsError: if the folder is unreadable, holds another model, or lacks tensors.
    """
    model = load_pretrained(
        "DPTForDepthEstimation", folder, may_lack=_NEVER_RUN, may_have=(*_NEVER_RUN, *_POOLER)
    )
    if model.backbone is not None:
        raise WeightsError(
            f"{folder}: expected a DPT on a plain or hybrid vision transformer, got one on "
            f"{type(model.backbone).__name__}"
        )
    _standardise_once(model)
    return DptDepth(model, folder).prepared(device, dtype)


def load_depth_anything(folder: Path, device: torch.device, dtype: torch.dtype) -> DepthNetwork:
    """Depth Anything from a folder as `from_pretrained` reads it.

    Raises:
        WeightsError: if the folder is unreadable, holds another model, one of metric depth, or
            lacks tensors.
    """
    model = load_pretrained(
        "DepthAnythingForDepthEstimation", folder, may_lack=_NEVER_RUN, may_have=_NEVER_RUN
    )
    if model.config.depth_estimation_type != "relative":
        raise WeightsError(
            f"{folder}: expected a model of relative depth, got one of "
            f"{model.config.depth_estimation_type} depth, whose values grow with the distance"
        )
    return DepthAnything(model, folder).prepared(device, dtype)


def load_zoedepth(
    folder: Path, device: torch.device, dtype: torch.dtype, *, flip: bool
) -> DepthNetwork:
    """ZoeDepth from a folder as `from_pretrained` reads it.

    Raises:
        WeightsError: if the folder is unreadable, holds another model, or lacks tensors.
    """
    model = load_pretrained(
        "ZoeDepthForDepthEstimation",
        folder,
        may_lack=_NEVER_RUN,
        may_have=(*_NEVER_RUN, *_DERIVED),
    )
    return ZoeDepth(model, folder, flip=flip).prepared(device, dtype)


def load_depth_pro(folder: Path, device: torch.device, dtype: torch.dtype) -> DepthPro:
    """Depth Pro from a folder as `from_pretrained` reads it.

    Raises:
        WeightsError: if the folder is unreadable, holds another model, or lacks tensors.
    """
    model = load_pretrained(
        "DepthProForDepthEstimation", folder, may_lack=_NEVER_RUN_PRO, may_have=_NEVER_RUN_PRO
    )
    network = DepthPro(model, folder)
    network.prepared(device, dtype)
    return network


def _sees_colours(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.in_channels == 3


def _to(dtype: torch.dtype) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    """A hook that casts a layer's first input."""
    return lambda _, args: (args[0].to(dtype), *args[1:])


def _to_float32(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return _float32(args), _float32(kwargs)


def _float32(value: Any) -> Any:  # noqa: ANN401 - whatever a layer takes
    if isinstance(value, torch.Tensor):
        return value.float()
    if isinstance(value, dict):
        return {key: _float32(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_float32(item) for item in value)
    return value


def _standardise_once(model: nn.Module) -> None:
    """Standardise BiT's convolution weights now instead of in every forward pass."""
    from transformers.models.bit.modeling_bit import WeightStandardizedConv2d

    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, WeightStandardizedConv2d):
                setattr(parent, name, _plain(layer))


def _plain(layer: Any) -> nn.Module:  # noqa: ANN401 - untyped package
    with torch.no_grad():
        weight = layer.weight.double()
        axes = (1, 2, 3)
        mean = weight.mean(axes, keepdim=True)
        variance = weight.var(axes, unbiased=False, keepdim=True)
        weight = (weight - mean) / torch.sqrt(variance + layer.eps)
        plain = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            bias=layer.bias is not None,
        )
        plain.weight.copy_(weight)
        if layer.bias is not None and plain.bias is not None:
            plain.bias.copy_(layer.bias)
    return plain if layer.pad is None else nn.Sequential(layer.pad, plain)
