"""Small random networks for the captioners' tests, in the published layout."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from condkit.captions.registry import get_network, make_captioner
from condkit.runtime import Runtime
from condkit.weights import ModelSpec, WeightStore

RANDOM_WEIGHTS = Path(__file__).parent / "random_weights"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Networks as small as these are many times slower on several threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def _random_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Written once for all tests."""

    @functools.cache
    def folder(captioner: str) -> Path:
        path = tmp_path_factory.mktemp(f"random-{captioner}")
        script = RANDOM_WEIGHTS / f"{captioner.replace('-', '_')}.py"
        runpy.run_path(str(script))["write"](path)
        return path

    return folder


@pytest.fixture(scope="module")
def random_store(_random_folder: Callable[[str], Path]) -> Iterator[Callable[[str], WeightStore]]:
    """A captioner's name to a store with small random weights for it.

    `random_weights/CAPTIONER.py` (dashes as underscores) defines `write(folder)`, which saves the
    model in a folder of its name. Until the test module ends, the pins are the hashes of these
    files.
    """
    with pytest.MonkeyPatch.context() as patch:

        def store(captioner: str) -> WeightStore:
            folder = _random_folder(captioner)
            weights = get_network(captioner).weights
            for name, spec in list(weights.items()):
                patch.setitem(weights, name, _pinned(spec, folder))
            return WeightStore(overrides=(folder,), cache=folder / "cache", offline=True)

        yield store


@pytest.fixture(scope="module")
def make(random_store: Callable[[str], WeightStore]) -> Callable[..., Any]:
    """`make_captioner`, with random weights for networks, on the CPU in float32."""

    def build(name: str, *, existing: str = "replace", **options: Any) -> Any:
        if (RANDOM_WEIGHTS / f"{name.replace('-', '_')}.py").is_file():
            options["runtime"] = Runtime(device="cpu", dtype="fp32", store=random_store(name))
        return make_captioner(name, existing=existing, **options)

    return build


def _pinned(spec: ModelSpec, folder: Path) -> ModelSpec:
    """The same weights, pinned to the files in `folder` where they are there."""
    files = []
    for file in spec.files:
        path = folder / spec.name / file.name
        if path.is_file():
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            file = dataclasses.replace(file, sha256=digest, size=len(data))
        files.append(file)
    return dataclasses.replace(spec, files=tuple(files))
