"""The demo's way, shortened: every stage real, the figures not meant to be good."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from condkit import demo
from condkit.errors import ConfigError

SHORT = demo.DemoSettings(scenes=24, val=0.3, steps=2, pairs=4, sampling_steps=2)


@pytest.mark.slow
def test_the_demo_ends_with_a_page_and_goes_on_where_it_was(tmp_path: Path) -> None:
    stages: list[str] = []
    first = demo.run(tmp_path / "out", SHORT, on_stage=stages.append)
    assert len(stages) == 4
    page = Path(first.report).read_text("utf-8")
    assert page.count("data:image/png") == 5 * first.pairs
    evaluation = json.loads((tmp_path / "out/run/evaluation.json").read_text("utf-8"))
    assert f"{evaluation['edge_f1']['control']:.3f}" in page
    assert 0 <= first.no_control <= first.ceiling <= 1

    weights = tmp_path / "out/run/controlnet/diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    again = demo.run(tmp_path / "out", SHORT)
    assert weights.read_bytes() == before
    assert again.control == first.control


@pytest.mark.parametrize("values", [{"scenes": 3}, {"val": 0.0}, {"val": 1.0}])
def test_impossible_settings_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        demo.DemoSettings(**values)  # type: ignore[arg-type]
