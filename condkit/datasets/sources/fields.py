"""What of a row can be kept as JSON values: the fields that captions are made of."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Collection, Mapping
from typing import Any

LONGEST_TEXT = 1 << 20
MOST_ITEMS = 1000

_MISSING = object()


def json_fields(values: Mapping[str, Any], *, without: Collection[str] = ()) -> dict[str, Any]:
    """The values that JSON can hold, by column.

    Dates become ISO 8601 text, decimals text. Bytes, texts above a million characters and lists
    above a thousand items (embeddings) are left out.

    Args:
        values: A row.
        without: Columns that are not wanted.
    """
    plain = ((name, _plain(value)) for name, value in values.items() if name not in without)
    return {name: value for name, value in plain if value is not _MISSING}


def _plain(value: Any) -> Any:  # noqa: ANN401 - any value of a table
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value if len(value) <= LONGEST_TEXT else _MISSING
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, Mapping):
        items = {str(name): _plain(inner) for name, inner in value.items()}
        return items if _whole(items.values()) else _MISSING
    if isinstance(value, list | tuple):
        inner = [_plain(item) for item in value[: MOST_ITEMS + 1]]
        return inner if _whole(inner) else _MISSING
    return _MISSING


def _whole(values: Collection[Any]) -> bool:
    return len(values) <= MOST_ITEMS and all(value is not _MISSING for value in values)
