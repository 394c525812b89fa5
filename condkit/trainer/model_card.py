"""The model card of a trained ControlNet: what it is, how it was made, how well it does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from condkit import __version__
from condkit.trainer.base_loading import BUILT_IN
from condkit.trainer.decoder import DECODER_FILE
from condkit.trainer.run_folder import RunFolder, RunRecord

_SETTINGS = (
    "run.steps",
    "data.batch_size",
    "optim.accumulation",
    "optim.lr",
    "optim.schedule",
    "data.resolution",
    "data.caption_dropout",
    "data.flip",
    "run.seed",
)


def write_model_card(
    run: Path,
    record: RunRecord,
    pictures: Sequence[str],
    *,
    is_xl: bool = False,
    lora_size: int | None = None,
) -> str:
    """The card as Markdown with the hub's YAML head.

    Args:
        run: Folder of the run.
        record: What the run is about.
        pictures: File names beside the card that it should show.
        is_xl: Whether the base is SDXL, which has a pipeline of its own.
        lora_size: Bytes in fp32 of what a Control-LoRA trained; None for any other run.
    """
    folder = RunFolder(run)
    config = _read_json(folder.config)
    return "\n".join(
        [
            *_head(record),
            *_usage(record, is_xl),
            *_decoder(record),
            *_control_lora(record, config, lora_size),
            *_making(record, config),
            *_figures(_read_json(folder.evaluation)),
            *_control(_read_json(folder.control)),
            *[line for name in pictures for line in (f"![{Path(name).stem}]({name})", "")],
        ]
    )


def _head(record: RunRecord) -> Iterator[str]:
    yield from ("---", "library_name: diffusers", "tags:", "- controlnet", "- condkit")
    yield f"- {record.condition.name}"
    # A folder of the trainer's own disk says nothing to others, nor does the built-in base.
    is_hub_id = record.base.count("/") == 1 and not Path(record.base).is_absolute()
    if is_hub_id and record.base != BUILT_IN:
        yield f"base_model: {json.dumps(record.base)}"
    yield from ("---", "", f"# ControlNet: {record.condition.name}", "")
    yield (
        f"Steers {_base_name(record)} by condition maps of the kind `{record.condition.name}`: "
        f"{record.condition.meaning}."
    )
    yield ""


def _usage(record: RunRecord, is_xl: bool) -> Iterator[str]:
    name = record.condition.name
    pipeline = f"StableDiffusion{'XL' if is_xl else ''}ControlNetPipeline"
    base = json.dumps(_base_name(record))
    imported = ""
    if record.base == BUILT_IN:
        base = 'resolve_base("condkit/tiny")'
        imported = "from condkit.trainer.base_loading import resolve_base\n"
    yield from (
        "## Use",
        "",
        "```python",
        f"{imported}from diffusers import ControlNetModel, {pipeline}",
        "",
        'control_net = ControlNetModel.from_pretrained("path/to/this/folder")',
        f"pipeline = {pipeline}.from_pretrained(",
        f"    {base}, controlnet=control_net",
        ")",
        "```",
        "",
        f"Maps of a photograph: `condkit annotate PHOTO -o maps --condition {name}`.",
        "",
    )


def _decoder(record: RunRecord) -> Iterator[str]:
    """How to use what works with its own changed base alone."""
    if record.portable:
        return
    yield from (
        "## Not portable",
        "",
        f"The decoder of {_base_name(record)} was trained with this ControlNet. Without it, and "
        "with any other model, the pictures are worse. Put it into the pipeline first:",
        "",
        "```python",
        "from safetensors.torch import load_file",
        "",
        f'decoder = load_file("path/to/this/folder/{DECODER_FILE}")',
        "pipeline.unet.load_state_dict(decoder, strict=False)",
        "```",
        "",
    )


def _control_lora(record: RunRecord, config: Mapping[str, Any], size: int | None) -> Iterator[str]:
    """What is special about low-rank training."""
    if size is None:
        return
    rank = config.get("control", {}).get("lora_rank")
    yield from (
        "## Control-LoRA",
        "",
        f"Trained as differences of rank {rank} at most from the encoder of {_base_name(record)}, "
        f"{size / 4e6:.2f} million numbers ({size / 2e6:.1f} MB in fp16). This folder has them "
        "added to the base's weights: it is a full ControlNet. `condkit export --format "
        "control-lora` writes them alone, for ComfyUI.",
        "",
    )


def _making(record: RunRecord, config: Mapping[str, Any]) -> Iterator[str]:
    yield from ("## How it was made", "", "| | |", "|---|---|")
    yield f"| trained with | condkit {__version__} |"
    yield f"| base | {_base_name(record)} (`{record.base_fingerprint[:19]}`) |"
    yield f"| dataset's manifest | `sha256:{record.manifest_sha256[:12]}` |"
    yield f"| step | {record.step} |"
    if record.loss is not None:
        yield f"| mean loss of the last log interval | {record.loss:.4f} |"
    for name in _SETTINGS:
        table, _, field = name.partition(".")
        values = config.get(table, {})
        if field in values:
            yield f"| `{name}` | {values[field]} |"
    yield ""


def _figures(evaluation: Mapping[str, Any]) -> Iterator[str]:
    """The scores of `condkit evaluate`, where it was run."""
    scores = {k: v for k, v in evaluation.items() if isinstance(v, int | float)}
    if not scores:
        return
    yield from ("## How well it follows", "", "| figure | value |", "|---|---|")
    for name, value in scores.items():
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        yield f"| {name.replace('_', ' ')} | {text} |"
    yield ""


def _control(watched: Mapping[str, Any]) -> Iterator[str]:
    """How control came, where the run was watched."""
    report, rise = watched.get("report"), watched.get("steepest")
    if not report:
        return
    bounds, set_in = watched["bounds"], report["set_in"]
    yield from ("## When control set in", "", "| figure | value |", "|---|---|")
    yield f"| control set in at step | {'not yet' if set_in is None else set_in} |"
    if rise:
        yield (
            f"| steepest rise | {rise['rise']:.3f} between step {rise['before']} and "
            f"{rise['after']} |"
        )
    yield f"| {watched['score']}, last | {report['score']:.3f} |"
    yield f"| floor: no control | {bounds['floor_none']:.3f} |"
    yield f"| floor: another pair's map | {bounds['floor_shuffled']:.3f} |"
    yield f"| ceiling: real pictures | {bounds['ceiling']:.3f} |"
    yield f"| step of the best score | {report['best']} |"
    yield ""


def _base_name(record: RunRecord) -> str:
    path = Path(record.base)
    return path.name if path.is_absolute() else record.base


def _read_json(path: Path) -> dict[str, Any]:
    """The file's values; none where there is no such file."""
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return values
