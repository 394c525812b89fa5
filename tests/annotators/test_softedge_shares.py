"""Soft edges of which a share is safe: a seeded choice for each image."""

from __future__ import annotations

import numpy as np
import pytest

from condkit.annotators.annotator import Annotator, Predictions, plan_annotation
from condkit.annotators.softedge import to_levels
from condkit.errors import ConfigError
from condkit.predictions import EdgeStrength

STRENGTH = np.random.default_rng(0).random((12, 17), np.float32)


def _maps(count, seed=0, **settings):
    """What is drawn of one prediction for images whose pixels differ."""
    plan = plan_annotation(
        ["softedge"], {f"softedge.{name}": value for name, value in settings.items()}, seed=seed
    )
    (planned,) = plan.conditions
    annotator = Annotator(plan)
    found = {planned.key: EdgeStrength(STRENGTH)}
    return [
        annotator.render(Predictions(found, STRENGTH.shape, ("softedge",), key))["softedge"]
        for key in range(count)
    ]


def test_by_default_no_map_is_safe_and_nothing_is_drawn():
    for drawn in _maps(20):
        assert np.array_equal(drawn.pixels, to_levels(STRENGTH))
        assert set(drawn.facts) == {"mean_strength"}


def test_safe_makes_all_maps_safe():
    for drawn in _maps(20, safe="true"):
        assert set(np.unique(drawn.pixels)) <= {0, 127, 255}
        assert set(drawn.facts) == {"mean_strength"}


@pytest.mark.parametrize("share", [0.25, 0.75, 1.0])
def test_a_share_of_the_maps_is_safe_and_says_so(share):
    maps = _maps(400, safe_share=str(share))
    plain, safe = to_levels(STRENGTH), to_levels(STRENGTH, safe=True)
    for drawn in maps:
        assert np.array_equal(drawn.pixels, safe if drawn.facts["safe"] else plain)
    found = np.mean([drawn.facts["safe"] for drawn in maps])
    assert abs(found - share) < 0.07


def test_the_choice_depends_on_the_seed_and_the_image_alone():
    first, again, other = (
        [drawn.facts["safe"] for drawn in _maps(100, seed, safe_share="0.5")] for seed in (0, 0, 1)
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"safe_share": "75"}, "safe_share: expected 0 to 1, got 75"),
        ({"safe": "true", "safe_share": "0.5"}, "expected to be left out with softedge.safe=true"),
        ({"seed": "-1"}, "softedge.seed"),
    ],
)
def test_a_mistake_is_refused_by_name(settings, message):
    with pytest.raises(ConfigError, match=message):
        _maps(0, **settings)
