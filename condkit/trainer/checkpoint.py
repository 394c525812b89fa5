"""Checkpoints: everything a run needs to go on as if it had never stopped.

A checkpoint appears under its name only when it is complete. No random state is in it, since every
random number of a run follows from its seed, the sample and the use (`condkit.trainer.noise`).
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from condkit import atomic
from condkit.errors import TrainingError
from condkit.trainer.control_lora import lora_state, plain_state, rank_of, resumed_state
from condkit.trainer.decoder import put_decoder, read_decoder, save_decoder
from condkit.trainer.identity import RunIdentity, check_same_run
from condkit.trainer.learner import DECODER, Learner
from condkit.trainer.run_folder import RunFolder, RunRecord
from condkit.types import ConditionSpec

logger = logging.getLogger(__name__)

FORMAT = 2
"""Version of the layout below."""

_STATE = "state.json"
_OPTIMIZER = "optimizer.pt"
_CONTROLNET = "controlnet"
_AVERAGE = "ema"
_BEST = "best.json"
_WEIGHTS = "diffusion_pytorch_model.safetensors"
LORA_WEIGHTS = "control_lora.safetensors"
"""What a Control-LoRA trained; the file beside it has the differences added in."""
_NAME = re.compile(r"step-(\d{8,})")


def save_checkpoint(
    folder: Path,
    step: int,
    learner: Learner,
    identity: RunIdentity,
    *,
    keep: int,
) -> Path:
    """Write the checkpoint of `step`; of the older ones the newest and the best stay.

    What is shared out over ranks is as of `learner.collect`.

    Args:
        folder: Of all checkpoints.
        step: Optimizer steps done.
        learner: What is saved.
        identity: Stands in the checkpoint.
        keep: How many of the newest stay.

    Raises:
        OutputError: if it cannot be written; the earlier checkpoints are unharmed.
    """
    import torch

    final = folder / f"step-{step:08d}"
    spec = ConditionSpec.from_dict(dict(identity.condition))
    with atomic.new_folder(final) as temporary:
        save_trained(learner, temporary / _CONTROLNET, spec)
        if learner.averages:
            with learner.averaged():
                save_trained(learner, temporary / _AVERAGE, spec)
        torch.save(learner.optimizer_state(), temporary / _OPTIMIZER)
        state = {
            "format": FORMAT,
            "step": step,
            "unlocked_decoder": learner.is_unlocked,
            "ema_updates": {part: ema.updates for part, ema in learner.averages.items()},
            **identity.as_dict(),
        }
        atomic.write_json(temporary / _STATE, state)
    _remove_old(folder, keep)
    return final


def _remove_old(folder: Path, keep: int) -> None:
    best = best_checkpoint(folder)
    for old in complete_checkpoints(folder)[:-keep]:
        if old != best:
            shutil.rmtree(old, ignore_errors=True)


def mark_best(folder: Path, step: int, score: float) -> bool:
    """Note the score of a checkpoint that was just saved.

    Args:
        folder: Of all checkpoints.
        step: The checkpoint's.
        score: Its validation score; the larger the better.

    Returns:
        Whether it is the best by now; then it stays until a better one comes.
    """
    before = _best(folder)
    if before is not None and before[1] >= score:
        return False
    atomic.write_json(folder / _BEST, {"step": step, "score": score})
    return True


def best_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the best validation score, where one was scored and is still there."""
    best = _best(folder)
    path = folder / f"step-{best[0]:08d}" if best else None
    return path if path is not None and path.is_dir() else None


def _best(folder: Path) -> tuple[int, float] | None:
    try:
        values = json.loads((folder / _BEST).read_text(encoding="utf-8"))
        return int(values["step"]), float(values["score"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("cannot read %s (%s); the best checkpoint is not known", folder, error)
        return None


def save_trained(learner: Learner, folder: Path, spec: ConditionSpec) -> None:
    """Write the ControlNet, and the base's decoder where it was trained too."""
    save_control_net(learner.control_net, folder, spec)
    if learner.is_unlocked:
        save_decoder(learner.base.unet, folder, learner.base.fingerprint)


def save_control_net(control_net: Any, folder: Path, spec: ConditionSpec) -> None:  # noqa: ANN401
    """Write a ControlNet in diffusers layout with `condition.json`, its spec, beside it."""
    from safetensors.torch import save_file

    control_net.save_config(folder)
    # Not save_pretrained: safetensors takes no channels_last tensors.
    parts = {_WEIGHTS: plain_state(control_net)}
    if rank_of(control_net):
        parts[LORA_WEIGHTS] = lora_state(control_net)
    for name, part in parts.items():
        weights = {k: v.detach().cpu().contiguous() for k, v in part.items()}
        save_file(weights, folder / name, metadata={"format": "pt"})
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
    """Where a checkpoint holds its ControlNet for use: the running average, if one was kept."""
    average = checkpoint / _AVERAGE
    return average if average.is_dir() else checkpoint / _CONTROLNET


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


def restore(checkpoint: Path, learner: Learner, identity: RunIdentity) -> int:
    """Put a checkpoint's weights, averages and optimizer state into a fresh learner.

    Returns:
        The step the checkpoint was made after.

    Raises:
        TrainingError: if it is damaged, or belongs to a run with other settings, another base or
            other data; the message says what differs.
    """
    import torch
    from safetensors import SafetensorError

    try:
        state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
        if state.get("format") != FORMAT:
            raise TrainingError(
                f"{checkpoint} has checkpoint format {state.get('format')!r}; this condkit reads "
                f"{FORMAT}"
            )
        check_same_run(state, identity, checkpoint)
        _restore_weights(checkpoint, learner, state)
        _restore_averages(checkpoint, learner, state)
        learner.load_optimizer_state(
            torch.load(checkpoint / _OPTIMIZER, map_location="cpu", weights_only=True)
        )
        return int(state["step"])
    except TrainingError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise TrainingError(
            f"cannot resume from {checkpoint}: {error}; remove that folder to go on from the "
            "checkpoint before it"
        ) from error


def _saved_state(folder: Path, learner: Learner) -> dict[str, Any]:
    """The saved weights under the names that they have in training."""
    from safetensors.torch import load_file

    if rank_of(learner.control_net):
        return resumed_state(learner.control_net, load_file(folder / LORA_WEIGHTS))
    return load_file(folder / _WEIGHTS)


def _restore_weights(checkpoint: Path, learner: Learner, state: Mapping[str, Any]) -> None:
    folder = checkpoint / _CONTROLNET
    learner.load_weights(_saved_state(folder, learner))
    if state["unlocked_decoder"]:
        # The hash of the base as it was: later it could not be told from the changed one.
        _ = learner.base.fingerprint
        put_decoder(learner.base.unet, read_decoder(folder), folder)
        learner.unlock()


def _restore_averages(checkpoint: Path, learner: Learner, state: Mapping[str, Any]) -> None:
    folder = checkpoint / _AVERAGE
    for part, average in learner.averages.items():
        tensors = read_decoder(folder) if part == DECODER else _saved_state(folder, learner)
        average.load(tensors, int(state["ema_updates"][part]))
