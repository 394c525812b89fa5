"""The command `condkit train`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from condkit import terminal
from condkit.cli_options import Device, DryRun, Dtype, DtypeOption, Json, Offline, Quiet, Set

if TYPE_CHECKING:
    from condkit.trainer.config import TrainConfig
    from condkit.trainer.control_watch import ControlReport
    from condkit.trainer.loop import TrainProgress


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or a TOML file.")],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="A dataset made by [b]condkit build[/b], a folder that Hugging Face datasets "
            "reads, or a dataset's hub id.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")],
    base: Annotated[
        str | None,
        typer.Option(
            help="Stable Diffusion 1.x, 2.x or XL: folder, .safetensors file, hub id, or "
            "condkit/tiny (built in)."
        ),
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option(
            help="What the recipe is fitted to: laptop, 24gb, 80gb or 8x80gb (its tables "
            r"\[hardware.NAME])."
        ),
    ] = None,
    set_: Set = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint of this run.")
    ] = False,
    dry_run: DryRun = False,
    devices: Annotated[
        int,
        typer.Option(
            min=1, help="Train on so many devices of this machine; for several machines: torchrun."
        ),
    ] = 1,
    device: Device = "auto",
    dtype: DtypeOption = Dtype.auto,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a ControlNet on a paired dataset."""
    from condkit.settings import as_mapping, parse_assignments
    from condkit.trainer import launching
    from condkit.trainer.recipes import load_recipe
    from condkit.trainer.train import train as run_training

    config = load_recipe(recipe, parse_assignments(set_ or ()), hardware=hardware)
    if dry_run:
        _show_plan(config, data, base, device, dtype, offline, devices, json)
        return
    if devices > 1 and not launching.under_launcher():
        raise typer.Exit(launching.launch(devices, sys.argv[1:]))
    reports = launching.is_main_process()
    with terminal.progress_bar("train", quiet=quiet or not reports) as bar:
        summary = run_training(
            config,
            Path(data),
            output,
            base=base,
            resume=resume,
            device=device,
            dtype=dtype.value,
            offline=offline,
            on_progress=_show(bar),
            on_cached=bar.update,
        )
    if not reports:
        return
    if json:
        terminal.result_json(as_mapping(summary))
        return
    terminal.result(
        f"trained {summary.steps} steps in {summary.seconds:.0f} s, loss {summary.loss:.4f}"
    )
    if summary.stopped is not None:
        terminal.result(f"ended early: {summary.stopped}")
    if summary.control is not None:
        terminal.result(_control_line(summary.control))
    terminal.result(f"ControlNet: {summary.controlnet}")


def _control_line(control: ControlReport) -> str:
    share = "" if control.share is None else f" ({control.share:.0%} of the way to real pictures)"
    came = "has not set in" if control.set_in is None else f"set in at step {control.set_in}"
    return f"control {came}; score {control.score:.3f}{share}, best at step {control.best}"


def _show(bar: terminal.Bar) -> Callable[[TrainProgress], None]:
    def show(progress: TrainProgress) -> None:
        parts = [f"loss {progress.loss:.4f}", f"{progress.images_per_second:.1f} images/s"]
        if progress.mfu is not None:
            parts.append(f"MFU {progress.mfu:.0%}")
        if progress.memory is not None:
            parts.append(f"{progress.memory / 1e9:.1f} GB")
        bar.update(progress.step, progress.total, ", ".join(parts))

    return show


def _show_plan(
    config: TrainConfig,
    data: str,
    base: str | None,
    device: str,
    dtype: Dtype,
    offline: bool,
    devices: int,
    json: bool,
) -> None:
    from condkit.trainer.dry_run import plan_training

    plan = plan_training(
        config,
        data,
        base=base,
        device=device,
        dtype=dtype.value,
        offline=offline,
        devices=devices,
    )
    if json:
        terminal.result_json(plan.as_dict())
    else:
        terminal.table(("what", "how much"), list(plan.lines()))
