"""Whether a dataset that was begun may be gone on with, and what has changed where not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from condkit.datasets.planning import BuildPlan
from condkit.errors import OutputError

_ADVICE = "use another output folder, or --overwrite to begin anew"


def check_same_plan(dataset: Path, begun: BuildPlan, wanted: BuildPlan) -> None:
    """Refuse to mix rows that were made in different ways or from different inputs.

    Raises:
        OutputError: naming the settings or the files that changed.
    """
    changes = describe_changes(begun.parameters, wanted.parameters)
    if begun.shard_size != wanted.shard_size:
        changes.append(f"shard_size was {begun.shard_size}, now {wanted.shard_size}")
    if changes:
        raise OutputError(f"{dataset} was begun with other settings: {_some(changes)}; {_ADVICE}")
    if begun.source_sha256 != wanted.source_sha256:
        raise OutputError(
            f"the source of {dataset} has changed: {_some(_source_changes(begun, wanted))}; "
            f"restore it, {_ADVICE}"
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


def _source_changes(begun: BuildPlan, wanted: BuildPlan) -> list[str]:
    old = {item.relative: (item.sha256, item.beside) for item in begun.inputs}
    new = {item.relative: (item.sha256, item.beside) for item in wanted.inputs}
    old |= {r.source: (r.reason, "") for r in begun.rejections}
    new |= {r.source: (r.reason, "") for r in wanted.rejections}
    changes = [f"{name} is gone" for name in old if name not in new]
    changes += [f"{name} is new" for name in new if name not in old]
    for name in old.keys() & new.keys():
        if old[name][0] != new[name][0]:
            changes.append(f"{name} has other content")
        elif old[name][1] != new[name][1]:
            changes.append(f"the caption of {name} has changed")
    return sorted(changes)


def _some(changes: list[str]) -> str:
    shown = "; ".join(changes[:5])
    return shown if len(changes) <= 5 else f"{shown}; and {len(changes) - 5} more"
