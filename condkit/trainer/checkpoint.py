"""Checkpoints: everything a run needs to go on as if it had never stopped.

A checkpoint appears under its name only when it is complete.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condkit import atomic
from condkit.errors import TrainingError
from condkit.trainer.run_folder import RunFolder, RunRecord
from condkit.types import ConditionSpec

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the layout below."""

_STATE = "state.json"
_OPTIMIZER = "optimizer.pt"
_CONTROLNET = "controlnet"
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_NAME = re.compile(r"step-(\d{8,})")

# Settings that may change between two halves of a run: none of them reaches the weights of a step
# (the base is compared by its weights, not by its name).
_FREE = (
    "base",
    "summary",
    "run.steps",
    "run.log_every",
    "data.prefetch",
    "data.cache_latents",
    "data.cache_mib",
)
_FREE_TABLES = ("checkpoint", "preview")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIdentity:
    """What must be equal in both halves of a resumed run.

    Attributes:
        config: Every setting, as `condkit.settings.as_mapping` gives it.
        base_fingerprint: Hash of the base's weights.
        manifest_sha256: Hash of the dataset's manifest.
        rows: Rows in the training split.
        condition: The condition's spec, as a dictionary.
        noise_scheme: How random numbers are derived.
        dtype: Precision of the arithmetic.
    """

    config: dict[str, Any]
    base_fingerprint: str
    manifest_sha256: str
    rows: int
    condition: dict[str, Any]
    noise_scheme: str
    dtype: str

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


def save_checkpoint(
    folder: Path,
    step: int,
    control_net: Any,  # noqa: ANN401 - diffusers.ControlNetModel
    optimizer: Any,  # noqa: ANN401 - torch.optim.Optimizer
    identity: RunIdentity,
    *,
    keep: int,
) -> Path:
    """Write the checkpoint of `step` and remove all but the newest `keep`.

    Raises:
        OutputError: if it cannot be written; the earlier checkpoints are unharmed.
    """
    import torch

    final = folder / f"step-{step:08d}"
    spec = ConditionSpec.from_dict(dict(identity.condition))
    with atomic.new_folder(final) as temporary:
        save_control_net(control_net, temporary / _CONTROLNET, spec)
        torch.save(optimizer.state_dict(), temporary / _OPTIMIZER)
        state = {"format": FORMAT, "step": step, **identity.as_dict()}
        atomic.write_json(temporary / _STATE, state)
    for old in complete_checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def save_control_net(control_net: Any, folder: Path, spec: ConditionSpec) -> None:  # noqa: ANN401
    """Write a ControlNet in diffusers layout with `condition.json`, its spec, beside it."""
    from safetensors.torch import save_file

    control_net.save_config(folder)
    # Not save_pretrained: safetensors takes no channels_last tensors.
    weights = {k: v.detach().cpu().contiguous() for k, v in control_net.state_dict().items()}
    save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})
    atomic.write_json(folder / "condition.json", spec.as_dict())


def complete_checkpoints(folder: Path) -> list[Path]:
    """The usable checkpoints in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    needed = (_STATE, _OPTIMIZER, f"{_CONTROLNET}/{_WEIGHTS}")
    found = [
        path
        for path in folder.iterdir()
        if _NAME.fullmatch(path.name) and all((path / name).is_file() for name in needed)
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def control_net_folder(checkpoint: Path) -> Path:
    """Where a checkpoint holds its ControlNet."""
    return checkpoint / _CONTROLNET


def saved_control_net(run: Path, record: RunRecord) -> Path:
    """The folder of a run's ControlNet: the finished one, else the newest checkpoint's.

    Raises:
        TrainingError: if the run has saved nothing yet.
    """
    folder = RunFolder(run)
    if record.status == "finished" and folder.controlnet.is_dir():
        return folder.controlnet
    checkpoints = complete_checkpoints(folder.checkpoints)
    if not checkpoints:
        raise TrainingError(f"{run} has saved no checkpoint yet; let it train on with --resume")
    return control_net_folder(checkpoints[-1])


def restore(
    checkpoint: Path,
    control_net: Any,  # noqa: ANN401 - diffusers.ControlNetModel
    optimizer: Any,  # noqa: ANN401 - torch.optim.Optimizer
    identity: RunIdentity,
) -> int:
    """Put a checkpoint's weights and optimizer state into the two objects.

    Returns:
        The step the checkpoint was made after.

    Raises:
        TrainingError: if it is damaged, or belongs to a run with other settings, another base or
            other data; the message says what differs.
    """
    import torch
    from safetensors.torch import load_file

    try:
        state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
        _check_same_run(state, identity, checkpoint)
        weights = load_file(control_net_folder(checkpoint) / _WEIGHTS)
        control_net.load_state_dict(weights)
        optimizer.load_state_dict(
            torch.load(checkpoint / _OPTIMIZER, map_location="cpu", weights_only=True)
        )
        return int(state["step"])
    except TrainingError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise TrainingError(
            f"cannot resume from {checkpoint}: {error}; remove that folder to go on from the "
            "checkpoint before it"
        ) from error


def _check_same_run(state: Mapping[str, Any], identity: RunIdentity, checkpoint: Path) -> None:
    if state.get("format") != FORMAT:
        raise TrainingError(
            f"{checkpoint} has checkpoint format {state.get('format')!r}; this condkit reads "
            f"{FORMAT}"
        )
    differences = _setting_differences(state["config"], identity.config)
    wanted = identity.as_dict()
    words = {
        "base_fingerprint": "the base model's weights",
        "manifest_sha256": "the dataset (its manifest.json)",
        "rows": "the number of training rows",
        "condition": "the condition's spec",
        "noise_scheme": "the scheme of random numbers",
        "dtype": "the precision (--dtype)",
    }
    differences += [
        f"{text}: {state[name]!r} then, {wanted[name]!r} now"
        for name, text in words.items()
        if state[name] != wanted[name]
    ]
    if differences:
        raise TrainingError(
            f"cannot resume from {checkpoint}, because these differ: {'; '.join(differences)}. "
            "Give the same as before, or start a new run in another folder"
        )


def _setting_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    before, now = _flat(old), _flat(new)
    return [
        f"{name}: {before.get(name)!r} then, {now.get(name)!r} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
        and name not in _FREE
        and name.partition(".")[0] not in _FREE_TABLES
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
