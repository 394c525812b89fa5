"""`manifest.json`: what a dataset is and how it was made, written last."""

from __future__ import annotations

import hashlib
import heapq
import importlib.metadata
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from condkit import atomic
from condkit.datasets.encoded import DataColumn
from condkit.datasets.formats.base import FACT_COLUMNS
from condkit.datasets.lock import RECORDS
from condkit.datasets.planning import SPLIT_RULE, SPLITS, BuildPlan, Split
from condkit.datasets.workspace import PLAN, ShardFile, ShardRecord
from condkit.errors import DatasetError, OutputError
from condkit.types import ConditionSpec, Rejection

FORMAT_VERSION = 1
NAME = "manifest.json"
CHECKSUMS = "SHA256SUMS"
REJECTED = "rejected.jsonl"
LIBRARIES = ("condkit", "numpy", "opencv-python", "pillow", "pyarrow")
"""Distributions whose versions decide the bytes of a dataset without networks."""


NAMED_REJECTIONS = 1000
"""So many rejections stand in a manifest and in a run's summary; `rejected.jsonl` has them all."""


@dataclass(slots=True)
class Contents:
    """What a dataset holds, added up shard by shard.

    Attributes:
        rows: Rows per split.
        rejected: Inputs left out, by stage.
        named: The first rejections, by name.
        shards: What the manifest says of each shard.
    """

    rows: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    named: list[Rejection] = field(default_factory=list)
    shards: list[dict[str, Any]] = field(default_factory=list)

    def add(self, record: ShardRecord) -> None:
        """Add a finished shard."""
        self.rows.update(record.rows)
        self.shards.append(_describe_shard(record))

    def leave_out(self, rejection: Rejection) -> None:
        """Add an input that became no row."""
        self.rejected[rejection.stage] += 1
        if len(self.named) < NAMED_REJECTIONS:
            self.named.append(rejection)

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that have rows, train first."""
        return tuple(split for split in SPLITS if self.rows[split])


def all_rejections(plan: BuildPlan, records: Iterable[ShardRecord]) -> Iterator[Rejection]:
    """Everything left out, when the build was planned and since, by name."""
    later = (rejection for record in records for rejection in record.rejections)
    return heapq.merge(plan.inputs.rejections(), later, key=lambda r: (r.source, r.stage))


def describe(
    plan: BuildPlan, contents: Contents, specs: Sequence[ConditionSpec], data: Sequence[DataColumn]
) -> dict[str, Any]:
    """The manifest as JSON values; it holds no absolute path and no time, so it repeats."""
    parameters = plan.parameters
    many = parameters["many_captions"]
    return {
        "condkit_dataset": FORMAT_VERSION,
        "format": parameters["format"],
        "columns": [
            "image",
            "text",
            *(spec.name for spec in specs),
            *(["captions"] if many else []),
            *(column.name for column in data),
            *FACT_COLUMNS,
        ],
        "many_captions": many,
        "image_suffix": parameters["image_suffix"],
        "conditions": {spec.name: spec.as_dict() for spec in specs},
        "data": {column.name: column.as_dict() for column in data},
        "annotation": parameters["annotation"],
        "given": parameters["given"],
        "captions": parameters["captions"],
        "licence": parameters["licence"],
        "filters": parameters["filters"],
        "size": parameters["size"],
        "geometry": parameters["geometry"],
        "split": {"validation": parameters["val"], "seed": parameters["seed"], "rule": SPLIT_RULE},
        "source": {
            **parameters["source"],
            "inputs": plan.planned,
            "sha256": plan.source_sha256,
            "left_out": plan.left_out,
        },
        "rows": {split: contents.rows[split] for split in contents.splits},
        "shard_size": plan.layout.shard_size,
        "shards": contents.shards,
        "rejected": dict(sorted(contents.rejected.items())),
        "rejections": [rejection.as_dict() for rejection in contents.named],
        "environment": plan.environment,
    }


def _describe_shard(record: ShardRecord) -> dict[str, Any]:
    """Rows, files and one hash over the hashes of the files, which stand in `SHA256SUMS`."""
    digest = hashlib.sha256(checksums(record.files).encode("utf-8")).hexdigest()
    return {"rows": record.rows, "files": len(record.files), "sha256": digest}


def checksums(files: Iterable[ShardFile]) -> str:
    """Hashes and paths as `sha256sum -c` reads them."""
    return "".join(f"{file.sha256}  {file.path}\n" for file in files)


def write_checksums(
    folder: Path, records: Iterable[ShardRecord], extra: Sequence[ShardFile]
) -> None:
    """Write `SHA256SUMS`: the files of the shards in their order, then those made at the end.

    Raises:
        OutputError: if it cannot be written.
    """

    def lines() -> Iterator[str]:
        for record in records:
            yield checksums(file for file in record.files if not file.path.startswith("."))
        yield checksums(extra)

    atomic.write_lines(folder / CHECKSUMS, lines())


def write_rejected(folder: Path, rejections: Iterable[Rejection]) -> None:
    """Write `rejected.jsonl`, one rejection a line; without any, an old file is removed.

    Raises:
        OutputError: if it cannot be written.
    """
    lines = (json.dumps(r.as_dict(), ensure_ascii=False) + "\n" for r in rejections)
    path, first = folder / REJECTED, next(lines, None)
    if first is not None:
        atomic.write_lines(path, itertools.chain((first,), lines))
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
    if (dataset / RECORDS / PLAN).is_file():
        return "this dataset is not finished; run the same `condkit build` again to go on"
    if (dataset / ".condkit" / "export.json").is_file():
        return "this export is not finished; run the same `condkit export` again to go on"
    return f"no dataset of condkit (no {NAME} in it); `condkit build` makes one of images"
