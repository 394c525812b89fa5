"""A ControlNet whose weights, gradients and optimizer state are shared out over the ranks (FSDP).

For bases as large as SDXL: of 20 GB for weights, gradients and Adam's averages each of N devices
holds 20 / N. Checkpoints look as those of one device do, so a run may go on either way.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class ShardedNetwork:
    """The shared-out network that trains, and its twin in one piece for everything else.

    Every method has to be called on all ranks at once.

    Args:
        control_net: diffusers.ControlNetModel with equal weights on every rank; it becomes the
            shared-out one.
        is_main: Whether this rank saves and makes pictures.

    Attributes:
        network: The network that trains.
        twin: The same in one piece, on the CPU; without weights where `is_main` is false.
        is_main: As it was given.
    """

    def __init__(self, control_net: Any, *, is_main: bool) -> None:  # noqa: ANN401
        import torch
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        device = next(control_net.parameters()).device
        self.twin = copy.deepcopy(control_net).to("cpu" if is_main else "meta")
        self.is_main = is_main
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        # FSDP takes plain tensors only.
        control_net.to(memory_format=torch.contiguous_format)
        for block in (*control_net.down_blocks, control_net.mid_block):
            fully_shard(block, mesh=mesh)
        self.network = fully_shard(control_net, mesh=mesh)

    def fill_twin(self) -> None:
        """Bring the twin's weights up to date."""
        self.put_into_twin(dict(self.network.named_parameters()))

    def put_into_twin(self, tensors: Mapping[str, Any]) -> None:
        """Give the twin these shared-out tensors, by the weights' names."""
        whole = whole_tensors(tensors, keep=self.is_main)
        if self.is_main:
            self.twin.load_state_dict(whole)

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Share out weights in one piece, which every rank has."""
        states: Any = import_module("torch.distributed.checkpoint.state_dict")
        options = states.StateDictOptions(full_state_dict=True)
        states.set_model_state_dict(self.network, dict(weights), options=options)

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:  # noqa: ANN401
        """What the optimizer remembers in one piece, as `optimizer.state_dict()` of one device."""
        states: Any = import_module("torch.distributed.checkpoint.state_dict")
        options = states.StateDictOptions(full_state_dict=True, cpu_offload=True)
        found = states.get_optimizer_state_dict(self.network, optimizer, options=options)
        return _by_number(found, self._trained()) if self.is_main else {}

    def load_optimizer(self, optimizer: Any, state: Mapping[str, Any]) -> None:  # noqa: ANN401
        """Share out what the optimizer of one device remembered."""
        states: Any = import_module("torch.distributed.checkpoint.state_dict")
        options = states.StateDictOptions(full_state_dict=True)
        named = _by_name(state, self._trained())
        states.set_optimizer_state_dict(self.network, optimizer, named, options=options)

    def _trained(self) -> list[str]:
        return [name for name, p in self.network.named_parameters() if p.requires_grad]


def whole_tensors(tensors: Mapping[str, Any], *, keep: bool) -> dict[str, torch.Tensor]:
    """Shared-out tensors in one piece on the CPU; every rank has to call, who does not keep too."""
    whole = {}
    for name, tensor in tensors.items():
        full = tensor.detach().full_tensor() if is_shared_out(tensor) else tensor.detach()
        if keep:
            whole[name] = full.cpu()
    return whole


def shared_out_like(tensor: torch.Tensor, other: Any) -> Any:  # noqa: ANN401
    """A tensor in one piece, shared out as another one is; as it is where that one is whole."""
    if not is_shared_out(other):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    placed = tensor.to(other.device)
    return distribute_tensor(placed, other.device_mesh, other.placements)


def is_shared_out(tensor: Any) -> bool:  # noqa: ANN401
    """Whether this is one rank's part of a tensor."""
    return hasattr(tensor, "full_tensor")


def _by_number(state: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    (group,) = state["param_groups"]
    return {
        "state": {i: dict(state["state"][name]) for i, name in enumerate(names)},
        "param_groups": [{**group, "params": list(range(len(names)))}],
    }


def _by_name(state: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    (group,) = state["param_groups"]
    return {
        "state": {name: dict(state["state"][i]) for i, name in enumerate(names)},
        "param_groups": [{**group, "params": list(names)}],
    }
