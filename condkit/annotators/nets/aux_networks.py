"""The one door to the network classes of controlnet_aux.

Importing controlnet_aux 0.0.10 fails beside a current mediapipe (it reads `mediapipe.solutions`),
overwrites five names in timm's registry and prints a page of warnings. Here it is imported once, on
first use, with mediapipe hidden, timm's registry put back and the warnings dropped.
"""

from __future__ import annotations

import copy
import functools
import importlib
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from condkit.errors import DependencyError

if TYPE_CHECKING:
    import torch

_lock = threading.Lock()
_ABSENT = object()


def hed_network() -> torch.nn.Module:
    """A fresh `ControlNetHED_Apache2` with random weights, in float32 on the CPU.

    Raises:
        DependencyError: if controlnet_aux or the class is missing or cannot be imported.
    """
    network: torch.nn.Module = network_class("hed", "ControlNetHED_Apache2")()
    return network


def network_class(module: str, name: str) -> Any:  # noqa: ANN401 - controlnet_aux has no types
    """A class or function of controlnet_aux.

    Args:
        module: The module below the package, such as "hed".
        name: Its name there, such as "ControlNetHED_Apache2".

    Raises:
        DependencyError: if the package or the name is missing or cannot be imported.
    """
    with _lock:
        _import_package()
    try:
        return getattr(importlib.import_module(f"controlnet_aux.{module}"), name)
    except (ImportError, AttributeError) as error:
        raise DependencyError(
            f"controlnet_aux has no {module}.{name} ({error}); install controlnet-aux==0.0.10"
        ) from error


def import_unhidden(name: str) -> Any:  # noqa: ANN401 - any package
    """Import a package that another thread, importing controlnet_aux, may be hiding just now."""
    with _lock:
        return importlib.import_module(name)


@functools.cache
def _import_package() -> ModuleType:
    try:
        with _quiet(), _timm_registry_kept(), _mediapipe_hidden():
            return importlib.import_module("controlnet_aux")
    # Its imports run much foreign code at module level; whatever fails there means the same.
    except Exception as error:
        raise DependencyError(
            f"controlnet_aux cannot be imported ({type(error).__name__}: {error}); "
            "install controlnet-aux==0.0.10 and its requirements anew"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _mediapipe_hidden() -> Iterator[None]:
    """Make `import mediapipe` raise ImportError, which controlnet_aux expects and survives."""
    before = sys.modules.get("mediapipe", _ABSENT)
    sys.modules["mediapipe"] = None  # type: ignore[assignment]  # documented: blocks the import
    try:
        yield
    finally:
        if before is _ABSENT:
            del sys.modules["mediapipe"]
        else:
            sys.modules["mediapipe"] = before  # type: ignore[assignment]


@contextmanager
def _timm_registry_kept() -> Iterator[None]:
    """Leave timm's tables of models as they are; other code asks it for the same names."""
    tables = _timm_tables()
    before = {name: copy.deepcopy(table) for name, table in tables.items()}
    try:
        yield
    finally:
        for name, table in tables.items():
            table.clear()
            table.update(before[name])


def _timm_tables() -> dict[str, dict[Any, Any] | set[Any]]:
    try:
        registry = importlib.import_module("timm.models._registry")
    except ImportError:
        return {}
    return {
        name: value
        for name, value in vars(registry).items()
        if isinstance(value, dict | set) and name.startswith("_") and not name.startswith("__")
    }
