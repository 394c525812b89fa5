"""The scene generator: what it draws, writes and reads back."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from condkit.errors import ConfigError
from condkit.scenes import (
    COLOURS,
    KINDS,
    SIZE,
    Scene,
    Shape,
    caption_of,
    contrasting_colours,
    draw_scene,
    read_scene,
    render,
    write_scenes,
)

SEEDS = range(150)


def scene(seed: int, count: int | None = None) -> Scene:
    return draw_scene(np.random.default_rng([7, seed]), count)


def test_the_same_seed_draws_the_same_scene() -> None:
    first, second = scene(3), scene(3)
    assert np.array_equal(first.image, second.image)
    assert first.shapes == second.shapes
    assert first.caption == second.caption
    assert scene(4).caption != first.caption


def test_pictures_are_rgb_bytes_of_the_documented_size() -> None:
    image = scene(0).image
    assert image.shape == (SIZE, SIZE, 3)
    assert image.dtype == np.uint8


def test_every_number_kind_and_colour_turns_up() -> None:
    scenes = [scene(seed) for seed in range(400)]
    shapes = [shape for drawn in scenes for shape in drawn.shapes]
    assert {len(drawn.shapes) for drawn in scenes} == {1, 2, 3}
    assert {shape.kind for shape in shapes} == set(KINDS)
    assert {shape.colour for shape in shapes} == set(COLOURS)
    assert {drawn.background for drawn in scenes} == set(COLOURS)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shapes_stay_inside_and_apart(count: int) -> None:
    for seed in SEEDS:
        shapes = scene(seed, count).shapes
        assert len(shapes) == count
        for number, shape in enumerate(shapes):
            assert shape.radius < min(shape.x, shape.y, SIZE - shape.x, SIZE - shape.y)
            for other in shapes[:number]:
                apart = max(abs(shape.x - other.x), abs(shape.y - other.y))
                assert apart > shape.radius + other.radius


def test_no_two_shapes_of_a_scene_are_alike() -> None:
    for seed in SEEDS:
        looks = [(shape.kind, shape.colour) for shape in scene(seed, 3).shapes]
        assert len(set(looks)) == 3


def test_captions_name_shapes_colours_and_background() -> None:
    red = Shape("circle", "red", 20, 20, 8)
    orange = Shape("square", "orange", 44, 44, 8)
    green = Shape("cross", "green", 20, 44, 8)
    assert caption_of([red], "black") == "a red circle on a black background"
    assert caption_of([red, orange], "white") == (
        "a red circle and an orange square on a white background"
    )
    assert caption_of([green, red, orange], "orange") == (
        "a green cross, a red circle and an orange square on an orange background"
    )


def test_the_edge_detector_sees_every_outline() -> None:
    for background in COLOURS:
        for colour in contrasting_colours(background):
            for kind in KINDS:
                image = render([Shape(kind, colour, 31.3, 32.7, 12)], background)
                edges = cv2.Canny(image, 100, 200) > 0
                assert edges.sum() > 40, (background, colour, kind)
                rows, columns = np.nonzero(edges)
                assert rows.max() - rows.min() > 20
                assert columns.max() - columns.min() > 20


def test_each_background_leaves_a_choice_of_colours() -> None:
    for background in COLOURS:
        colours = contrasting_colours(background)
        assert background not in colours
        assert len(colours) >= 6


def test_the_reader_reads_what_was_drawn() -> None:
    for seed in SEEDS:
        drawn = scene(seed, 1)
        reading = read_scene(drawn.image)
        assert reading.background == drawn.background
        assert reading.kind == drawn.shapes[0].kind
        assert reading.colour == drawn.shapes[0].colour
        assert reading.count == 1


def test_the_reader_bears_noise() -> None:
    rng = np.random.default_rng(0)
    right = 0
    for seed in SEEDS:
        drawn = scene(seed, 1)
        noisy = np.clip(drawn.image + rng.normal(0, 8, drawn.image.shape), 0, 255)
        reading = read_scene(noisy.astype(np.uint8))
        wanted = drawn.shapes[0]
        right += (reading.kind, reading.colour) == (wanted.kind, wanted.colour)
    assert right >= 0.95 * len(SEEDS)


def test_the_reader_counts_shapes() -> None:
    for seed in SEEDS:
        drawn = scene(seed)
        assert read_scene(drawn.image).count == len(drawn.shapes)


def test_the_reader_finds_no_shape_in_an_empty_picture() -> None:
    reading = read_scene(render([], "cyan"))
    assert reading.background == "cyan"
    assert reading.kind is None
    assert reading.colour is None
    assert reading.count == 0


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
    ],
)
def test_the_reader_refuses_other_arrays(image: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="uint8 picture"):
        read_scene(image)


def test_written_scenes_come_with_their_captions(tmp_path: Path) -> None:
    paths = write_scenes(tmp_path / "new" / "folder", 3, seed=5)
    assert [path.name for path in paths] == [f"scene-{number:05d}.png" for number in range(3)]
    for number, path in enumerate(paths):
        expected = draw_scene(np.random.default_rng([5, number]))
        stored = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        assert np.array_equal(stored, expected.image)
        assert path.with_suffix(".txt").read_text() == f"{expected.caption}\n"


def test_a_longer_run_repeats_a_shorter_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_scenes(tmp_path / "short", 2, seed=1)
    write_scenes(tmp_path / "long", 4, seed=1)
    for path in (tmp_path / "short").iterdir():
        assert path.read_bytes() == (tmp_path / "long" / path.name).read_bytes()
    assert len(list((tmp_path / "long").iterdir())) == 8


@pytest.mark.parametrize("count", [0, 4, -1])
def test_a_scene_needs_one_to_three_shapes(count: int) -> None:
    with pytest.raises(ConfigError, match="1 to 3 shapes"):
        scene(0, count)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown colour 'mauve'"):
        contrasting_colours("mauve")
    with pytest.raises(ConfigError, match="unknown shape 'star'"):
        render([Shape("star", "red", 32, 32, 10)], "black")


@pytest.mark.parametrize(("count", "seed"), [(-1, 0), (1, -1)])
def test_negative_counts_and_seeds_are_refused(tmp_path: Path, count: int, seed: int) -> None:
    with pytest.raises(ConfigError, match="must not be negative"):
        write_scenes(tmp_path, count, seed)
