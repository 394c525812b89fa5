"""What the maps of conditions mean, for data that does not say it itself."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from condkit.errors import ConfigError
from condkit.settings import as_mapping, suggest
from condkit.trainer.data_config import SpecConfig
from condkit.types import ConditionSpec


def spec_of(condition: str, given: SpecConfig | None) -> ConditionSpec:
    """What the maps of a condition mean: as the settings say, or as condkit draws them.

    Raises:
        ConfigError: if the settings do not say it and condkit does not know the condition.
    """
    if given is not None:
        return ConditionSpec(name=condition, **as_mapping(given))
    text = (resources.files("condkit") / "assets" / "conditions.json").read_text("utf-8")
    known: dict[str, Any] = json.loads(text)
    if condition not in known:
        raise ConfigError(
            f"condition {condition!r} is none of condkit's{suggest(condition, known)}; describe "
            "its maps by data.spec.channels, data.spec.resample, data.spec.flip and so on"
        )
    return ConditionSpec.from_dict(known[condition])
