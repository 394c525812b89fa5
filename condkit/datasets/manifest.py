"""`manifest.json`: what a dataset is and how it was made, written last."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condkit import atomic
from condkit.datasets.encoded import DataColumn
from condkit.datasets.formats.base import FACT_COLUMNS
from condkit.datasets.planning import SPLIT_RULE, SPLITS, BuildPlan, Split
from condkit.datasets.workspace import ShardFile, ShardRecord
from condkit.errors import DatasetError, OutputError
from condkit.types import ConditionSpec, Rejection

FORMAT_VERSION = 1
NAME = "manifest.json"
CHECKSUMS = "SHA256SUMS"
REJECTED = "rejected.jsonl"
LIBRARIES = ("condkit", "numpy", "opencv-python", "pillow", "pyarrow")
"""Distributions whose versions decide the bytes of a dataset without networks."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a finished dataset holds.

    Attributes:
        rows: Rows per split, train first; only splits with rows.
        rejections: Everything left out, sorted by name.
        files: All data files, sorted by path.
    """

    rows: dict[Split, int]
    rejections: tuple[Rejection, ...]
    files: tuple[ShardFile, ...]

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that have rows."""
        return tuple(self.rows)


def summarise(plan: BuildPlan, records: Iterable[ShardRecord]) -> Contents:
    """Add up the records of all shards."""
    rows: Counter[str] = Counter()
    rejections = list(plan.rejections)
    files: list[ShardFile] = []
    for record in records:
        rows.update(record.rows)
        rejections.extend(record.rejections)
        files.extend(record.files)
    return Contents(
        rows={split: rows[split] for split in SPLITS if rows[split]},
        rejections=tuple(sorted(rejections, key=lambda r: (r.source, r.stage))),
        files=tuple(sorted(files, key=lambda f: f.path)),
    )


def describe(
    plan: BuildPlan,
    records: Sequence[ShardRecord],
    contents: Contents,
    specs: Sequence[ConditionSpec],
    data: Sequence[DataColumn],
) -> dict[str, Any]:
    """The manifest as JSON values; it holds no absolute path and no time, so it repeats."""
    parameters = plan.parameters
    return {
        "condkit_dataset": FORMAT_VERSION,
        "format": parameters["format"],
        "columns": [
            "image",
            "text",
            *(spec.name for spec in specs),
            *(column.name for column in data),
            *FACT_COLUMNS,
        ],
        "conditions": {spec.name: spec.as_dict() for spec in specs},
        "data": {column.name: column.as_dict() for column in data},
        "annotation": parameters["annotation"],
        "captions": parameters["captions"],
        "size": parameters["size"],
        "geometry": parameters["geometry"],
        "split": {"validation": parameters["val"], "seed": parameters["seed"], "rule": SPLIT_RULE},
        "source": {
            "inputs": len(plan.inputs) + len(plan.rejections),
            "sha256": plan.source_sha256,
            "left_out": plan.left_out,
        },
        "rows": contents.rows,
        "shard_size": plan.shard_size,
        "shards": [_describe_shard(record) for record in records],
        "rejected": dict(sorted(Counter(r.stage for r in contents.rejections).items())),
        "rejections": [rejection.as_dict() for rejection in contents.rejections],
        "environment": plan.environment,
    }


def _describe_shard(record: ShardRecord) -> dict[str, Any]:
    """Rows, files and one hash over the hashes of the files, which stand in `SHA256SUMS`."""
    digest = hashlib.sha256(checksums(record.files).encode("utf-8")).hexdigest()
    return {"rows": record.rows, "files": len(record.files), "sha256": digest}


def checksums(files: Iterable[ShardFile]) -> str:
    """Hashes and paths as `sha256sum -c` reads them."""
    return "".join(f"{file.sha256}  {file.path}\n" for file in files)


def write_rejected(folder: Path, rejections: Iterable[Rejection]) -> None:
    """Write `rejected.jsonl`, one rejection a line; without any, an old file is removed.

    Raises:
        OutputError: if it cannot be written.
    """
    lines = [json.dumps(r.as_dict(), ensure_ascii=False) + "\n" for r in rejections]
    path = folder / REJECTED
    if lines:
        atomic.write_text(path, "".join(lines))
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror}") from error


def installed_versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Installed versions by distribution; "absent" where one is not installed."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    if name == "condkit":
        from condkit import __version__

        return __version__
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def read_manifest(dataset: Path) -> dict[str, Any]:
    """The manifest of a finished dataset.

    Raises:
        DatasetError: if the folder is none, is unfinished, or of a version not known here.
    """
    path = dataset / NAME
    if not path.is_file():
        raise DatasetError(f"{dataset}: {_why_none(dataset)}")
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = values["condkit_dataset"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path} is no manifest of condkit ({type(error).__name__}: {error})"
        ) from error
    if version != FORMAT_VERSION:
        raise DatasetError(
            f"{path}: version {version!r}, this condkit reads {FORMAT_VERSION}; update condkit "
            "or build the dataset again"
        )
    return values


def _why_none(dataset: Path) -> str:
    if not dataset.exists():
        return "there is no such folder; `condkit build` makes datasets"
    if (dataset / ".condkit" / "plan.json").is_file():
        return "this dataset is not finished; run the same `condkit build` again to go on"
    return f"no dataset of condkit (no {NAME} in it); `condkit build` makes one of images"
