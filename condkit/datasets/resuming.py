"""Whether a dataset that was begun may be gone on with, and what has changed where not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from condkit.errors import OutputError

SHOWN = 5
"""Changes that a message names."""
_ADVICE = "use another output folder, or --overwrite to begin anew"


def check_same_settings(dataset: Path, begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to mix rows that were made in different ways.

    Args:
        dataset: The dataset, for the message.
        begun: All settings that it was begun with, as JSON values.
        wanted: Those of this run.

    Raises:
        OutputError: naming the settings that changed.
    """
    changes = describe_changes(begun, wanted)
    if changes:
        raise OutputError(f"{dataset} was begun with other settings: {_some(changes)}; {_ADVICE}")


def check_same_source(dataset: Path, changes: Sequence[str]) -> None:
    """Refuse to mix rows of different inputs.

    Args:
        dataset: The dataset, for the message.
        changes: What has changed in its source, in words; at least one more than are shown.

    Raises:
        OutputError: naming them, if there are any.
    """
    if changes:
        raise OutputError(
            f"the source of {dataset} has changed: {_some(changes)}; restore it, {_ADVICE}"
        )


def check_same_environment(
    dataset: Path, begun: Mapping[str, str], present: Mapping[str, str]
) -> None:
    """Refuse to go on with other libraries or another device, whose bytes may differ.

    Raises:
        OutputError: naming what changed.
    """
    changes = describe_changes(begun, present)
    if changes:
        raise OutputError(
            f"{dataset} was begun in another environment: {_some(changes)}; go back to it, "
            f"{_ADVICE}"
        )


def describe_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The dotted names whose values differ, each as "name was X, now Y"."""
    old, new = dict(_flat(before, "")), dict(_flat(after, ""))
    changes = []
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            changes.append(f"{name} was {old[name]!r}, now absent")
        elif name not in old:
            changes.append(f"{name} was absent, now {new[name]!r}")
        elif old[name] != new[name]:
            changes.append(f"{name} was {old[name]!r}, now {new[name]!r}")
    return changes


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """The leaves of nested JSON values with their dotted names."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple) and value:
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{name}[{index}]")
    else:
        yield name, value


def _some(changes: Sequence[str]) -> str:
    shown = "; ".join(changes[:SHOWN])
    return shown if len(changes) <= SHOWN else f"{shown}; and more"
