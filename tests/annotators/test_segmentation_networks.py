from __future__ import annotations

import itertools
import shutil
import socket

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms.v2 import functional as tvF

from condkit.annotators.base import field_names
from condkit.annotators.nets.class_maps import class_map, semantic_scores
from condkit.annotators.nets.semantic import Framing, SemanticDetector, frame
from condkit.annotators.nets.transformers_segmentation import (
    _TASK_TOKENS,
    SegformerScores,
    load_scores,
    window_starts,
)
from condkit.annotators.registry import get_detector
from condkit.errors import ConfigError, MapError, WeightsError
from condkit.runtime import Runtime

NETWORKS = ("oneformer", "mask2former", "eomt", "segformer", "upernet")


@pytest.fixture(scope="module")
def loaded(random_store):
    """A detector with random weights, from the folders that the hub's files would lie in."""

    def load(name, dtype="fp32", **settings):
        store = random_store(name)
        definition = get_detector(name)
        if "detect_size" in field_names(definition.params):
            settings.setdefault("detect_size", 64)
        params = definition.params(**settings)
        (model,) = definition.weights(params)
        detector = definition.load(params, Runtime("cpu", dtype, store=store))
        return detector, store.folder(model)

    return load


def _noise(seed, height, width):
    """Blocks of colour with some noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    image = np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)[:height, :width]
    return np.ascontiguousarray(image ^ rng.integers(0, 32, image.shape, dtype=np.uint8))


def _ids(detector, image):
    (found,) = detector([image])
    assert found.size_hw == image.shape[:2]
    return found.ids


def _assert_same_classes(ours, theirs, least=2):
    assert len(np.unique(theirs)) >= least, "the random network says the same everywhere"
    # Sums in another order may decide a tie the other way.
    assert np.mean(ours != np.asarray(theirs)) < 0.001


# -- against transformers on the same weights ----------------------------------------------------


def _from_transformers(folder, model_class, processor, image, **inputs):
    model = getattr(transformers, model_class).from_pretrained(folder).eval()
    given = processor(images=Image.fromarray(image), return_tensors="pt", **inputs)
    with torch.inference_mode():
        outputs = model(**{key: value for key, value in given.items() if key != "original_sizes"})
    target = [image.shape[:2]]
    return processor.post_process_semantic_segmentation(outputs, target_sizes=target)[0].numpy()


@pytest.fixture(scope="module")
def clip_tokenizer(assets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    shutil.copy(assets / "vocab" / "clip_vocab.json", folder / "vocab.json")
    shutil.copy(assets / "vocab" / "clip_merges.txt", folder / "merges.txt")
    return transformers.CLIPTokenizer.from_pretrained(folder)


# Sizes whose working size needs no padding: as they are, shrunk, enlarged, and so small that the
# scores are larger than the image.
@pytest.mark.parametrize("size_hw", [(64, 96), (64, 64), (192, 96), (128, 192), (32, 48), (8, 12)])
@pytest.mark.parametrize("weights", ["ade20k", "coco"])
def test_oneformer_gives_transformers_classes(loaded, clip_tokenizer, weights, size_hw):
    detector, folder = loaded("oneformer", weights=weights)
    processor = transformers.OneFormerProcessor(
        transformers.OneFormerImageProcessor.from_pretrained(folder), clip_tokenizer
    )
    image = _noise(sum(size_hw), *size_hw)
    theirs = _from_transformers(
        folder, "OneFormerForUniversalSegmentation", processor, image, task_inputs=["semantic"]
    )
    _assert_same_classes(_ids(detector, image), theirs, least=1 if size_hw == (8, 12) else 2)


def test_the_task_is_spelled_as_clips_tokenizer_spells_it(clip_tokenizer):
    assert tuple(clip_tokenizer("the task is semantic")["input_ids"]) == _TASK_TOKENS


def test_oneformer_loads_without_a_look_at_the_network(loaded, monkeypatch):
    # transformers' processor fetches ade20k_panoptic.json from another repository.
    def refuse(*args):
        raise AssertionError(f"the network was asked: {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    detector, folder = loaded("oneformer")
    assert _ids(detector, _noise(1, 64, 64)).shape == (64, 64)
    needed = {file.name for file in get_detector("oneformer").spec.weights["ade20k"].files}
    assert needed == {path.name for path in folder.iterdir()}


# Its processor stretches all images to 384x384, so squares alone compare.
@pytest.mark.parametrize("side", [384, 250, 500])
@pytest.mark.parametrize("weights", ["ade20k", "coco"])
def test_mask2former_gives_transformers_classes_on_squares(loaded, weights, side):
    detector, folder = loaded("mask2former", weights=weights, detect_size=384)
    processor = transformers.Mask2FormerImageProcessor.from_pretrained(folder)
    image = _noise(side, side, side)
    theirs = _from_transformers(folder, "Mask2FormerForUniversalSegmentation", processor, image)
    _assert_same_classes(_ids(detector, image), theirs)


@pytest.mark.parametrize("size_hw", [(64, 64), (64, 150), (170, 64), (128, 256), (40, 60)])
def test_eomt_gives_transformers_classes_in_windows(loaded, size_hw):
    detector, folder = loaded("eomt")
    processor = transformers.EomtImageProcessor.from_pretrained(folder)
    image = _noise(sum(size_hw), *size_hw)
    theirs = _from_transformers(folder, "EomtForUniversalSegmentation", processor, image)
    _assert_same_classes(_ids(detector, image), theirs)


@pytest.mark.parametrize("side", [96, 200])
def test_eomt_gives_transformers_classes_in_one_square(loaded, side):
    detector, folder = loaded("eomt", weights="coco")
    processor = transformers.EomtImageProcessor.from_pretrained(folder)
    image = _noise(side, side, side)
    theirs = _from_transformers(folder, "EomtForUniversalSegmentation", processor, image)
    _assert_same_classes(_ids(detector, image), theirs)


def test_eomts_square_pads_a_wide_image_and_never_stretches_it(loaded):
    detector, _ = loaded("eomt", weights="coco")
    item = frame(_noise(3, 100, 200), 0, detector.framing)
    assert item.inner_hw == (48, 96)
    assert tuple(item.pixels.shape) == (3, 96, 96)
    assert torch.equal(item.pixels[:, 48:], item.pixels[:, 47:48].expand(-1, 48, -1))


@pytest.mark.parametrize("side", [64, 100])
@pytest.mark.parametrize("name", ["segformer", "upernet"])
def test_a_semantic_network_gives_the_pipelines_classes(loaded, name, side):
    detector, folder = loaded(name)
    model = transformers.AutoModelForSemanticSegmentation.from_pretrained(folder)
    processor = transformers.SegformerImageProcessor.from_pretrained(folder)
    pipe = transformers.pipeline("image-segmentation", model=model, image_processor=processor)
    image = _noise(side, side, side)
    theirs = np.full(image.shape[:2], -1)
    for found in pipe(Image.fromarray(image)):
        theirs[np.asarray(found["mask"]) > 0] = model.config.label2id[found["label"]]
    # UPerNet's own forward resizes its scores twice where the image is not of the working size.
    same = np.mean(_ids(detector, image) == theirs)
    assert len(np.unique(theirs)) > 2
    assert same > (0.999 if name == "segformer" or side == 64 else 0.97)


@pytest.mark.parametrize("name", ["segformer", "upernet"])
def test_a_semantic_network_keeps_proportions_where_its_processor_would_stretch(loaded, name):
    detector, folder = loaded(name)
    processor = transformers.SegformerImageProcessor.from_pretrained(folder, do_resize=False)
    model = {"segformer": "Segformer", "upernet": "UperNet"}[name] + "ForSemanticSegmentation"
    image = _noise(5, 64, 128)
    _assert_same_classes(_ids(detector, image), _from_transformers(folder, model, processor, image))


# -- promises of all of them ---------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_images_that_share_a_forward_pass_do_not_share_results(loaded, name):
    detector, _ = loaded(name)
    images = [_noise(1, 64, 80), _noise(2, 70, 90), _noise(3, 64, 64), _noise(4, 64, 90)]
    alone = [_ids(detector, image) for image in images]
    detector.budget.pixels = 1 << 20
    for together, single in zip(detector(images), alone, strict=True):
        assert np.mean(together.ids != single) < 0.005


@pytest.mark.parametrize("name", NETWORKS)
def test_bf16_mostly_agrees_with_fp32_even_with_random_weights(loaded, name, shapes):
    full, _ = loaded(name)
    half, _ = loaded(name, "bf16")
    # A random network is undecided nearly everywhere; a trained one is not.
    assert np.mean(_ids(full, shapes) == _ids(half, shapes)) > 0.7


@pytest.mark.parametrize(
    ("name", "size_hw", "padded_hw"),
    [
        ("oneformer", (64, 110), (64, 128)),
        ("mask2former", (64, 110), (64, 128)),
        ("segformer", (110, 64), (128, 64)),
        ("upernet", (64, 110), (64, 128)),
        ("eomt", (96, 60), (96, 96)),
    ],
)
def test_a_padded_image_is_seen_as_one_whose_edge_goes_on(loaded, name, size_hw, padded_hw):
    detector, _ = loaded(name, **({"weights": "coco"} if name == "eomt" else {}))
    image = _noise(6, *size_hw)
    below, right = padded_hw[0] - size_hw[0], padded_hw[1] - size_hw[1]
    padded = np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge")
    theirs = _ids(detector, padded)[: size_hw[0], : size_hw[1]]
    _assert_same_classes(_ids(detector, image), theirs)


@pytest.mark.parametrize("name", ["oneformer", "mask2former", "segformer", "upernet"])
@pytest.mark.parametrize("value", [0, 31, 5000])
def test_an_impossible_working_size_is_refused(name, value):
    with pytest.raises(ConfigError, match=rf"{name}\.detect_size: expected 32 to 4096"):
        get_detector(name).params(detect_size=value)


def test_a_network_of_other_classes_is_refused(loaded):
    _, folder = loaded("segformer")
    with pytest.raises(WeightsError, match="knows 150 classes, the palette of 'coco' has 133"):
        load_scores("SegformerForSemanticSegmentation", SegformerScores, folder, "coco")


def test_scores_that_are_not_finite_are_an_error(loaded):
    detector, _ = loaded("segformer")
    broken = SemanticDetector(
        name="broken",
        network=lambda pixels: pixels * float("nan"),
        palette="ade20k",
        device=detector.device,
        budget=detector.budget,
        framing=detector.framing,
    )
    with pytest.raises(MapError, match="broken: the network's output is not finite"):
        broken([_noise(8, 64, 64)])


# -- sizes ---------------------------------------------------------------------------------------

ONEFORMER = Framing(short=640, longest=2560, multiple=32, least=32)


@pytest.mark.parametrize(
    ("size_hw", "working", "padded"),
    [
        ((640, 853), (640, 853), (640, 864)),
        ((480, 640), (640, 853), (640, 864)),
        ((8000, 8000), (640, 640), (640, 640)),
        ((1, 2000), (1, 2560), (32, 2560)),
        ((20000, 640), (2560, 82), (2560, 96)),
        ((1, 1), (640, 640), (640, 640)),
    ],
)
def test_the_working_size_keeps_proportions_and_has_an_upper_bound(size_hw, working, padded):
    assert ONEFORMER.working_hw(size_hw) == working
    assert ONEFORMER.padded_hw(working) == padded


@given(side=st.integers(1, 5000), window=st.integers(1, 1000))
def test_windows_cover_a_side_from_start_to_end(side, window):
    side = max(side, window)
    starts = window_starts(side, window)
    assert starts[0] == 0
    assert starts[-1] == side - window
    assert all(b - a <= window for a, b in itertools.pairwise(starts))
    assert (len(starts) - 1) * window < side


# -- class maps ----------------------------------------------------------------------------------


def _scores(seed, height, width, classes=12):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, classes, height // 3 + 1, width // 3 + 1, generator=generator)
    return F.interpolate(coarse, (height, width), mode="bilinear")[0]


sides = st.integers(1, 40)


@given(seed=st.integers(0, 99), hw=st.tuples(sides, sides), size=st.tuples(sides, sides))
def test_a_class_map_is_the_argmax_of_resized_scores(seed, hw, size):
    scores = _scores(seed, *hw)
    resized = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
    ours = class_map(scores, hw, size).long()
    assert ours.shape == size
    best = resized.max(0).values
    assert torch.allclose(resized.gather(0, ours[None])[0], best, atol=1e-5)


@given(seed=st.integers(0, 99), side=st.integers(2, 30), times=st.floats(1.1, 4))
def test_a_small_images_class_map_is_smoothed_as_torchvision_does(seed, side, times):
    scores = _scores(seed, round(side * times), round(side * times))
    hw = tuple(scores.shape[1:])
    resized = tvF.resize(scores[None], [side, side])[0]
    ours = class_map(scores, hw, (side, side), antialias=True).long()
    assert torch.allclose(resized.gather(0, ours[None])[0], resized.max(0).values, atol=1e-4)


def test_padding_is_cut_off_between_two_rows_of_scores():
    scores = _scores(1, 20, 24)
    inner, size = (13.25, 19.5), (53, 78)
    y = (torch.arange(size[0]) + 0.5) * inner[0] / size[0] * 2 / 20 - 1
    x = (torch.arange(size[1]) + 0.5) * inner[1] / size[1] * 2 / 24 - 1
    grid = torch.stack([x.expand(size), y[:, None].expand(size)], dim=-1)[None]
    resized = F.grid_sample(scores[None], grid, padding_mode="border", align_corners=False)[0]
    assert (class_map(scores, inner, size) == resized.argmax(0)).float().mean() > 0.999


class _Largest(TorchDispatchMode):
    """Keeps the size in bytes of the largest tensor made."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else [found]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return found


def test_a_huge_image_does_not_need_its_scores_at_full_size():
    scores = _scores(2, 40, 40, classes=150)
    size = (1000, 1500)
    with _Largest() as largest:
        found = class_map(scores, (40, 40), size)
    assert found.shape == size
    assert largest.bytes < 50e6  # the scores at full size would be 900e6


def test_semantic_scores_are_the_sum_over_queries_of_class_times_mask():
    generator = torch.Generator().manual_seed(3)
    classes = torch.randn(2, 5, 4, generator=generator)
    masks = torch.randn(2, 5, 6, 7, generator=generator)
    expected = torch.einsum("nqc,nqhw->nchw", classes.softmax(-1)[..., :3], masks.sigmoid())
    assert torch.allclose(semantic_scores(classes, masks), expected, atol=1e-6)
    large = F.interpolate(masks, (12, 14), mode="bilinear", align_corners=False).sigmoid()
    expected = torch.einsum("nqc,nqhw->nchw", classes.softmax(-1)[..., :3], large)
    assert torch.allclose(semantic_scores(classes, masks, (12, 14)), expected, atol=1e-6)
