"""Finished datasets without a build: rows made up, written by the formats' own writers.

Read by `runpy.run_path`, in tests and in the processes they start.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from condkit import atomic
from condkit.datasets import manifest
from condkit.datasets.card import write_card
from condkit.datasets.encoded import DataColumn
from condkit.datasets.fingerprints import hash_file
from condkit.datasets.formats import get_format
from condkit.datasets.formats.base import EncodedRow
from condkit.datasets.planning import ShardLayout
from condkit.datasets.shards import ShardCommitter
from condkit.datasets.workspace import ShardFile, Workspace
from condkit.types import ConditionSpec

CONDITIONS = ("canny", "softedge")
DATA = (DataColumn("canny", ".json"), DataColumn("canny", ".labels.png"))
CAPTIONS = (
    "a cat",
    "None",
    "007",
    "2023-01-01",
    "",
    "NA",
    'commas, "quotes", and\na second line',
    "猫 on a mät",
    "very " * 300 + "long",
    "null",
    "{a|b} __wild__",
    "a_b_c_d_e_f",
)
"""What readers have been seen to change, drop or trip over."""
NAMES = (
    "a.png",
    "a.jpg",
    "sub/a.png",
    "ü 1.2.final.png",
    "猫.png",
    "n" * 300 + ".png",
    "2023-01-01",
    ".hidden",
)


def spec(name: str) -> ConditionSpec:
    return ConditionSpec(
        name=name,
        channels=1,
        dtype="uint8",
        meaning="made up",
        background=0,
        resample="nearest",
        flip="mirror",
    )


def picture(seed: int, hw: tuple[int, int], suffix: str = ".png", channels: int = 3) -> bytes:
    shape = (*hw, channels) if channels > 1 else hw
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


def make_row(
    index: int,
    text: str,
    *,
    split: str = "train",
    captions: tuple[str, ...] = (),
    source: str | None = None,
    conditions: tuple[str, ...] = CONDITIONS,
    data: tuple[DataColumn, ...] = (),
    image_suffix: str = ".png",
    hw: tuple[int, int] = (8, 12),
) -> EncodedRow:
    values = {
        column.name: picture(index, hw, channels=1)
        if column.is_picture
        else json.dumps({"people": [], "row": index, "text": text}).encode()
        for column in data
    }
    return EncodedRow(
        index=index,
        split=split,
        text=text,
        captions=captions or (text,),
        image=picture(index, hw, image_suffix),
        image_suffix=image_suffix,
        maps={name: picture(index + n, hw, channels=1) for n, name in enumerate(conditions, 7)},
        facts={
            "source": NAMES[index % len(NAMES)] if source is None else source,
            "sha256": f"{index:064x}",
            "width": hw[1],
            "height": hw[0],
            "original_width": 2 * hw[1],
            "original_height": 2 * hw[0],
            "transform": '{"mode": "square"}',
            "notes": "",
            "captioner": "made",
            "scores": '{"blur": 3}',
            "facts": "{}",
        },
        data=values,
    )


def make_rows(count: int = len(CAPTIONS), *, validation: int = 5, **options) -> list[EncodedRow]:
    """Rows with every caption in turn; each `validation`-th one is for validation, 0: none."""
    return [
        make_row(
            index,
            CAPTIONS[index % len(CAPTIONS)],
            split="validation" if validation and index % validation == 1 else "train",
            **options,
        )
        for index in range(count)
    ]


def write_dataset(
    folder: Path,
    format: str,
    rows: list[EncodedRow],
    *,
    conditions: tuple[str, ...] = CONDITIONS,
    data: tuple[DataColumn, ...] = (),
    many_captions: bool = False,
    image_suffix: str = ".png",
    shard_size: int = 4,
) -> Path:
    """Write what a build of these rows would leave; indices without a row were rejected."""
    layout = get_format(
        format, conditions, data, many_captions=many_captions, image_suffix=image_suffix
    )
    by_index = {row.index: row for row in rows}
    shards = ShardLayout(inputs=max(by_index) + 1, shard_size=shard_size)
    records = []
    committer = ShardCommitter(shards, Workspace(folder), layout, records.append)
    for shard in range(shards.shards):
        for index in sorted(index for index in by_index if shards.shard_of(index) == shard):
            committer.commit(index, by_index[index])
        if len(records) == shard:
            committer.end_shard(shard)
    contents = manifest.Contents()
    for record in records:
        contents.add(record)
    extra = [
        ShardFile(path=name, size=(folder / name).stat().st_size, sha256=hash_file(folder / name))
        for name in layout.finish(folder, contents.splits)
    ]
    manifest.write_checksums(folder, records, extra)
    values = {
        "condkit_dataset": 1,
        "format": format,
        "columns": list(layout.columns.names),
        "many_captions": many_captions,
        "image_suffix": image_suffix,
        "conditions": {name: spec(name).as_dict() for name in conditions},
        "data": {column.name: column.as_dict() for column in data},
        "annotation": {name: {"detector": "made"} for name in conditions},
        "given": {},
        "captions": {"name": "made"},
        "filters": {},
        "size": None,
        "geometry": "made",
        "split": {"validation": 0.2, "seed": 0, "rule": "made"},
        "source": {"kind": "made", "inputs": shards.inputs, "sha256": "0" * 64, "left_out": {}},
        "rows": {split: contents.rows[split] for split in contents.splits},
        "shard_size": shard_size,
        "shards": contents.shards,
        "rejected": {},
        "rejections": [],
        "environment": manifest.installed_versions(),
    }
    card = write_card(values, layout.card_settings(contents.splits))
    atomic.write_text(folder / "README.md", card)
    atomic.write_json(folder / manifest.NAME, values)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file that is not hidden, by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".condkit" not in path.parts
    }


def load(dataset: Path, cache: Path, **options):
    """What `datasets.load_dataset` makes of a folder."""
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(str(dataset), cache_dir=str(cache), **options)
