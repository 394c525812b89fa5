"""The dataset card: `README.md` with the YAML that the Hugging Face hub and `datasets` read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


def write_card(manifest: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The text of the card.

    Args:
        manifest: The dataset's manifest.
        settings: What the format adds to the YAML.
    """
    rows = sum(manifest["rows"].values())
    head = {
        "license": "unknown",
        "task_categories": ["text-to-image"],
        "tags": ["controlnet", "condkit", *manifest["conditions"]],
        "size_categories": [_size_category(rows)],
        **settings,
    }
    yaml = "\n".join(_yaml(head))
    return f"---\n{yaml}\n---\n\n{_body(manifest)}"


def _body(manifest: Mapping[str, Any]) -> str:
    splits = ", ".join(f"{count} {split}" for split, count in manifest["rows"].items())
    size = f"{manifest['size']} x {manifest['size']} pixels" if manifest["size"] else "their own"
    lines = [
        "# Paired dataset for ControlNets",
        "",
        "Pictures with captions and condition maps, made by condkit. "
        f"Rows: {splits}. Size: {size}.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'dataset = load_dataset("path/to/this/folder")',
        "```",
        "",
        "| column | content |",
        "|---|---|",
        "| `image` | the picture, RGB |",
        "| `text` | the caption |",
    ]
    for name, spec in manifest["conditions"].items():
        detector = manifest["annotation"][name]["detector"]
        lines.append(f"| `{name}` | {spec['meaning']} (detector {detector}) |")
    lines += [
        *(_data_row(name, column) for name, column in manifest["data"].items()),
        "| `source`, `sha256` | the input file, relative to its folder, and its hash |",
        "| `width`, `height` | of the picture |",
        "| `original_width`, `original_height` | of the upright input |",
        "| `notes` | what decoding did to the input |",
        "| `facts` | JSON: by condition, what was counted in the map |",
        "",
        f"Rejected inputs: {len(manifest['rejections'])}. Every parameter, hash and rejection "
        "stands in `manifest.json`; `sha256sum -c SHA256SUMS` checks the files.",
        "",
    ]
    return "\n".join(lines)


def _data_row(name: str, column: Mapping[str, str]) -> str:
    kind = "PNG" if column["suffix"].endswith(".png") else "JSON"
    return f"| `{name}` | {kind}: what the `{column['condition']}` map was drawn from |"


def _size_category(rows: int) -> str:
    return next((name for limit, name in _SIZES if rows < limit), "n>10M")


def _yaml(values: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Block YAML of mappings, lists and scalars; JSON's scalars are YAML's."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _yaml(value, indent + "  ")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield f"{indent}{key}:"
            for item in value:
                yield from _yaml_item(item, indent)
        else:
            yield f"{indent}{key}: {_scalar(value)}"


def _yaml_item(item: Any, indent: str) -> Iterator[str]:  # noqa: ANN401 - any JSON value
    if isinstance(item, Mapping):
        first, *rest = _yaml(item, indent + "  ")
        yield f"{indent}- {first.strip()}"
        yield from rest
    else:
        yield f"{indent}- {_scalar(item)}"


def _scalar(value: Any) -> str:  # noqa: ANN401 - any JSON scalar
    plain = isinstance(value, str) and value.replace("_", "").replace("-", "").isalnum()
    return str(value) if plain else json.dumps(value, ensure_ascii=False)
