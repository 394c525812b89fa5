"""Data rules per condition: what the public ControlNets' data was made of, as far as it is known.

A build recipe is a TOML file: the conditions and their settings, where captions come from, which
pictures are left out, and the size. `condkit/recipes/build/` has one for each condition that was
published with such rules; the options of the command line change any part of it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from condkit.datasets.filters import FilterSettings
from condkit.errors import ConfigError, UnknownNameError
from condkit.settings import choose, from_mapping, merge, suggest
from condkit.sizing import SizePolicy

_TABLES = ("settings", "captions", "filters", "sizes")
_OWN_TABLES = ("captions", "filters", "sizes")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRecipe:
    """What to make of a source.

    Attributes:
        summary: One line on the data.
        conditions: The maps to make.
        settings: Of conditions and detectors, dotted name to value, as `--set` gives them:
            `{"canny.random": True}`.
        captions: "captioner" names it; the rest are its settings.
        filters: Limits of `FilterSettings`, those that are on.
        sizes: Settings of `SizePolicy`, those that are not at their default.
    """

    summary: str
    conditions: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    captions: Mapping[str, Any] = field(default_factory=dict)
    filters: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.conditions:
            raise ConfigError("conditions: expected at least one, such as canny")
        for table, cls in (("filters", FilterSettings), ("sizes", SizePolicy)):
            from_mapping(cls, getattr(self, table), where=table)


def available_build_recipes() -> tuple[str, ...]:
    """The names of the build recipes that come with condkit, sorted."""
    suffix = ".toml"
    names = (item.name for item in _folder().iterdir())
    return tuple(sorted(name.removesuffix(suffix) for name in names if name.endswith(suffix)))


def load_build_recipe(
    name_or_path: str, assignments: Mapping[str, str] | None = None
) -> BuildRecipe:
    """Read a build recipe and change single settings of it.

    Args:
        name_or_path: One of `available_build_recipes()`, or a file that ends in `.toml`.
        assignments: Dotted name to text: `captions.NAME`, `filters.NAME` and `sizes.NAME` change
            these tables, `CONDITION.NAME` and `DETECTOR.NAME` the settings.

    Raises:
        UnknownNameError: if there is no such recipe, table, filter or setting of the size.
        ConfigError: if the file cannot be read or a value is impossible.
    """
    try:
        return _recipe(_read(name_or_path), assignments or {})
    except (ConfigError, UnknownNameError) as error:
        if name_or_path.endswith(".toml"):
            raise type(error)(f"{name_or_path}: {error}") from error
        raise


def _recipe(values: Mapping[str, Any], assignments: Mapping[str, str]) -> BuildRecipe:
    known = ("summary", "conditions", *_TABLES)
    for key in values:
        if key not in known:
            raise UnknownNameError(
                f"unknown entry {key!r} of a build recipe{suggest(key, known)} "
                f"(known: {', '.join(known)})"
            )
    tables = {name: values.get(name, {}) for name in _TABLES}
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise ConfigError(f"{name}: expected a table of settings, got {table!r}")
    conditions = values.get("conditions", [])
    if not isinstance(conditions, list) or not all(isinstance(name, str) for name in conditions):
        raise ConfigError(f"conditions: expected a list of names, got {conditions!r}")
    own = {k: v for k, v in assignments.items() if k.partition(".")[0] in _OWN_TABLES}
    settings = {k: v for k, v in assignments.items() if k not in own}
    changed = merge(tables, own)
    return BuildRecipe(
        summary=str(values.get("summary", "")),
        conditions=tuple(conditions),
        settings={**_dotted(changed["settings"]), **settings},
        captions=changed["captions"],
        filters=changed["filters"],
        sizes=changed["sizes"],
    )


def _dotted(tables: Mapping[str, Any]) -> dict[str, Any]:
    """`{"canny": {"low": 50}}` as `{"canny.low": 50}`."""
    settings: dict[str, Any] = {}
    for table, values in tables.items():
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"settings.{table}: expected a table such as [settings.canny], got {values!r}"
            )
        settings |= {f"{table}.{name}": value for name, value in values.items()}
    return settings


def _read(name_or_path: str) -> dict[str, Any]:
    if name_or_path.endswith(".toml"):
        try:
            text = Path(name_or_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the build recipe cannot be read: {error}") from error
    else:
        name = choose(name_or_path, available_build_recipes(), what="build recipe")
        text = _folder().joinpath(f"{name}.toml").read_text(encoding="utf-8")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the build recipe is not valid TOML: {error}") from error


def _folder() -> resources.abc.Traversable:
    return resources.files("condkit").joinpath("recipes", "build")
