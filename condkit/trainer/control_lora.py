"""Control-LoRA: the encoder copy as the base's own weights plus low-rank differences.

Each linear layer and convolution of the copy computes with `W + up @ down`, where W is the base's
weight and stays as it is. The hint encoder and the zero convolutions are new and trained whole.

Source: arXiv 2106.09685 (LoRA); stabilityai/control-lora (the file's layout).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from condkit.errors import TrainingError
from condkit.trainer.ldm_keys import ldm_names

if TYPE_CHECKING:
    import torch

MARKER = "lora_controlnet"
"""An empty tensor of this name is how other programs tell a Control-LoRA."""

_NEW = "controlnet_"
"""How diffusers' names of what the base has not begin: hint encoder and zero convolutions."""
_LIST = "parametrizations"
_ORIGINAL = f".{_LIST}.weight.original"
_FACTORS = f".{_LIST}.weight.0"


def add_control_lora(
    control_net: Any,  # noqa: ANN401 - diffusers.ControlNetModel
    rank: int,
    seed: int,
    *,
    whole: Collection[str] = (),
) -> None:
    """Lock the encoder copy and give its layers low-rank differences that change nothing yet.

    Args:
        control_net: diffusers.ControlNetModel whose encoder is a copy of the base's; changed in
            place. Layers that have a difference already keep it.
        rank: Largest rank; a layer with fewer inputs or outputs takes their number.
        seed: Decides the first `down` factors; all `up` factors are zero.
        whole: Layers that get none.
    """
    import torch
    from torch.nn.utils import parametrize

    generator = torch.Generator().manual_seed(seed)
    for name, layer in _layers(control_net):
        if name not in whole and not parametrize.is_parametrized(layer, "weight"):
            out, *rest = layer.weight.shape
            fan_in = torch.Size(rest).numel()
            down = torch.empty(min(rank, out, fan_in), fan_in)
            # At a bound of 1 / sqrt(fan_in), as LoRA draws it.
            down.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
            _attach(layer, torch.zeros(out, len(down)), down)
    _lock(control_net)


def rank_of(control_net: Any) -> int:  # noqa: ANN401
    """The largest rank of a Control-LoRA's differences; 0 for any other ControlNet."""
    return max((p.shape[0] for n, p in control_net.named_parameters() if _is_down(n)), default=0)


