from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import textwrap

import pytest

from condkit.annotators import registry
from condkit.annotators.canny import CONDITION
from condkit.annotators.registry import (
    Registry,
    available_conditions,
    available_detectors,
    get_condition,
    get_detector,
)
from condkit.errors import ConfigError, UnknownNameError


@pytest.fixture
def _fresh_registry():
    registry._registry.cache_clear()
    yield
    registry._registry.cache_clear()


def test_a_definition_is_named_as_its_file():
    for module in registry._own_modules():
        file = module.__name__.rpartition(".")[2]
        for kind in ("CONDITION", "DETECTOR"):
            if hasattr(module, kind):
                assert getattr(module, kind).spec.name.replace("-", "_") == file


def test_every_detector_that_a_condition_names_exists():
    for name in available_conditions():
        for renderer in get_condition(name).renderers:
            assert renderer.detector in available_detectors()


def test_listing_loads_neither_torch_nor_opencv_nor_the_hub_client():
    code = """
        import sys
        from condkit.annotators.annotator import plan_annotation
        from condkit.annotators.listing import describe
        assert describe()
        plan_annotation(["canny", "lines", "softedge", "scribble"])
        heavy = {"torch", "cv2", "PIL", "h5py", "controlnet_aux", "diffusers", "transformers",
                 "huggingface_hub.file_download", "timm", "mediapipe"}
        print(*sorted(heavy & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("get", [get_condition, get_detector])
def test_an_unknown_name_lists_the_known_ones_and_the_nearest(get):
    with pytest.raises(UnknownNameError, match=r"did you mean 'canny'.*known: .*canny") as caught:
        get("cany")
    assert "'cany'" in str(caught.value)


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    def install(source):
        (tmp_path / "a_plug_in.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "a_plug_in", raising=False)
        entry = importlib.metadata.EntryPoint("a_plug_in", "a_plug_in", registry.ENTRY_POINT_GROUP)
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [entry])

    yield install
    sys.modules.pop("a_plug_in", None)


@pytest.mark.usefixtures("_fresh_registry")
def test_a_plug_in_brings_its_condition(plug_in):
    plug_in("""
        import dataclasses
        from condkit.annotators.canny import CONDITION as canny
        CONDITION = dataclasses.replace(canny, spec=dataclasses.replace(canny.spec, name="mine"))
    """)
    assert get_condition("mine").spec.name == "mine"
    assert "canny" in available_conditions()


@pytest.mark.usefixtures("_fresh_registry")
def test_a_broken_plug_in_is_named_and_does_no_harm(plug_in, caplog):
    plug_in("raise RuntimeError('the plug-in is tired')")
    assert "canny" in available_conditions()
    assert "a_plug_in" in caplog.text
    assert "the plug-in is tired" in caplog.text


@pytest.mark.usefixtures("_fresh_registry")
def test_a_plug_in_cannot_replace_what_is_there(plug_in, caplog):
    plug_in("""
        import dataclasses
        from condkit.annotators.canny import CONDITION as canny
        CONDITION = dataclasses.replace(canny, renderers=())
    """)
    assert get_condition("canny") is CONDITION
    assert "'canny' is taken" in caplog.text


def test_a_refused_module_leaves_the_registry_as_it_was():
    import types

    found = Registry()
    module = types.ModuleType("odd")
    module.CONDITION = CONDITION
    module.DETECTOR = "not a definition"
    with pytest.raises(ConfigError, match="odd: expected a DetectorDefinition, got str"):
        found.add(module)
    assert found.conditions == {}
