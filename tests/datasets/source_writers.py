"""The same six pictures, captions and maps, written as every kind of source."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


@dataclass(frozen=True)
class Sample:
    """A picture file with its caption and, mostly, its map."""

    name: str
    image: bytes
    caption: str
    canny: bytes | None

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def ending(self) -> str:
        return self.name.rpartition(".")[2]


def picture(red: int, kind: str = "png", size: tuple[int, int] = (8, 6)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (red, 7, 9)).save(stream, kind)
    return stream.getvalue()


def edges(level: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 6), level).save(stream, "png")
    return stream.getvalue()


def samples(first_red: int = 10) -> list[Sample]:
    captions = ["a cat", "None", "007", "2023-01-01", 'commas, "quotes", ünïcode 猫', "two words"]
    names = ["a.png", "b b.jpg", "sub/a.png", "sub/v1.2.webp", "sub/deep/ü.png", "z.JPG"]
    kinds = ["png", "jpeg", "png", "webp", "png", "jpeg"]
    return [
        Sample(
            name=name,
            image=picture(first_red + 20 * i, kinds[i]),
            caption=captions[i],
            canny=None if i == 3 else edges(100 + i),
        )
        for i, name in enumerate(names)
    ]


@dataclass(frozen=True)
class Kind:
    """How a kind is written and opened.

    `write(root)` gives the place; `maps` is what to ask for, `{root}` in it the written folder;
    `fields` says that captions come as this field (else from a .txt beside the picture).
    """

    write: Callable[[Path, list[Sample]], Path]
    maps: dict[str, str]
    kind: str
    field: str | None = None
    options: dict[str, Any] | None = None


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_pictures(root: Path, rows: list[Sample], images: str = "images") -> None:
    for row in rows:
        put(root / images / row.name, row.image)
        if row.canny is not None:
            put(root / "canny" / f"{row.stem}.png", row.canny)


def records(rows: list[Sample], image: str = "file_name") -> list[dict[str, Any]]:
    return [
        {
            image: f"images/{row.name}",
            "text": row.caption,
            "canny_file_name": None if row.canny is None else f"canny/{row.stem}.png",
        }
        for row in rows
    ]


def folder(root: Path, rows: list[Sample]) -> Path:
    write_pictures(root, rows)
    for row in rows:
        put(root / "images" / f"{row.stem}.txt", row.caption.encode())
    return root / "images"


def separated(name: str, delimiter: str) -> Callable[[Path, list[Sample]], Path]:
    def write(root: Path, rows: list[Sample]) -> Path:
        write_pictures(root, rows)
        with (root / name).open("w", encoding="utf-8", newline="") as file:
            values = records(rows)
            writer = csv.DictWriter(file, list(values[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(values)
        return root / name

    return write


def json_lines(name: str, image: str = "image") -> Callable[[Path, list[Sample]], Path]:
    def write(root: Path, rows: list[Sample]) -> Path:
        write_pictures(root, rows)
        lines = [json.dumps(record) + "\n" for record in records(rows, image)]
        return put(root / name, "".join(lines).encode())

    return write


def json_list(root: Path, rows: list[Sample]) -> Path:
    write_pictures(root, rows)
    return put(root / "list.json", json.dumps(records(rows), indent=1).encode())


def parquet_paths(root: Path, rows: list[Sample]) -> Path:
    write_pictures(root, rows)
    pq.write_table(pa.Table.from_pylist(records(rows)), root / "list.parquet", row_group_size=2)
    return root / "list.parquet"


def hf_dataset(rows: list[Sample]) -> datasets.Dataset:
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "canny": datasets.Image()}
    )
    values = [
        {
            "image": {"bytes": row.image, "path": row.name},
            "text": row.caption,
            "canny": None if row.canny is None else {"bytes": row.canny, "path": None},
        }
        for row in rows
    ]
    return datasets.Dataset.from_list(values, features=features)


def parquet_embedded(root: Path, rows: list[Sample]) -> Path:
    hf_dataset(rows).to_parquet(root / "list.parquet", batch_size=4)
    return root / "list.parquet"


def parquet_bytes(root: Path, rows: list[Sample]) -> Path:
    values = [{"image": row.image, "text": row.caption, "canny": row.canny} for row in rows]
    pq.write_table(pa.Table.from_pylist(values), root / "list.parquet", row_group_size=4)
    return root / "list.parquet"


def imagefolder(ending: str) -> Callable[[Path, list[Sample]], Path]:
    def write(root: Path, rows: list[Sample]) -> Path:
        for split, part in (("train", rows[:4]), ("validation", rows[4:])):
            inside = root / split
            inside.mkdir()
            writers = {
                "csv": separated("metadata.csv", ","),
                "jsonl": json_lines("metadata.jsonl", "file_name"),
                "parquet": parquet_paths,
            }
            writers[ending](inside, part)
            if ending == "parquet":
                (inside / "list.parquet").rename(inside / "metadata.parquet")
        return root

    return write


def fill50k(as_list: bool) -> Callable[[Path, list[Sample]], Path]:
    def write(root: Path, rows: list[Sample]) -> Path:
        write_pictures(root, rows)
        values = [
            {
                "source": "" if row.canny is None else f"canny/{row.stem}.png",
                "target": f"images/{row.name}",
                "prompt": row.caption,
            }
            for row in rows
        ]
        text = json.dumps(values) if as_list else "\n".join(map(json.dumps, values))
        put(root / "prompt.json", text.encode())
        return root

    return write


def kohya(root: Path, rows: list[Sample]) -> Path:
    for number, row in enumerate(rows):
        inside = f"subset{number % 2}"
        stem = row.stem.replace("/", "_")
        put(root / inside / f"{stem}.{row.ending}", row.image)
        put(root / inside / f"{stem}.cap", row.caption.encode())
        (root / f"{inside}_canny").mkdir(exist_ok=True)
        if row.canny is not None:
            put(root / f"{inside}_canny" / f"{stem}.png", row.canny)
    text = '[general]\ncaption_extension = ".cap"\n[[datasets]]\nresolution = 512\n'
    for inside in ("subset0", "subset1"):
        text += f'[[datasets.subsets]]\nimage_dir = "{inside}"\n'
        text += f'conditioning_data_dir = "{inside}_canny"\nnum_repeats = 3\n'
    return put(root / "config.toml", text.encode())


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def tar_members(rows: list[Sample], start: int = 0) -> list[tuple[str, bytes]]:
    members = []
    for number, row in enumerate(rows, start):
        key = f"{row.stem.replace('.', '_')}-{number}"
        members.append((f"{key}.{row.ending}", row.image))
        members.append((f"{key}.json", json.dumps({"width": 8, "txt": "not this"}).encode()))
        members.append((f"{key}.txt", row.caption.encode()))
        if row.canny is not None:
            members.append((f"{key}.canny.png", row.canny))
    return members


def one_tar(root: Path, rows: list[Sample]) -> Path:
    return write_tar(root / "all.tar", tar_members(rows))


def many_tars(root: Path, rows: list[Sample]) -> Path:
    for shard in range(3):
        part = rows[2 * shard : 2 * shard + 2]
        write_tar(root / "shards" / f"{shard:05d}.tar", tar_members(part))
    return root / "shards"


def saved(root: Path, rows: list[Sample]) -> Path:
    hf_dataset(rows).save_to_disk(root / "saved", num_shards=2)
    return root / "saved"


def saved_splits(root: Path, rows: list[Sample]) -> Path:
    parts = {"train": hf_dataset(rows[:4]), "test": hf_dataset(rows[4:])}
    datasets.DatasetDict(parts).save_to_disk(root / "saved")
    return root / "saved"


def pushed(root: Path, rows: list[Sample]) -> Path:
    """As `push_to_hub` lays it out."""
    inside = root / "repo" / "data"
    inside.mkdir(parents=True)
    for number, part in enumerate((rows[:2], rows[2:4])):
        hf_dataset(part).to_parquet(inside / f"train-{number:05d}-of-00002.parquet")
    hf_dataset(rows[4:]).to_parquet(inside / "validation-00000-of-00001.parquet")
    return root / "repo"


SOURCES = {
    "folder": Kind(folder, {"canny": "{root}/canny"}, "folder"),
    "csv": Kind(separated("list.csv", ","), {"canny": "canny_file_name"}, "table", "text"),
    "csv-semicolon": Kind(separated("list.csv", ";"), {"canny": "canny"}, "table", "text"),
    "tsv": Kind(separated("list.tsv", "\t"), {"canny": "canny"}, "table", "text"),
    "jsonl": Kind(json_lines("list.jsonl"), {"canny": "canny"}, "table", "text"),
    "json": Kind(json_list, {"canny": "canny"}, "table", "text"),
    "parquet-paths": Kind(parquet_paths, {"canny": "canny"}, "table", "text"),
    "parquet-pictures": Kind(parquet_embedded, {"canny": "canny"}, "table", "text"),
    "parquet-bytes": Kind(
        parquet_bytes, {"canny": "canny"}, "table", "text", {"image_column": "image"}
    ),
    "imagefolder-csv": Kind(imagefolder("csv"), {"canny": "canny"}, "table", "text"),
    "imagefolder-jsonl": Kind(imagefolder("jsonl"), {"canny": "canny"}, "table", "text"),
    "imagefolder-parquet": Kind(imagefolder("parquet"), {"canny": "canny"}, "table", "text"),
    "fill50k-lines": Kind(fill50k(False), {"canny": "source"}, "fill50k", "prompt"),
    "fill50k-list": Kind(fill50k(True), {"canny": "source"}, "fill50k", "prompt"),
    "kohya": Kind(kohya, {"canny": "conditioning_data_dir"}, "kohya"),
    "tar": Kind(one_tar, {"canny": "canny.png"}, "webdataset", "txt"),
    "tars": Kind(many_tars, {"canny": "canny"}, "webdataset", "txt"),
    "saved": Kind(saved, {"canny": "canny"}, "huggingface", "text"),
    "saved-streamed": Kind(saved, {"canny": "canny"}, "huggingface", "text", {"streaming": True}),
    "saved-splits": Kind(saved_splits, {"canny": "canny"}, "huggingface", "text"),
    "pushed": Kind(pushed, {"canny": "canny"}, "huggingface", "text"),
}