def plain_state(control_net: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401
    """The weights under diffusers' names, differences added in: those of a full ControlNet."""
    import torch

    state: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for name, tensor in control_net.state_dict().items():
            if name.endswith(_ORIGINAL):
                layer = name.removesuffix(_ORIGINAL)
                state[f"{layer}.weight"] = control_net.get_submodule(layer).weight
            elif _FACTORS not in name:
                state[name] = tensor
    return state


def lora_state(control_net: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401
    """All but the base's weights: `<layer>.up`, `<layer>.down`, and the rest whole.

    Shapes are (out, rank) and (rank, in) for a linear layer, (out, rank, 1, 1) and (rank, in, h, w)
    for a convolution. Biases and norms, which are small, are there too, as in published files.
    """
    state: dict[str, torch.Tensor] = {}
    for name, tensor in control_net.state_dict().items():
        if name.endswith(_ORIGINAL):
            continue
        layer, is_factor, factor = name.partition(_FACTORS)
        if not is_factor:
            state[name] = tensor
            continue
        _, *rest = control_net.get_submodule(layer).parametrizations.weight.original.shape
        is_down, is_conv = factor == ".down", len(rest) > 1
        shape = (len(tensor), *(rest if is_down else (tensor.shape[1],)))
        state[layer + factor] = tensor.reshape(*shape, *((1, 1) if is_conv and not is_down else ()))
    return state


def load_lora_state(control_net: Any, state: Mapping[str, torch.Tensor]) -> None:  # noqa: ANN401
    """Put a Control-LoRA into a ControlNet whose encoder is a copy of the base's.

    Args:
        control_net: diffusers.ControlNetModel; changed in place. It takes the file's rank.
        state: Under diffusers' or the original release's names, with or without `MARKER`.

    Raises:
        TrainingError: naming tensors that do not belong there, are missing, or have another shape.
    """
    import torch

    state = _under_our_names(control_net, state)
    factors = {n.rpartition(".")[0] for n in state if n.endswith((".up", ".down"))}
    layers = dict(_layers(control_net))
    strangers = sorted(factors - layers.keys())
    if strangers:
        raise TrainingError(f"a Control-LoRA has no low-rank layer {strangers[0]!r}")
    twice = sorted(name for name in factors if f"{name}.weight" in state)
    if twice:
        raise TrainingError(f"{twice[0]}: expected a weight or its factors, got both")
    _load_whole(control_net, {n: t for n, t in state.items() if not n.endswith((".up", ".down"))})
    for name in sorted(factors):
        pair = [state[n] for n in (f"{name}.up", f"{name}.down") if n in state]
        weight = layers[name].weight
        if len(pair) != 2:
            raise TrainingError(f"{name}: expected both an up and a down factor")
        up, down = (tensor.flatten(1).to(weight.device, torch.float32) for tensor in pair)
        fan_in = weight[0].numel()
        if (up.shape[0], down.shape[1]) != (len(weight), fan_in) or up.shape[1] != down.shape[0]:
            raise TrainingError(
                f"{name}: factors of shapes {tuple(up.shape)} and {tuple(down.shape)} make no "
                f"difference of ({len(weight)}, {fan_in}); the file was made for another base"
            )
        _attach(layers[name], up, down)
    _lock(control_net)


def whole_layers(control_net: Any, state: Mapping[str, torch.Tensor]) -> set[str]:  # noqa: ANN401
    """Layers of the encoder copy that a Control-LoRA holds whole instead of as a difference."""
    names = _under_our_names(control_net, state)
    return {name for name, _ in _layers(control_net) if f"{name}.weight" in names}


def merge_control_lora(control_net: Any) -> None:  # noqa: ANN401
    """Add the differences in, for good; what is left is a full ControlNet, all of it trainable."""
    from torch.nn.utils import parametrize

    for _, layer in _layers(control_net):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    control_net.requires_grad_(True)


def resumed_state(control_net: Any, saved: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:  # noqa: ANN401
    """The whole `state_dict()` of a Control-LoRA in training, from what `lora_state` gave.

    Raises:
        KeyError: if a tensor is missing.
    """
    state: dict[str, torch.Tensor] = dict(control_net.state_dict())
    for name, tensor in state.items():
        if not name.endswith(_ORIGINAL):
            state[name] = saved[name.replace(_FACTORS, "")].reshape(tensor.shape)
    return state


def published_names(
    state: Mapping[str, torch.Tensor], expected: Collection[str], *, layers_per_block: int
) -> dict[str, torch.Tensor]:
    """A `lora_state` under the original release's names, with `MARKER`, as others read it.

    Args:
        state: From `lora_state`.
        expected: All names of the full ControlNet's state.
        layers_per_block: From its configuration.
    """
    import torch

    names = _published(expected, layers_per_block)
    published = {names[name]: tensor for name, tensor in state.items()}
    return published | {MARKER: torch.zeros(0)}


def _published(expected: Collection[str], layers_per_block: int) -> dict[str, str]:
    """Original names of all a Control-LoRA may hold, by diffusers' name."""
    names = ldm_names(expected, layers_per_block=layers_per_block)
    for ours, theirs in list(names.items()):
        layer, _, kind = ours.rpartition(".")
        if kind == "weight":
            for factor in ("up", "down"):
                names[f"{layer}.{factor}"] = f"{theirs.removesuffix('.weight')}.{factor}"
    return names


def _under_our_names(
    control_net: Any,  # noqa: ANN401
    state: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    state = {n.removeprefix("control_model."): t for n, t in state.items() if n != MARKER}
    names = _published(plain_names(control_net), int(control_net.config.layers_per_block))
    back = {theirs: ours for ours, theirs in names.items()} | {name: name for name in names}
    strangers = sorted(state.keys() - back.keys())
    if strangers:
        raise TrainingError(
            f"not a Control-LoRA for this base: {len(strangers)} tensors are not the ControlNet's "
            f"({', '.join(strangers[:3])})"
        )
    return {back[name]: tensor for name, tensor in state.items()}


def plain_names(control_net: Any) -> list[str]:  # noqa: ANN401
    """The names of the full ControlNet's tensors."""
    names = (name.replace(_ORIGINAL, ".weight") for name in control_net.state_dict())
    return [name for name in names if _FACTORS not in name]


def _load_whole(control_net: Any, state: Mapping[str, torch.Tensor]) -> None:  # noqa: ANN401
    """Load what is no factor; what is new must be there, the base's own may be left out."""
    own = control_net.state_dict()
    missing = [name for name in own if name.startswith(_NEW) and name not in state]
    if missing:
        raise TrainingError(
            f"the Control-LoRA lacks {len(missing)} tensors of the hint encoder and the zero "
            f"convolutions ({', '.join(missing[:3])})"
        )
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise TrainingError(
                f"{name} has shape {tuple(tensor.shape)}, expected {tuple(own[name].shape)}; the "
                "file was made for another base"
            )
    control_net.load_state_dict(dict(state), strict=False)


def _layers(control_net: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Linear layers and convolutions of the encoder copy."""
    import torch

    for name, module in control_net.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and not name.startswith(_NEW):
            yield name, module


def _lock(control_net: Any) -> None:  # noqa: ANN401
    """Let only the differences, the hint encoder and the zero convolutions learn."""
    for name, parameter in control_net.named_parameters():
        parameter.requires_grad_(name.startswith(_NEW) or _FACTORS in name)


def _attach(layer: Any, up: torch.Tensor, down: torch.Tensor) -> None:  # noqa: ANN401
    from torch.nn.utils import parametrize

    from condkit.trainer.low_rank import LowRankDifference

    device = layer.weight.device
    difference = LowRankDifference(up.to(device), down.to(device))
    parametrize.register_parametrization(layer, "weight", difference)


def _is_down(name: str) -> bool:
    return name.endswith(f"{_FACTORS}.down")
