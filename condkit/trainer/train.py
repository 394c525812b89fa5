"""Training a ControlNet on a paired dataset."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from condkit import atomic
from condkit.errors import OutputError, TrainingError
from condkit.runtime import Runtime
from condkit.settings import as_mapping
from condkit.trainer.arithmetic import Meter, peak_of
from condkit.trainer.checkpoint import complete_checkpoints, restore, save_trained
from condkit.trainer.config import TrainConfig
from condkit.trainer.control_meter import ControlMeter
from condkit.trainer.control_net import initial_control_net
from condkit.trainer.control_watch import ControlReport, ControlWatch
from condkit.trainer.distributed import RankSampler
from condkit.trainer.evaluate import redetector
from condkit.trainer.job import Job, prepare
from condkit.trainer.latents import LatentCache, LatentEncoder
from condkit.trainer.launching import joined
from condkit.trainer.learner import Learner
from condkit.trainer.loop import Judge, TrainingLoop, TrainProgress
from condkit.trainer.precision import hold_base
from condkit.trainer.preview import Previewer
from condkit.trainer.run_folder import RunFolder, Status, read_record
from condkit.trainer.run_log import RunLog
from condkit.trainer.step import OptimizerStep
from condkit.trainer.training_data import new_loader

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
        stopped: Why it ended before `run.steps`, or None.
        control: How control went, where `watch.every` watched it.
    """

    run: str
    controlnet: str
    steps: int
    resumed_from: int | None
    seconds: float
    images_per_second: float
    loss: float
    stopped: str | None = None
    control: ControlReport | None = None


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
    judge: Judge | None = None,
    on_progress: Callable[[TrainProgress], None] | None = None,
    on_cached: Callable[[int, int, str], None] | None = None,
) -> TrainSummary:
    """Train a ControlNet; under torchrun, together with the other processes.

    Args:
        config: The settings, from `load_recipe`.
        data: A dataset that `condkit build` made, any folder that `datasets.load_dataset` reads, or
            a dataset's id on the Hugging Face hub.
        output: Folder of the run. The finished ControlNet lies in its `controlnet` folder.
        base: The frozen model; None takes `config.base`.
        resume: Go on from the newest checkpoint in `output`; begin where there is none.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto", "bf16" or "fp32"; the ControlNet's weights are fp32 in any case.
        offline: Take hub files from the local cache alone.
        judge: Validates the weights at each checkpoint: gives a score, and may end the run. None
            is the watch over control, where `watch.every` asks for it.
        on_progress: Called after each optimizer step.
        on_cached: Called while `[cache]` is filled, with rows done, rows in all, and of what.

    Raises:
        OutputError: if `output` already holds checkpoints and `resume` is not asked for.
        DatasetError: if the dataset cannot be used.
        UnknownNameError: if it lacks the condition.
        DependencyError: if the optimizer or a tracker needs a library that is not installed.
        DeviceMemoryError: if the device does not hold one sample.
        TrainingError: if base, settings and data do not fit together, a loss is not finite, or a
            checkpoint belongs to another run.
    """
    folder = RunFolder(output)
    checkpoints = _existing_checkpoints(folder, resume=resume)
    if base is not None:
        config = replace(config, base=base)
    with joined(device) as (ranks, place):
        job = prepare(
            config,
            data,
            folder,
            device=place,
            dtype=dtype,
            offline=offline,
            ranks=ranks,
            on_cached=on_cached,
        )
        learner = _new_learner(job)
        start = restore(checkpoints[-1], learner, job.identity) if checkpoints else 0
        return _run(job, learner, start, judge, on_progress or (lambda progress: None))


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


def _new_learner(job: Job) -> Learner:
    """The networks as `compute` wants them, and what trains them."""
    import torch

    control_net = initial_control_net(job.base, job.config.control, job.config.run.seed)
    job.ranks.same_weights(list(control_net.parameters()))
    hold_base(job.base, job.config)
    if job.base.compute.device.type == "cuda":
        # Shapes repeat, so that looking for the fastest convolution pays.
        torch.backends.cudnn.benchmark = True
    if job.config.compute.channels_last:
        for module in (job.base.unet, job.base.vae, control_net):
            module.to(memory_format=torch.channels_last)
    if job.config.compute.gradient_checkpointing:
        control_net.enable_gradient_checkpointing()
        job.base.unet.enable_gradient_checkpointing()
    return Learner(job.base, control_net, job.config, job.ranks)


