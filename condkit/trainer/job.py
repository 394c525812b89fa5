"""What a run works on: dataset, base model, and the identity that a resume must meet again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from condkit.settings import as_mapping
from condkit.trainer import noise
from condkit.trainer.base_loading import load_base
from condkit.trainer.base_model import BaseModel
from condkit.trainer.caches import prepare_caches
from condkit.trainer.compute import training_compute
from condkit.trainer.config import TrainConfig
from condkit.trainer.distributed import Ranks
from condkit.trainer.examples import Remembered
from condkit.trainer.identity import RunIdentity
from condkit.trainer.piecework import unreported
from condkit.trainer.run_folder import RunFolder, RunRecord
from condkit.trainer.training_data import TrainingData, open_training_data
from condkit.types import ConditionSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that is fixed before the first step.

    Attributes:
        config: The settings.
        folder: Where the run writes.
        spec: The condition.
        data: The datasets.
        base: The frozen model.
        latents: Where the moments of cuts are known from, or None.
        identity: What both halves of a resumed run have in common.
        record: What stands in `run.json`.
        ranks: This process among those that train together.
    """

    config: TrainConfig
    folder: RunFolder
    spec: ConditionSpec
    data: TrainingData
    base: BaseModel
    latents: Remembered | None
    identity: RunIdentity
    record: RunRecord
    ranks: Ranks


def prepare(
    config: TrainConfig,
    data: Path,
    folder: RunFolder,
    *,
    device: str,
    dtype: str,
    offline: bool,
    ranks: Ranks | None = None,
    on_cached: Callable[[int, int, str], None] | None = None,
) -> Job:
    """Open the datasets, load the base, fill the caches.

    Raises:
        DatasetError: if the dataset cannot be used.
        UnknownNameError: if it lacks the condition or a training split.
        TrainingError: if the base cannot be used.
        ConfigError: if the device or the precision is not there.
    """
    pairs = open_training_data(config, data, offline=offline)
    spec = pairs.spec
    ranks = ranks or Ranks()
    base = load_base(
        config.base,
        training_compute(device, dtype),
        offline=offline,
        prediction=None if config.prediction == "auto" else config.prediction,
    )
    prepared = prepare_caches(config, pairs, base, on_cached or unreported)
    identity = RunIdentity(
        config=as_mapping(config),
        base_fingerprint=base.fingerprint,
        manifest_sha256=pairs.fingerprint,
        rows=pairs.rows,
        micro_batches=config.optim.accumulation * ranks.size,
        condition=spec.as_dict(),
        noise_scheme=noise.SCHEME,
        dtype=base.compute.dtype_name,
    )
    return Job(
        config=config,
        folder=folder,
        spec=spec,
        data=pairs,
        base=prepared.base,
        latents=prepared.latents,
        identity=identity,
        record=_record(config, identity, spec, data, base),
        ranks=ranks,
    )


def _record(
    config: TrainConfig, identity: RunIdentity, spec: ConditionSpec, data: Path, base: BaseModel
) -> RunRecord:
    folder = Path(config.base)
    return RunRecord(
        # A folder is found again from wherever condkit sample is started.
        base=str(folder.resolve()) if folder.exists() else config.base,
        base_fingerprint=identity.base_fingerprint,
        prediction=base.prediction_type,
        condition=spec,
        dataset=str(data),
        manifest_sha256=identity.manifest_sha256,
        status="running",
        step=0,
        loss=None,
    )
