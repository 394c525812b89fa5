"""`condkit push`: a dataset or a ControlNet to the Hugging Face Hub."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from condkit import terminal
from condkit.cli_options import Json, Quiet

if TYPE_CHECKING:
    from condkit.hub import Bundle, PushSummary, Target

LISTED_FILES = 40
"""Up to so many files a dry run names each; of more, only the folders. JSON has them all."""


def push(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A dataset made by [b]condkit build[/b], or a model by [b]condkit export[/b]."
        ),
    ],
    repo_id: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository.")],
    public: Annotated[
        bool,
        typer.Option("--public/--private", help="Who may read a repository that is made by this."),
    ] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch, made if need be; default: the main one.")
    ] = None,
    message: Annotated[
        str, typer.Option("--message", "-m", help="First line of the commits.")
    ] = "Upload with condkit",
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Delete what else is in the repository, but its licence."),
    ] = False,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Files that are read or sent at once.")
    ] = 4,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and list what would be sent; no network.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Send a dataset or a model to the Hugging Face Hub. Started again, it goes on.

    The token is taken from HF_TOKEN or `hf auth login`, another Hub's address from HF_ENDPOINT.
    """
    from condkit import hub

    target = hub.Target(
        repo_id=repo_id, public=public, revision=revision, message=message, replace=replace
    )
    with terminal.progress_bar("check", quiet=quiet) as bar:
        bundle = hub.check(hub.gather(folder), workers=workers, on_progress=bar.update)
    for line in bundle.advice():
        terminal.say(f"advice: {line}")
    if bundle.left_out:
        terminal.say(f"left out: {_some(bundle.left_out)}", quiet=quiet)
    if dry_run:
        _show_plan(bundle, target, json=json)
        return
    if quiet or not sys.stderr.isatty():
        _silence_bars()
    summary = hub.push(
        bundle,
        target,
        workers=workers,
        on_progress=lambda done, total: terminal.say(
            f"{done:,} of {total:,} files are there", quiet=quiet
        ),
    )
    _show_summary(summary, json=json, quiet=quiet)


def _show_plan(bundle: Bundle, target: Target, *, json: bool) -> None:
    if json:
        terminal.result_json(
            {
                "repository": target.repo_id,
                "type": bundle.kind,
                "public": target.public,
                "revision": target.revision,
                "size": bundle.size,
                "files": [
                    {"path": file.path, "size": file.size, "sha256": file.sha256}
                    for file in bundle.files
                ],
                "left_out": list(bundle.left_out),
                "advice": bundle.advice(),
            }
        )
        return
    if len(bundle.files) <= LISTED_FILES:
        terminal.table(("size", "file"), [(_bytes(f.size), f.path) for f in bundle.files])
    else:
        terminal.table(("files", "size", "folder"), _folders(bundle))
    reader = "everybody may read" if target.public else "private"
    terminal.result(
        f"{bundle.kind} {target.repo_id} ({reader} if it is made anew): {len(bundle.files):,} "
        f"files, {_bytes(bundle.size)}; nothing was sent"
    )


def _folders(bundle: Bundle) -> list[tuple[str, str, str]]:
    files: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for file in bundle.files:
        folder = file.path.rpartition("/")[0] or "."
        files[folder] += 1
        sizes[folder] += file.size
    return [(f"{files[name]:,}", _bytes(sizes[name]), name) for name in sorted(files)]


def _show_summary(summary: PushSummary, *, json: bool, quiet: bool) -> None:
    from condkit.settings import as_mapping

    if json:
        terminal.result_json(as_mapping(summary))
    elif not quiet:
        deleted = f", {summary.deleted:,} deleted" if summary.deleted else ""
        terminal.result(
            f"{summary.sent:,} files sent ({_bytes(summary.size)}), {summary.there:,} were there "
            f"already{deleted}; {'public' if summary.public else 'private'}"
        )
        terminal.result(summary.url)


def _silence_bars() -> None:
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
