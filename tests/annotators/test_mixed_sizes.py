"""Working sizes that are drawn for each image, on every detector that can."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.annotators.base import field_names
from condkit.annotators.detect_sizes import SizeDraw
from condkit.annotators.registry import available_detectors, get_condition, get_detector
from condkit.errors import ConfigError
from condkit.runtime import Runtime

MIXED = tuple(
    name
    for name in available_detectors()
    if "detect_sizes" in field_names(get_detector(name).params)
)
SIZES = (64, 96, 128)
IMAGES = [
    np.random.default_rng(n).integers(0, 256, (70 + n, 90 - n, 3), np.uint8) for n in range(6)
]


def _depth(detector, store, seed=0, **settings):
    settings = {"detector": detector, **settings}
    plan = plan_annotation(["depth"], {f"depth.{k}": v for k, v in settings.items()}, seed=seed)
    return Annotator(plan, Runtime(device="cpu", dtype="fp32", store=store))


def test_every_depth_detector_of_many_sizes_can_mix_them():
    depth = get_condition("depth")
    # Depth Pro's network takes one size and no other.
    assert set(MIXED) == set(depth.detectors) - {"depth-pro"}


@pytest.fixture(scope="module", params=MIXED)
def drawn(request, random_store):
    """What a detector made of `IMAGES` in one batch, with the store it came from."""
    store = random_store(request.param)
    with _depth(request.param, store, detect_sizes="64,96,128") as annotator:
        return request.param, store, [maps["depth"] for maps in annotator(IMAGES)]


def test_the_size_is_one_of_those_asked_for_and_is_recorded(drawn):
    sizes = [depth.facts["detect_size"] for depth in drawn[2]]
    assert set(sizes) <= set(SIZES)
    assert len(set(sizes)) > 1
    for image, depth in zip(IMAGES, drawn[2], strict=True):
        assert depth.pixels.shape == image.shape[:2]


def test_a_map_is_that_of_its_size_alone(drawn):
    detector, store, maps = drawn
    image, mixed = IMAGES[0], maps[0]
    with _depth(detector, store, detect_size=int(mixed.facts["detect_size"])) as annotator:
        (alone,) = annotator([image])
    off = np.abs(alone["depth"].pixels.astype(int) - mixed.pixels)
    assert off.max() <= 1
    assert "detect_size" not in alone["depth"].facts


def test_neither_batch_nor_order_changes_a_size(drawn):
    detector, store, maps = drawn
    with _depth(detector, store, detect_sizes="64,96,128") as annotator:
        (one,) = annotator(IMAGES[3:4])
    assert one["depth"].facts["detect_size"] == maps[3].facts["detect_size"]
    assert np.abs(one["depth"].pixels.astype(int) - maps[3].pixels).max() <= 1


def test_all_sizes_are_as_likely_and_follow_the_seed():
    images = [np.full((2, 2, 3), n, np.uint8) for n in range(256)]
    first, again, other, elsewhere = (
        [SizeDraw(SIZES, seed, name)(image) for image in images]
        for seed, name in ((0, "midas"), (0, "midas"), (1, "midas"), (0, "zoedepth"))
    )
    assert first == again
    assert first != other
    assert first != elsewhere
    assert min(Counter(first).values()) > 60
    assert set(first) == set(SIZES)


@pytest.mark.parametrize("detector", MIXED)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"detect_sizes": "256,256"}, "detect_sizes: expected different sizes"),
        ({"detect_sizes": "256,9"}, "detect_sizes: expected different sizes of .* got 256, 9"),
        ({"detect_sizes": "256,512", "detect_size": "400"}, "detect_size: expected to be left out"),
        ({"detect_size": "9"}, "detect_size: expected .* to 4096 pixels, got 9"),
        ({"seed": "-1"}, "seed: expected at least 0"),
    ],
)
def test_a_mistake_is_refused_with_the_detectors_name(detector, settings, message):
    values = {f"depth.{k}": v for k, v in {"detector": detector, **settings}.items()}
    with pytest.raises(ConfigError, match=f"{detector}.{message}"):
        plan_annotation(["depth"], values)


def test_normals_of_depth_are_of_mixed_sizes_too(random_store):
    plan = plan_annotation(["normal", "depth"], {"midas.detect_sizes": "64,96"})
    runtime = Runtime(device="cpu", dtype="fp32", store=random_store("midas"))
    with Annotator(plan, runtime) as annotator:
        for maps in annotator(IMAGES[:3]):
            size = maps["depth"].facts["detect_size"]
            assert maps["normal"].facts["detect_size"] == size
