"""The depth networks: equal to transformers on the same weights, never stretched, never half full.

No published weights are here: small random models are saved as the hub has them and loaded by the
code that loads the hub's.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from condkit.annotators.framed import square_margins
from condkit.annotators.nets.transformers_depth import (
    load_depth_anything,
    load_depth_pro,
    load_dpt,
    load_zoedepth,
)
from condkit.annotators.registry import get_detector
from condkit.annotators.zoedepth import border
from condkit.errors import ConfigError, WeightsError
from condkit.predictions import InverseDepth, MetricDepth
from condkit.runtime import Runtime
from condkit.weights import WeightStore

CPU = torch.device("cpu")
LOADERS = {
    "midas": load_dpt,
    "dpt-large": load_dpt,
    "depth-anything-v2": load_depth_anything,
    "zoedepth": lambda *place: load_zoedepth(*place, flip=False),
    "depth-pro": load_depth_pro,
}
DETECTORS = tuple(LOADERS)
# Height and width that the pipeline does not resample, and the settings that make us work there.
# ZoeDepth mirrors 16 pixels around 64: the network sees 96 and the processor is told so.
NATIVE = {
    "midas": ((64, 64), {"detect_size": 64}),
    "dpt-large": ((64, 64), {"detect_size": 64}),
    "depth-anything-v2": ((70, 98), {"detect_size": 70}),
    "zoedepth": ((64, 64), {"detect_size": 96}),
    "depth-pro": ((192, 192), {}),
}


def _folder(store, name):
    return store.folder(next(iter(get_detector(name).spec.weights.values())))


def _detector(store, name, dtype="fp32", **settings):
    definition = get_detector(name)
    return definition.load(definition.params(**settings), Runtime("cpu", dtype, store=store))


def _values(prediction):
    match prediction:
        case InverseDepth(values) | MetricDepth(values):
            return values


def _clouds(seed, size_hw):
    """Smooth coloured shapes."""
    rough = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return cv2.resize(rough, size_hw[::-1], interpolation=cv2.INTER_CUBIC)


def _pipeline(folder):
    import transformers

    return transformers.pipeline("depth-estimation", model=str(folder))


@pytest.mark.parametrize("name", DETECTORS)
def test_depth_equals_the_transformers_pipeline_where_it_does_not_stretch(name, random_store):
    size_hw, settings = NATIVE[name]
    store, image = random_store(name), _clouds(0, size_hw)
    pipeline = _pipeline(_folder(store, name))
    if name == "zoedepth":
        pipeline.image_processor.size = {"height": 96, "width": 96}
    theirs = pipeline(Image.fromarray(image))["predicted_depth"].numpy()
    (found,) = _detector(store, name, **settings)([image])
    ours = _values(found)
    assert np.ptp(theirs) > 0.01 * np.abs(theirs).max()
    assert np.abs(ours - theirs).max() <= 1e-4 * np.ptp(theirs)


def test_zoedepth_with_flip_equals_the_mean_with_its_mirror(random_store):
    store, image = random_store("zoedepth"), _clouds(1, (64, 64))
    pipeline = _pipeline(_folder(store, "zoedepth"))
    processor, model = pipeline.image_processor, pipeline.model
    inputs = processor(
        images=Image.fromarray(image), size={"height": 96, "width": 96}, return_tensors="pt"
    )["pixel_values"]
    with torch.inference_mode():
        straight, mirrored = model(inputs), model(inputs.flip(3))
    (expected,) = processor.post_process_depth_estimation(
        straight, source_sizes=[(64, 64)], outputs_flipped=mirrored
    )
    (found,) = _detector(store, "zoedepth", detect_size=96, flip=True)([image])
    expected = expected["predicted_depth"].numpy()
    assert np.abs(found.metres - expected).max() <= 1e-4 * np.ptp(expected)
    (single,) = _detector(store, "zoedepth", detect_size=96)([image])
    assert np.abs(found.metres - single.metres).max() > 1e-4 * np.ptp(expected)


def test_stretched_depth_pro_is_the_pipelines_for_any_size(random_store):
    store, image = random_store("depth-pro"), _clouds(2, (192, 192))
    wide = cv2.resize(image, (288, 192), interpolation=cv2.INTER_LINEAR)
    pipeline = _pipeline(_folder(store, "depth-pro"))
    theirs = pipeline(Image.fromarray(wide))["predicted_depth"].numpy()
    (stretched,) = _detector(store, "depth-pro", fit="stretch")([wide])
    # They shrink without a filter, we by area.
    assert np.abs(stretched.metres - theirs).mean() < 0.02 * np.ptp(theirs)


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("size_hw", [(50, 100), (90, 50), (77, 75)])
def test_a_disc_reaches_the_network_round(name, size_hw, random_store):
    """Every network is padded, none is stretched."""
    detector = _detector(random_store(name), name, **NATIVE[name][1])
    seen = _record(detector)
    image = np.zeros((*size_hw, 3), np.uint8)
    cv2.circle(image, (size_hw[1] // 2, size_hw[0] // 2), 8, (255, 255, 255), -1)
    detector([image])
    (pixels,) = seen
    rows, columns = np.nonzero(pixels[0, 0].numpy() > 127)
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 1
    assert np.ptp(rows) > 10


def test_depth_pro_stretches_when_told_to(random_store):
    detector = _detector(random_store("depth-pro"), "depth-pro", fit="stretch")
    seen = _record(detector)
    image = np.zeros((50, 100, 3), np.uint8)
    cv2.circle(image, (50, 25), 8, (255, 255, 255), -1)
    detector([image])
    rows, columns = np.nonzero(seen[0][0, 0].numpy() > 127)
    assert np.ptp(rows) > 1.8 * np.ptp(columns)


def _record(detector):
    """What the network is given from now on."""
    dense = getattr(detector, "detector", detector)
    seen, forward = [], dense.forward

    def recording(pixels):
        seen.append(pixels)
        return forward(pixels)

    object.__setattr__(dense, "forward", recording)
    return seen


@pytest.mark.parametrize("name", DETECTORS)
def test_a_batch_of_mixed_sizes_equals_its_images(name, random_store):
    detector = _detector(random_store(name), name, **NATIVE[name][1])
    images = [_clouds(i, hw) for i, hw in enumerate([(64, 64), (64, 90), (64, 64), (90, 64)])]
    together = detector(images)
    for image, found in zip(images, together, strict=True):
        (alone,) = detector([image])
        assert _values(found).shape == image.shape[:2]
        assert np.abs(_values(found) - _values(alone)).max() <= 1e-4 * np.ptp(_values(alone))


@pytest.mark.parametrize("name", DETECTORS)
def test_images_that_share_a_forward_pass_do_not_share_results(name, random_store, monkeypatch):
    detector = _detector(random_store(name), name, **NATIVE[name][1])
    images = [_clouds(i, NATIVE[name][0]) for i in range(3)]
    alone = [_values(detector([image])[0]) for image in images]
    dense = getattr(detector, "detector", detector)
    monkeypatch.setattr(dense.budget, "pixels", 1 << 24)
    for found, expected in zip(detector(images), alone, strict=True):
        assert np.abs(_values(found) - expected).max() <= 1e-3 * np.ptp(expected)


@pytest.mark.parametrize("name", DETECTORS)
def test_bf16_is_close_to_fp32(name, random_store):
    """Within 1 % of the depth's range. Random weights amplify rounding: 99 of 100 pixels count."""
    size_hw, settings = NATIVE[name]
    image = _clouds(3, size_hw)
    (full,) = _detector(random_store(name), name, **settings)([image])
    (half,) = _detector(random_store(name), name, "bf16", **settings)([image])
    full, half = _values(full), _values(half)
    off = np.abs(full - half) / np.ptp(full)
    assert 0 < np.quantile(off, 0.99) < 0.01
    assert off.max() < 0.03


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("level", [0, 127, 255])
def test_a_flat_image_gives_finite_depth(name, level, random_store):
    detector = _detector(random_store(name), name, **NATIVE[name][1])
    (found,) = detector([np.full((40, 56, 3), level, np.uint8)])
    assert np.isfinite(_values(found)).all()
    assert (_values(found) >= 0).all()


