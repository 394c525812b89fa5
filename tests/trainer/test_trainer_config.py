"""Settings and recipes."""

import itertools

import pytest

from condkit.errors import ConfigError, UnknownNameError
from condkit.trainer.config import TrainConfig
from condkit.trainer.recipes import available_recipes, load_recipe
from condkit.trainer.schedule import learning_rate


@pytest.mark.parametrize("name", available_recipes())
def test_every_recipe_is_complete_and_names_its_condition(name):
    config = load_recipe(name)
    assert config.condition == name.removeprefix("tiny-")
    assert config.summary
    assert config.data.caption_dropout == 0.5


def test_the_four_recipes_are_there():
    assert set(available_recipes()) >= {"canny", "lines", "scribble", "softedge"}


def test_a_single_setting_can_be_changed():
    config = load_recipe("canny", {"optim.lr": "2e-5", "data.crop": "center"})
    assert config.optim.lr == 2e-5
    assert config.data.crop == "center"
    assert config.run == load_recipe("canny").run


def test_a_list_is_written_with_commas():
    config = load_recipe("canny", {"control.embedding_channels": "16,32,96"})
    assert config.control.embedding_channels == (16, 32, 96)


def test_an_unknown_setting_names_itself_and_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'optim\.lrr'; did you mean 'lr'"):
        load_recipe("canny", {"optim.lrr": "1"})


def test_an_unknown_recipe_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="recipe 'cany'; did you mean 'canny'"):
        load_recipe("cany")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("optim.lr", "0", r"optim\.lr: expected more than 0"),
        ("optim.lr", "fast", r"optim\.lr: expected a number"),
        ("optim.schedule", "cosin", "did you mean 'cosine'"),
        ("data.flip", "2", r"data\.flip: expected a probability"),
        ("data.batch_size", "1.5", r"data\.batch_size: expected a whole number"),
        ("run.steps", "0", r"run\.steps: expected at least 1"),
        ("checkpoint.keep", "0", r"checkpoint\.keep"),
        ("preview.every", "-1", r"preview\.every"),
        ("condition", "", "condition: expected a dataset column"),
    ],
)
def test_an_impossible_value_is_refused_by_its_dotted_name(name, value, message):
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        load_recipe("canny", {name: value})


def test_a_recipe_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('condition = "canny"\n[optim]\nlr = 3e-5\n', encoding="utf-8")
    config = load_recipe(str(path), {"run.steps": "7"})
    assert isinstance(config, TrainConfig)
    assert (config.optim.lr, config.run.steps) == (3e-5, 7)


def test_a_broken_recipe_file_says_so(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("condition = \n", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_recipe(str(path))
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        load_recipe(str(tmp_path / "absent.toml"))


def test_warm_up_rises_to_the_peak_and_the_cosine_falls_to_zero():
    optim = load_recipe(
        "canny", {"optim.lr": "1", "optim.schedule": "cosine", "optim.warmup_steps": "4"}
    ).optim
    rates = [learning_rate(optim, step, 104) for step in range(104)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(rates[4:]))
    assert 0 < rates[-1] < 0.001


def test_the_rate_counts_optimizer_steps_whatever_the_accumulation():
    one = load_recipe("canny", {"optim.warmup_steps": "10"}).optim
    four = load_recipe("canny", {"optim.warmup_steps": "10", "optim.accumulation": "4"}).optim
    assert [learning_rate(one, s, 50) for s in range(50)] == [
        learning_rate(four, s, 50) for s in range(50)
    ]
