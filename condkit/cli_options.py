"""Options that several commands share, and what they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from condkit.errors import ConfigError

if TYPE_CHECKING:
    from condkit.weights import WeightStore

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_SOME_REJECTED = 3

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
