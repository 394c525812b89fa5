"""Convolution networks in bf16 on CPUs: layers that make the most of AMX and AVX512-BF16.

Run as torch runs them, such networks lose most of their time beside the arithmetic: weights are
reordered at each call, activations and batch normalisation go over memory once more, max pooling
keeps indices that nobody reads, and a first or last layer left in fp32 for its precision costs as
much as all others together. `pack` replaces these layers of a network in its place:

    network = network_class("mlsd.models.mbv2_mlsd_tiny", "MobileV2_MLSD_Tiny")().eval()
    load_strictly(network, state, path, "M-LSD")
    pack(network, exact=("backbone.features.0.0",))   # only for bf16 on a CPU: see `suits`
    network(pixels)                                   # fp32 in; bf16 from the first layer on

`placement.place` decides whether to, and brings networks to other devices. A first convolution that
sees colours is better made a `ColourConvolution`, which serves the other backends as well.

Nothing else changes: the layers take what the old ones took, and where oneDNN's fused call is not
there (another build of torch), they do the same with plain calls.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from typing import Any

# What oneDNN applies to a convolution's sums before they are written: its name and its numbers.
_FUSED: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
}


def suits(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether packed layers are what to use there."""
    return device.type == "cpu" and dtype == torch.bfloat16


def pack(network: nn.Module, *, exact: Collection[str] = (), full: tuple[str, ...] = ()) -> None:
    """Make the convolutions and poolings of a network fast in bf16, in place.

    Inside every `nn.Sequential`, a `Conv2d` with the `BatchNorm2d` and the `ReLU` or `ReLU6` that
    follow it becomes one `PackedConvolution`; other `Conv2d`s become one by themselves; max
    pooling of 2 x 2 becomes `MaxPool2x2`. Everything else is converted to bf16.

    Args:
        network: In fp32 with its weights, in evaluation mode; only ever called without gradients.
        exact: Names of the convolutions whose input and weights are to keep 16 bits of precision
            instead of 8: the first, which sees the colours, costs next to nothing that way.
        full: What the names of layers begin with that compute in fp32 and give fp32, fused all the
            same: the part of a network that rounding would spoil.

    Raises:
        KeyError: if a name in `exact` is no convolution of the network.
        ValueError: if it is one in groups, whose input cannot be split.
    """
    names = {module: name for name, module in network.named_modules()}
    unknown = set(exact) - {n for m, n in names.items() if isinstance(m, nn.Conv2d)}
    if unknown:
        raise KeyError(f"no convolutions of this network: {sorted(unknown)}")
    grouped = [n for m, n in names.items() if n in exact and getattr(m, "groups", 1) != 1]
    if grouped:
        raise ValueError(f"convolutions in groups cannot be kept exact: {grouped}")
    for parent in list(network.modules()):
        _pack_children(parent, names, exact, full)
    for name, module in network.named_modules():
        packed = isinstance(module, PackedConvolution)
        if not packed and not name.startswith(full) and not list(module.children()):
            module.to(torch.bfloat16)


def _pack_children(
    parent: nn.Module, names: Mapping[nn.Module, str], exact: Collection[str], full: tuple[str, ...]
) -> None:
    in_order = isinstance(parent, nn.Sequential)
    children = list(parent.named_children())
    for place, (name, child) in enumerate(children):
        if isinstance(child, nn.MaxPool2d) and _is_2x2(child):
            setattr(parent, name, MaxPool2x2())
        if type(child) is not nn.Conv2d or child.padding_mode != "zeros":
            continue
        followers = children[place + 1 : place + 3] if in_order else []
        norm, activation = _absorbed([follower for _, follower in followers])
        for follower_name, follower in followers:
            if follower in (norm, activation):
                setattr(parent, follower_name, nn.Identity())
        folded = nn.utils.fusion.fuse_conv_bn_eval(child, norm) if norm is not None else child
        whole = names[child]
        dtype = torch.float32 if whole.startswith(full) else torch.bfloat16
        packed = PackedConvolution(folded, activation, exact=whole in exact, dtype=dtype)
        setattr(parent, name, packed)


def _absorbed(followers: list[nn.Module]) -> tuple[nn.BatchNorm2d | None, nn.Module | None]:
    """The batch normalisation and the activation that come right after a convolution."""
    norm = activation = None
    if followers and isinstance(followers[0], nn.BatchNorm2d):
        norm, followers = followers[0], followers[1:]
    if followers and type(followers[0]) in _FUSED:
        activation = followers[0]
    return norm, activation


def _is_2x2(pool: nn.MaxPool2d) -> bool:
    def is_two(value: Any) -> bool:  # noqa: ANN401 - torch types these loosely
        return value in (2, (2, 2))

    padded, dilated = pool.padding not in (0, (0, 0)), pool.dilation not in (1, (1, 1))
    plain = not (padded or dilated or pool.ceil_mode or pool.return_indices)
    return plain and is_two(pool.kernel_size) and is_two(pool.stride)


