"""Finds conditions and detectors: modules of this package, and installed plug-ins.

A module that defines `CONDITION` or `DETECTOR` (or both) is one; its name is the file's name. Other
packages add theirs through the entry point group `condkit.annotators`, whose entries name such
modules.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import logging
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType

from condkit.annotators.base import ConditionDefinition, DetectorDefinition
from condkit.errors import ConfigError
from condkit.settings import choose

ENTRY_POINT_GROUP = "condkit.annotators"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Registry:
    """Everything that is there, by name.

    Attributes:
        conditions: Name to definition.
        detectors: Name to definition.
    """

    conditions: dict[str, ConditionDefinition] = field(default_factory=dict)
    detectors: dict[str, DetectorDefinition] = field(default_factory=dict)

    def add(self, module: ModuleType) -> None:
        """Take in what a module defines; on an error nothing of it is taken.

        Raises:
            ConfigError: if a definition has the wrong type, or its name is taken.
        """
        condition = getattr(module, "CONDITION", None)
        detector = getattr(module, "DETECTOR", None)
        for value, kind, taken in (
            (condition, ConditionDefinition, self.conditions),
            (detector, DetectorDefinition, self.detectors),
        ):
            if value is None:
                continue
            if not isinstance(value, kind):
                raise ConfigError(
                    f"{module.__name__}: expected a {kind.__name__}, got {type(value).__name__}"
                )
            if value.spec.name in taken:
                raise ConfigError(f"{module.__name__}: the name {value.spec.name!r} is taken")
        if condition is not None:
            self.conditions[condition.spec.name] = condition
        if detector is not None:
            self.detectors[detector.spec.name] = detector


def available_conditions() -> tuple[str, ...]:
    """The names of all conditions, in alphabetical order."""
    return tuple(sorted(_registry().conditions))


def available_detectors() -> tuple[str, ...]:
    """The names of all detectors, in alphabetical order."""
    return tuple(sorted(_registry().detectors))


def get_condition(name: str) -> ConditionDefinition:
    """The condition called `name`.

    Raises:
        UnknownNameError: if there is none; the message lists those there are.
    """
    return _registry().conditions[choose(name, available_conditions(), what="condition")]


def get_detector(name: str) -> DetectorDefinition:
    """The detector called `name`.

    Raises:
        UnknownNameError: if there is none; the message lists those there are.
    """
    return _registry().detectors[choose(name, available_detectors(), what="detector")]


@functools.cache
def _registry() -> Registry:
    registry = Registry()
    for module in _own_modules():
        registry.add(module)
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        # A plug-in that is broken must not take the others with it, and cannot fail in a way
        # that is known here.
        try:
            registry.add(entry.load())
        except Exception as error:
            _log.warning(
                "the plug-in %s (%s) is left out: %s: %s",
                entry.name,
                entry.value,
                type(error).__name__,
                error,
            )
    return registry


def _own_modules() -> Iterator[ModuleType]:
    package = importlib.import_module(__package__ or "condkit.annotators")
    for info in pkgutil.iter_modules(package.__path__):
        if not info.ispkg:
            yield importlib.import_module(f"{package.__name__}.{info.name}")
