"""`condkit weights`: list, fetch and verify the networks' weight files."""

from __future__ import annotations

from typing import Annotated

import typer

from condkit import terminal
from condkit.cli_options import (
    EXIT_ERROR,
    EXIT_SOME_REJECTED,
    CommercialOnly,
    Json,
    Offline,
    Quiet,
    WeightsDir,
    weight_store,
)
from condkit.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="List, fetch and verify the networks' weights.")

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME",
        help="A condition, detector, captioner, or OWNER:WEIGHTS as listed; none: all there is.",
    ),
]


@app.command("list")
def list_(
    names: Names = None,
    commercial_only: CommercialOnly = False,
    weights_dir: WeightsDir = None,
    json: Json = False,
) -> None:
    """List weight files: size, licence, commercial use, pin, whether they are here, source."""
    from condkit.pipeline.weight_choices import choose_weights
    from condkit.pipeline.weight_files import list_files

    choices = choose_weights(names or (), every=True, commercial_only=commercial_only)
    rows = list_files(weight_store(weights_dir, offline=True), choices)
    if json:
        terminal.result_json([row.as_dict() for row in rows])
        return
    columns = ("weights", "file", "here", "size", "sha256", "licence", "commercial", "source")
    terminal.table(columns, [row.cells() for row in rows])


@app.command()
def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="OWNER:WEIGHTS; or a condition, detector or captioner: what it needs by default.",
        ),
    ] = None,
    all_: Annotated[
        bool,
        typer.Option("--all", help="All weights of what is named; without names, all there are."),
    ] = False,
    commercial_only: CommercialOnly = False,
    weights_dir: WeightsDir = None,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch weights, so that later runs need no network; what is here already is verified."""
    from condkit.pipeline.weight_choices import choose_weights
    from condkit.pipeline.weight_files import fetch_weights

    if not names and not all_:
        raise ConfigError("weights fetch: name conditions, detectors or weights, or give --all")
    choices = choose_weights(names or (), every=all_, commercial_only=commercial_only)
    store = weight_store(weights_dir, offline=offline)
    if store.is_offline:
        raise ConfigError(
            "weights fetch uses the network, which --offline or CONDKIT_OFFLINE forbids; "
            "condkit weights verify checks what is here"
        )
    done = []
    with terminal.progress_bar("fetch", quiet=quiet) as bar:
        for fetched in fetch_weights(store, choices, bar.update):
            done.append(fetched)
            if fetched.error is not None:
                terminal.say(f"{fetched.name}: {fetched.error}")
            elif not json:
                terminal.result(f"{fetched.name}  {fetched.path}")
    if json:
        terminal.result_json([fetched.as_dict() for fetched in done])
    failed = sum(fetched.error is not None for fetched in done)
    if failed:
        terminal.say(f"{failed} of {len(done)} could not be fetched")
        raise typer.Exit(EXIT_ERROR if failed == len(done) else EXIT_SOME_REJECTED)


@app.command()
def verify(
    names: Names = None,
    weights_dir: WeightsDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Hash every weight file that is here; exit 1 where one is damaged or another file."""
    from condkit.pipeline.weight_choices import choose_weights
    from condkit.pipeline.weight_files import verify_weights

    choices = choose_weights(names or (), every=True)
    store = weight_store(weights_dir, offline=True)
    with terminal.progress_bar("verify", quiet=quiet) as bar:
        rows = verify_weights(store, choices, bar.update)
    if json:
        terminal.result_json([row.as_dict() for row in rows])
    elif rows:
        terminal.table(("", "weights", "file", "sha256"), [row.cells() for row in rows])
    else:
        terminal.say("none of these weights is on this disk", quiet=quiet)
    if any(row.verdict in ("different", "unreadable") for row in rows):
        raise typer.Exit(EXIT_ERROR)
