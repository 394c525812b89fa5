"""`condkit annotate`: from pictures to condition maps, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from condkit import terminal
from condkit.cli_options import (
    Backend,
    BackendOption,
    BatchSize,
    CommercialOnly,
    Conditions,
    DetectSize,
    Device,
    DryRun,
    Dtype,
    DtypeOption,
    Json,
    KeepData,
    Offline,
    Quiet,
    Seed,
    Set,
    WeightsDir,
    Workers,
)
from condkit.cli_runs import annotation_plan, finish, runtime_of, show_images


def annotate(
    paths: Annotated[list[Path], typer.Argument(help="Image files and folders (with subfolders).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the maps.")],
    condition: Conditions,
    set_: Set = None,
    size: Annotated[
        int | None,
        typer.Option(min=16, help="Resize each image to this short side first; default: its own."),
    ] = None,
    detect_size: DetectSize = None,
    device: Device = "auto",
    dtype: DtypeOption = Dtype.auto,
    backend: BackendOption = Backend.torch,
    batch_size: BatchSize = None,
    workers: Workers = None,
    weights_dir: WeightsDir = None,
    commercial_only: CommercialOnly = False,
    offline: Offline = False,
    data: KeepData = True,
    dry_run: DryRun = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make again the maps that are there.")
    ] = False,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn images into condition maps: OUTPUT/CONDITION/RELATIVE PATH.png."""
    from condkit import pipeline

    plan = annotation_plan(condition, set_, detect_size, seed, commercial_only)
    runtime = runtime_of(device, dtype, weights_dir, offline, backend)
    with terminal.progress_bar("annotate", quiet=quiet) as bar:
        summary = pipeline.annotate(
            paths,
            output,
            plan,
            runtime,
            size=size,
            batch_size=batch_size,
            workers=workers,
            data=data,
            overwrite=overwrite,
            dry_run=dry_run,
            on_progress=show_images(bar),
        )
    finish(summary, json=json, quiet=quiet)