class PackedConvolution(nn.Module):
    """A convolution in bf16 with fp32 sums, its weights in oneDNN's own order.

    Takes (N, C, H, W) of any floating type and layout, gives bf16 (or fp32, where it is told to
    compute in that), channels last.
    """

    def __init__(
        self,
        convolution: nn.Conv2d,
        activation: nn.Module | None = None,
        *,
        exact: bool = False,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """Pack a layer.

        Args:
            convolution: In fp32; padding of zeros.
            activation: A `ReLU` or `ReLU6` to apply to the sums, or None.
            exact: Keep 16 bits of input and weights: both are split into two bf16 parts, and of
                the four products all but the smallest are summed in fp32, by one convolution of
                three times as many channels.
            dtype: bf16, or fp32 for a layer that rounding would spoil.
        """
        super().__init__()
        self.exact, self.dtype = exact, dtype
        self.attribute, self.numbers = _FUSED[type(activation)] if activation else ("none", [])
        assert not isinstance(convolution.padding, str)
        self.geometry = (
            list(convolution.padding),
            list(convolution.stride),
            list(convolution.dilation),
            convolution.groups,
        )
        weight = convolution.weight.detach().float()
        if exact:
            high = weight.bfloat16()
            weight = torch.cat([weight, weight, weight - high.float()], dim=1)
        self.weight = nn.Parameter(
            weight.to(dtype).contiguous(memory_format=torch.channels_last), requires_grad=False
        )
        bias = convolution.bias
        self.bias = (
            None if bias is None else nn.Parameter(bias.detach().to(dtype), requires_grad=False)
        )
        # Filled at the first call, which knows the size that the order should suit.
        self._packed: torch.Tensor | None = None

    def forward(self, inputs: torch.Tensor, base: torch.Tensor | None = None) -> torch.Tensor:
        """Convolve and activate.

        Args:
            inputs: (N, C, H, W) of any floating type and layout.
            base: Added to the sums before they are activated and rounded; of their shape.
        """
        hidden = split_in_two(inputs) if self.exact else inputs.to(self.dtype)
        hidden = hidden.contiguous(memory_format=torch.channels_last)
        if not fused_calls_are_there() or hidden.device.type != "cpu":
            padding, stride, dilation, groups = self.geometry
            sums = F.conv2d(hidden, self.weight, self.bias, stride, padding, dilation, groups)
            return self._activate(sums if base is None else sums.add_(base))
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, *self.geometry, list(hidden.shape)
            )
        done: torch.Tensor
        if base is None:
            done = torch.ops.mkldnn._convolution_pointwise(
                hidden,
                self._packed,
                self.bias,
                *self.geometry,
                self.attribute,
                self.numbers,
                "",
            )
            return done
        done = torch.ops.mkldnn._convolution_pointwise.binary(
            hidden,
            base.to(self.dtype).contiguous(memory_format=torch.channels_last),
            self._packed,
            self.bias,
            *self.geometry,
            "add",
            1.0,
            None if self.attribute == "none" else self.attribute,
            self.numbers,
            None,
        )
        return done

    def _activate(self, sums: torch.Tensor) -> torch.Tensor:
        if self.attribute == "relu":
            return F.relu_(sums)
        return sums.clamp_(*self.numbers) if self.numbers else sums


def convolve_onto(base: torch.Tensor, convolution: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """The sum base + convolution(inputs), in one pass where the convolution is packed."""
    if isinstance(convolution, PackedConvolution):
        packed: torch.Tensor = convolution(inputs, base)
        return packed
    added: torch.Tensor = base + convolution(inputs)
    return added


class MaxPool2x2(nn.Module):
    """Max pooling of 2 x 2 pixels without indices; an odd last row or column is dropped."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H // 2, W // 2), channels last."""
        return max_pool_2x2(inputs)


def max_pool_2x2(inputs: torch.Tensor) -> torch.Tensor:
    """Max pooling of 2 x 2 pixels, several times as fast as torch's for bf16 in channels last.

    Args:
        inputs: (N, C, H, W); an odd last row or column is dropped.

    Returns:
        (N, C, H // 2, W // 2), channels last where the inputs are.
    """
    rows = torch.maximum(inputs[:, :, 0:-1:2], inputs[:, :, 1::2])
    return torch.maximum(rows[..., 0:-1:2], rows[..., 1::2])


def split_in_two(values: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) float32 as (N, 3 C, H, W) bf16: the upper halves, the lower ones, the upper."""
    values = values.contiguous(memory_format=torch.channels_last)
    high = values.bfloat16()
    low = (values - high.float()).bfloat16()
    return torch.cat([high, low, high], dim=1)


def fused_calls_are_there() -> bool:
    """Whether this torch has oneDNN and its fused convolution."""
    onednn = torch.backends.mkldnn
    if not onednn.enabled or not onednn.is_available():  # type: ignore[no-untyped-call]
        return False
    return hasattr(torch.ops.mkldnn, "_convolution_pointwise")
