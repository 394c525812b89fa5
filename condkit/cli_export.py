"""`condkit export`: a trained ControlNet for other programs, or a dataset in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from condkit import terminal
from condkit.cli_options import Json, Quiet
from condkit.errors import ConfigError

_MODEL_FORMAT = "diffusers"
_MODEL_DTYPE = "fp16"


def export(
    source: Annotated[Path, typer.Argument(help="Folder of a training run, or of a dataset.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder, or the .safetensors file.")
    ],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="A run: diffusers (default; a folder with a model card), single-file (for A1111 "
            "and ComfyUI) or control-lora (of a run with control.lora_rank: the differences from "
            "the base alone, for ComfyUI). A dataset: parquet, imagefolder, webdataset, fill50k, "
            "kohya, simpletuner, or tree, which serves Hugging Face, diffusers, kohya and fill50k "
            "at once.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="A run: type of the weights, fp16 (default), bf16 or fp32."),
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            "--condition",
            "-c",
            help="A dataset: a condition to take; repeat for more. The first one leads where a "
            "format names one first. Default: all.",
        ),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(help="A dataset: a split to take; repeat for more. Default: all."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a trained ControlNet, or a dataset, in a form that other programs read."""
    if _is_run(source):
        _refuse("a training run", {"--condition": condition, "--split": split})
        _export_run(source, output, format_, dtype, overwrite, json)
    else:
        _refuse("a dataset", {"--dtype": dtype})
        _export_dataset(source, output, format_, condition, split, overwrite, json, quiet)


def _is_run(source: Path) -> bool:
    """Whether this is a run; else it is, or should be, a dataset.

    Raises:
        ConfigError: if it is neither.
    """
    from condkit.datasets.manifest import NAME
    from condkit.trainer.run_folder import RunFolder

    if RunFolder(source).record.is_file():
        return True
    begun = source / ".condkit"
    if not (source / NAME).is_file() and not begun.is_dir():
        raise ConfigError(
            f"{source}: expected the folder of a training run (with run.json) or of a dataset "
            f"(with {NAME}), this is neither"
        )
    return False


def _refuse(what: str, options: dict[str, object]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ConfigError(f"{', '.join(given)}: not for the export of {what}; leave it out")


def _export_run(
    run: Path, output: Path, format: str | None, dtype: str | None, overwrite: bool, json: bool
) -> None:
    from condkit.settings import as_mapping
    from condkit.trainer.export import DTYPES, FORMATS, export_run

    format = _fitting(format or _MODEL_FORMAT, FORMATS, "--format", "a training run")
    dtype = _fitting(dtype or _MODEL_DTYPE, DTYPES, "--dtype", "a training run")
    exported = export_run(run, output, format=format, dtype=dtype, overwrite=overwrite)
    if json:
        terminal.result_json(as_mapping(exported))
        return
    terminal.result(
        f"{exported.path}: {exported.tensors} tensors, {exported.dtype}, {exported.keys} names, "
        f"{exported.size / 1e6:.1f} MB"
    )


def _export_dataset(
    dataset: Path,
    output: Path,
    format: str | None,
    conditions: list[str] | None,
    splits: list[str] | None,
    overwrite: bool,
    json: bool,
    quiet: bool,
) -> None:
    from condkit.datasets.export import export_dataset
    from condkit.datasets.formats import available_formats

    format = _fitting(format, available_formats(), "--format", "a dataset")
    with terminal.progress_bar("export", quiet=quiet) as bar:
        summary = export_dataset(
            dataset,
            output,
            format=format,
            conditions=conditions,
            splits=splits,
            overwrite=overwrite,
            on_progress=bar.update,
        )
    if json:
        terminal.result_json(summary.as_dict())
        return
    rows = ", ".join(f"{count} {name}" for name, count in summary.rows.items())
    there = f" ({summary.skipped} were there)" if summary.skipped else ""
    terminal.result(f"{summary.output}: {summary.format}, rows: {rows}{there}")


def _fitting(value: str | None, known: tuple[str, ...], option: str, what: str) -> str:
    """A value that fits the source.

    Raises:
        ConfigError: listing those that do.
    """
    if value not in known:
        got = "none was given" if value is None else f"got {value!r}"
        raise ConfigError(f"{option}: {what} is exported as one of {', '.join(known)}; {got}")
    return value
