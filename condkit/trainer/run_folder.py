"""What lies where in the folder of a training run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from condkit import atomic
from condkit.errors import MapError, TrainingError
from condkit.types import ConditionSpec

Status = Literal["running", "finished"]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of a run.

    Attributes:
        path: The folder itself.
    """

    path: Path

    @property
    def record(self) -> Path:
        """`run.json`: base, condition, dataset and status."""
        return self.path / "run.json"

    @property
    def config(self) -> Path:
        """`config.json`: every setting of the run."""
        return self.path / "config.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints, `step-00000600` and so on."""
        return self.path / "checkpoints"

    @property
    def controlnet(self) -> Path:
        """The finished ControlNet in diffusers layout."""
        return self.path / "controlnet"

    @property
    def previews(self) -> Path:
        """Folder of preview grids."""
        return self.path / "previews"

    @property
    def logs(self) -> Path:
        """TensorBoard's folder."""
        return self.path / "logs"

    @property
    def metrics(self) -> Path:
        """`metrics.jsonl`: one line per log interval."""
        return self.path / "metrics.jsonl"

    @property
    def control(self) -> Path:
        """`control.json`: how the control score went, where it was watched."""
        return self.path / "control.json"

    @property
    def control_plot(self) -> Path:
        """`control.svg`: the same as a drawing."""
        return self.path / "control.svg"

    @property
    def evaluation(self) -> Path:
        """`evaluation.json`, written by `condkit evaluate`."""
        return self.path / "evaluation.json"

    @property
    def evaluation_grid(self) -> Path:
        """`evaluation.png`, written by `condkit evaluate`."""
        return self.path / "evaluation.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What a run is about; enough to use its ControlNet later.

    Attributes:
        base: Name of the base model as the user gave it.
        base_fingerprint: Hash of its weights.
        condition: What the maps mean.
        dataset: Where the dataset was.
        manifest_sha256: Hash of its manifest.
        status: "running" or "finished".
        step: The last saved optimizer step.
        loss: Mean loss of the log interval that ended there, if there was one.
        prediction: What the base predicts: "epsilon" or "v_prediction"; None in older records.
        portable: Whether the ControlNet works with any base of its kind; not where the base's
            decoder was trained with it.
    """

    base: str
    base_fingerprint: str
    condition: ConditionSpec
    dataset: str
    manifest_sha256: str
    status: Status
    step: int
    loss: float | None
    prediction: Literal["epsilon", "v_prediction"] | None = None
    portable: bool = True

    def write(self, path: Path) -> None:
        """Replace `path` by this record."""
        values = {name: getattr(self, name) for name in self.__slots__}
        atomic.write_json(path, {**values, "condition": self.condition.as_dict()})


def read_record(run: Path) -> RunRecord:
    """Read `run.json` of a run folder.

    Raises:
        TrainingError: if the folder is no run, or its record is damaged.
    """
    path = RunFolder(run).record
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        spec = ConditionSpec.from_dict(values.pop("condition"))
        return RunRecord(condition=spec, **values)
    except FileNotFoundError as error:
        raise TrainingError(
            f"{run} is no training run: there is no run.json in it; give the folder that "
            "condkit train wrote (-o RUN)"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, MapError) as error:
        raise TrainingError(f"cannot read {path}: {error}; the file is damaged") from error
