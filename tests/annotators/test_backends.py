from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
import torch

from condkit.annotators import backends, load
from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.annotators.backends import runner
from condkit.errors import ConfigError, DependencyError
from condkit.pipeline.execution import arithmetic
from condkit.runtime import Runtime
from condkit.weights import WeightStore


@pytest.fixture
def openvino():
    return pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")


def _noise(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _soft_edges(image, store, *, detector="hed", condition="softedge", runtime=None, **settings):
    chosen = {f"{condition}.{name}": value for name, value in settings.items()}
    plan = plan_annotation(
        [condition],
        {f"{condition}.detector": detector, **chosen},
        detect_size=min(image.shape[:2]),
    )
    runtime = runtime or {}
    annotator = Annotator(plan, Runtime(device="cpu", store=store, **runtime))
    return annotator([image])[0][condition].pixels.astype(int)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["coral_parrot.jpg", "t2i_people.jpg"])
def test_openvino_gives_torchs_maps_on_real_weights(
    name, dtype, openvino, real_weights, photograph, tmp_path
):
    image = photograph(name, (192, 256))
    store = WeightStore(overrides=real_weights.overrides, cache=tmp_path, offline=True)
    options = {"weights": "bsds500"}
    expected = _soft_edges(image, store, runtime={"dtype": "fp32"}, **options)
    found = _soft_edges(image, store, runtime={"dtype": dtype, "backend": "openvino"}, **options)
    assert np.abs(found - expected).max() <= (1 if dtype == "fp32" else 2)


@pytest.mark.parametrize(
    ("detector", "condition"),
    [
        ("hed", "softedge"),
        ("pidinet", "softedge"),
        ("teed", "softedge"),
        ("lineart", "lineart"),
        ("lineart_anime", "lineart"),
    ],
)
def test_one_export_is_right_for_all_sizes(detector, condition, openvino, random_store, tmp_path):
    random = random_store(detector)
    store = WeightStore(overrides=random.overrides, cache=tmp_path, offline=True)
    for image in (_noise(1, 64, 64), _noise(2, 96, 160)):
        maps = [
            _soft_edges(
                image,
                store,
                detector=detector,
                condition=condition,
                runtime={"dtype": "fp32", "backend": backend},
            )
            for backend in ("torch", "openvino")
        ]
        assert np.abs(maps[0] - maps[1]).max() <= 1
    assert len(list((tmp_path / "openvino").iterdir())) == 1


class _Scaled(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(float(factor)), requires_grad=False)

    def forward(self, pixels):
        return (pixels * self.factor)[:, 0]


def _runtime(tmp_path, **options):
    store = WeightStore(cache=tmp_path, offline=True)
    return Runtime(device="cpu", backend="openvino", store=store, **options)


def test_an_exported_network_is_kept_and_read_again(openvino, tmp_path, monkeypatch):
    pixels = torch.rand(1, 3, 4, 5)
    first = runner(_Scaled(2), _runtime(tmp_path), key="scaled")(pixels)
    monkeypatch.setattr(backends._OpenVino, "_convert", None)
    again = runner(_Scaled(2), _runtime(tmp_path), key="scaled")(pixels)
    assert torch.equal(first, again)
    assert torch.allclose(first, pixels[:, 0] * 2, rtol=0.01)


def test_exporting_leaves_the_programs_logging_alone(openvino, tmp_path):
    import logging

    root = logging.getLogger()
    before = (root.level, list(root.handlers), list(root.filters))
    runner(_Scaled(2), _runtime(tmp_path), key="scaled")(torch.ones(1, 3, 4, 5))
    assert (root.level, list(root.handlers), list(root.filters)) == before


def test_other_weights_under_the_same_key_are_not_mixed_up(openvino, tmp_path):
    pixels = torch.rand(1, 3, 4, 5)
    found = [runner(_Scaled(f), _runtime(tmp_path), key="scaled")(pixels) for f in (2, 3)]
    assert torch.allclose(found[1], found[0] * 1.5, rtol=0.02)


def test_a_cache_that_cannot_be_written_is_done_without(openvino, tmp_path, caplog):
    (tmp_path / "openvino").write_text("a file where the folder should be")
    found = runner(_Scaled(2), _runtime(tmp_path), key="scaled")(torch.ones(1, 3, 4, 5))
    assert torch.allclose(found, torch.full((1, 4, 5), 2.0))
    assert "is not kept" in caplog.text


def test_a_network_that_cannot_be_exported_is_named(openvino, tmp_path):
    class Foreign(torch.nn.Module):
        def forward(self, pixels):
            raise ValueError("no such thing")

    with pytest.raises(DependencyError, match=r"cannot export foreign .*use --backend torch"):
        runner(Foreign(), _runtime(tmp_path), key="foreign")(torch.ones(1, 3, 4, 5))


def test_openvino_that_is_missing_is_named_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(DependencyError, match=r"condkit\[openvino\]"):
        runner(_Scaled(2), _runtime(tmp_path), key="scaled")


def test_openvino_on_another_device_is_refused(openvino, tmp_path, monkeypatch):
    monkeypatch.setattr(Runtime, "resolve", lambda self: (torch.device("cuda:0"), torch.float32))
    with pytest.raises(ConfigError, match=r"not on device 'cuda:0'; use --device cpu"):
        runner(_Scaled(2), _runtime(tmp_path), key="scaled")


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="tensorrt"):
        load("canny", backend="tensorrt")


def test_a_manifest_says_which_backend_made_its_maps(openvino):
    plan = plan_annotation(["softedge"])
    plain = arithmetic(plan, Runtime(device="cpu", dtype="fp32"))
    assert set(plain) == {"device", "dtype", "torch"}
    exported = arithmetic(plan, Runtime(device="cpu", dtype="bf16", backend="openvino"))
    assert exported["backend"] == "openvino"
    assert exported["dtype"] == "bfloat16"
    assert exported["openvino"] == openvino.__version__


def test_networks_for_openvino_are_built_in_fp32():
    runtime = Runtime(device="cpu", dtype="bf16", backend="openvino")
    assert runtime.resolve() == (torch.device("cpu"), torch.float32)
    assert runtime.computes_in() == torch.bfloat16


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_gives_torchs_maps(random_store):
    store = random_store("teed")
    image = _noise(3, 64, 64)
    maps = [
        _soft_edges(image, store, detector="teed", runtime={"dtype": "fp32", "backend": backend})
        for backend in ("torch", "compile")
    ]
    assert np.abs(maps[0] - maps[1]).max() <= 1


def test_a_missing_compiler_is_named(monkeypatch):
    def broken(network):
        def forward(pixels):
            raise RuntimeError("InductorError: InvalidCxxCompiler: no working C++ compiler found")

        return forward

    monkeypatch.setattr(torch, "compile", broken)
    forward = runner(_Scaled(2), Runtime(device="cpu", backend="compile"), key="scaled")
    with pytest.raises(DependencyError, match=r"install g\+\+, or use --backend torch"):
        forward(torch.ones(1, 3, 4, 5))
