"""What a user wishes for stands above the recipe, and the recipe above the defaults."""

from __future__ import annotations

import pytest

from condkit.datasets.build_recipes import available_build_recipes, load_build_recipe
from condkit.errors import ConfigError, UnknownNameError
from condkit.pipeline.build_settings import Wishes, decide
from condkit.runtime import Runtime
from condkit.sizing import SizePolicy


def decided(**wishes):
    return decide(Wishes(**wishes), Runtime())


@pytest.mark.parametrize("name", available_build_recipes())
def test_every_recipe_decides_a_whole_build(name):
    recipe = load_build_recipe(name)
    found = decided(recipe=name)
    assert tuple(spec.name for spec in found.plan.specs) == recipe.conditions
    assert found.captioner.name == recipe.captions["captioner"]
    assert found.filters.as_dict() == {
        key: value for key, value in recipe.filters.items() if value is not False
    }
    assert found.sizes.mode == recipe.sizes["mode"]


def test_without_a_recipe_the_defaults_hold():
    found = decided(conditions=("canny",))
    assert found.sizes == SizePolicy()
    assert found.filters.as_dict() == {}
    assert found.captioner.name == "sidecar"


def test_settings_change_single_values_of_a_recipe():
    found = decided(
        recipe="canny",
        settings=("canny.low_range=10,20", "captions.num_beams=5", "sizes.crop=random"),
        filters=("min_side=99", "near_duplicates=none"),
    )
    params = found.plan.as_dict()["canny"]["detector_params"]
    assert params["random"] is True
    assert params["low_range"] == [10, 20]
    assert found.captioner.as_dict()["num_beams"] == 5
    assert found.sizes.crop == "random"
    assert found.filters.min_side == 99
    assert found.filters.near_duplicates is None
    assert found.filters.max_aspect == 3


def test_other_conditions_take_the_recipes_filters_and_captions_along():
    found = decided(recipe="canny", conditions=("canny", "softedge"))
    assert [spec.name for spec in found.plan.specs] == ["canny", "softedge"]
    assert found.plan.as_dict()["canny"]["detector_params"]["random"] is True
    assert found.filters.max_aspect == 3


def test_another_captioner_leaves_the_recipes_captioner_settings_behind():
    found = decided(recipe="canny", captions="template", template="a {stem}")
    assert found.captioner.as_dict() == {"captioner": "template", "text": "a {stem}"}


def test_another_fit_leaves_the_recipes_size_settings_behind():
    assert decided(recipe="canny", fit="original").sizes == SizePolicy(mode="original")
    sized = decided(recipe="canny", fit="short_side", size=768).sizes
    assert sized == SizePolicy(mode="short_side", size=768)
    assert decided(recipe="canny", size=256).sizes == SizePolicy(size=256)


def test_filters_may_come_as_settings_too():
    found = decided(conditions=("canny",), settings=("filters.min_side=300",))
    assert found.filters.min_side == 300


def test_prefix_suffix_and_trigger_go_around_every_captioner():
    captioner = decided(
        conditions=("canny",), captions="template", prefix="photo of", trigger="sks"
    ).captioner
    told = captioner.as_dict()
    assert "photo of" in str(told)
    assert "sks" in str(told)


@pytest.mark.parametrize(
    ("wishes", "error", "named"),
    [
        ({"recipe": "cany"}, UnknownNameError, "did you mean 'canny'"),
        ({"conditions": ("cany",)}, UnknownNameError, "did you mean 'canny'"),
        ({"settings": ("canny.lo=3",)}, UnknownNameError, "canny.low"),
        ({"settings": ("sizes.crob=left",)}, UnknownNameError, "did you mean 'crop'"),
        ({"settings": ("captions.sufixes=.txt",)}, UnknownNameError, "suffixes"),
        ({"filters": ("min_sid=3",)}, UnknownNameError, "min_side"),
        ({"filters": ("min_side",)}, ConfigError, "NAME=VALUE"),
        ({"captions": "blip"}, UnknownNameError, "blip"),
        ({"fit": "original", "size": 256}, ConfigError, "sizes.size"),
        ({"fit": "bucket", "size": 0}, ConfigError, "sizes"),
    ],
    ids=str,
)
def test_mistakes_are_named_with_what_is_right(wishes, error, named):
    with pytest.raises(error, match=named.replace(".", r"\.")):
        decided(**{"conditions": ("canny",), **wishes})
