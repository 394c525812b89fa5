"""Reading weight files and filling networks with them: plain tensors only, no key left over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from condkit.errors import WeightsError

if TYPE_CHECKING:
    import torch

_SHOWN = 5


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.pth`, `.pt` or `.safetensors` file, as float32 on the CPU.

    Checkpoints that hold the tensors under "state_dict" or "model", and names that a data-parallel
    training has prefixed with "module.", are understood.

    Args:
        path: The file; pickles are loaded with `weights_only`, so none of their code runs.

    Raises:
        WeightsError: if the file is unreadable or holds anything else.
    """
    import pickle

    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: object = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{path}: not a torch file of plain tensors: {error}") from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(torch.is_tensor(v) for v in state.values()):
        raise WeightsError(f"{path}: expected a state dict, got {type(state).__name__}")
    return {
        key.removeprefix("module."): value.float() if value.is_floating_point() else value
        for key, value in state.items()
    }


def load_strictly(
    network: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Path, name: str
) -> None:
    """Fill a network with tensors, all of them: one that is half loaded still draws something.

    Args:
        network: In float32.
        state: From `read_state_dict`.
        path: The file, for the message.
        name: The network's name, for the message.

    Raises:
        WeightsError: naming the tensors that are missing, foreign or of another shape.
    """
    expected = network.state_dict()
    problems = [f"{key} is missing" for key in expected if key not in state]
    problems += [f"{key} is not {name}'s" for key in state if key not in expected]
    problems += [
        f"{key} has shape {tuple(state[key].shape)}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if problems:
        rest = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        shown = "; ".join(problems[:_SHOWN])
        raise WeightsError(f"{path}: these are not {name}'s weights: {shown}{rest}")
    network.load_state_dict(state)
