"""The `condkit` command: each subcommand parses, calls one function and prints.

Nothing heavy is imported before a command needs it, so that help and listings answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from condkit import __version__, cli_push, cli_weights, terminal
from condkit.cli_options import (
    EXIT_ERROR,
    EXIT_SOME_REJECTED,
    EXIT_USAGE,
    CommercialOnly,
    Json,
    Offline,
    Quiet,
    WeightsDir,
    weight_store,
)
from condkit.errors import CondkitError, ConfigError, UnknownNameError

if TYPE_CHECKING:
    from condkit.annotators.annotator import AnnotationPlan
    from condkit.captions.base import Captioner
    from condkit.pipeline import Progress, RunSummary
    from condkit.runtime import Runtime

SHOWN_REJECTIONS = 10
"""Rejected inputs that are named on the terminal; the file has them all."""

app = typer.Typer(
    name="condkit",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "Exit codes: 0 all good, 1 error, 2 usage, 3 finished but some inputs were rejected, "
        "130 interrupted."
    ),
)
app.add_typer(cli_weights.app, name="weights")
app.command()(cli_push.push)


class Dtype(StrEnum):
    """Arithmetic of the networks."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Backend(StrEnum):
    """What runs the networks."""

    torch = "torch"
    compile = "compile"
    openvino = "openvino"


class ExportFormat(StrEnum):
    """How an exported ControlNet lies on the disk."""

    diffusers = "diffusers"
    single_file = "single-file"


class ExportDtype(StrEnum):
    """Type of exported weights."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


class DatasetFormat(StrEnum):
    """How a paired dataset lies on the disk."""

    parquet = "parquet"
    imagefolder = "imagefolder"


class CaptionSource(StrEnum):
    """Where captions come from."""

    sidecar = "sidecar"
    template = "template"
    none = "none"


Conditions = Annotated[
    list[str],
    typer.Option(
        "--condition",
        "-c",
        help="A condition to make; repeat for more. See [b]condkit conditions[/b].",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change one setting; repeatable."),
]
DetectSize = Annotated[
    int | None,
    typer.Option(min=16, help="Short side at which networks work; maps keep the image's size."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
DtypeOption = Annotated[Dtype, typer.Option(help="auto is bf16 where the hardware is fast at it.")]
BackendOption = Annotated[
    Backend,
    typer.Option(help="openvino is the fastest on CPUs: pip install 'condkit[openvino]'."),
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Images per network call.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads that decode and encode.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, do nothing.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything drawn at random.")]
KeepData = Annotated[
    bool,
    typer.Option(
        "--data/--no-data",
        help="Keep what maps were drawn from: key points, labels, line segments.",
    ),
]


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

    plan = _plan(condition, set_, detect_size, seed, commercial_only)
    runtime = _runtime(device, dtype, weights_dir, offline, backend)
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
            on_progress=_show_images(bar),
        )
    _finish(summary, json=json, quiet=quiet)


@app.command()
def build(
    source: Annotated[Path, typer.Argument(help="Folder of images (with subfolders).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the dataset.")],
    condition: Conditions,
    captions: Annotated[
        CaptionSource, typer.Option(help="sidecar: a .txt or .caption file beside each image.")
    ] = CaptionSource.sidecar,
    caption_template: Annotated[
        str, typer.Option(help="For --captions template; {stem}, {name}, {folder} are filled in.")
    ] = "{stem}",
    size: Annotated[
        int, typer.Option(min=16, help="Side of the square pictures: short side, centre crop.")
    ] = 512,
    format_: Annotated[
        DatasetFormat, typer.Option("--format", help="Files of the dataset.")
    ] = DatasetFormat.parquet,
    val: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of the rows kept for validation.")
    ] = 0.02,
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

    plan = _plan(condition, set_, detect_size, seed, commercial_only)
    runtime = _runtime(device, dtype, weights_dir, offline, backend)
    with terminal.progress_bar("build", quiet=quiet) as bar:
        summary = pipeline.build(
            source,
            output,
            plan,
            runtime,
            captioner=_captioner(captions, caption_template),
            size=size,
            format=format_.value,
            val=val,
            seed=seed,
            shard_size=shard_size,
            batch_size=batch_size,
            workers=workers,
            data=data,
            overwrite=overwrite,
            dry_run=dry_run,
            on_progress=_show_images(bar),
        )
    _finish(summary, json=json, quiet=quiet)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or a TOML file.")],
    data: Annotated[Path, typer.Option("--data", help="A dataset made by [b]condkit build[/b].")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")],
    base: Annotated[
        str | None,
        typer.Option(help="Stable Diffusion 1.x/2.x folder, hub id, or condkit/tiny (built in)."),
    ] = None,
    set_: Set = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint of this run.")
    ] = False,
    device: Device = "auto",
    dtype: DtypeOption = Dtype.auto,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a ControlNet on a paired dataset."""
    from condkit.settings import as_mapping, parse_assignments
    from condkit.trainer.config import load_recipe
    from condkit.trainer.train import train as run_training

    config = load_recipe(recipe, parse_assignments(set_ or ()))
    with terminal.progress_bar("train", quiet=quiet) as bar:
        summary = run_training(
            config,
            data,
            output,
            base=base,
            resume=resume,
            device=device,
            dtype=dtype.value,
            offline=offline,
            on_progress=lambda p: bar.update(
                p.step, p.total, f"loss {p.loss:.4f}, {p.images_per_second:.1f} images/s"
            ),
        )
    if json:
        terminal.result_json(as_mapping(summary))
        return
    terminal.result(
        f"trained {summary.steps} steps in {summary.seconds:.0f} s, loss {summary.loss:.4f}"
    )
    terminal.result(f"ControlNet: {summary.controlnet}")


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
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder, or the .safetensors file.")
    ],
    format_: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="diffusers: a folder with a model card. single-file: for A1111 and ComfyUI.",
        ),
    ] = ExportFormat.diffusers,
    dtype: Annotated[ExportDtype, typer.Option(help="Type of the weights.")] = ExportDtype.fp16,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    json: Json = False,
) -> None:
    """Write a trained ControlNet in a form that other programs read."""
    from condkit.settings import as_mapping
    from condkit.trainer.export import export_run

    exported = export_run(run, output, format=format_.value, dtype=dtype.value, overwrite=overwrite)
    if json:
        terminal.result_json(as_mapping(exported))
        return
    terminal.result(
        f"{exported.path}: {exported.tensors} tensors, {exported.dtype}, {exported.keys} names, "
        f"{exported.size / 1e6:.1f} MB"
    )


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
            runtime=_runtime(device, dtype, weights_dir, offline),
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
    """List the training recipes."""
    from condkit.trainer.config import available_recipes, load_recipe

    rows = [(name, load_recipe(name, {}).summary) for name in available_recipes()]
    terminal.table(("recipe", "what it trains"), rows)


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


