"""Maps to the files that a run writes, on the threads that draw them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from condkit import imageio
from condkit.annotators.planning import AnnotationPlan
from condkit.datasets.encoded import DataColumn, EncodedMap, Facts
from condkit.errors import MapError
from condkit.types import ConditionMap


def encode_maps(maps: Mapping[str, ConditionMap], *, data: bool) -> dict[str, EncodedMap]:
    """Encode all maps of an image.

    Args:
        maps: By condition.
        data: Whether to encode what they were drawn from as well.

    Raises:
        MapError: if a map does not fit into a PNG, or a fact is no finite number.
    """
    return {
        name: EncodedMap(
            png=imageio.encode_png(drawn.pixels),
            facts=_plain(name, drawn.facts),
            data={item.suffix: item.encode() for item in drawn.data} if data else {},
        )
        for name, drawn in maps.items()
    }


def data_columns(plan: AnnotationPlan) -> tuple[DataColumn, ...]:
    """What goes beside the maps of a plan, in its order."""
    return tuple(
        DataColumn(planned.condition.spec.name, suffix)
        for planned in plan.conditions
        for suffix in planned.renderer.data
    )


def _plain(condition: str, facts: Mapping[str, int | float]) -> Facts:
    """Facts as JSON numbers; numpy's become Python's."""
    plain: Facts = {}
    for name, value in facts.items():
        number = float(value)
        if not math.isfinite(number):
            raise MapError(f"{condition}: the fact {name!r} is {value}, expected a finite number")
        plain[name] = int(value) if isinstance(value, int) else number
    return plain