def test_zoedepths_images_do_not_vote_together(random_store):
    """transformers' forward gives a whole batch one head: indoors or outdoors."""
    network = load_zoedepth(
        _folder(random_store("zoedepth"), "zoedepth"), CPU, torch.float32, flip=False
    )
    pixels = torch.from_numpy(np.stack([_clouds(i, (64, 64)) for i in range(8)]))
    pixels = pixels.permute(0, 3, 1, 2).float()
    bias = network.model.metric_head.heads.mlp_classifier.linear2.bias
    with torch.inference_mode():
        logits = network.model(network.normalised(pixels)).domain_logits
        # Between the images' leanings, so that some go indoors and some outdoors.
        leanings = (logits[:, 0] - logits[:, 1]).sort().values
        bias[0] -= (leanings[3] + leanings[4]) / 2
        logits = network.model(network.normalised(pixels)).domain_logits
        assert len(logits.argmax(1).unique()) == 2
        together = network(pixels)
        alone = torch.cat([network(one[None]) for one in pixels])
    assert (together - alone).abs().max() <= 1e-4 * (alone.max() - alone.min())


def test_zoedepth_is_not_exported_with_one_of_its_heads(random_store):
    definition = get_detector("zoedepth")
    runtime = Runtime("cpu", "fp32", backend="openvino", store=random_store("zoedepth"))
    with pytest.raises(ConfigError, match="use --backend torch or compile"):
        definition.load(definition.params(), runtime)


