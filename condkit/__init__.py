"""condkit: from a folder of photographs to a trained ControlNet.

The names below are the public API; each is imported when it is first used, so `import condkit`
costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condkit.annotators import load
    from condkit.errors import CondkitError
    from condkit.imageio import decode
    from condkit.types import ConditionMap, ConditionSpec, RgbImage

__version__ = "0.1.0"

_HOMES = {
    "load": "condkit.annotators",
    "decode": "condkit.imageio",
    "CondkitError": "condkit.errors",
    "ConditionMap": "condkit.types",
    "ConditionSpec": "condkit.types",
    "RgbImage": "condkit.types",
}

__all__ = ["ConditionMap", "ConditionSpec", "CondkitError", "RgbImage", "decode", "load"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in _HOMES:
        raise AttributeError(f"module 'condkit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
