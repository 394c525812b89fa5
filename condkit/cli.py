"""The `condkit` command: each subcommand parses, calls one function and prints.

Nothing heavy is imported before a command needs it, so that help and listings answer at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from condkit import (
    __version__,
    cli_annotate,
    cli_build,
    cli_caption,
    cli_export,
    cli_inspect,
    cli_push,
    cli_train,
    cli_validate,
    cli_weights,
    terminal,
)
from condkit.cli_options import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    BatchSize,
    CommercialOnly,
    Device,
    Dtype,
    DtypeOption,
    Json,
    Offline,
    Quiet,
    Seed,
    Set,
    WeightsDir,
    weight_store,
)
from condkit.cli_runs import runtime_of
from condkit.errors import CondkitError, ConfigError, UnknownNameError

app = typer.Typer(
    name="condkit",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "Exit codes: 0 all good, 1 error, 2 usage, 3 finished but some inputs were rejected "
        "or faults were found, 130 interrupted."
    ),
)
app.add_typer(cli_weights.app, name="weights")
app.command()(cli_annotate.annotate)
app.command()(cli_caption.caption)
app.command()(cli_build.build)
app.command()(cli_inspect.inspect)
app.command()(cli_validate.validate)
app.command()(cli_train.train)
app.command()(cli_export.export)
app.command()(cli_push.push)


def _print_version(wanted: bool) -> None:
    if wanted:
        terminal.result(f"condkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Images to condition maps, to paired datasets, to trained ControlNets."""


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    condition_image: Annotated[Path, typer.Option(help="A condition map as an image file.")],
    prompt: Annotated[str, typer.Option(help="What the picture should show.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The PNG to write.")],
    negative_prompt: Annotated[str, typer.Option(help="What it should not show.")] = "",
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 20,
    guidance: Annotated[float, typer.Option(min=0.0, help="Classifier-free guidance scale.")] = 7.5,
    control_scale: Annotated[float, typer.Option(help="Strength of the control.")] = 1.0,
    count: Annotated[int, typer.Option(min=1, help="Pictures; the files are numbered.")] = 1,
    seed: Seed = 0,
    base: Annotated[
        str | None, typer.Option(help="Another base model than the run was trained on.")
    ] = None,
    device: Device = "auto",
    dtype: DtypeOption = Dtype.auto,
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Generate a picture that follows a condition map."""
    from condkit import imageio
    from condkit.trainer.run_folder import read_record
    from condkit.trainer.sample import read_condition_map
    from condkit.trainer.sample import sample as generate

    pictures = generate(
        run,
        read_condition_map(condition_image, read_record(run).condition),
        prompt,
        negative_prompt=negative_prompt,
        steps=steps,
        guidance=guidance,
        control_scale=control_scale,
        count=count,
        seed=seed,
        base=base,
        device=device,
        dtype=dtype.value,
        offline=offline,
    )
    for path, picture in zip(_numbered(output, len(pictures)), pictures, strict=True):
        imageio.write_map(path, picture)
        terminal.result(str(path))


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    data: Annotated[Path, typer.Option("--data", help="A dataset made by [b]condkit build[/b].")],
    split: Annotated[str, typer.Option(help="Which rows.")] = "validation",
    pairs: Annotated[int, typer.Option(min=2, help="At most this many rows.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 20,
    guidance: Annotated[float, typer.Option(min=0.0, help="Classifier-free guidance scale.")] = 3.0,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    device: Device = "auto",
    dtype: DtypeOption = Dtype.auto,
    weights_dir: WeightsDir = None,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how well a ControlNet follows its condition, between floor and ceiling."""
    from condkit.trainer.evaluate import evaluate as measure

    with terminal.progress_bar("evaluate", quiet=quiet) as bar:
        evaluation = measure(
            run,
            data,
            split=split,
            pairs=pairs,
            steps=steps,
            guidance=guidance,
            seed=seed,
            batch_size=batch_size,
            runtime=runtime_of(device, dtype, weights_dir, offline),
            on_progress=bar.update,
        )
    if json:
        terminal.result_json(evaluation.as_dict())
    else:
        terminal.table(("figure", "edge F1"), evaluation.rows())


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything.")] = Path(
        "demo-out"
    ),
    seed: Seed = 0,
    set_: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The whole way on drawn scenes: dataset, training, evaluation, report. Needs no network."""
    from condkit import demo as demo_module
    from condkit.settings import as_mapping, from_mapping, parse_assignments

    settings = from_mapping(
        demo_module.DemoSettings, {"seed": seed, **parse_assignments(set_ or ())}, where="demo"
    )
    with terminal.progress_bar("demo", quiet=quiet) as bar:
        summary = demo_module.run(
            output,
            settings,
            on_progress=bar.update,
            on_stage=lambda s: terminal.say(s, quiet=quiet),
        )
    if json:
        terminal.result_json(as_mapping(summary))
        return
    terminal.table(("figure", "value"), summary.rows())
    terminal.result(f"report: {summary.report}")


@app.command()
def conditions(
    json: Json = False, weights_dir: WeightsDir = None, commercial_only: CommercialOnly = False
) -> None:
    """List the conditions, their detectors and weights."""
    from condkit.annotators.listing import describe

    store = weight_store(weights_dir, offline=True)
    rows = describe(store, commercial_only=commercial_only)
    if json:
        terminal.result_json([row.as_dict() for row in rows])
        return
    columns = (
        "condition",
        "detector",
        "weights",
        "file",
        "present",
        "size",
        "licence",
        "commercial",
    )
    terminal.table(columns, [row.cells() for row in rows])


@app.command()
def recipes() -> None:
    """List the recipes of datasets and of training, and the hardware these can be fitted to."""
    from condkit.datasets.build_recipes import available_build_recipes, load_build_recipe
    from condkit.trainer.recipes import available_recipes, hardware_profiles, load_recipe

    rows = [
        (name, "train", load_recipe(name, {}).summary, ", ".join(hardware_profiles(name)))
        for name in available_recipes()
    ]
    rows += [
        (name, "build --recipe", load_build_recipe(name).summary, "")
        for name in available_build_recipes()
    ]
    terminal.table(("recipe", "for", "what it makes", "--hardware"), rows)


@app.command()
def doctor(json: Json = False) -> None:
    """Check the installation: libraries, cv2, devices, caches."""
    from condkit.doctor import examine

    findings = examine()
    if json:
        terminal.result_json([finding.as_dict() for finding in findings])
    else:
        terminal.table(("", "what", "found"), [finding.cells() for finding in findings])
    if not all(finding.good for finding in findings):
        raise typer.Exit(EXIT_ERROR)


def _numbered(output: Path, count: int) -> list[Path]:
    if count == 1:
        return [output]
    return [output.with_stem(f"{output.stem}-{index}") for index in range(count)]


def main() -> None:
    """Run the command line; an error of ours becomes one line and its exit code."""
    try:
        app()
    except CondkitError as error:
        terminal.say(f"condkit: {error}")
        usage = isinstance(error, ConfigError | UnknownNameError)
        sys.exit(EXIT_USAGE if usage else EXIT_ERROR)
    except KeyboardInterrupt:
        # Of an interrupt while a command runs typer takes care; this one came before or after.
        sys.exit(EXIT_INTERRUPTED)
