"""The real command, in processes of its own, as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import datasets
import numpy as np
import pytest
from PIL import Image

from condkit import __version__
from condkit.scenes import write_scenes


def condkit(
    *arguments: object, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "condkit", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def picture(path: Path, size: tuple[int, int] = (64, 48), seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    pixels = np.full((size[1], size[0], 3), 40, np.uint8)
    cv2.rectangle(pixels, (10, 10), (40, 30), [int(v) for v in rng.integers(120, 255, 3)], -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    picture(folder / "a b.png")
    picture(folder / "a b.jpg")
    picture(folder / "ünïcode" / "a b.PNG", seed=1)
    return folder


@pytest.mark.parametrize("arguments", [["--help"], ["annotate", "--help"], ["conditions"]])
def test_help_and_listings_load_no_network_library(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['condkit', *{arguments!r}]\n"
        "from condkit.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'datasets', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_condkit_loads_nothing_heavy() -> None:
    code = "import sys, condkit; sys.exit(len({'numpy', 'torch', 'cv2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_version_is_printed() -> None:
    assert condkit("--version").stdout == f"condkit {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["annotate", "x", "-o", "out", "-c", "cany"], "did you mean 'canny'"),
        (["annotate", ".", "-o", "out", "-c", "canny", "--set", "canny.lo=5"], "canny.low"),
        (["annotate", ".", "-o", "out", "-c", "canny", "--set", "canny.low=x"], "a number"),
        (["annotate", ".", "-o", "out", "-c", "canny", "--set", "canny"], "NAME=VALUE"),
        (["annotate", "nowhere", "-o", "out", "-c", "canny"], "nowhere"),
        (["annotate", ".", "-o", "out", "-c", "canny"], "no image"),
        (["annotate", ".", "-o", "out"], "--condition"),
        (["annotate", ".", "-o", "out", "-c", "canny", "--weights-dir", "no"], "--weights-dir no"),
        (["build", "nowhere", "-o", "out", "-c", "canny"], "nowhere"),
        (["train", "cany", "--data", "d", "-o", "r"], "did you mean 'canny'"),
        (["train", "canny", "--data", "d", "-o", "r", "--set", "optim.lrr=1"], "optim.lr"),
        (["demo", "--set", "stepz=3"], "did you mean 'steps'"),
    ],
)
def test_a_wrong_word_is_a_usage_error_of_one_line(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = condkit(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "canny", "--data", "nowhere", "-o", "run"],
        ["evaluate", "nowhere", "--data", "nowhere"],
        ["sample", "nowhere", "--condition-image", "x.png", "--prompt", "a", "-o", "o.png"],
    ],
)
def test_a_missing_input_is_an_error_of_one_line(tmp_path: Path, arguments: list[str]) -> None:
    done = condkit(*arguments, cwd=tmp_path)
    assert done.returncode in (1, 2), done.stderr
    assert done.stderr.startswith("condkit: ")
    assert "Traceback" not in done.stderr
    assert "nowhere" in done.stderr or "x.png" in done.stderr


def test_annotate_mirrors_the_folder_and_goes_on(tmp_path: Path, photos: Path) -> None:
    command = ["annotate", photos, "-o", tmp_path / "maps", "-c", "canny", "-c", "lines"]
    command += ["--set", "lines.detector=hough"]
    done = condkit(*command, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["written"], summary["skipped"]) == (3, 0)
    names = sorted(str(p.relative_to(tmp_path / "maps")) for p in tmp_path.rglob("*.png.png"))
    assert names == [
        "canny/a b.png.png",
        "lines/a b.png.png",
    ]
    assert (tmp_path / "maps/canny/a b.jpg.png").exists()
    assert (tmp_path / "maps/lines/ünïcode/a b.PNG.png").exists()

    again = json.loads(condkit(*command, "--json").stdout)
    assert (again["written"], again["skipped"]) == (0, 3)


def test_the_seed_is_that_of_all_that_is_drawn_at_random(tmp_path: Path, photos: Path) -> None:
    options = ["-c", "canny", "--set", "canny.random=true", "--seed", "7", "--no-data"]
    done = condkit("annotate", photos, "-o", tmp_path / "maps", *options)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "maps/facts.jsonl").read_text("utf-8").splitlines()) == 3
    done = condkit("build", photos, "-o", tmp_path / "data", "--captions", "none", *options)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "data/manifest.json").read_text("utf-8"))
    assert manifest["annotation"]["canny"]["detector_params"]["seed"] == 7


def test_what_cannot_be_read_is_listed_and_the_code_is_3(tmp_path: Path, photos: Path) -> None:
    (photos / "broken.jpg").write_bytes((photos / "a b.jpg").read_bytes()[:300])
    done = condkit("annotate", photos, "-o", tmp_path / "maps", "-c", "canny")
    assert done.returncode == 3, done.stderr
    rows = [json.loads(s) for s in (tmp_path / "maps/rejected.jsonl").read_text().splitlines()]
    assert [(row["source"], row["stage"]) for row in rows] == [("broken.jpg", "decode")]
    assert "rejected broken.jpg (decode): " in done.stderr


def test_dry_run_writes_nothing_and_quiet_says_nothing(tmp_path: Path, photos: Path) -> None:
    command = ["annotate", photos, "-o", tmp_path / "maps", "-c", "canny"]
    dry = condkit(*command, "--dry-run")
    assert dry.returncode == 0
    assert "3" in dry.stdout
    assert not (tmp_path / "maps").exists()
    quiet = condkit(*command, "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_an_interrupt_ends_soon_with_130_and_keeps_what_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    picture(folder / "0.png", size=(1500, 1200))
    for index in range(1, 400):
        os.link(folder / "0.png", folder / f"{index}.png")
    process = subprocess.Popen(
        [sys.executable, "-m", "condkit", "annotate", folder, "-o", tmp_path / "m", "-c", "canny"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while process.poll() is None and len(list((tmp_path / "m").rglob("*.png"))) < 5:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert b"Traceback" not in stderr
    made = list((tmp_path / "m").rglob("*.png"))
    assert 5 <= len(made) < 400
    assert all(cv2.imread(str(path), cv2.IMREAD_UNCHANGED) is not None for path in made)
    assert not list((tmp_path / "m").rglob(".condkit-tmp-*"))


def test_conditions_tell_which_weights_are_there(tmp_path: Path) -> None:
    done = condkit("conditions", CONDKIT_CACHE=str(tmp_path))
    assert done.returncode == 0
    line = next(line for line in done.stdout.splitlines() if "ControlNetHED.pth" in line)
    assert "missing" in line
    assert "Apache-2.0" in line
    rows = json.loads(condkit("conditions", "--json").stdout)
    assert {row["condition"] for row in rows} >= {"canny", "lines", "softedge", "scribble"}


def test_recipes_and_doctor_answer() -> None:
    assert {"canny", "lines", "scribble", "softedge"} <= {
        line.split()[0] for line in condkit("recipes").stdout.splitlines()[1:]
    }
    doctor = condkit("doctor")
    assert doctor.returncode == 0, doctor.stdout


@pytest.mark.slow
def test_from_pictures_to_a_controlled_picture(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", 24, seed=1)
    data, run = tmp_path / "dataset", tmp_path / "run"
    built = condkit(
        "build", tmp_path / "scenes", "-o", data, "-c", "canny", "--size", 64, "--val", 0.3
    )
    assert built.returncode == 0, built.stderr
    loaded = datasets.load_dataset(str(data), cache_dir=str(tmp_path / "cache"))
    assert {"image", "text", "canny"} <= set(loaded["train"].column_names)

    command = ["train", "tiny-canny", "--data", data, "-o", run]
    command += ["--set", "run.steps=2", "--set", "data.batch_size=2"]
    trained = condkit(*command)
    assert trained.returncode == 0, trained.stderr
    refused = condkit(*command)
    assert refused.returncode == 1
    assert "--resume" in refused.stderr

    condition = tmp_path / "condition.png"
    loaded["train"][0]["canny"].save(condition)
    sampled = condkit(
        *("sample", run, "--condition-image", condition, "--prompt", "a red circle"),
        *("--steps", 2, "-o", tmp_path / "out.png"),
    )
    assert sampled.returncode == 0, sampled.stderr
    assert Image.open(tmp_path / "out.png").size == (64, 64)

    measured = condkit("evaluate", run, "--data", data, "--pairs", 4, "--steps", 2, "--json")
    assert measured.returncode == 0, measured.stderr
    figures = json.loads(measured.stdout)
    assert figures["pairs"] == 4
