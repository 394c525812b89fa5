"""The recipes that come with condkit, on every kind of hardware."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from condkit.annotators.registry import available_conditions
from condkit.errors import ConfigError, UnknownNameError
from condkit.trainer.recipes import available_recipes, hardware_profiles, load_recipe

OF_A_CONDITION = (
    *("canny", "softedge", "scribble", "lineart", "lines", "depth", "normal", "seg", "openpose"),
    *("hands", "tile", "inpaint"),
)
PROFILES = ("laptop", "24gb", "80gb", "8x80gb")
DEVICES = {"8x80gb": 8}


def text_of(name):
    return (resources.files("condkit") / "recipes" / f"{name}.toml").read_text("utf-8")


def comments_of(name):
    """The comments as one line of text, since they are wrapped."""
    lines = (line.lstrip("# ") for line in text_of(name).splitlines() if line.startswith("#"))
    return " ".join(" ".join(lines).split())


def trained():
    return [name for name in available_recipes() if not name.startswith("tiny-")]


def logical_batch(config, devices=1):
    return config.data.batch_size * config.optim.accumulation * devices


def test_there_is_a_recipe_for_each_of_the_papers_conditions():
    assert set(OF_A_CONDITION) <= set(available_recipes())


@pytest.mark.parametrize("hardware", PROFILES)
@pytest.mark.parametrize("name", trained())
def test_every_recipe_loads_on_every_hardware(name, hardware):
    assert hardware_profiles(name) == PROFILES
    config = load_recipe(name, hardware=hardware)
    assert config == load_recipe(name, {"hardware": hardware})
    assert config.condition == name
    assert name in available_conditions()
    # The hardware decides how the batch is cut up and what is kept, never the method.
    plain = load_recipe(name)
    assert config.optim.lr == plain.optim.lr == 1e-5
    assert config.data.caption_dropout == plain.data.caption_dropout == 0.5
    assert config.data.flip == plain.data.flip == 0.5
    assert config.data.resolution == 512


@pytest.mark.parametrize("name", trained())
def test_a_recipe_alone_is_that_of_one_card_of_24_gb(name):
    assert load_recipe(name) == load_recipe(name, hardware="24gb")


@pytest.mark.parametrize("name", trained())
def test_logical_batches_grow_with_the_hardware_up_to_256(name):
    batches = [
        logical_batch(load_recipe(name, hardware=hardware), DEVICES.get(hardware, 1))
        for hardware in PROFILES
    ]
    assert batches == sorted(batches)
    assert batches[-1] == 256
    assert batches[0] >= 16


def test_the_published_numbers_are_in_the_recipes():
    canny = load_recipe("canny", hardware="8x80gb")
    assert (canny.data.batch_size, canny.optim.accumulation) == (32, 1)
    assert canny.run.steps == 50_000
    hands = load_recipe("hands")
    assert (hands.data.batch_size, hands.optim.accumulation) == (4, 4)
    for name in trained():
        config = load_recipe(name)
        assert config.optim.schedule == "constant"
        assert config.optim.name == "adamw"
        assert config.run.steps >= 10_000
        laptop = load_recipe(name, hardware="laptop")
        assert laptop.control.only_mid
        assert not config.control.only_mid


@pytest.mark.parametrize("name", trained())
def test_a_recipe_names_its_sources(name):
    comments = comments_of(name)
    assert "Sources: the paper (arXiv 2302.05543v3)" in comments
    assert "lllyasviel/ControlNet" in comments
    assert f"condkit build --recipe {name}" in comments or f"--condition {name}" in comments


@pytest.mark.parametrize(
    ("name", "said"),
    [
        # Contradictions between the sources are named where they matter.
        ("canny", "its first README said 200"),
        ("softedge", "300 or 600 A100 hours"),
        ("lines", "150 or 160 A100 hours"),
        ("seg", "20,210 training pictures"),
        ("inpaint", "-1 in 1.1"),
        ("normal", "red is left, green is up"),
        ("openpose", "30 % of a person's key points"),
        ("lines", "start_from"),
        ("scribble", "start_from"),
        ("hands", "control_v11f1p_sd15_depth"),
        ("canny", "The decoder alone, as the released code does it"),
        *((name, "not that of the paper's text") for name in ("canny", "depth", "tile")),
        *((name, "The released tutorial drops none") for name in ("canny", "inpaint")),
        *((name, "64e-4") for name in OF_A_CONDITION),
    ],
)
def test_where_sources_contradict_each_other_the_recipe_says_so(name, said):
    assert said in comments_of(name)


@pytest.mark.parametrize("name", trained())
def test_the_lines_that_are_commented_out_are_settings(name):
    """Such as a start point: what a user uncomments must be accepted."""
    found = re.findall(r"^# ([a-z_]+(?:\.[a-z_]+)*) = (.+)$", text_of(name), flags=re.MULTILINE)
    known = {"start_from": "control.start_from"}
    changes = {known.get(key, key): value.strip('"') for key, value in found}
    config = load_recipe(name, changes)
    if "control.start_from" in changes:
        assert config.control.start_from == changes["control.start_from"]
    if "control.unlock_decoder" in changes:
        assert config.control.unlock_decoder < config.run.steps


def test_a_build_recipe_that_a_training_recipe_names_is_there():
    built = {
        item.name.removesuffix(".toml")
        for item in (resources.files("condkit") / "recipes" / "build").iterdir()
    }
    for name in trained():
        for asked in re.findall(r"--recipe (\w+)", comments_of(name)):
            assert asked in built, name


def test_settings_win_over_the_hardware_and_a_wrong_one_suggests_the_nearest():
    config = load_recipe("canny", {"hardware": "80gb", "data.batch_size": "24"})
    assert (config.data.batch_size, config.compute.compile) == (24, True)
    with pytest.raises(
        UnknownNameError, match=r"hardware of the recipe canny '24gbb'; did you mean '24gb'"
    ):
        load_recipe("canny", hardware="24gbb")
    with pytest.raises(UnknownNameError, match="unknown hardware"):
        load_recipe("tiny-canny", hardware="laptop")


def test_a_recipe_of_ones_own_may_have_hardware(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'condition = "canny"\n[optim]\nlr = 3e-5\nbetas = [0.8, 0.9]\n'
        "[hardware.big]\noptim.lr = 1e-4\ndata.batch_size = 64\n",
        encoding="utf-8",
    )
    assert hardware_profiles(str(path)) == ("big",)
    config = load_recipe(str(path), hardware="big")
    assert (config.optim.lr, config.optim.betas, config.data.batch_size) == (1e-4, (0.8, 0.9), 64)
    path.write_text('condition = "canny"\n[hardware.big]\noptim.lrr = 1e-4\n', encoding="utf-8")
    with pytest.raises(UnknownNameError, match=r"'optim\.lrr'; did you mean 'lr'"):
        load_recipe(str(path), hardware="big")
    path.write_text('condition = "canny"\n[hardware.big]\noptim.lr = 0\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"optim\.lr: expected more than 0"):
        load_recipe(str(path), hardware="big")


def test_the_command_line_lists_recipes_with_their_hardware_and_takes_it(tmp_path):
    from typer.testing import CliRunner

    from condkit.cli import app

    listed = CliRunner().invoke(app, ["recipes"], env={"COLUMNS": "200"})
    assert listed.exit_code == 0
    for name in available_recipes():
        (line,) = (
            line for line in listed.output.splitlines() if line.split()[:2] == [name, "train"]
        )
        assert all(profile in line for profile in hardware_profiles(name))
    words = ["train", "canny", "--data", str(tmp_path), "-o", str(tmp_path / "run")]
    refused = CliRunner().invoke(app, [*words, "--hardware", "80g"])
    assert isinstance(refused.exception, UnknownNameError)
    assert "did you mean '80gb'" in str(refused.exception)
