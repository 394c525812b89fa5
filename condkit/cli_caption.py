"""`condkit caption`: captions for a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condkit import terminal
from condkit.cli_options import (
    BatchSize,
    CommercialOnly,
    Device,
    DryRun,
    Dtype,
    DtypeOption,
    Json,
    Offline,
    Quiet,
    WeightsDir,
    Workers,
)
from condkit.cli_runs import finish, runtime_of, show_images
from condkit.errors import ConfigError

if TYPE_CHECKING:
    from condkit.captions.base import Captioner
    from condkit.pipeline import RunSummary
    from condkit.runtime import Runtime


class Extension(StrEnum):
    """Endings of caption files."""

    txt = ".txt"
    caption = ".caption"


def caption(
    source: Annotated[
        Path, typer.Argument(help="Folder of pictures (with subfolders), or a dataset.")
    ],
    captioner: Annotated[
        str,
        typer.Option(
            "--captioner",
            "--captions",
            help="blip-base, blip-large, blip2, florence2; or sidecar, metadata, template, none.",
        ),
    ] = "blip-base",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for the captions; default: beside the pictures. A dataset: the new one.",
        ),
    ] = None,
    extension: Annotated[Extension, typer.Option(help="Of the caption files.")] = Extension.txt,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="Captions per picture, one a line; the first is the best."),
    ] = None,
    caption_template: Annotated[
        str | None,
        typer.Option(help="For --captioner template; {stem}, {name}, {folder} are filled in."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="How a BLIP caption begins, such as 'a photography of'."),
    ] = None,
    caption_prefix: Annotated[str, typer.Option(help="Before every caption.")] = "",
    caption_suffix: Annotated[str, typer.Option(help="Behind every caption.")] = "",
    trigger: Annotated[
        str,
        typer.Option(
            "--caption-trigger", "--trigger", help="A word that every caption begins with."
        ),
    ] = "",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change one setting of the captioner (docs/captions.md): num_beams=1, "
            "sample=true, top_p=0.9, max_new_tokens=60, task=more-detailed, ...; repeatable.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the captions that are drawn.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Caption pictures that have a caption, too.")
    ] = False,
    device: Device = "auto",
    dtype: DtypeOption = Dtype.auto,
    batch_size: BatchSize = None,
    workers: Workers = None,
    weights_dir: WeightsDir = None,
    commercial_only: CommercialOnly = False,
    offline: Offline = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write captions beside pictures (cat.txt for cat.jpg), or into a copy of a dataset.

    Captions that are there are kept, unless --overwrite is given.
    """
    runtime = runtime_of(device, dtype, weights_dir, offline)
    chosen = _captioner(
        captioner,
        runtime,
        settings=_settings(set_, count=count, prompt=prompt, seed=seed),
        template=caption_template,
        prefix=caption_prefix,
        suffix=caption_suffix,
        trigger=trigger,
        # Of a dataset, the rows with a caption never come to the captioner.
        existing="replace" if overwrite or _is_dataset(source) else "keep",
        commercial_only=commercial_only,
    )
    with terminal.progress_bar("caption", quiet=quiet) as bar:
        write = (
            _dataset_writer(output) if _is_dataset(source) else _folder_writer(output, extension)
        )
        summary = write(
            source,
            chosen,
            runtime,
            overwrite=overwrite,
            batch_size=batch_size,
            workers=workers,
            dry_run=dry_run,
            on_progress=show_images(bar),
        )
    finish(summary, json=json, quiet=quiet)


def _is_dataset(source: Path) -> bool:
    from condkit.datasets.manifest import NAME

    return (source / NAME).is_file()


def _folder_writer(output: Path | None, extension: Extension) -> Callable[..., RunSummary]:
    from condkit.pipeline.captioning import caption as write_captions

    return partial(write_captions, output=output, extension=extension.value)


def _dataset_writer(output: Path | None) -> Callable[..., RunSummary]:
    from condkit.pipeline.recaptioning import caption_dataset

    if output is None:
        raise ConfigError(
            "--output: SOURCE is a dataset, which is not changed; name a folder for the new one"
        )
    return partial(caption_dataset, output=output)


def _settings(assignments: list[str] | None, **options: Any) -> dict[str, Any]:
    """The settings of the captioner; what has an option of its own and `--set` must not differ."""
    from condkit.settings import parse_assignments

    told = parse_assignments(assignments or ())
    settings: dict[str, Any] = {name.removeprefix("captions."): text for name, text in told.items()}
    for name, value in options.items():
        if value is None:
            continue
        if name in settings:
            raise ConfigError(f"--{name} and --set {name}=... are both given; leave one out")
        settings[name] = value
    return settings


def _captioner(name: str, runtime: Runtime, *, commercial_only: bool, **options: Any) -> Captioner:
    from condkit.captions import make_captioner
    from condkit.captions.licensing import require_commercial_use

    if options["template"] is not None and name != "template":
        raise ConfigError(f"--caption-template: only --captioner template uses it, not {name}")
    made = make_captioner(name, runtime=runtime, **options)
    if commercial_only:
        require_commercial_use(made)
    return made
