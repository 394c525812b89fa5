"""`condkit build`: from pictures, in whatever form they lie there, to a paired dataset."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from condkit import terminal
from condkit.cli_options import (
    Backend,
    BackendOption,
    BatchSize,
    CommercialOnly,
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
from condkit.cli_runs import finish, runtime_of, show_images


class Fit(StrEnum):
    """How pictures get their size."""

    square = "square"
    short_side = "short-side"
    bucket = "bucket"
    original = "original"


def build(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of images (with subfolders), a table (CSV, JSONL, Parquet) with image "
            "paths, WebDataset tars, a fill50k or kohya dataset, a folder saved by Hugging Face "
            "datasets, or hf://OWNER/NAME."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the dataset.")],
    condition: Annotated[
        list[str] | None,
        typer.Option(
            "--condition",
            "-c",
            help="A condition to make; repeat for more. See [b]condkit conditions[/b].",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Data rules of a condition (canny, softedge, scribble, lines, depth, normal, seg, "
            "openpose) or a TOML file: conditions, captions, filters, size; other options change it"
        ),
    ] = None,
    captions: Annotated[
        str | None,
        typer.Option(
            help="sidecar (.txt, .caption or .json beside each image; the default), metadata (a "
            "column), template, none, or a network: blip-base, blip-large, blip2, florence2."
        ),
    ] = None,
    caption_template: Annotated[
        str | None,
        typer.Option(help="For --captions template; {stem}, {name}, {folder} are filled in."),
    ] = None,
    caption_prefix: Annotated[str, typer.Option(help="Before every caption.")] = "",
    caption_suffix: Annotated[str, typer.Option(help="Behind every caption.")] = "",
    trigger: Annotated[str, typer.Option(help="A word that every caption begins with.")] = "",
    replace_captions: Annotated[
        bool,
        typer.Option(
            "--replace-captions", help="Let a network caption images that have captions, too."
        ),
    ] = False,
    size: Annotated[
        int | None,
        typer.Option(min=16, help="Side in pixels that --fit fixes; default: 512."),
    ] = None,
    fit: Annotated[
        Fit | None,
        typer.Option(
            help="square: short side, then crop (the default). short-side: keep the aspect. "
            "bucket: nearest size of a table (--set sizes.buckets=sdxl). original: as it is."
        ),
    ] = None,
    filter_: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="NAME=VALUE",
            help="Leave images out: min_side, max_aspect, near_duplicates, min_lines, "
            "min_keypoints, ... (docs/filters.md); repeatable.",
        ),
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="CONDITION=WHERE",
            help="Condition maps that exist: a folder beside a folder of images, else a column. "
            "They are kept, only missing ones are made; repeatable.",
        ),
    ] = None,
    source_kind: Annotated[
        str, typer.Option(help="What SOURCE is, where it cannot be told.")
    ] = "auto",
    image_column: Annotated[
        str | None, typer.Option(help="The column of the images, where it cannot be told.")
    ] = None,
    source_split: Annotated[
        str | None, typer.Option(help="Take this split of SOURCE alone.")
    ] = None,
    source_config: Annotated[
        str | None, typer.Option(help="The configuration of a Hugging Face dataset.")
    ] = None,
    streaming: Annotated[
        bool,
        typer.Option("--streaming", help="Read a Hugging Face dataset without storing it."),
    ] = False,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="parquet, imagefolder, webdataset, fill50k, kohya, simpletuner, or tree (one "
            "folder for Hugging Face, diffusers, kohya and fill50k).",
        ),
    ] = "parquet",
    val: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of the rows kept for validation.")
    ] = 0.02,
    licence: Annotated[
        str, typer.Option("--license", help="Of the images, for the dataset's card: cc-by-4.0, ...")
    ] = "unknown",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the dataset that is there and begin anew.")
    ] = False,
    shard_size: Annotated[int, typer.Option(min=1, help="Images per shard.")] = 1000,
    set_: Set = None,
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
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a paired dataset: pictures, captions and condition maps. Started again, it goes on."""
    from condkit import pipeline
    from condkit.datasets.sources.opening import open_source
    from condkit.pipeline.build_settings import Wishes, decide

    decided = decide(
        Wishes(
            recipe=recipe,
            conditions=tuple(condition or ()),
            settings=tuple(set_ or ()),
            captions=captions,
            template=caption_template,
            prefix=caption_prefix,
            suffix=caption_suffix,
            trigger=trigger,
            existing="replace" if replace_captions else None,
            fit=None if fit is None else fit.value.replace("-", "_"),
            size=size,
            filters=tuple(filter_ or ()),
            detect_size=detect_size,
            seed=seed,
            commercial_only=commercial_only,
        ),
        runtime_of(device, dtype, weights_dir, offline, backend),
    )
    opened = open_source(
        source,
        kind=source_kind,
        maps=_maps(map_ or ()),
        image_column=image_column,
        split=source_split,
        config=source_config,
        streaming=streaming,
        offline=offline,
        output=output,
    )
    with terminal.progress_bar("build", quiet=quiet) as bar:
        summary = pipeline.build(
            opened,
            output,
            decided.plan,
            decided.runtime,
            captioner=decided.captioner,
            size=decided.sizes,
            filters=decided.filters,
            format=format_,
            val=val,
            seed=seed,
            shard_size=shard_size,
            batch_size=batch_size,
            workers=workers,
            data=data,
            licence=licence,
            overwrite=overwrite,
            dry_run=dry_run,
            on_progress=show_images(bar),
        )
    finish(summary, json=json, quiet=quiet)


def _maps(words: Sequence[str]) -> dict[str, str]:
    """`CONDITION=WHERE` words as a mapping.

    Raises:
        ConfigError: for a word without `=`, or a condition named twice.
    """
    from condkit.errors import ConfigError

    places: dict[str, str] = {}
    for word in words:
        name, equals, place = word.partition("=")
        if not equals or not name or not place:
            raise ConfigError(
                f"--map {word!r}: expected CONDITION=WHERE, such as depth=maps/depth or "
                "canny=conditioning_image"
            )
        if name in places:
            raise ConfigError(f"--map {word!r}: maps of {name!r} are named twice")
        places[name] = place
    return places
