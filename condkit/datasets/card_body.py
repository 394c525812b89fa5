"""The text of the dataset card for people: what is in it, how to load it, how it was made."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

WITH_COLUMNS = frozenset({"parquet", "imagefolder", "tree", "kohya", "simpletuner", "fill50k"})
"""Formats whose rows `datasets` sees under our column names, so that features can be declared."""

_FACTS = {
    "source": "the input, relative to its folder",
    "sha256": "hash of the input's bytes; the row's key",
    "width": "of the picture, in pixels",
    "height": "of the picture, in pixels",
    "original_width": "of the upright input, in pixels",
    "original_height": "of the upright input, in pixels",
    "transform": "JSON: how the input was cropped and resized",
    "notes": "what decoding did to the input",
    "captioner": "where the caption comes from",
    "scores": "JSON: what the filters measured",
    "facts": "JSON: by condition, what was counted in its map",
}


def card_body(manifest: Mapping[str, Any], contact_sheet: str | None) -> str:
    """Everything below the YAML, as Markdown.

    Args:
        manifest: The dataset's manifest.
        contact_sheet: The sheet's file, relative to the dataset; None for none.
    """
    return "\n\n".join(
        "\n".join(lines)
        for lines in (
            _title(manifest, contact_sheet),
            ["## Loading", "", *_loading(manifest)],
            ["## Columns", "", "| column | content |", "|---|---|", *_columns(manifest)],
            ["## Conditions", "", *_conditions(manifest)],
            ["## How it was made", "", *_making(manifest)],
            ["## Left out", "", *_left_out(manifest)],
            ["## Checking", "", *_checking(manifest)],
        )
    )


def _title(manifest: Mapping[str, Any], contact_sheet: str | None) -> list[str]:
    splits = ", ".join(f"{count:,} {split}" for split, count in manifest["rows"].items())
    lines = [
        f"# Pairs for ControlNets: {', '.join(manifest['conditions'])}",
        "",
        "Pictures with captions and condition maps, made by condkit. "
        f"Rows: {splits}. Sizes: {_size(manifest)}.",
    ]
    if contact_sheet:
        lines += ["", f"![A few rows: each picture beside its maps]({contact_sheet})"]
    return lines


def _size(manifest: Mapping[str, Any]) -> str:
    """In what sizes the pictures are; the settings stand under "How it was made"."""
    geometry, size = manifest.get("geometry"), manifest.get("size")
    mode = geometry.get("mode") if isinstance(geometry, Mapping) else geometry
    if mode == "square":
        return f"{size} x {size} pixels"
    if mode in (None, "original"):
        return "each picture's own"
    return f"{_plain(mode)}, {_plain(size)} pixels" if isinstance(size, int) else _plain(mode)


def _loading(manifest: Mapping[str, Any]) -> Iterator[str]:
    """How each reader of this format gets at the rows."""
    form, first = manifest["format"], next(iter(manifest["conditions"]))
    if form in (*WITH_COLUMNS, "webdataset"):
        yield from ("```python", "from datasets import load_dataset", "")
        yield from ('dataset = load_dataset("path/to/this/folder")', "```", "")
    yield from (f"- {text}" for forms, text in _readers(first) if form in forms)
    yield "- condkit: `condkit.datasets.reader.open_dataset(path)`, or `condkit train --data path`."
    yield "- Other programs: `condkit export` writes it in another format."


def _readers(first: str) -> Iterator[tuple[Collection[str], str]]:
    """Formats, and how a program reads them; `first` is the first condition."""
    yield (
        WITH_COLUMNS,
        "diffusers' ControlNet scripts: `--train_data_dir path/to/this/folder --image_column image "
        f"--caption_column text --conditioning_image_column {first}`.",
    )
    yield (
        ("webdataset",),
        "webdataset: `webdataset.WebDataset(shards).decode('pil')`; a sample holds the picture, "
        f"`txt`, `json`, and the map as `{first}.png`.",
    )
    yield (
        ("kohya", "tree"),
        "kohya's sd-scripts, started in this folder: `--dataset_config train/dataset.toml` for "
        f"`{first}`, `train/dataset_NAME.toml` for another condition.",
    )
    yield (
        ("simpletuner",),
        "SimpleTuner, started in this folder: `--data_backend_config train/multidatabackend.json` "
        f"for `{first}`, `train/multidatabackend_NAME.json` for another condition.",
    )
    yield (
        ("fill50k", "tree"),
        "ControlNet's own `tutorial_dataset.py`: each line of `train/prompt.json` names a map "
        f"(`source`, the condition `{first}`), a picture (`target`) and a `prompt`, relative to "
        "that file; `train/prompt_NAME.json` is for another condition.",
    )


def _columns(manifest: Mapping[str, Any]) -> Iterator[str]:
    texts = {
        "image": "the picture, RGB",
        "text": "the caption",
        "captions": "all captions, `text` first",
        **{name: f"the condition map `{name}`, see below" for name in manifest["conditions"]},
        **{name: _data_text(column) for name, column in manifest["data"].items()},
        **_FACTS,
    }
    return (f"| `{name}` | {texts[name]} |" for name in manifest["columns"])


def _data_text(column: Mapping[str, str]) -> str:
    kind = "PNG" if column["suffix"].endswith(".png") else "JSON"
    return f"{kind}: what the map `{column['condition']}` was drawn from"


def _conditions(manifest: Mapping[str, Any]) -> Iterator[str]:
    annotation = manifest.get("annotation") or {}
    for name, spec in manifest["conditions"].items():
        channels = "1 channel" if spec["channels"] == 1 else f"{spec['channels']} channels"
        yield (
            f"- `{name}`: {spec['meaning']}. {channels} of {spec['dtype']}; {spec['background']} "
            "means nothing."
        )
        made = {key: value for key, value in (annotation.get(name) or {}).items() if value}
        if made:
            parts = (f"{key.replace('_', ' ')}: {_plain(value)}" for key, value in made.items())
            yield f"  Made with {'; '.join(parts)}."
    given = manifest.get("given")
    if given:
        yield from ("", f"Maps that the source brought, where it had them: {_plain(given)}.")


def _making(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield from ("| | |", "|---|---|")
    split = manifest.get("split") or {}
    rows = {
        "source": manifest.get("source"),
        "captions": manifest.get("captions"),
        "filters": manifest.get("filters"),
        "geometry": manifest.get("geometry"),
        "split": split,
        "environment": manifest.get("environment"),
    }
    for name, value in rows.items():
        if value not in (None, {}, [], ""):
            yield f"| {name} | {_cell(_plain(value))} |"


def _left_out(manifest: Mapping[str, Any]) -> Iterator[str]:
    rejected = manifest.get("rejected") or {}
    if not rejected:
        yield "No input was rejected."
        return
    yield f"{sum(rejected.values()):,} inputs were rejected; `rejected.jsonl` names each."
    yield from ("", "| stage | inputs |", "|---|---|")
    yield from (f"| {stage} | {count:,} |" for stage, count in rejected.items())


def _checking(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "`sha256sum -c SHA256SUMS` checks the files; `condkit validate` checks files, pictures, "
        "maps and captions too, and `condkit inspect` describes them. Every parameter and the "
        "hashes of all weights stand in `manifest.json`."
    )


def _plain(value: Any, *, inside: bool = False) -> str:  # noqa: ANN401 - any JSON value
    """A JSON value as people read it: names and values, without the brackets of code."""
    if isinstance(value, Mapping):
        named = value.items()
        parts = (f"{key.replace('_', ' ')} {_plain(inner, inside=True)}" for key, inner in named)
    elif isinstance(value, list | tuple):
        parts = (_plain(inner, inside=True) for inner in value)
    else:
        return (value or "none") if isinstance(value, str) else _scalar(value)
    text = ", ".join(parts)
    return f"({text})" if inside and text else text or "none"


def _scalar(value: bool | float | None) -> str:
    return "none" if value is None else json.dumps(value)


def _cell(text: str) -> str:
    """Text that stays within its cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
