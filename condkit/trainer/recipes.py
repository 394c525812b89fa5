"""Recipes: TOML files with the tables of `TrainConfig`; `--set optim.lr=2e-5` changes any field.

`[hardware.NAME]` tables say what is different on some hardware.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from condkit.errors import ConfigError
from condkit.settings import choose, from_mapping, merge
from condkit.trainer.config import TrainConfig


def available_recipes() -> tuple[str, ...]:
    """The names of the recipes that come with condkit, sorted."""
    folder = resources.files("condkit") / "recipes"
    return tuple(
        sorted(
            item.name.removesuffix(".toml")
            for item in folder.iterdir()
            if item.name.endswith(".toml")
        )
    )


def load_recipe(
    name_or_path: str,
    assignments: Mapping[str, str] | None = None,
    *,
    hardware: str | None = None,
) -> TrainConfig:
    """Read a recipe, lay a hardware profile over it, and change single settings of it.

    Args:
        name_or_path: One of `available_recipes()`, or a file that ends in `.toml`.
        assignments: Dotted field names to text, as `--set` gives them. They win over the profile;
            `hardware` chooses it.
        hardware: One of the recipe's `[hardware.NAME]` tables; None takes none.

    Raises:
        UnknownNameError: if there is no such recipe, profile or setting; the nearest one is
            suggested.
        ConfigError: if the file is no TOML or a value is impossible.
    """
    values, changes = _read_recipe(name_or_path), dict(assignments or {})
    profiles = values.pop("hardware", {})
    hardware = changes.pop("hardware", hardware)
    if hardware is not None:
        what = f"hardware of the recipe {name_or_path}"
        values = _laid_over(values, profiles[choose(hardware, profiles, what=what)])
    return from_mapping(TrainConfig, merge(values, changes))


def hardware_profiles(name_or_path: str) -> tuple[str, ...]:
    """The names of a recipe's `[hardware.NAME]` tables, in the order of the file.

    Raises:
        UnknownNameError: if there is no such recipe.
        ConfigError: if the file is no TOML.
    """
    return tuple(_read_recipe(name_or_path).get("hardware", {}))


def _laid_over(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables, those of `over` winning value by value."""
    joined = dict(values)
    for key, value in over.items():
        below = joined.get(key)
        nested = isinstance(value, Mapping) and isinstance(below, Mapping)
        joined[key] = _laid_over(below, value) if nested else value  # type: ignore[arg-type]
    return joined


def _read_recipe(name_or_path: str) -> dict[str, Any]:
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the recipe {path}: {error}") from error
    else:
        name = choose(name_or_path, available_recipes(), what="recipe")
        file = resources.files("condkit") / "recipes" / f"{name}.toml"
        text = file.read_text(encoding="utf-8")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the recipe {name_or_path} is not valid TOML: {error}") from error
