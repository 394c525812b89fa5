"""What `condkit doctor` examines: the things that break an installation in practice."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CV2_DISTRIBUTIONS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python")
"""They all install the folder `cv2`: ours, controlnet-aux's and mediapipe's."""

LIBRARIES = ("numpy", "pillow", "torch", "torchvision", "diffusers", "transformers", "datasets")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was examined.

    Attributes:
        good: Whether it is as it should be.
        what: What was examined.
        found: What was found, and what to do where it is not good.
    """

    good: bool
    what: str
    found: str

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"good": self.good, "what": self.what, "found": self.found}

    def cells(self) -> tuple[str, str, str]:
        """The finding as a row of a table."""
        return ("ok" if self.good else "BAD", self.what, self.found)


def examine() -> list[Finding]:
    """Examine the installation; a check that breaks is a finding, never an exception."""
    checks: dict[str, Callable[[], Finding]] = {
        "python": _python,
        **{name: _library_check(name) for name in LIBRARIES},
        "cv2": _cv2,
        "controlnet-aux": _controlnet_aux,
        "device": _device,
        "built-in base model": _tiny,
        "weights": _weights,
    }
    return [_guarded(what, check) for what, check in checks.items()]


def _guarded(what: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:
        return Finding(False, what, f"{type(error).__name__}: {error}")


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding(sys.version_info >= (3, 11), "python", f"{version} (3.11 or newer is needed)")


def _library_check(name: str) -> Callable[[], Finding]:
    return lambda: Finding(True, name, importlib.metadata.version(name))


def cv2_versions() -> dict[str, str]:
    """The installed distributions that bring a `cv2` folder, with their versions."""
    versions = {}
    for name in CV2_DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _cv2() -> Finding:
    import cv2

    versions = cv2_versions()
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    numbers = {version.rsplit(".", 1)[0] for version in versions.values()} | {cv2.__version__}
    if len(numbers) == 1:
        return Finding(True, "cv2", f"{cv2.__version__} from {listed}")
    wanted = versions.get("opencv-python", cv2.__version__)
    pins = " ".join(f"{name}=={wanted}" for name in versions)
    return Finding(
        False,
        "cv2",
        f"{cv2.__version__} runs, but these overwrite each other: {listed}; "
        f"run: pip install --force-reinstall --no-deps {pins}",
    )


def _controlnet_aux() -> Finding:
    from condkit.annotators.nets.aux_networks import hed_network

    hed_network()
    return Finding(True, "controlnet-aux", importlib.metadata.version("controlnet_aux"))


def _device() -> Finding:
    from condkit.device import choose_device, choose_dtype

    device = choose_device("auto")
    dtype = choose_dtype("auto", device)
    return Finding(True, "device", f"{device}, {str(dtype).removeprefix('torch.')} by default")


def _tiny() -> Finding:
    from condkit.trainer.base_loading import BUILT_IN, resolve_base

    folder = resolve_base(BUILT_IN)
    return Finding(True, "built-in base model", str(folder))


def _weights() -> Finding:
    """Whether fetched weights and the hashes recorded of them can be kept."""
    from condkit.weights import WeightStore

    store = WeightStore()
    store.pins.get("")
    kept = store.cache_folder / "weights"
    place = next(folder for folder in (kept, *kept.parents) if folder.exists())
    if place.is_dir() and os.access(place, os.W_OK):
        return Finding(True, "weights", f"kept in {kept}")
    found = f"{place} is not writable; set CONDKIT_CACHE to a folder that is"
    return Finding(False, "weights", found)
