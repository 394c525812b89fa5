"""Options that several commands share, and what they stand for."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from condkit.errors import ConfigError

if TYPE_CHECKING:
    from condkit.weights import WeightStore

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_SOME_REJECTED = 3
EXIT_INTERRUPTED = 130


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


WeightsDir = Annotated[
    list[Path] | None,
    typer.Option(
        help="Folder searched (with its subfolders) for weights before anything is fetched; "
        "repeatable. Also CONDKIT_WEIGHTS_DIR."
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
CommercialOnly = Annotated[
    bool,
    typer.Option(
        "--commercial-only", help="Only weights whose licence clearly allows commercial use."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]

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


def weight_store(folders: list[Path] | None, *, offline: bool) -> WeightStore:
    """The store of `--weights-dir` and `--offline`.

    Raises:
        ConfigError: for a folder that is not there.
    """
    from condkit.weights import WeightStore

    for folder in folders or ():
        if not folder.is_dir():
            raise ConfigError(f"--weights-dir {folder}: expected a folder, there is none")
    return WeightStore(overrides=tuple(folders or ()), offline=offline)
