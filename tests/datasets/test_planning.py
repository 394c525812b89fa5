"""Splits, shards and duplicates: decided by content alone, before the work begins."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condkit.datasets.planning import BuildPlan, PlannedInput, plan_inputs, split_of
from condkit.types import SourceFile

hashes = st.binary(min_size=1, max_size=8).map(lambda b: hashlib.sha256(b).hexdigest())


def nothing_beside(source: SourceFile) -> tuple[Path, ...]:
    return ()


def planned(count: int, shard_size: int) -> BuildPlan:
    inputs = tuple(
        PlannedInput(index=i, relative=f"{i}.jpg", size=1, mtime_ns=0, sha256=f"{i:064x}")
        for i in range(count)
    )
    return BuildPlan(
        parameters={}, shard_size=shard_size, inputs=inputs, left_out={}, environment={}
    )


def make(root: Path, **contents: bytes) -> list[SourceFile]:
    sources = []
    for name, data in contents.items():
        path = root / f"{name}.jpg"
        path.write_bytes(data)
        sources.append(SourceFile(path=path, relative=path.name))
    return sources


@given(hashes, st.integers(0, 9), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_validation_share_only_adds_rows_to_it(sha256, seed, one, other):
    small, large = sorted((one, other))
    if split_of(sha256, validation=small, seed=seed) == "validation":
        assert split_of(sha256, validation=large, seed=seed) == "validation"


@given(hashes, st.integers(0, 9))
def test_no_share_means_no_validation(sha256, seed):
    assert split_of(sha256, validation=0.0, seed=seed) == "train"
    assert split_of(sha256, validation=1.0, seed=seed) == "validation"


def test_the_share_is_met_and_the_seed_draws_other_rows():
    rows = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(4000)]
    draws = [
        {row for row in rows if split_of(row, validation=0.2, seed=seed) == "validation"}
        for seed in (0, 1)
    ]
    for drawn in draws:
        assert abs(len(drawn) / len(rows) - 0.2) < 0.03
    assert draws[0] != draws[1]


@given(st.integers(0, 40), st.integers(1, 12))
def test_every_input_is_in_exactly_one_shard_in_order(count, shard_size):
    plan = planned(count, shard_size)
    shards = [plan.shard(index) for index in range(plan.shards)]
    assert tuple(item for shard in shards for item in shard) == plan.inputs
    assert all(0 < len(shard) <= shard_size for shard in shards)
    assert all(plan.shard_of(item) == i for i, shard in enumerate(shards) for item in shard)
    assert [item for item in plan.inputs if plan.ends_shard(item)] == [s[-1] for s in shards]


@pytest.mark.parametrize("workers", [1, 4])
def test_of_equal_files_the_first_is_kept(workers, tmp_path):
    sources = make(tmp_path, a=b"1", b=b"2", c=b"1", d=b"1", e=b"3")
    inputs, rejections = plan_inputs(sources, beside=nothing_beside, known={}, workers=workers)
    assert [(item.index, item.relative) for item in inputs] == [
        (0, "a.jpg"),
        (1, "b.jpg"),
        (2, "e.jpg"),
    ]
    assert [(r.source, r.stage, r.reason) for r in rejections] == [
        ("c.jpg", "filter", "same bytes as a.jpg"),
        ("d.jpg", "filter", "same bytes as a.jpg"),
    ]


def test_a_file_that_cannot_be_read_is_rejected(tmp_path):
    sources = [*make(tmp_path, a=b"1"), SourceFile(path=tmp_path / "gone", relative="gone.jpg")]
    inputs, rejections = plan_inputs(sources, beside=nothing_beside, known={}, workers=2)
    assert len(inputs) == 1
    assert rejections[0].source == "gone.jpg"
    assert rejections[0].stage == "decode"


def test_a_file_that_is_as_it_was_is_not_read_again(tmp_path):
    sources = make(tmp_path, a=b"1")
    (first,), _ = plan_inputs(sources, beside=nothing_beside, known={}, workers=1)
    told = PlannedInput(**{**first.as_dict(), "sha256": "f" * 64})
    (again,), _ = plan_inputs(
        sources, beside=nothing_beside, known={told.relative: told}, workers=1
    )
    assert again.sha256 == "f" * 64
    sources[0].path.write_bytes(b"12")
    (changed,), _ = plan_inputs(
        sources, beside=nothing_beside, known={told.relative: told}, workers=1
    )
    assert changed.sha256 == hashlib.sha256(b"12").hexdigest()


def test_the_files_beside_an_input_belong_to_the_source(tmp_path):
    sources = make(tmp_path, a=b"1")
    text = tmp_path / "a.txt"
    found = []
    for content in ("one", "two", "one"):
        text.write_text(content)
        (item,), _ = plan_inputs(sources, beside=lambda s: (text,), known={}, workers=1)
        found.append(item.beside)
    assert found[0] == found[2] != found[1]
