"""What a run works on: dataset, base model, and the identity that a resume must meet again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from condkit.datasets.reader import PairedDataset, open_dataset
from condkit.errors import DatasetError
from condkit.settings import as_mapping, choose
from condkit.trainer import noise
from condkit.trainer.base_model import BaseModel, load_base
from condkit.trainer.checkpoint import RunIdentity
from condkit.trainer.compute import training_compute
from condkit.trainer.config import TrainConfig
from condkit.trainer.data import PairedRows
from condkit.trainer.run_folder import RunFolder, RunRecord
from condkit.types import ConditionSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that is fixed before the first step.

    Attributes:
        config: The settings.
        folder: Where the run writes.
        spec: The condition.
        rows: The training split.
        preview_rows: The split that previews come from.
        base: The frozen model.
        identity: What both halves of a resumed run have in common.
        record: What stands in `run.json`.
    """

    config: TrainConfig
    folder: RunFolder
    spec: ConditionSpec
    rows: PairedRows
    preview_rows: PairedRows
    base: BaseModel
    identity: RunIdentity
    record: RunRecord


def prepare(
    config: TrainConfig, data: Path, folder: RunFolder, *, device: str, dtype: str, offline: bool
) -> Job:
    """Open the dataset and load the base.

    Raises:
        DatasetError: if the dataset cannot be used.
        UnknownNameError: if it lacks the condition or a training split.
        TrainingError: if the base cannot be used.
        ConfigError: if the device or the precision is not there.
    """
    dataset = open_dataset(data)
    name = choose(config.condition, dataset.conditions, what=f"condition in {data}")
    spec = dataset.conditions[name]
    rows = _rows(dataset, "train", data)
    has_validation = "validation" in dataset.splits and len(dataset.split("validation")) > 0
    base = load_base(config.base, training_compute(device, dtype), offline=offline)
    manifest = hashlib.sha256((data / "manifest.json").read_bytes()).hexdigest()
    identity = RunIdentity(
        config=as_mapping(config),
        base_fingerprint=base.fingerprint,
        manifest_sha256=manifest,
        rows=len(rows),
        condition=spec.as_dict(),
        noise_scheme=noise.SCHEME,
        dtype=base.compute.dtype_name,
    )
    return Job(
        config=config,
        folder=folder,
        spec=spec,
        rows=rows,
        preview_rows=dataset.split("validation") if has_validation else rows,
        base=base,
        identity=identity,
        record=_record(config, identity, spec, data),
    )


def _rows(dataset: PairedDataset, split: str, data: Path) -> PairedRows:
    rows: PairedRows = dataset.split(choose(split, dataset.splits, what=f"split in {data}"))
    if len(rows) == 0:
        raise DatasetError(f"{data}: its {split} split is empty; build it from more pictures")
    return rows


def _record(
    config: TrainConfig, identity: RunIdentity, spec: ConditionSpec, data: Path
) -> RunRecord:
    folder = Path(config.base)
    return RunRecord(
        # A folder is found again from wherever condkit sample is started.
        base=str(folder.resolve()) if folder.is_dir() else config.base,
        base_fingerprint=identity.base_fingerprint,
        condition=spec,
        dataset=str(data),
        manifest_sha256=identity.manifest_sha256,
        status="running",
        step=0,
        loss=None,
    )
