"""The dataset card: `README.md` with the YAML that the Hugging Face hub and `datasets` read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from condkit.datasets.card_body import WITH_COLUMNS, card_body
from condkit.datasets.formats.base import FACT_COLUMNS

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
)


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
    body = card_body(manifest, contact_sheet)
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
    if manifest["format"] in WITH_COLUMNS and "dataset_info" not in head:
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


def _size_category(rows: int) -> str:
    return next((name for limit, name in _SIZES if rows < limit), "100M<n<1B")
