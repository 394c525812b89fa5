"""Every odd file that is known goes through `build`: to its row, or to its rejection."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from condkit import imageio, pipeline
from condkit.annotators.annotator import plan_annotation
from condkit.captions import make_captioner
from condkit.imageio import IMAGE_SUFFIXES
from condkit.runtime import Runtime

CORNERS = runpy.run_path(str(Path(__file__).parents[1] / "test_imageio_corners.py"))
TABLE, BAD = CORNERS["TABLE"], CORNERS["Bad"]


@pytest.fixture(scope="module")
def built(assets, tmp_path_factory):
    """The summary of a build over all odd files, and its rows by source."""
    import pyarrow.parquet as pq

    output = tmp_path_factory.mktemp("corners") / "out"
    summary = pipeline.build(
        assets / "corner",
        output,
        plan_annotation(["canny"]),
        Runtime(),
        captioner=make_captioner("template"),
        size=None,
        val=0.0,
        shard_size=16,
    )
    rows = {}
    for path in sorted((output / "data").glob("*.parquet")):
        rows |= {row["source"]: row for row in pq.read_table(path).to_pylist()}
    return summary, rows


def searched(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def test_every_file_is_a_row_a_rejection_or_counted(built):
    summary, rows = built
    rejected = {rejection.source for rejection in summary.rejections}
    assert not rejected & rows.keys()
    assert rejected | rows.keys() == set(filter(searched, TABLE))
    assert sum(summary.left_out.values()) == sum(not searched(name) for name in TABLE)


@pytest.mark.parametrize("name", list(filter(searched, TABLE)))
def test_a_file_comes_out_of_a_build_as_its_row_says(built, name):
    summary, rows = built
    reasons = {r.source: (r.stage, r.reason) for r in summary.rejections}
    expected = TABLE[name]
    if isinstance(expected, BAD):
        stage, reason = reasons[name]
        assert stage == "decode"
        assert expected.reason in reason
        return
    if name in reasons:
        # The same bytes as a file before it: that one is the row.
        stage, reason = reasons[name]
        assert stage == "filter"
        assert reason.removeprefix("same bytes as ") in rows
        return
    row = rows[name]
    assert (row["original_height"], row["original_width"]) == expected.hw
    assert row["notes"] == ", ".join(expected.notes)
    image = imageio.read_map(row["image"]["bytes"])
    assert image.shape == (*expected.hw, 3)
    np.testing.assert_allclose(image.mean(axis=(0, 1)), expected.mean_rgb, atol=1)
    assert imageio.read_map(row["canny"]["bytes"]).shape == expected.hw
    assert json.loads(row["transform"])["size_hw"] == list(expected.hw)