def test_depth_pro_stays_within_ten_kilometres(random_store):
    folder = _folder(random_store("depth-pro"), "depth-pro")
    from condkit.annotators.nets.depth_detectors import depth_pro_detector

    runtime = Runtime("cpu", "fp32", store=random_store("depth-pro"))
    network = load_depth_pro(folder, CPU, torch.float32)
    network.model.head.layers[-2].bias.fill_(-1e9)
    (model,) = get_detector("depth-pro").spec.weights.values()
    (sky,) = depth_pro_detector(network, runtime, model)([np.zeros((192, 192, 3), np.uint8)])
    assert sky.metres.max() == pytest.approx(1e4)


@pytest.mark.parametrize("size_hw", [(5, 5), (3, 10), (11, 4), (1, 2000)])
def test_the_square_frame_keeps_the_image_in_its_middle(size_hw):
    top, below, left, right = square_margins(size_hw)
    assert size_hw[0] + top + below == size_hw[1] + left + right == max(size_hw)
    assert abs(top - below) <= 1
    assert abs(left - right) <= 1


def test_zoedepths_border_is_its_authors():
    assert border((480, 640)) == (46, 46, 53, 53)
    assert border((310, 426)) == (37, 37, 43, 43)


def _copy_without(folder, target, drop, rename=None):
    """A copy of a model in which a tensor is missing, or has another name."""
    shutil.copytree(folder, target)
    (path,) = [p for p in Path(target).iterdir() if p.suffix in (".bin", ".safetensors")]
    if path.suffix == ".bin":
        state = torch.load(path, weights_only=True)
    else:
        from safetensors.torch import load_file

        state = load_file(path)
    value = state.pop(drop)
    if rename:
        state[rename] = value
    if path.suffix == ".bin":
        torch.save(state, path)
    else:
        from safetensors.torch import save_file

        save_file(state, path, metadata={"format": "pt"})
    return Path(target)


TENSORS = {
    "midas": "dpt.encoder.layer.1.attention.attention.query.weight",
    "dpt-large": "neck.convs.1.weight",
    "depth-anything-v2": "backbone.embeddings.cls_token",
    "zoedepth": "metric_head.conv2.bias",
    "depth-pro": "fov_model.head.layers.0.weight",
}


