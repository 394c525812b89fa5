"""Writes the tables of docs/conditions.md from what is registered.

Run: python scripts/condition_tables.py docs/conditions.md

Between `<!-- begin: NAME -->` and `<!-- end -->` the page holds tables, which this replaces: NAME
is `conditions`, `detectors`, or the name of a condition. `tests/test_conditions_page.py` holds that
the page is what this would write.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from condkit.annotators.base import ConditionDefinition, DetectorDefinition, Renderer
from condkit.annotators.registry import (
    available_conditions,
    available_detectors,
    get_condition,
    get_detector,
)
from condkit.weights import AnyWeights

_BLOCK = re.compile(r"(<!-- begin: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_FIELD = re.compile(r"^    (\w+(?:, \w+)*): (.*)$")


def update(page: str) -> str:
    """The page with all its tables written anew."""

    def block(match: re.Match[str]) -> str:
        name = match.group(2)
        writers = {"conditions": _all_conditions, "detectors": _all_detectors}
        lines = writers[name]() if name in writers else _condition(get_condition(name))
        return match.group(1) + "\n" + "\n".join(lines) + "\n\n" + match.group(3)

    return _BLOCK.sub(block, page)


def _all_conditions() -> Iterator[str]:
    yield "| condition | made by, the default first | the map |"
    yield "|---|---|---|"
    for name in available_conditions():
        definition = get_condition(name)
        ways = ", ".join(f"`{way}`" for way in definition.detectors)
        yield f"| [`{name}`](#{name}) | {ways} | {_cell(definition.spec.meaning)} |"


def _condition(definition: ConditionDefinition) -> Iterator[str]:
    spec = definition.spec
    yield "| map | |"
    yield "|---|---|"
    yield f"| pixels | {_cell(spec.meaning)} |"
    kinds = {1: "1 channel", 3: "3 channels, RGB", 4: "4 channels, RGB and a mask"}
    yield f"| file | PNG, {kinds[spec.channels]}, {spec.dtype}; background {spec.background} |"
    yield f"| resized by | {spec.resample} |"
    yield f"| flipped by | {spec.flip} |"
    data = dict.fromkeys(suffix for r in definition.renderers for suffix in r.data)
    if data:
        yield f"| beside it | {', '.join(f'`{suffix}`' for suffix in data)} |"
    yield ""
    yield "| `detector` | network | weights | licence | commercial use |"
    yield "|---|---|---|---|---|"
    for renderer in definition.renderers:
        yield from _way(renderer)
    for names, params in _drawing_settings(definition).items():
        yield ""
        yield f"Settings of the drawing ({names}):"
        yield ""
        yield from _settings(params)


def _way(renderer: Renderer) -> Iterator[str]:
    detector = get_detector(renderer.detector)
    params = detector.params(**renderer.presets)
    cells = [f"`{renderer.choice}`", f"[`{detector.spec.name}`](#detector-{detector.spec.name})"]
    needed = detector.weights(params)
    if not needed:
        yield f"| {' | '.join(cells)} | none needed | | yes |"
    for index, weights in enumerate(needed):
        first = cells if index == 0 else ["", ""]
        yield f"| {' | '.join(first)} | {_weights(weights)} |"


def _drawing_settings(definition: ConditionDefinition) -> dict[str, type[Any]]:
    """Settings of the drawing, by the ways that share them."""
    ways: dict[type[Any], list[str]] = {}
    for renderer in definition.renderers:
        if dataclasses.fields(renderer.params):
            ways.setdefault(renderer.params, []).append(f"`{renderer.choice}`")
    return {", ".join(names): params for params, names in ways.items()}


def _all_detectors() -> Iterator[str]:
    for index, name in enumerate(available_detectors()):
        yield from [] if index == 0 else [""]
        yield from _detector(get_detector(name))


def _detector(definition: DetectorDefinition) -> Iterator[str]:
    spec = definition.spec
    fed = [
        name
        for name in available_conditions()
        if any(r.detector == spec.name for r in get_condition(name).renderers)
    ]
    yield f"### Detector {spec.name}"
    yield ""
    summary = spec.summary[0].upper() + spec.summary[1:]
    yield f"{summary}. Gives `{spec.yields.__name__}`; makes {', '.join(f'`{f}`' for f in fed)}."
    yield f"Source: {spec.source}."
    if spec.weights:
        yield ""
        yield "| `weights` | file or model | licence | commercial use | origin |"
        yield "|---|---|---|---|---|"
        for name, weights in spec.weights.items():
            yield f"| `{name}` | {_weights(weights)} | {_cell(weights.origin)} |"
    if dataclasses.fields(definition.params):
        yield ""
        yield from _settings(definition.params)


def _weights(weights: AnyWeights) -> str:
    """Name and size, licence, commercial use."""
    sizes = [file.size for file in weights.files]
    known = [size for size in sizes if size is not None]
    size = f", {sum(known) / 1e6:.0f} MB" if known and sum(known) >= 500_000 else ""
    allowed = {True: "yes", False: "no", None: "unclear"}[weights.commercial_use]
    return f"`{weights.name}`{size} | {_cell(weights.licence)} | {allowed}"


def _settings(params: type[Any]) -> Iterator[str]:
    described = _described(params)
    yield "| setting | default | |"
    yield "|---|---|---|"
    defaults = params()
    for field in dataclasses.fields(params):
        value = getattr(defaults, field.name)
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        shown = shown.lower() if isinstance(value, bool) else shown
        yield f"| `{field.name}` | {_cell(shown)} | {_cell(described.get(field.name, ''))} |"


def _described(params: type[Any]) -> dict[str, str]:
    """What the docstrings' `Attributes` say, by field; a subclass's words come first."""
    found: dict[str, str] = {}
    for cls in reversed(params.__mro__[:-1]):
        _, _, attributes = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
        found |= _attributes(attributes)
    return found


def _attributes(text: str) -> dict[str, str]:
    """The entries of a docstring's section, each on one line."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in text.splitlines():
        if match := _FIELD.match(line):
            names = match.group(1).split(", ")
            found |= dict.fromkeys(names, match.group(2))
        elif line.startswith("        "):
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        elif line and not line.startswith(" "):
            break
    return found


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Write the page that the command line names anew."""
    page = Path(sys.argv[1])
    page.write_text(update(page.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
