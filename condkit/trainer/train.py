"""Training a ControlNet on a paired dataset."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from condkit import atomic
from condkit.errors import OutputError, TrainingError
from condkit.settings import as_mapping
from condkit.trainer.checkpoint import complete_checkpoints, restore, save_control_net
from condkit.trainer.config import OptimConfig, TrainConfig
from condkit.trainer.control_net import initial_control_net
from condkit.trainer.data import BatchLoader, ExampleMaker, Sampler
from condkit.trainer.job import Job, prepare
from condkit.trainer.latents import LatentCache, LatentEncoder
from condkit.trainer.loop import TrainingLoop, TrainProgress
from condkit.trainer.preview import Previewer
from condkit.trainer.run_folder import RunFolder, Status, read_record
from condkit.trainer.run_log import RunLog
from condkit.trainer.step import OptimizerStep

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary:
    """How a run ended.

    Attributes:
        run: The run's folder.
        controlnet: The finished ControlNet, in diffusers layout.
        steps: Optimizer steps of the whole run.
        resumed_from: The step it went on from, or None.
        seconds: Time of this call's steps, with saving and previews.
        images_per_second: Training speed of the last log interval.
        loss: Mean loss of the last log interval.
    """

    run: str
    controlnet: str
    steps: int
    resumed_from: int | None
    seconds: float
    images_per_second: float
    loss: float


def train(
    config: TrainConfig,
    data: Path,
    output: Path,
    *,
    base: str | None = None,
    resume: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = False,
    on_progress: Callable[[TrainProgress], None] | None = None,
) -> TrainSummary:
    """Train a ControlNet.

    Args:
        config: The settings, from `load_recipe`.
        data: A dataset that `condkit build` made.
        output: Folder of the run. The finished ControlNet lies in its `controlnet` folder.
        base: The frozen model; None takes `config.base`.
        resume: Go on from the newest checkpoint in `output`; begin where there is none.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto", "bf16" or "fp32"; the ControlNet's weights are fp32 in any case.
        offline: Take hub files from the local cache alone.
        on_progress: Called after each optimizer step.

    Raises:
        OutputError: if `output` already holds checkpoints and `resume` is not asked for.
        DatasetError: if the dataset cannot be used.
        UnknownNameError: if it lacks the condition.
        TrainingError: if base, settings and data do not fit together, a loss is not finite, or a
            checkpoint belongs to another run.
    """
    folder = RunFolder(output)
    checkpoints = _existing_checkpoints(folder, resume=resume)
    if base is not None:
        config = replace(config, base=base)
    job = prepare(config, data, folder, device=device, dtype=dtype, offline=offline)
    control_net = initial_control_net(job.base, config.control, config.run.seed)
    optimizer = _new_optimizer(control_net, config.optim)
    start = restore(checkpoints[-1], control_net, optimizer, job.identity) if checkpoints else 0
    return _run(job, control_net, optimizer, start, on_progress or (lambda progress: None))


def _existing_checkpoints(folder: RunFolder, *, resume: bool) -> list[Path]:
    if folder.path.exists() and not folder.path.is_dir():
        raise OutputError(f"{folder.path} is a file; give a folder for the run")
    checkpoints = complete_checkpoints(folder.checkpoints)
    if checkpoints and not resume:
        raise OutputError(
            f"{folder.path} already holds a run (up to {checkpoints[-1].name}); go on with it by "
            "--resume, or give another folder"
        )
    return checkpoints


def _new_optimizer(control_net: Any, config: OptimConfig) -> Any:  # noqa: ANN401
    import torch

    parameters = [p for p in control_net.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        parameters,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=parameters[0].device.type in ("cpu", "cuda"),
    )


def _run(
    job: Job,
    control_net: Any,  # noqa: ANN401
    optimizer: Any,  # noqa: ANN401
    start: int,
    on_progress: Callable[[TrainProgress], None],
) -> TrainSummary:
    import torch

    for module in (job.base.unet, job.base.vae, control_net):
        module.to(memory_format=torch.channels_last)
    loss = _last_loss(job.folder) if start else float("nan")
    job.folder.path.mkdir(parents=True, exist_ok=True)
    atomic.write_json(job.folder.config, as_mapping(job.config))
    log = RunLog(job.folder, start)
    began = time.monotonic()
    try:
        loop = _new_loop(job, control_net, optimizer, log, on_progress)
        loop.loss = loss
        _save_record(job, "running", start, loss)
        loop.run(start)
    finally:
        log.close()
    with atomic.new_folder(job.folder.controlnet) as temporary:
        save_control_net(control_net, temporary, job.spec)
    _save_record(job, "finished", job.config.run.steps, loop.loss)
    return TrainSummary(
        run=str(job.folder.path),
        controlnet=str(job.folder.controlnet),
        steps=job.config.run.steps,
        resumed_from=start or None,
        seconds=time.monotonic() - began,
        images_per_second=loop.images_per_second,
        loss=loop.loss,
    )


def _new_loop(
    job: Job,
    control_net: Any,  # noqa: ANN401
    optimizer: Any,  # noqa: ANN401
    log: RunLog,
    on_progress: Callable[[TrainProgress], None],
) -> TrainingLoop:
    config, seed = job.config, job.config.run.seed
    make = ExampleMaker(job.spec, config.data, seed, job.base.unit)
    sampler = Sampler(len(job.rows), config.data.batch_size, seed)
    cache_mib = config.data.cache_mib if config.data.cache_latents else 0
    encoder = LatentEncoder(job.base, LatentCache(cache_mib * 2**20))
    return TrainingLoop(
        config=config,
        folder=job.folder,
        control_net=control_net,
        optimizer=optimizer,
        identity=job.identity,
        loader=BatchLoader(job.rows, sampler, make, config.data.prefetch),
        step=OptimizerStep(job.base, control_net, optimizer, encoder, config),
        previewer=_new_previewer(job, control_net),
        log=log,
        on_saved=lambda step, loss: _save_record(job, "running", step, loss),
        on_progress=on_progress,
    )


def _new_previewer(job: Job, control_net: Any) -> Previewer | None:  # noqa: ANN401
    if job.config.preview.every == 0:
        return None
    return Previewer(
        job.base, control_net, job.preview_rows, job.spec, job.config.data, job.config.preview
    )


def _save_record(job: Job, status: Status, step: int, loss: float) -> None:
    finite = loss if loss == loss else None
    replace(job.record, status=status, step=step, loss=finite).write(job.folder.record)


def _last_loss(folder: RunFolder) -> float:
    try:
        loss = read_record(folder.path).loss
    except TrainingError:
        logger.warning("run.json is missing or damaged; it is written anew")
        loss = None
    return float("nan") if loss is None else loss
