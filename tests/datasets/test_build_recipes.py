"""Build recipes: they say what their sources say, and what they say can be done."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from condkit.annotators.planning import plan_annotation
from condkit.captions import make_captioner
from condkit.datasets.build_recipes import (
    BuildRecipe,
    available_build_recipes,
    load_build_recipe,
)
from condkit.datasets.filters import Filters, read_filters
from condkit.errors import ConfigError, UnknownNameError
from condkit.settings import from_mapping
from condkit.sizing import SizePolicy

NAMES = ("canny", "depth", "lines", "normal", "openpose", "scribble", "seg", "softedge")


def _plan(recipe):
    return plan_annotation(recipe.conditions, recipe.settings)


def test_there_is_one_for_each_condition_with_published_rules():
    assert available_build_recipes() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_can_be_carried_out(name):
    recipe = load_build_recipe(name)
    assert recipe.conditions == (name,)
    assert "512" in recipe.summary
    plan = _plan(recipe)
    Filters(read_filters([], recipe.filters)).check(plan.as_dict())
    captions = dict(recipe.captions)
    assert make_captioner(captions.pop("captioner"), settings=captions).name == "blip-large"
    assert from_mapping(SizePolicy, recipe.sizes) == SizePolicy(mode="square", size=512)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_names_its_sources_and_explains_its_limits(name):
    file = resources.files("condkit") / "recipes" / "build" / f"{name}.toml"
    text = file.read_text(encoding="utf-8")
    assert "# Sources: " in text
    assert "ControlNet-v1-1-nightly" in text
    assert all(len(line) <= 100 for line in text.splitlines())
    limits = text.partition("[filters]")[2].partition("[sizes]")[0]
    assert re.search(r"^# .*\n(# .*\n)*near_duplicates = 4$", limits, re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_grey_blurred_repeated_and_small_pictures_are_left_out(name):
    filters = load_build_recipe(name).filters
    assert filters["near_duplicates"] == 4
    assert filters["grey_tolerance"] == 8
    assert filters["min_sharpness"] == 20
    assert filters["min_side"] == 512
    assert filters["max_aspect"] == 3
    assert filters["min_words"] == 3


def test_each_condition_has_the_rule_that_is_told_of_it():
    (canny,) = _plan(load_build_recipe("canny")).conditions
    assert canny.detector_params.random
    (softedge,) = _plan(load_build_recipe("softedge")).conditions
    assert softedge.render_params.safe_share == 0.75
    (scribble,) = _plan(load_build_recipe("scribble")).conditions
    assert scribble.render_params.augment
    assert scribble.render_params.width_range == (1, 24)
    (depth,) = _plan(load_build_recipe("depth")).conditions
    assert depth.detector_params.detect_sizes == (256, 384, 512)
    (normal,) = _plan(load_build_recipe("normal")).conditions
    assert normal.renderer.choice == "bae"
    (pose,) = _plan(load_build_recipe("openpose")).conditions
    assert pose.detector_params.body
    assert pose.detector_params.hands
    assert pose.detector_params.face
    # More than 16 lines, and at least 30 % of the key points.
    assert load_build_recipe("lines").filters["min_lines"] == 17
    assert load_build_recipe("openpose").filters["min_keypoints"] == 0.3


def test_assignments_change_a_recipe():
    recipe = load_build_recipe(
        "canny",
        {
            "filters.min_side": "256",
            "filters.near_duplicates": "none",
            "sizes.size": "768",
            "captions.captioner": "sidecar",
            "canny.seed": "7",
        },
    )
    assert recipe.settings == {"canny.random": True, "canny.seed": "7"}
    read = read_filters([], recipe.filters)
    assert (read.min_side, read.near_duplicates, read.min_words) == (256, None, 3)
    assert recipe.sizes["size"] == "768"
    assert recipe.captions["captioner"] == "sidecar"
    assert load_build_recipe("canny").sizes["size"] == 512


def test_a_recipe_of_ones_own_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'conditions = ["canny", "depth"]\n[settings.canny]\nlow = 20\n'
        '[sizes]\nmode = "bucket"\nbuckets = "sdxl"\n',
        encoding="utf-8",
    )
    assert load_build_recipe(str(path)) == BuildRecipe(
        summary="",
        conditions=("canny", "depth"),
        settings={"canny.low": 20},
        sizes={"mode": "bucket", "buckets": "sdxl"},
    )


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('condition = ["canny"]', UnknownNameError, "did you mean 'conditions'"),
        ("", ConfigError, "conditions: expected at least one"),
        ('conditions = "canny"', ConfigError, "expected a list of names, got 'canny'"),
        ('conditions = ["canny"]\nsettings = 3', ConfigError, "settings: expected a table"),
        ('conditions = ["canny"]\n[settings]\nlow = 3', ConfigError, "such as .settings.canny."),
        ('conditions = ["canny"]\n[filters]\nmin_sde = 3', UnknownNameError, "'min_side'"),
        ('conditions = ["canny"]\n[sizes]\nmode = "cube"', ConfigError, "sizes.mode"),
        ("conditions = [", ConfigError, "not valid TOML"),
    ],
)
def test_a_mistake_in_a_file_is_refused_with_its_name(tmp_path, text, error, message):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(error, match=message) as found:
        load_build_recipe(str(path))
    assert "mine.toml" in str(found.value)


def test_a_recipe_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'softedge'"):
        load_build_recipe("softedges")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_build_recipe(str(tmp_path / "none.toml"))