def _plan(
    conditions: list[str],
    assignments: list[str] | None,
    detect_size: int | None,
    seed: int,
    commercial_only: bool,
) -> AnnotationPlan:
    from condkit.annotators.annotator import plan_annotation
    from condkit.annotators.licensing import require_commercial_use
    from condkit.settings import parse_assignments

    plan = plan_annotation(
        conditions, parse_assignments(assignments or ()), detect_size=detect_size, seed=seed
    )
    if commercial_only:
        require_commercial_use(plan)
    return plan


def _runtime(
    device: str,
    dtype: Dtype,
    weights_dir: list[Path] | None,
    offline: bool,
    backend: Backend = Backend.torch,
) -> Runtime:
    from condkit.runtime import Runtime

    store = weight_store(weights_dir, offline=offline)
    return Runtime(device=device, dtype=dtype.value, backend=backend.value, store=store)


def _captioner(source: CaptionSource, template: str) -> Captioner:
    from condkit.captions import make_captioner

    return make_captioner(source.value, template=template)


def _show_images(bar: terminal.Bar) -> Callable[[Progress], None]:
    def show(progress: Progress) -> None:
        note = f"{progress.images_per_second:.1f} images/s"
        if progress.rejected:
            note += f", {progress.rejected} rejected"
        bar.update(progress.done, progress.total, note)

    return show


def _finish(summary: RunSummary, *, json: bool, quiet: bool) -> None:
    """Print what a run did, and leave with 3 where some inputs were rejected."""
    if json:
        terminal.result_json(summary.as_dict())
    elif not quiet:
        for rejection in summary.rejections[:SHOWN_REJECTIONS]:
            terminal.say(f"rejected {rejection.source} ({rejection.stage}): {rejection.reason}")
        if len(summary.rejections) > SHOWN_REJECTIONS:
            terminal.say(f"rejected {len(summary.rejections) - SHOWN_REJECTIONS} more")
        for line in summary.lines():
            terminal.result(line)
    if summary.rejections:
        raise typer.Exit(EXIT_SOME_REJECTED)


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
