"""`make`: a finished dataset of drawn pictures, written by a format itself, without a build.

Read by `runpy.run_path`. The maps are thresholds of the picture, so that each belongs to its own.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np

from condkit import imageio
from condkit.datasets import manifest
from condkit.datasets.card import bytes_per_split, write_card
from condkit.datasets.encoded import DataColumn
from condkit.datasets.formats import get_format
from condkit.datasets.formats.base import FACT_COLUMNS, EncodedRow
from condkit.datasets.planning import SPLIT_RULE, SPLITS, split_of
from condkit.types import ConditionSpec

SPECS = {
    "bright": ConditionSpec(
        name="bright",
        channels=1,
        dtype="uint8",
        meaning="255 where the picture is bright",
        background=0,
        resample="nearest",
    ),
    "seg": ConditionSpec(
        name="seg",
        channels=3,
        dtype="uint8",
        meaning="classes in colours",
        background=0,
        resample="nearest",
    ),
}
DATA = (DataColumn("seg", ".labels.png"), DataColumn("seg", ".classes.json"))
WORDS = ("a red cat", "a blue dog on grass", "", "two birds in a tree", "a red cat")
LABELS = {0: "wall", 2: "sky"}
VALIDATION, SEED = 0.3, 0


def picture(seed: int, hw: tuple[int, int] = (64, 96)) -> np.ndarray:
    """Coloured blocks, different for each seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return cv2.resize(blocks, (hw[1], hw[0]), interpolation=cv2.INTER_NEAREST)


def row(index: int, pixels: np.ndarray, text: str) -> EncodedRow:
    """A row whose maps follow from its pixels."""
    bright = np.where(pixels.mean(2) > 128, 255, 0).astype(np.uint8)
    labels = np.where(bright > 0, 2, 0).astype(np.uint8)
    share = float((labels == 2).mean())
    classes = [
        {"id": number, "name": name, "pixels": int((labels == number).sum())}
        | {"share": share if number == 2 else 1 - share, "colour": [0, 0, 0]}
        for number, name in LABELS.items()
    ]
    told = {"palette": "ade20k", "no_class": 255, "classes": classes}
    sha256 = hashlib.sha256(f"input {index}".encode()).hexdigest()
    height, width = pixels.shape[:2]
    return EncodedRow(
        index=index,
        split=split_of(sha256, validation=VALIDATION, seed=SEED),
        text=text,
        captions=(text,),
        image=imageio.encode_png(pixels),
        maps={
            "bright": imageio.encode_png(bright),
            "seg": imageio.encode_png(np.repeat(labels[..., None] * np.uint8(60), 3, 2)),
        },
        data={
            "seg_labels": imageio.encode_png(labels),
            "seg_classes_json": json.dumps(told).encode(),
        },
        facts={
            "source": f"in/{index}.png",
            "sha256": sha256,
            "width": width,
            "height": height,
            "original_width": 2 * width,
            "original_height": 2 * height,
            "transform": "{}",
            "notes": "",
            "captioner": "made",
            "scores": json.dumps({"blur": 10.0 + index}),
            "facts": json.dumps(
                {"bright": {"bright_fraction": share}, "seg": {"classes": 2, "largest_share": 0.5}}
            ),
        },
    )


def rows(count: int) -> list[EncodedRow]:
    """Rows 0 to `count`; the third picture of each twelve comes again as the next one."""
    return [row(n, picture(n - (n % 12 == 3)), WORDS[n % len(WORDS)]) for n in range(count)]


def make(folder: Path, layout: str = "parquet", made: list[EncodedRow] | None = None) -> Path:
    """A finished dataset in `folder`."""
    made = rows(12) if made is None else made
    form = get_format(layout, tuple(SPECS), DATA)
    writer = form.shard_writer(folder, 0, 1)
    for one in made:
        writer.write(one)
    writer.close()
    counts = {split: sum(r.split == split for r in made) for split in SPLITS}
    counts = {split: count for split, count in counts.items() if count}
    form.finish(folder, tuple(counts))
    describe(folder, form, counts)
    return folder


def describe(folder: Path, form, counts: dict[str, int]) -> None:
    """Checksums, manifest, rejections and card of what lies in the folder."""
    data = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    names = [(p, p.relative_to(folder).as_posix()) for p in data]
    lines = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {name}\n"
        for p, name in names
        if not name.startswith(".")
    ]
    (folder / manifest.CHECKSUMS).write_text("".join(lines), encoding="utf-8")
    rejections = [
        {"source": "in/bad.jpg", "stage": "decode", "reason": "is empty (0 bytes)"},
        {"source": "in/copy 1.png", "stage": "filter", "reason": "same bytes as in/1.png"},
        {"source": "in/copy 2.png", "stage": "filter", "reason": "same bytes as in/2.png"},
    ]
    text = "".join(json.dumps(r) + "\n" for r in rejections)
    (folder / manifest.REJECTED).write_text(text, encoding="utf-8")
    values = {
        "condkit_dataset": manifest.FORMAT_VERSION,
        "format": form.name,
        "columns": ["image", "text", *SPECS, *(c.name for c in DATA), *FACT_COLUMNS],
        "many_captions": False,
        "image_suffix": ".png",
        "conditions": {name: spec.as_dict() for name, spec in SPECS.items()},
        "data": {column.name: column.as_dict() for column in DATA},
        "annotation": {"bright": {"detector": "made"}, "seg": {"detector": "made"}},
        "given": [],
        "captions": {"captioner": "made"},
        "filters": {},
        "size": None,
        "geometry": "the image's own size",
        "split": {"validation": VALIDATION, "seed": SEED, "rule": SPLIT_RULE},
        "source": {"inputs": sum(counts.values()) + 3, "left_out": {"hidden": 2}},
        "rows": counts,
        "shard_size": 1000,
        "shards": [{"rows": counts, "files": len(lines), "sha256": "0" * 64}],
        "rejected": {"decode": 1, "filter": 2},
        "rejections": rejections,
        "environment": {"condkit": "0"},
    }
    (folder / manifest.NAME).write_text(json.dumps(values), encoding="utf-8")
    sizes = bytes_per_split([(name, p.stat().st_size) for p, name in names], tuple(counts))
    card = write_card(values, form.card_settings(tuple(counts)), sizes=sizes)
    (folder / "README.md").write_text(card, encoding="utf-8")
