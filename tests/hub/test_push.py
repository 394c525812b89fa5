"""`condkit push`: all of a dataset or model and nothing else, checked first, gone on with after."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from condkit import hub
from condkit.cli import main
from condkit.errors import DatasetError
from condkit.hub import contents, sending
from condkit.scenes import write_scenes

REPO = "me/pairs"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Seven data files, the files about the whole, and things that are nobody's business."""
    folder = tmp_path / "dataset"
    names = [f"train/images/{n:06d}.png" for n in range(3)]
    names += [f"train/canny/{n:06d}.png" for n in range(3)] + ["train/metadata.jsonl"]
    sums = []
    for name in names:
        data = name.encode() * 40
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        sums.append(f"{hashlib.sha256(data).hexdigest()}  {name}\n")
    (folder / "SHA256SUMS").write_text("".join(sums))
    (folder / "manifest.json").write_text('{"condkit_dataset": 1}')
    (folder / "sheet.png").write_bytes(b"a contact sheet")
    (folder / "README.md").write_text("---\nlicense: unknown\n---\n![sheet](sheet.png)\n")
    (folder / ".condkit").mkdir()
    (folder / ".condkit/plan.json").write_text("{}")
    (folder / "notes.txt").write_text("my own")
    (folder / "train/images/thumbs.db").write_text("the file manager's")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    (folder / "README.md").write_text("---\ntags: [controlnet]\n---\n![e](evaluation.png)\n")
    (folder / "evaluation.png").write_bytes(b"png")
    save_file({"a": np.ones(3)}, folder / "diffusion_pytorch_model.safetensors")
    (folder / "optimizer.pt").write_bytes(b"pickled")
    (folder / ".DS_Store").write_bytes(b"x")
    return folder


OWN = [
    "README.md",
    "SHA256SUMS",
    "manifest.json",
    "sheet.png",
    *(f"train/{kind}/{n:06d}.png" for kind in ("canny", "images") for n in range(3)),
    "train/metadata.jsonl",
]


