"""Weights for annotator tests: real ones where they are, else random ones in the same format."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from condkit.annotators.registry import get_detector
from condkit.weights import AnyWeights, ModelSpec, WeightStore

RANDOM_WEIGHTS = Path(__file__).parent / "random_weights"


@pytest.fixture(scope="session")
def _random_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Written once for all tests."""

    @functools.cache
    def folder(detector: str) -> Path:
        path = tmp_path_factory.mktemp(f"random-{detector}")
        _writer(detector)(path)
        return path

    return folder


@pytest.fixture(scope="module")
def random_store(_random_folder: Callable[[str], Path]) -> Iterator[Callable[[str], WeightStore]]:
    """A detector's name to a store with small random weights for it, in the published layout.

    `random_weights/DETECTOR.py` (dashes as underscores) defines `write(folder)`, which saves the
    files below a folder as a user would put them there: a single file by its name, a model of
    several files in a folder of the model's name. Until the test module ends, the pins are the
    hashes of these files.
    """
    with pytest.MonkeyPatch.context() as patch:

        def store(detector: str) -> WeightStore:
            folder = _random_folder(detector)
            weights = get_detector(detector).spec.weights
            for name, spec in list(weights.items()):
                patch.setitem(weights, name, _pinned(spec, folder))
            return WeightStore(overrides=(folder,), cache=folder / "cache", offline=True)

        yield store


def _writer(detector: str) -> Callable[[Path], None]:
    path = RANDOM_WEIGHTS / f"{detector.replace('-', '_')}.py"
    module_spec = importlib.util.spec_from_file_location(f"random_weights_{path.stem}", path)
    assert module_spec is not None, path
    assert module_spec.loader is not None, path
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module.write


def _pinned(spec: AnyWeights, folder: Path) -> AnyWeights:
    """The same weights, pinned to the files in `folder` where they are there."""
    if isinstance(spec, ModelSpec):
        files = tuple(_pinned(file, folder / spec.name) for file in spec.files)
        return dataclasses.replace(spec, files=files)
    path = folder / spec.name
    if not path.is_file():
        return spec
    data = path.read_bytes()
    return dataclasses.replace(spec, sha256=hashlib.sha256(data).hexdigest(), size=len(data))


@pytest.fixture(scope="module")
def random_weights(random_store: Callable[[str], WeightStore]) -> WeightStore:
    """A store with a random HED."""
    return random_store("hed")


@pytest.fixture(scope="session")
def real_weights(assets: Path) -> WeightStore:
    """A store with the published weights that the assets hold."""
    return WeightStore(overrides=(assets / "weights",), offline=True)


@pytest.fixture(scope="session")
def photograph(assets: Path) -> Callable[[str, tuple[int, int]], np.ndarray]:
    """A photograph of the assets, brought to exactly the height and width asked for."""

    def read(name: str, size_hw: tuple[int, int]) -> np.ndarray:
        import cv2

        from condkit.imageio import decode

        image = decode(assets / "photos" / name, at_least=max(size_hw)).image
        return cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_AREA)

    return read


@pytest.fixture
def shapes() -> np.ndarray:
    """(96, 128, 3) uint8 RGB: a rectangle, a disc and a dark line on a coloured ground."""
    import cv2

    image = np.full((96, 128, 3), (200, 180, 90), np.uint8)
    cv2.rectangle(image, (16, 12), (64, 48), (30, 60, 200), -1)
    cv2.circle(image, (96, 32), 19, (220, 30, 40), -1)
    cv2.line(image, (4, 91), (123, 72), (0, 0, 0), 3)
    return image
