"""The dataset card: `README.md` with the YAML that the Hugging Face hub and `datasets` read."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from condkit.datasets.formats.base import FACT_COLUMNS

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
)
_WITH_COLUMNS = frozenset({"parquet", "imagefolder", "tree", "kohya", "simpletuner", "fill50k"})
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


def write_card(
    manifest: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    license: str = "unknown",
    contact_sheet: str | None = None,
    sizes: Mapping[str, int] | None = None,
) -> str:
    """The text of the card.

    Args:
        manifest: The dataset's manifest.
        settings: What the format adds to the YAML.
        license: Of the pictures, as the hub names licences: "cc-by-4.0", "cc0-1.0", ...
        contact_sheet: The sheet's file, relative to the dataset; None for none.
        sizes: Bytes of each split's files, see `bytes_per_split`; with them, `load_dataset` checks
            that no row is missing.
    """
    body = "\n\n".join(
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
    return f"---\n{_yaml(_head(manifest, settings, license, sizes))}---\n\n{body}\n"


def features(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The columns as the hub's `dataset_info.features` lists them, in order."""
    data = {name: column["suffix"].endswith(".png") for name, column in manifest["data"].items()}
    kinds: dict[str, dict[str, Any]] = {
        "image": {"dtype": "image"},
        "text": {"dtype": "string"},
        "captions": {"list": "string"},
        **{name: {"dtype": "image"} for name in manifest["conditions"]},
        **{name: {"dtype": "image" if picture else "string"} for name, picture in data.items()},
        **{name: {"dtype": kind} for name, kind in FACT_COLUMNS.items()},
    }
    return [{"name": name, **kinds[name]} for name in manifest["columns"]]


def bytes_per_split(files: Iterable[tuple[str, int]], splits: Sequence[str]) -> dict[str, int]:
    """How many bytes the files of each split have.

    Args:
        files: Paths relative to the dataset, and bytes.
        splits: Those that have rows. A split's files lie in a folder of its name, or have names
            that begin with it: `train/images/000000.png`, `data/train-00000.parquet`.
    """
    sizes = dict.fromkeys(splits, 0)
    for path, size in files:
        top, name = path.partition("/")[0], path.rpartition("/")[2]
        split = next((s for s in splits if top == s or name.startswith(f"{s}-")), None)
        if split is not None:
            sizes[split] += size
    return sizes


def _head(
    manifest: Mapping[str, Any],
    settings: Mapping[str, Any],
    license: str,
    sizes: Mapping[str, int] | None,
) -> dict[str, Any]:
    rows = manifest["rows"]
    head: dict[str, Any] = {
        "license": license,
        "task_categories": ["text-to-image", "image-to-image"],
        "tags": ["controlnet", "condkit", *manifest["conditions"]],
        "size_categories": [_size_category(sum(rows.values()))],
        **settings,
    }
    if manifest["format"] in _WITH_COLUMNS and "dataset_info" not in head:
        head["dataset_info"] = {"features": features(manifest), **_split_sizes(rows, sizes)}
    return head


def _split_sizes(rows: Mapping[str, int], sizes: Mapping[str, int] | None) -> dict[str, Any]:
    """Rows and bytes; the hub wants both or none."""
    if sizes is None:
        return {}
    total = sum(sizes.values())
    splits = [
        {"name": name, "num_bytes": sizes[name], "num_examples": count}
        for name, count in rows.items()
    ]
    return {"splits": splits, "download_size": total, "dataset_size": total}


def _yaml(head: dict[str, Any]) -> str:
    from huggingface_hub import DatasetCardData

    text: str = DatasetCardData(**head).to_yaml()
    return text.rstrip("\n") + "\n"


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
    size, geometry = manifest.get("size"), _plain(manifest.get("geometry") or "their own")
    return f"{size} x {size} pixels ({geometry})" if isinstance(size, int) else geometry


def _loading(manifest: Mapping[str, Any]) -> Iterator[str]:
    """How each reader of this format gets at the rows."""
    form, first = manifest["format"], next(iter(manifest["conditions"]))
    if form in (*_WITH_COLUMNS, "webdataset"):
        yield from ("```python", "from datasets import load_dataset", "")
        yield from ('dataset = load_dataset("path/to/this/folder")', "```", "")
    yield from (f"- {text}" for forms, text in _readers(first) if form in forms)
    yield "- condkit: `condkit.datasets.reader.open_dataset(path)`, or `condkit train --data path`."
    yield "- Other programs: `condkit export` writes it in another format."


def _readers(first: str) -> Iterator[tuple[Collection[str], str]]:
    """Formats, and how a program reads them; `first` is the first condition."""
    yield (
        _WITH_COLUMNS,
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


def _plain(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """A JSON value as people read it: names and values, without the brackets of code."""
    if isinstance(value, Mapping):
        parts = (f"{key.replace('_', ' ')} {_plain(inner)}" for key, inner in value.items())
        return ", ".join(parts) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "none"
    if isinstance(value, str):
        return value or "none"
    return json.dumps(value)


def _cell(text: str) -> str:
    """Text that stays within its cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def _size_category(rows: int) -> str:
    return next((name for limit, name in _SIZES if rows < limit), "100M<n<1B")
