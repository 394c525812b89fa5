"""From what a user wishes for, on top of a recipe, to all that a build needs; all of it checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from condkit.annotators.annotator import AnnotationPlan, plan_annotation
from condkit.annotators.licensing import require_commercial_use
from condkit.captions import licensing, make_captioner
from condkit.captions.base import Captioner
from condkit.datasets.filters import FilterSettings, read_filters
from condkit.runtime import Runtime
from condkit.settings import from_mapping, parse_assignments
from condkit.sizing import SizePolicy

_TABLES = ("captions", "sizes", "filters")
"""What settings are about, beside conditions and detectors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What was asked for; None and empty leave it to the recipe, and without one to the defaults.

    Attributes:
        recipe: The name of a build recipe, or a TOML file.
        conditions: The conditions to make; they replace the recipe's.
        settings: `NAME=VALUE` words: `CONDITION.NAME`, `DETECTOR.NAME`, `captions.NAME`,
            `sizes.NAME` or `filters.NAME`; they change the recipe's.
        captions: The captioner; its settings in the recipe are dropped with it.
        template: The text of the captioner "template".
        prefix: Before every caption.
        suffix: Behind every caption.
        trigger: A word that every caption begins with.
        existing: "keep" or "replace": what a network does with captions that there are.
        fit: The mode of `SizePolicy`.
        size: The side that the mode fixes, in pixels.
        filters: `NAME=VALUE` words; see `FilterSettings`.
        detect_size: The working size of all networks, in pixels.
        seed: Of everything random.
        commercial_only: Refuse weights whose licence does not clearly allow commercial use.
    """

    recipe: str | None = None
    conditions: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    captions: str | None = None
    template: str | None = None
    prefix: str = ""
    suffix: str = ""
    trigger: str = ""
    existing: str | None = None
    fit: str | None = None
    size: int | None = None
    filters: tuple[str, ...] = ()
    detect_size: int | None = None
    seed: int = 0
    commercial_only: bool = False


@dataclass(frozen=True, slots=True)
class Decided:
    """What a build takes."""

    plan: AnnotationPlan
    captioner: Captioner
    sizes: SizePolicy
    filters: FilterSettings
    runtime: Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """What a recipe says."""

    conditions: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    captions: Mapping[str, Any] = field(default_factory=dict)
    filters: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Any] = field(default_factory=dict)


def decide(wishes: Wishes, runtime: Runtime) -> Decided:
    """Put recipe and wishes together.

    Args:
        wishes: What was asked for.
        runtime: Where networks run.

    Raises:
        ConfigError: for an impossible value, or a setting that nothing reads.
        UnknownNameError: for a name that there is not.
    """
    recipe = _rules(wishes.recipe) if wishes.recipe else _Rules()
    tables = _by_table(parse_assignments(wishes.settings))
    plan = _plan(wishes, recipe, tables["annotation"])
    captioner = _captioner(wishes, recipe, tables["captions"], runtime)
    if wishes.commercial_only:
        require_commercial_use(plan)
        licensing.require_commercial_use(captioner)
    return Decided(
        plan,
        captioner,
        _sizes(wishes, recipe, tables["sizes"]),
        read_filters(
            [*(f"{name}={value}" for name, value in tables["filters"].items()), *wishes.filters],
            recipe.filters,
        ),
        runtime,
    )


def _rules(name: str) -> _Rules:
    from condkit.datasets.build_recipes import load_build_recipe

    recipe = load_build_recipe(name)
    return _Rules(
        conditions=tuple(recipe.conditions),
        settings=recipe.settings,
        captions=recipe.captions,
        filters=recipe.filters,
        sizes=recipe.sizes,
    )


def _by_table(assignments: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The settings by what they are about."""
    tables: dict[str, dict[str, str]] = {name: {} for name in ("annotation", *_TABLES)}
    for dotted, value in assignments.items():
        table, _, name = dotted.partition(".")
        if table in _TABLES and name:
            tables[table][name] = value
        else:
            tables["annotation"][dotted] = value
    return tables


def _plan(wishes: Wishes, recipe: _Rules, settings: Mapping[str, str]) -> AnnotationPlan:
    conditions = wishes.conditions or recipe.conditions
    own = recipe.settings if not wishes.conditions else _about(recipe.settings, conditions)
    return plan_annotation(
        conditions, {**own, **settings}, detect_size=wishes.detect_size, seed=wishes.seed
    )


def _about(settings: Mapping[str, Any], conditions: tuple[str, ...]) -> dict[str, Any]:
    """A recipe's settings of those conditions that are made."""
    return {
        dotted: value
        for dotted, value in settings.items()
        if dotted.partition(".")[0] in conditions
    }


def _captioner(
    wishes: Wishes, recipe: _Rules, settings: Mapping[str, str], runtime: Runtime
) -> Captioner:
    own = dict(recipe.captions)
    name = own.pop("captioner", "sidecar")
    if wishes.captions is not None and wishes.captions != name:
        name, own = wishes.captions, {}
    return make_captioner(
        str(name),
        template=wishes.template,
        settings={**own, **settings},
        prefix=wishes.prefix,
        suffix=wishes.suffix,
        trigger=wishes.trigger,
        existing=wishes.existing or "keep",
        runtime=runtime,
    )


def _sizes(wishes: Wishes, recipe: _Rules, settings: Mapping[str, str]) -> SizePolicy:
    own = {**recipe.sizes, **settings}
    if wishes.fit is not None and wishes.fit != own.get("mode", "square"):
        # Another way to fit has settings of its own.
        own = {"mode": wishes.fit, **settings}
    if wishes.size is not None:
        own["size"] = wishes.size
    if own.get("crop") == "random":
        own.setdefault("seed", wishes.seed)
    return from_mapping(SizePolicy, own, where="sizes")