@pytest.mark.parametrize("name", DETECTORS)
def test_a_model_that_lacks_one_tensor_is_refused(name, random_store, tmp_path):
    """Row 17: controlnet_aux then goes on with strict=False, and random numbers in its place."""
    folder = _folder(random_store(name), name)
    state = LOADERS[name](folder, CPU, torch.float32).model.state_dict()
    tensor = TENSORS[name] if TENSORS[name] in state else sorted(state)[len(state) // 2]
    broken = _copy_without(folder, tmp_path / "model", _stored(folder, tensor))
    with pytest.raises(WeightsError, match="is missing"):
        LOADERS[name](broken, CPU, torch.float32)


def _stored(folder, tensor):
    """The tensor's name in the file; releases of transformers differ in some."""
    (path,) = [p for p in folder.iterdir() if p.suffix in (".bin", ".safetensors")]
    if path.suffix == ".bin":
        names = list(torch.load(path, weights_only=True))
    else:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            names = list(file.keys())
    return tensor if tensor in names else next(n for n in names if n.endswith(tensor[-20:]))


def test_a_model_with_a_foreign_tensor_is_refused(random_store, tmp_path):
    folder = _folder(random_store("dpt-large"), "dpt-large")
    broken = _copy_without(folder, tmp_path / "model", "neck.convs.1.weight", "neck.convs.9.weight")
    with pytest.raises(WeightsError, match=r"neck\.convs\.1\.weight is missing; neck\.convs\.9"):
        load_dpt(broken, CPU, torch.float32)


def test_indices_that_old_files_hold_beside_the_weights_are_no_fault(random_store, tmp_path):
    """Row 17: `relative_position_index` of BEiT follows from the size."""
    from safetensors.torch import load_file, save_file

    folder = _folder(random_store("zoedepth"), "zoedepth")
    shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    state = load_file(path)
    layer = "backbone.encoder.layer.0.attention.attention.relative_position_bias"
    state[f"{layer}.relative_position_index"] = torch.zeros(17, 17, dtype=torch.int64)
    save_file(state, path, metadata={"format": "pt"})
    assert load_zoedepth(tmp_path / "model", CPU, torch.float32, flip=False) is not None


def test_what_dpt_never_runs_may_be_missing(random_store):
    folder = _folder(random_store("midas"), "midas")
    names = torch.load(folder / "pytorch_model.bin", weights_only=True)
    assert not [n for n in names if n.startswith("neck.fusion_stage.layers.0.residual_layer1")]
    assert load_dpt(folder, CPU, torch.float32) is not None


@pytest.mark.parametrize("spoil", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_broken_file_is_an_error_that_names_the_folder(spoil, random_store, tmp_path):
    shutil.copytree(_folder(random_store("dpt-large"), "dpt-large"), tmp_path / "model")
    (tmp_path / "model" / spoil).write_bytes(b"{")
    with pytest.raises(WeightsError, match=str(tmp_path)):
        load_dpt(tmp_path / "model", CPU, torch.float32)


def test_a_metric_depth_anything_is_refused_since_its_values_mean_the_opposite(
    random_store, tmp_path
):
    shutil.copytree(
        _folder(random_store("depth-anything-v2"), "depth-anything-v2"), tmp_path / "model"
    )
    path = tmp_path / "model" / "config.json"
    text = path.read_text()
    assert '"relative"' in text
    path.write_text(text.replace('"relative"', '"metric"'))
    with pytest.raises(WeightsError, match="expected a model of relative depth"):
        load_depth_anything(tmp_path / "model", CPU, torch.float32)


def test_dpt_works_at_sizes_that_transformers_own_forward_refuses(random_store):
    folder = _folder(random_store("midas"), "midas")
    network = load_dpt(folder, CPU, torch.float32)
    pixels = torch.zeros(1, 3, 64, 96)
    with pytest.raises(ValueError, match="doesn't match model"):
        network.model(pixels)
    assert network(pixels).shape == (1, 64, 96)


def test_the_true_names_and_licences_are_stated():
    weights = {name: dict(get_detector(name).spec.weights) for name in DETECTORS}
    assert weights["midas"]["dpt-hybrid"].name == "Intel/dpt-hybrid-midas"
    assert weights["depth-anything-v2"]["small"].commercial_use is True
    for size in ("base", "large"):
        assert weights["depth-anything-v2"][size].licence == "CC-BY-NC-4.0"
        assert weights["depth-anything-v2"][size].commercial_use is False
    assert weights["depth-pro"]["depth-pro"].commercial_use is False


def test_a_model_that_is_not_here_is_named(tmp_path):
    store = WeightStore(overrides=(tmp_path,), cache=tmp_path / "cache", offline=True)
    with pytest.raises(WeightsError, match="zoedepth-nyu-kitti"):
        _detector(store, "zoedepth")