def _run(
    job: Job,
    learner: Learner,
    start: int,
    judge: Judge | None,
    on_progress: Callable[[TrainProgress], None],
) -> TrainSummary:
    loss = _last_loss(job.folder) if start else float("nan")
    log = _open_folder(job, start) if job.ranks.is_main else None
    began = time.monotonic()
    watch = _new_watch(job) if judge is None else None
    try:
        loop = _new_loop(job, learner, log, judge or watch, on_progress)
        loop.loss = loss
        loop.begin = watch.begin if watch is not None else None
        _save_record(job, learner, "running", start, loss)
        loop.run(start)
    finally:
        if log is not None:
            log.close()
    learner.collect()
    if job.ranks.is_main:
        with learner.averaged(), atomic.new_folder(job.folder.controlnet) as temporary:
            save_trained(learner, temporary, job.spec)
    _save_record(job, learner, "finished", loop.done, loop.loss)
    return TrainSummary(
        run=str(job.folder.path),
        controlnet=str(job.folder.controlnet),
        steps=loop.done,
        resumed_from=start or None,
        seconds=time.monotonic() - began,
        images_per_second=loop.images_per_second,
        loss=loop.loss,
        stopped=loop.stopped,
        control=watch.report() if watch is not None and job.ranks.is_main else None,
    )


def _open_folder(job: Job, start: int) -> RunLog:
    job.folder.path.mkdir(parents=True, exist_ok=True)
    atomic.write_json(job.folder.config, as_mapping(job.config))
    return RunLog(job.folder, start, job.config.run.trackers or ())


def _new_loop(
    job: Job,
    learner: Learner,
    log: RunLog | None,
    judge: Judge | None,
    on_progress: Callable[[TrainProgress], None],
) -> TrainingLoop:
    config, optimizer = job.config, learner.optimizer
    cache_mib = config.data.cache_mib if config.data.cache_latents else 0
    encoder = LatentEncoder(job.base, LatentCache(cache_mib * 2**20))
    return TrainingLoop(
        config=config,
        folder=job.folder,
        learner=learner,
        ranks=job.ranks,
        identity=job.identity,
        loader=new_loader(
            job.data,
            config,
            job.base.unit,
            latents=job.latents,
            shared=lambda batches: RankSampler(batches, job.ranks),
        ),
        step=OptimizerStep(job.base, learner.network, optimizer, encoder, config, ranks=job.ranks),
        meter=_new_meter(job, learner),
        previewer=_new_previewer(job, learner) if job.ranks.is_main else None,
        log=log,
        judge=judge,
        on_saved=lambda step, loss: _save_record(job, learner, "running", step, loss),
        on_progress=on_progress,
    )


def _new_watch(job: Job) -> ControlWatch | None:
    """What judges checkpoints by their control score, where the settings want it."""
    if job.config.watch.every == 0:
        return None

    def meter() -> ControlMeter:
        device, data = str(job.base.compute.device), Path(job.data.sources[0].name)
        # In fp32: the maps of a dataset were made so, if nothing else was asked for.
        detect = redetector(job.spec.name, data, Runtime(device=device, dtype="fp32"))
        return ControlMeter(job.base, job.data.preview_rows, job.spec, job.config, detect)

    identity = {
        "base": job.identity.base_fingerprint,
        "dataset": job.identity.manifest_sha256,
        "dtype": job.identity.dtype,
    }
    return ControlWatch(meter, job.folder, job.config, identity)


def _new_meter(job: Job, learner: Learner) -> Meter:
    compute, given = job.base.compute, job.config.compute.peak_tflops
    peak = given * 1e12 if given else peak_of(compute.device, compute.dtype)
    return Meter(job.base.unet, learner.control_net, peak)


def _new_previewer(job: Job, learner: Learner) -> Previewer | None:
    if job.config.preview.every == 0:
        return None
    return Previewer(
        job.base,
        learner.control_net,
        job.data.preview_rows,
        job.spec,
        job.config.data,
        job.config.preview,
    )


def _save_record(job: Job, learner: Learner, status: Status, step: int, loss: float) -> None:
    if not job.ranks.is_main:
        return
    record = replace(
        job.record,
        status=status,
        step=step,
        loss=loss if loss == loss else None,
        portable=not learner.is_unlocked,
    )
    record.write(job.folder.record)


def _last_loss(folder: RunFolder) -> float:
    try:
        loss = read_record(folder.path).loss
    except TrainingError:
        logger.warning("run.json is missing or damaged; it is written anew")
        loss = None
    return float("nan") if loss is None else loss
