"""A dataset that is written in another format may be killed or interrupted, and goes on."""

from __future__ import annotations

import random
import signal

import pytest

INTERRUPTED = 130


def export(zygote, dataset, output, layout, **when):
    argv = ["export", str(dataset), "-o", str(output), "--format", layout, "--json"]
    return zygote.run(argv, output, **when)


@pytest.mark.parametrize(
    "layout",
    ["webdataset", pytest.param("tree", marks=pytest.mark.slow)],
)
def test_an_export_that_was_killed_ends_with_the_same_bytes(
    zygote, finished, tree, tmp_path, layout
):
    _, dataset = finished
    before = tree(dataset)
    whole = export(zygote, dataset, tmp_path / "whole", layout)
    assert whole["code"] == 0, whole["printed"]
    wanted = tree(tmp_path / "whole")
    draw = random.Random(layout)
    for kind in sorted(set(whole["points"])):
        output = tmp_path / kind
        places = [n for n, name in enumerate(whole["points"], 1) if name == kind]
        # Threads make a few points more or fewer each time: the last ones may not come.
        at = draw.choice(places[: 1 + len(places) * 3 // 4])
        killed = export(zygote, dataset, output, layout, at=at)
        assert killed["code"] == -signal.SIGKILL, killed["printed"]
        again = export(zygote, dataset, output, layout)
        assert again["code"] == 0, again["printed"]
        assert tree(output) == wanted, kind
    assert tree(dataset) == before


def test_an_export_that_is_interrupted_ends_with_130_and_goes_on(zygote, finished, tree, tmp_path):
    _, dataset = finished
    whole = export(zygote, dataset, tmp_path / "whole", "imagefolder")
    renames = [n for n, kind in enumerate(whole["points"], 1) if kind == "after rename"]
    output = tmp_path / "out"
    outcome = export(zygote, dataset, output, "imagefolder", at=renames[2], signal="SIGINT")
    assert outcome["code"] == INTERRUPTED, outcome["printed"]
    assert "Traceback" not in outcome["printed"]
    again = export(zygote, dataset, output, "imagefolder")
    assert again["code"] == 0, again["printed"]
    assert tree(output) == tree(tmp_path / "whole")