@pytest.fixture
def run(monkeypatch, capsys, hub_environment):
    """The command line in this process, with the stand-in as its Hub."""
    from huggingface_hub import constants

    for name, value in hub_environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "ENDPOINT", hub_environment["HF_ENDPOINT"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", hub_environment["HF_HOME"] + "/token")
    monkeypatch.setattr(sending, "WAITS", (0.0,))

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["condkit", "push", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return call


def names(stand_in, kind="dataset", branch="main", repo=REPO):
    return sorted(stand_in.repositories[kind, repo].branches[branch])


def test_all_of_a_dataset_and_nothing_else_is_sent(run, stand_in, dataset):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    code, out, err = run(dataset, REPO)
    assert code == 0, err
    assert names(stand_in) == sorted(OWN)
    assert "11 files sent" in out
    assert f"{stand_in.address}/datasets/{REPO}" in out
    assert "notes.txt" in err
    files = stand_in.repositories["dataset", REPO].branches["main"]
    for name in OWN:
        data = (dataset / name).read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        size, sha256, git = files[name]
        assert size == len(data)
        assert sha256 == hashlib.sha256(data).hexdigest() if sha256 else git == blob
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before


def test_what_describes_the_whole_comes_with_the_last_commit(run, stand_in, dataset, monkeypatch):
    monkeypatch.setattr(sending, "FILES_PER_COMMIT", 3)
    assert run(dataset, REPO, "--message", "pairs")[0] == 0
    commits = stand_in.repositories["dataset", REPO].commits
    assert [message for message, _ in commits] == ["pairs", "pairs (part 2)", "pairs (part 3)"]
    for _, paths in commits[:-1]:
        assert not {"README.md", "manifest.json", "SHA256SUMS"} & set(paths)
    assert commits[-1][1][-3:] == ["manifest.json", "README.md", "SHA256SUMS"]


def test_all_of_a_model_is_sent_and_no_pickle(run, stand_in, model):
    code, _, err = run(model, "me/net")
    assert code == 0, err
    assert names(stand_in, "model", repo="me/net") == [
        "README.md",
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "evaluation.png",
    ]
    assert "optimizer.pt" in err


def test_a_repository_is_private_unless_it_is_said_otherwise(run, stand_in, dataset):
    assert run(dataset, REPO)[0] == 0
    assert stand_in.repositories["dataset", REPO].private
    assert run(dataset, "me/open", "--public")[0] == 0
    assert not stand_in.repositories["dataset", "me/open"].private


def test_nothing_goes_to_a_public_repository_unasked(run, stand_in, dataset):
    assert run(dataset, REPO, "--public")[0] == 0
    (dataset / "README.md").write_text("---\nlicense: mit\n---\n")
    code, _, err = run(dataset, REPO)
    assert code == 1
    assert "public" in err
    assert "--public" in err
    assert len(stand_in.repositories["dataset", REPO].commits) == 1
    assert run(dataset, REPO, "--public")[0] == 0


def test_a_second_push_sends_only_what_has_changed(run, stand_in, dataset):
    assert run(dataset, REPO)[0] == 0
    sent = len(stand_in.paths("PUT", "/objects/"))
    code, out, _ = run(dataset, REPO, "--json")
    assert code == 0
    assert json.loads(out) == {
        "url": f"{stand_in.address}/datasets/{REPO}",
        "sent": 0,
        "there": 11,
        "deleted": 0,
        "size": 0,
        "commits": 0,
        "public": False,
    }
    (dataset / "README.md").write_text("---\nlicense: mit\n---\n![sheet](sheet.png)\n")
    assert json.loads(run(dataset, REPO, "--json")[1])["sent"] == 1
    assert stand_in.repositories["dataset", REPO].commits[-1][1] == ["README.md"]
    assert len(stand_in.paths("PUT", "/objects/")) == sent


def test_a_commit_that_failed_for_a_passing_reason_is_tried_again(run, stand_in, dataset, caplog):
    stand_in.fail_next("/commit/", 503)
    code, _, err = run(dataset, REPO)
    assert code == 0, err
    assert "503: made to fail; trying again" in caplog.text
    assert names(stand_in) == sorted(OWN)


def test_a_push_that_failed_goes_on_where_it_was(run, stand_in, dataset, monkeypatch):
    monkeypatch.setattr(sending, "FILES_PER_COMMIT", 3)

    def refuse_from_the_fifth(count):
        if count == 4:
            stand_in.fail_next("/objects/", 400, times=20)

    stand_in.on_object = refuse_from_the_fifth
    code, _, err = run(dataset, REPO, "--workers", "1")
    assert code == 1
    assert "400" in err
    assert "Traceback" not in err
    repository = stand_in.repositories["dataset", REPO]
    assert len(repository.commits) == 1
    assert "SHA256SUMS" not in repository.branches["main"]
    before = dict(stand_in.objects)
    assert len(before) == 4
    stand_in.on_object = lambda count: None
    stand_in.failures.clear()
    stand_in.asked.clear()
    code, out, err = run(dataset, REPO, "--json")
    assert code == 0, err
    assert json.loads(out)["there"] == 3
    put = {path.rpartition("/")[2] for path in stand_in.paths("PUT", "/objects/")}
    assert not put & set(before)
    assert names(stand_in) == sorted(OWN)


def test_a_push_that_was_killed_goes_on_where_it_was(stand_in, hub_environment, dataset):
    def push():
        return subprocess.Popen(
            [sys.executable, "-m", "condkit", "push", dataset, REPO, "--workers", "1"],
            env={**os.environ, **hub_environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    killed = push()
    stand_in.on_object = lambda count: killed.kill() if count == 3 else None
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    stand_in.on_object = lambda count: None
    before = set(stand_in.objects)
    stand_in.asked.clear()
    again = push()
    _, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    put = {path.rpartition("/")[2] for path in stand_in.paths("PUT", "/objects/")}
    assert put
    assert not put & before
    assert names(stand_in) == sorted(OWN)


def test_xet_sends_the_large_files_too(stand_in, hub_environment, dataset):
    done = subprocess.run(
        [sys.executable, "-m", "condkit", "push", dataset, REPO, "--json"],
        env={**os.environ, **hub_environment, "HF_HUB_DISABLE_XET": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert stand_in.xorbs > 0
    assert not stand_in.objects
    files = stand_in.repositories["dataset", REPO].branches["main"]
    assert sorted(files) == sorted(OWN)
    assert json.loads(done.stdout)["sent"] == 11


def test_a_dry_run_lists_everything_and_asks_nothing(run, stand_in, dataset):
    code, out, err = run(dataset, REPO, "--dry-run")
    assert code == 0, err
    assert [line.split()[-1] for line in out.splitlines()[1:-1]] == [
        "sheet.png",
        *(f"train/{kind}/{n:06d}.png" for kind in ("canny", "images") for n in range(3)),
        "train/metadata.jsonl",
        "manifest.json",
        "README.md",
        "SHA256SUMS",
    ]
    assert "11 files" in out
    assert "nothing was sent" in out
    code, out, _ = run(dataset, REPO, "--dry-run", "--json")
    told = json.loads(out)
    assert {file["path"]: file["sha256"] for file in told["files"]} == {
        name: hashlib.sha256((dataset / name).read_bytes()).hexdigest() for name in OWN
    }
    assert told["left_out"] == [".condkit/", "notes.txt", "train/images/thumbs.db"]
    assert stand_in.asked == []


def test_a_dry_run_needs_no_token_and_no_network(run, dataset, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run(dataset, REPO, "--dry-run")[0] == 0


def test_more_files_than_the_hub_advises_are_named_with_the_way_out(run, dataset, monkeypatch):
    monkeypatch.setattr(contents, "ENTRIES_PER_FOLDER", 3)
    monkeypatch.setattr(contents, "FILES_PER_REPOSITORY", 11)
    code, _, err = run(dataset, REPO, "--dry-run")
    assert code == 0
    told = [line for line in err.splitlines() if line.startswith("advice: ")]
    folders = {line.split(":")[1].strip() for line in told}
    assert {"train", "train/canny", "train/images"} <= folders
    assert any("11 files, the Hub advises fewer than 11" in line for line in told)
    assert all("parquet" in line and "webdataset" in line for line in told)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: (d / "train/canny/000001.png").write_bytes(b"x"), "train/canny/000001.png"),
        (lambda d: (d / "train/canny/000001.png").unlink(), "are gone: train/canny/000001.png"),
        (lambda d: (d / "SHA256SUMS").unlink(), "SHA256SUMS"),
        (lambda d: (d / "SHA256SUMS").write_text("nonsense\n"), "line 1"),
        (lambda d: (d / "SHA256SUMS").write_text(f"{'0' * 64}  ../notes.txt\n"), "line 1"),
    ],
)
def test_a_damaged_or_unfinished_dataset_is_refused_before_anything_is_sent(
    damage, words, run, stand_in, dataset
):
    damage(dataset)
    code, _, err = run(dataset, REPO)
    assert code == 1
    assert words in err
    assert len(err.splitlines()) == 1
    assert stand_in.asked == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda m: (m / "config.json").unlink(), "no dataset of condkit"),
        (lambda m: (m / "diffusion_pytorch_model.safetensors").unlink(), "no .safetensors"),
        (
            lambda m: (m / "diffusion_pytorch_model.safetensors").write_bytes(b"\x08\0\0"),
            "no whole safetensors file",
        ),
        (lambda m: (m / "run.json").write_text("{}"), "condkit export"),
    ],
)
def test_what_is_no_exported_model_is_refused(damage, words, run, stand_in, model):
    damage(model)
    code, _, err = run(model, "me/net")
    assert code == 1
    assert words in err
    assert stand_in.asked == []


def test_a_single_file_is_no_folder(run, model):
    code, _, err = run(model / "diffusion_pytorch_model.safetensors", "me/net")
    assert code == 1
    assert "is a file" in err


def test_a_pull_request_is_no_branch_to_make(run, stand_in, dataset):
    assert run(dataset, REPO)[0] == 0
    stand_in.repositories["dataset", REPO].branches["refs/pr/1"] = {}
    code, _, err = run(dataset, REPO, "--revision", "refs/pr/1")
    assert code == 0, err
    assert names(stand_in, branch="refs/pr/1") == sorted(OWN)
    assert stand_in.paths("POST", "/branch/") == []


def test_no_folder_is_an_error(run, tmp_path):
    code, _, err = run(tmp_path / "nowhere", REPO)
    assert code == 1
    assert "nowhere" in err


@pytest.mark.parametrize("repo", ["pairs", "a/b/c", "/x", "x/", ""])
def test_a_repository_needs_an_owner(repo, run, stand_in, dataset):
    code, _, err = run(dataset, repo)
    assert code == 2
    assert "OWNER/NAME" in err
    assert stand_in.asked == []


@pytest.mark.parametrize("repo", ["me/a--b", "me/" + "x" * 120, "me/with space"])
def test_a_name_that_the_hub_does_not_take_is_an_error_of_one_line(repo, run, dataset):
    code, _, err = run(dataset, repo)
    assert code == 1
    assert "Traceback" not in err
    assert repo.partition("/")[2] in err


def test_no_token_says_where_to_get_one(run, stand_in, dataset, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    code, _, err = run(dataset, REPO)
    assert code == 1
    assert "HF_TOKEN" in err
    assert "settings/tokens" in err
    assert stand_in.asked == []


@pytest.mark.parametrize(
    ("token", "words"),
    [("hf_wrong", "does not know your token"), ("hf_reader", "may not write to me/pairs")],
)
def test_a_wrong_token_is_told_from_one_without_the_right(
    token, words, run, stand_in, dataset, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", token)
    code, _, err = run(dataset, REPO)
    assert code == 1
    assert words in err
    assert token not in err
    assert stand_in.repositories == {}


def test_no_way_to_the_hub_is_an_error_that_names_it(run, dataset, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, _, err = run(dataset, REPO)
    assert code == 1
    assert "cannot reach http://127.0.0.1:9" in err
    assert err.count("refused") == 1


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "CONDKIT_OFFLINE"])
def test_a_forbidden_network_is_not_used(variable, run, stand_in, dataset, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", variable == "HF_HUB_OFFLINE")
    monkeypatch.setenv(variable, "1")
    code, _, err = run(dataset, REPO)
    assert code == 2
    assert variable in err
    assert stand_in.asked == []


def test_rows_of_another_build_are_not_mixed_in(run, stand_in, dataset):
    assert run(dataset, REPO)[0] == 0
    repository = stand_in.repositories["dataset", REPO]
    repository.put("train/images/000009.png", b"of an older build")
    repository.put("LICENSE", b"free", large=False)
    repository.put("paper.pdf", b"beside it", large=False)
    code, _, err = run(dataset, REPO)
    assert code == 1
    assert "train/images/000009.png" in err
    assert "--replace" in err
    code, out, err = run(dataset, REPO, "--replace", "--json")
    assert code == 0, err
    assert json.loads(out)["deleted"] == 2
    assert names(stand_in) == sorted([*OWN, "LICENSE"])


def test_a_branch_is_made_and_the_main_one_left_alone(run, stand_in, dataset):
    for _ in range(2):
        code, _, err = run(dataset, REPO, "--revision", "v2")
        assert code == 0, err
    assert names(stand_in, branch="v2") == sorted(OWN)
    assert names(stand_in) == []


def test_files_that_the_hub_leaves_out_are_noticed(run, stand_in, dataset):
    stand_in.ignored.add("train/canny/000002.png")
    code, _, err = run(dataset, REPO)
    assert code == 1
    assert "does not have 1 files" in err
    assert "train/canny/000002.png" in err


def test_a_wrong_card_is_named(run, dataset):
    (dataset / "README.md").write_text("no head")
    code, _, err = run(dataset, REPO)
    assert code == 1
    assert "README.md" in err
    assert "Traceback" not in err


def test_a_token_never_stands_in_an_error(run, stand_in, dataset):
    for status in (400, 403, 404, 500):
        stand_in.fail_next("/repos/create", status)
        code, out, err = run(dataset, REPO)
        assert code == 1
        assert "hf_writer" not in out + err


def test_a_changed_file_is_found_by_check_alone(dataset):
    bundle = hub.gather(dataset)
    assert {f.path for f in hub.check(bundle).files} == set(OWN)
    (dataset / "train/metadata.jsonl").write_text("other")
    with pytest.raises(DatasetError, match=r"train/metadata\.jsonl"):
        hub.check(bundle)


@pytest.mark.parametrize("layout", ["parquet", "imagefolder"])
def test_a_built_dataset_goes_through(layout, run, stand_in, tmp_path):
    write_scenes(tmp_path / "scenes", 4, seed=1)
    command = ["build", tmp_path / "scenes", "-o", tmp_path / "out", "-c", "canny", "--size", "64"]
    built = subprocess.run(
        [sys.executable, "-m", "condkit", *map(str, command), "--format", layout],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    code, _, err = run(tmp_path / "out", REPO)
    assert code == 0, err
    local = {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file() and ".condkit" not in path.parts
    }
    assert set(names(stand_in)) == local
    (tmp_path / "out/manifest.json").unlink()
    code, _, err = run(tmp_path / "out", REPO)
    assert code == 1
    assert "not finished" in err
