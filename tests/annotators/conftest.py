"""Weights for annotator tests: real ones where they are, else random ones in the same format."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from condkit.annotators.registry import get_detector
from condkit.weights import WeightStore


@pytest.fixture(scope="session")
def _random_hed_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from condkit.annotators.nets.aux_networks import hed_network

    torch.manual_seed(0)
    network = hed_network()
    with torch.no_grad():
        network.norm += 120
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (3, 3):
                torch.nn.init.kaiming_normal_(layer.weight)
            elif isinstance(layer, torch.nn.Conv2d):
                layer.weight *= 0.1
    path = tmp_path_factory.mktemp("random-hed") / "ControlNetHED.pth"
    # The published file is stored in fp16 too.
    torch.save({key: value.half() for key, value in network.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def random_weights(_random_hed_file: Path) -> Iterator[WeightStore]:
    """A store whose `ControlNetHED.pth` is a random network, pinned by its own hash."""
    data = _random_hed_file.read_bytes()
    weights = get_detector("hed").spec.weights
    spec = dataclasses.replace(
        weights["controlnet"], sha256=hashlib.sha256(data).hexdigest(), size=len(data)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(weights, "controlnet", spec)
        yield WeightStore(overrides=(_random_hed_file.parent,), offline=True)


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
