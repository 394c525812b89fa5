"""`build`: a paired dataset of pictures, captions and condition maps."""

from __future__ import annotations

import time
from pathlib import Path

from condkit.annotators.annotator import AnnotationPlan
from condkit.captions.base import Captioner
from condkit.datasets.filters import Filters, FilterSettings
from condkit.datasets.formats import get_format
from condkit.datasets.lock import locked
from condkit.datasets.sources.base import Source
from condkit.datasets.sources.opening import open_source
from condkit.datasets.workspace import Workspace
from condkit.errors import ConfigError
from condkit.pipeline.build_job import BuildJob
from condkit.pipeline.encoding import data_columns
from condkit.pipeline.execution import check_counts
from condkit.pipeline.given_maps import given_specs
from condkit.pipeline.runs import OnProgress, RunSummary, default_workers
from condkit.runtime import Runtime
from condkit.sizing import SizePolicy


def build(
    source: Path | str | Source,
    output: Path,
    plan: AnnotationPlan,
    runtime: Runtime,
    *,
    captioner: Captioner,
    size: int | SizePolicy | None = 512,
    filters: FilterSettings | None = None,
    format: str = "parquet",
    val: float = 0.02,
    seed: int = 0,
    shard_size: int = 1000,
    batch_size: int | None = None,
    workers: int | None = None,
    data: bool = True,
    licence: str = "unknown",
    overwrite: bool = False,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
) -> RunSummary:
    """Make a dataset of the images of a source; called again, it goes on where it was.

    Each image is decoded once, brought to its final size, captioned and annotated at that size.
    Maps that the source has already are kept, and brought to the same size. Inputs are hashed
    first; of files with the same bytes the first is kept. The work is cut into shards, each
    committed whole; a run that is killed anywhere and started again ends with the same bytes as one
    that was not. Memory does not grow with the number of inputs.

    Args:
        source: A folder of images with its subfolders, anything else that `open_source` takes, or
            an opened source.
        output: Folder of the dataset.
        plan: The conditions and their settings.
        runtime: Where networks run.
        captioner: Where the texts come from.
        size: How pictures get their size; a number is the side in pixels of square ones (the middle
            square of each image); None keeps each image's size.
        filters: Which rows are left out; None leaves out nothing.
        format: One of `available_formats()`.
        val: Share of the rows in the validation split, in [0, 1).
        seed: Draws the split.
        shard_size: Inputs per shard.
        batch_size: Images per call of a network; None chooses.
        workers: Threads that hash, decode and encode; None takes all cores.
        data: Keep what the maps were drawn from (key points, labels) in columns of their own.
        licence: Of the pictures, for the dataset's card: a name that the Hugging Face hub knows.
        overwrite: Remove the dataset that is in `output` and begin anew.
        dry_run: Only say what would be done.
        on_progress: Called after each image, from a thread of its own.

    Raises:
        ConfigError: if a value is impossible or no image is found.
        DatasetError: if the source cannot be read, changes meanwhile, or every input is rejected.
        OutputError: if the output holds something else, was begun with other settings or inputs,
            belongs to another run, or cannot be written.
        WeightsError: if weights cannot be had.
    """
    started = time.monotonic()
    check_counts(shard_size=shard_size, batch_size=batch_size, workers=workers)
    if not 0 <= val < 1:
        raise ConfigError(f"val: expected a share of at least 0 and below 1, got {val}")
    opened = open_source(source, output=output) if isinstance(source, str | Path) else source
    given = given_specs(opened.given, plan.specs)
    specs = (*plan.specs, *(spec for name, spec in given.items() if spec not in plan.specs))
    if not specs:
        raise ConfigError("no condition is asked for; name at least one")
    limits = Filters(filters or FilterSettings())
    limits.check({**dict.fromkeys(spec.name for spec in specs), **plan.as_dict()}, opened.given)
    columns = tuple(c for c in data_columns(plan) if data and c.condition not in given)
    job = BuildJob(
        source=opened,
        workspace=Workspace(output),
        layout=get_format(
            format, [spec.name for spec in specs], columns, many_captions=captioner.many
        ),
        plan=plan,
        specs=specs,
        given=given,
        columns=columns,
        runtime=runtime,
        captioner=captioner,
        sizes=_sizes(size),
        filters=limits,
        val=val,
        seed=seed,
        shard_size=shard_size,
        batch_size=batch_size,
        workers=workers or default_workers(),
        licence=licence,
    )
    job.workspace.check_ours()
    if dry_run:
        return job.preview(started, overwrite=overwrite)
    with locked(output):
        if overwrite:
            job.workspace.clear()
        return job.run(started, on_progress)


def _sizes(size: int | SizePolicy | None) -> SizePolicy:
    if isinstance(size, SizePolicy):
        return size
    return SizePolicy(mode="original") if size is None else SizePolicy(size=size)
