"""`validate --as`: plain folders in each trainer's layout, sound and with each kind of damage."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from condkit.datasets.checks.trainers import TRAINERS
from condkit.datasets.checks.validation import validate
from condkit.datasets.formats import available_formats

MADE = runpy.run_path(str(Path(__file__).with_name("made_dataset.py")))
SIDE = 64


def save(path: Path, seed: int = 0, hw: tuple[int, int] = (SIDE, SIDE)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    pixels = cv2.resize(blocks, (hw[1], hw[0]), interpolation=cv2.INTER_NEAREST)
    Image.fromarray(pixels).save(path)
    return path


def pairs(root: Path, count: int = 3, images: str = "images", maps: str = "canny") -> Path:
    """Pictures, a caption each, and a folder of maps."""
    for number in range(count):
        image = save(root / images / f"{number}.png", number)
        image.with_suffix(".txt").write_text(f"caption {number}", encoding="utf-8")
        save(root / maps / f"{number}.png", 10 + number)
    return root


def fill50k(root: Path) -> Path:
    lines = []
    for number in range(3):
        save(root / "source" / f"{number}.png", number)
        save(root / "target" / f"{number}.png", 10 + number)
        names = {key: f"{key}/{number}.png" for key in ("source", "target")}
        lines.append(json.dumps({**names, "prompt": f"caption {number}"}))
    (root / "prompt.json").write_text("\n".join(lines) + "\n")
    return root


def imagefolder(root: Path) -> Path:
    lines = []
    for number in range(3):
        save(root / "images" / f"{number}.png", number)
        save(root / "canny" / f"{number}.png", 10 + number)
        names = {"file_name": f"images/{number}.png", "text": f"caption {number}"}
        lines.append(json.dumps({**names, "canny_file_name": f"canny/{number}.png"}))
    (root / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return root


BACKENDS = [
    {
        "id": "pictures",
        "type": "local",
        "instance_data_dir": "images",
        "caption_strategy": "textfile",
        "conditioning_data": "maps",
    },
    {
        "id": "maps",
        "type": "local",
        "dataset_type": "conditioning",
        "conditioning_type": "controlnet",
        "instance_data_dir": "canny",
    },
    {"id": "texts", "dataset_type": "text_embeds", "default": True, "type": "local"},
]


def simpletuner(root: Path, backends: object = None) -> Path:
    pairs(root)
    text = json.dumps(BACKENDS if backends is None else backends)
    (root / "multidatabackend.json").write_text(text)
    return root


LAYOUTS = {
    "kohya": pairs,
    "simpletuner": simpletuner,
    "fill50k": fill50k,
    "diffusers": imagefolder,
}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_sound_folder_of_another_tool_has_no_faults(trainer, tmp_path):
    outcome = validate(LAYOUTS[trainer](tmp_path), trainer=trainer)
    assert outcome.faults == ()
    assert outcome.rules == (trainer,)
    assert outcome.rows == 3


@pytest.mark.parametrize("trainer", TRAINERS)
def test_an_empty_folder_is_a_fault_that_names_the_layout(trainer, tmp_path):
    (fault,) = validate(tmp_path, trainer=trainer).faults
    assert fault.kind in ("layout", "does not load")


@pytest.mark.parametrize("layout", available_formats())
@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_format_is_sound_for_its_trainers_and_refused_for_the_others(trainer, layout, tmp_path):
    made = [MADE["row"](n, MADE["picture"](n, (64, 128)), f"caption {n}") for n in range(8)]
    outcome = validate(MADE["make"](tmp_path, layout, made), trainer=trainer)
    assert outcome.rules == ("condkit", trainer)
    if layout in TRAINERS[trainer]:
        assert outcome.faults == ()
    else:
        assert outcome.counts == {"layout": 1}
        assert TRAINERS[trainer][0] in outcome.faults[0].advice


def write(text: str | bytes):
    data = text.encode() if isinstance(text, str) else text
    return lambda path: path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


def shrink(path: Path) -> None:
    save(path, hw=(SIDE, SIDE // 2))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:90])


def add(seed: int = 7):
    return lambda path: save(path, seed)


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (SIDE, SIDE)).save(path, exif=exif)


def rename(name: str):
    return lambda path: path.rename(path.with_name(name))


KOHYA = [
    ("canny/1.png", remove, {"missing map"}, "images/1.png"),
    ("canny/extra.png", add(), {"extra map"}, "canny/extra.png"),
    ("canny/1.png", shrink, {"size differs from picture"}, "canny/1.png"),
    ("canny/1.png", truncate, {"broken picture"}, "canny/1.png"),
    ("images/1.png", truncate, {"broken picture"}, "images/1.png"),
    ("images/1.png", turned, {"orientation"}, "images/1.png"),
    ("images/1.jpg", add(), {"same stem"}, "images/1.png"),
    ("canny/1.jpg", add(), {"same stem"}, "canny/1.png"),
    ("images/1.png", rename("1.Png"), {"ending", "extra map"}, "images/1.Png"),
    ("images/4.gif", add(), {"ending"}, "images/4.gif"),
    ("images/sub/4.png", add(), {"nested picture"}, "images/sub/4.png"),
    ("images/1.txt", remove, {"missing caption"}, "images/1.txt"),
    ("images/1.txt", write(""), {"empty caption"}, "images/1.txt"),
    ("images/1.txt", write("one\ntwo\n"), {"caption of many lines"}, "images/1.txt"),
    ("images/1.txt", write("ü".encode("latin-1")), {"bad caption"}, "images/1.txt"),
    ("images/1.txt", write("a \x00 b"), {"bad caption"}, "images/1.txt"),
]


@pytest.mark.parametrize(("name", "damage", "kinds", "where"), KOHYA)
def test_kohya_faults_are_named(name, damage, kinds, where, tmp_path):
    pairs(tmp_path)
    damage(tmp_path / name)
    outcome = validate(tmp_path, trainer="kohya")
    assert set(outcome.counts) == kinds
    assert where in {fault.where for fault in outcome.faults}


def test_kohya_reads_an_empty_line_as_an_empty_caption(tmp_path):
    pairs(tmp_path)
    (tmp_path / "images/1.txt").write_text("\n")
    outcome = validate(tmp_path, trainer="kohya")
    assert outcome.faults == ()
    assert "empty line" in outcome.notes[0]


@pytest.mark.parametrize("name", ["1.JPG", "1.WEBP", "1.bmp", "1.jpeg"])
def test_kohya_takes_endings_in_lower_or_upper_case(name, tmp_path):
    pairs(tmp_path)
    for folder in ("images", "canny"):
        (tmp_path / folder / "1.png").unlink()
        save(tmp_path / folder / name)
    assert validate(tmp_path, trainer="kohya").faults == ()


TOML = """
[[datasets]]
resolution = 512
{dataset}
[[datasets.subsets]]
image_dir = "img"
caption_extension = ".caption"
conditioning_data_dir = "{maps}"
"""


@pytest.mark.parametrize(
    ("dataset", "maps", "kinds"),
    [
        ("", "hints", set()),
        ("", "gone", {"missing folder"}),
        ("validation_split = 0.1", "hints", {"validation split"}),
        ("= broken", "hints", {"broken configuration"}),
    ],
)
def test_kohya_follows_its_configuration(dataset, maps, kinds, tmp_path):
    pairs(tmp_path, images="img", maps="hints")
    for path in (tmp_path / "img").glob("*.txt"):
        path.rename(path.with_suffix(".caption"))
    (tmp_path / "data.toml").write_text(TOML.format(dataset=dataset, maps=maps))
    assert set(validate(tmp_path, trainer="kohya").counts) - {"missing caption"} == kinds


SIMPLETUNER = [
    ("canny/1.png", remove, {"missing map"}, "images/1.png"),
    ("canny/1.png", rename("1.jpg"), {"missing map", "extra map"}, "canny/1.jpg"),
    ("canny/sub/9.png", add(), {"extra map"}, "canny/sub/9.png"),
    ("canny/1.png", shrink, {"size differs from picture"}, "canny/1.png"),
    ("images/1.png", truncate, {"broken picture"}, "images/1.png"),
    ("images/1.txt", remove, {"missing caption"}, "images/1.txt"),
    ("images/1.txt", write("\n"), {"empty caption"}, "images/1.txt"),
    ("images/1.txt", write(b"\xff"), {"bad caption"}, "images/1.txt"),
    ("multidatabackend.json", write("{"), {"broken configuration"}, "multidatabackend.json"),
    ("multidatabackend.json", write("{}"), {"broken configuration"}, "multidatabackend.json"),
]


@pytest.mark.parametrize(("name", "damage", "kinds", "where"), SIMPLETUNER)
def test_simpletuner_faults_are_named(name, damage, kinds, where, tmp_path):
    simpletuner(tmp_path)
    damage(tmp_path / name)
    outcome = validate(tmp_path, trainer="simpletuner")
    assert set(outcome.counts) == kinds
    assert where in {fault.where for fault in outcome.faults}


def without(place: int, key: str, value: object = None) -> list[dict[str, object]]:
    changed = [dict(backend) for backend in BACKENDS]
    changed[place].pop(key)
    if value is not None:
        changed[place][key] = value
    return changed


@pytest.mark.parametrize(
    ("backends", "words"),
    [
        (without(0, "conditioning_data"), "conditioning_data"),
        (without(0, "conditioning_data", "map"), "'map'"),
        (without(1, "dataset_type"), "dataset_type 'conditioning'"),
        (without(1, "conditioning_type", "mask"), "conditioning_type 'controlnet'"),
        (without(1, "instance_data_dir", "gone"), "'gone'"),
        (without(2, "default"), "text_embeds"),
        ([*BACKENDS, BACKENDS[0]], "an id of its own"),
    ],
)
def test_links_of_simpletuners_backends_are_checked(backends, words, tmp_path):
    outcome = validate(simpletuner(tmp_path, backends), trainer="simpletuner")
    assert set(outcome.counts) == {"broken configuration"}
    assert any(words in str(fault) for fault in outcome.faults)


def test_several_lines_are_several_captions_for_simpletuner_and_no_fault(tmp_path):
    simpletuner(tmp_path)
    (tmp_path / "images/1.txt").write_text("one\ntwo\n")
    outcome = validate(tmp_path, trainer="simpletuner")
    assert outcome.faults == ()
    assert "several lines" in outcome.notes[0]


def append(line: str | bytes):
    def damage(path: Path) -> None:
        data = line.encode() if isinstance(line, str) else line
        path.write_bytes(path.read_bytes() + data)

    return damage


GOOD = {"source": "source/0.png", "target": "target/0.png"}
FILL50K = [
    ("source/1.png", remove, {"missing file"}, "line 2, source source/1.png"),
    ("target/1.png", truncate, {"broken picture"}, "line 2, target target/1.png"),
    ("source/1.png", shrink, {"size differs from picture"}, "line 2, source source/1.png"),
    ("prompt.json", append('{"source": "x"\n'), {"broken table"}, "line 4"),
    ("prompt.json", append(json.dumps(GOOD) + "\n"), {"broken table"}, "line 4"),
    ("prompt.json", append(json.dumps({**GOOD, "prompt": 7})), {"bad caption"}, "line 4"),
    ("prompt.json", append("\n"), {"broken table"}, "line 4"),
    (
        "prompt.json",
        append(json.dumps({**GOOD, "prompt": "ü"}, ensure_ascii=False)),
        {"encoding"},
        "line 4",
    ),
    ("prompt.json", write("[]"), {"broken table"}, "line 1"),
    ("prompt.json", write(""), {"broken table"}, "prompt.json"),
]


@pytest.mark.parametrize(("name", "damage", "kinds", "where"), FILL50K)
def test_fill50k_faults_are_named(name, damage, kinds, where, tmp_path):
    fill50k(tmp_path)
    damage(tmp_path / name)
    outcome = validate(tmp_path, trainer="fill50k")
    assert set(outcome.counts) == kinds
    assert any(where in fault.where for fault in outcome.faults)


def test_fill50k_wants_one_size_for_all_rows_and_a_multiple_of_64(tmp_path):
    fill50k(tmp_path)
    for folder in ("source", "target"):
        save(tmp_path / folder / "1.png", hw=(70, 64))
    outcome = validate(tmp_path, trainer="fill50k")
    assert outcome.counts == {"sizes differ": 1, "size no multiple of 64": 1}


def replaced(old: str, new: str):
    def damage(path: Path) -> None:
        path.write_text(path.read_text().replace(old, new))

    return damage


DIFFUSERS = [
    ("canny/1.png", remove, {"missing picture"}, "row 1 of train, map 1.png"),
    ("canny/1.png", truncate, {"broken picture"}, "row 1 of train, map 1.png"),
    ("images/2.png", truncate, {"broken picture"}, "row 2 of train, image 2.png"),
    ("canny/1.png", shrink, {"size differs from picture"}, "row 1 of train, map"),
    ("metadata.jsonl", replaced('"caption 1"', "null"), {"bad caption"}, "row 1 of train"),
    ("metadata.jsonl", replaced('"caption ', '"2023-01-1'), {"columns"}, "column 1, 'text'"),
    ("metadata.jsonl", replaced("canny_file_name", "canny"), {"columns"}, "column 2, 'canny'"),
    ("metadata.jsonl", replaced('"text"', '"prompt"'), set(), ""),
    ("metadata.jsonl", replaced('"caption 1"', '""'), set(), ""),
    ("metadata.jsonl", write('{"file_name": "images/0.png"'), {"does not load"}, ""),
]


@pytest.mark.parametrize(("name", "damage", "kinds", "where"), DIFFUSERS)
def test_diffusers_faults_are_named(name, damage, kinds, where, tmp_path):
    imagefolder(tmp_path)
    damage(tmp_path / name)
    outcome = validate(tmp_path, trainer="diffusers")
    assert set(outcome.counts) == kinds
    assert not kinds or any(where in fault.where for fault in outcome.faults)


def test_diffusers_wants_a_split_called_train(tmp_path):
    imagefolder(tmp_path / "test")
    (fault,) = validate(tmp_path, trainer="diffusers").faults
    assert fault.kind == "no train split"


def test_diffusers_wants_a_resolution_that_is_a_multiple_of_8(tmp_path):
    imagefolder(tmp_path)
    for number in range(3):
        for folder in ("images", "canny"):
            save(tmp_path / folder / f"{number}.png", hw=(61, 90))
    assert validate(tmp_path, trainer="diffusers").counts == {"resolution": 1}
    for folder in ("images", "canny"):
        save(tmp_path / folder / "0.png", hw=(64, 90))
    outcome = validate(tmp_path, trainer="diffusers")
    assert outcome.faults == ()
    assert "2 short sides" in outcome.notes[0]


def test_pictures_that_the_table_forgets_are_named(tmp_path):
    imagefolder(tmp_path)
    save(tmp_path / "images/9.png")
    (fault,) = validate(tmp_path, trainer="diffusers").faults
    assert (fault.kind, fault.where) == ("picture without row", "images/9.png")
