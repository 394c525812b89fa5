"""Write `condkit/assets/conditions.json`: what the maps of condkit's conditions mean.

The trainer reads it where a dataset does not say so itself; it may not import the annotators.

    python scripts/condition_specs.py condkit/assets/conditions.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from condkit.annotators.registry import available_conditions, get_condition

OPEN_MEANING = "surface normals, RGB"
"""Which of two protocols a foreign dataset of normals has is not told by the condition's name."""


def specs() -> dict[str, dict[str, Any]]:
    """Every built-in condition's spec, by name."""
    found = {name: get_condition(name).spec.as_dict() for name in available_conditions()}
    for spec in found.values():
        if spec["flip"] == "mirror-normal-x":
            spec["meaning"] = OPEN_MEANING
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(specs(), indent=2) + "\n", encoding="utf-8")
