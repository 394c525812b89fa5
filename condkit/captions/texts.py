"""How text that people and tools have written becomes captions: UTF-8, lines, JSON, columns."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from condkit.captions.base import one_line

Lines: TypeAlias = Literal["join", "first", "several"]
"""What the lines of one text are: "join" makes one caption of them, with spaces between; "first"
takes the first line that is not blank, as kohya does; "several" makes each line a caption of its
own, as SimpleTuner does."""

Missing: TypeAlias = Literal["reject", "empty"]
"""What becomes of an image without a caption: a rejection, or an empty caption."""

Texts: TypeAlias = tuple[str, ...]


class UnusableTextError(ValueError):
    """Text that is no caption; the message is the reason of the rejection."""


def decode(data: bytes, name: str) -> str:
    """The text of UTF-8 bytes, with or without a byte order mark.

    Args:
        data: The bytes.
        name: Where they are from, for the message.

    Raises:
        UnusableTextError: if they are no UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnusableTextError(
            f"{name} is not UTF-8 (byte {error.start}); save it as UTF-8"
        ) from error


def split(text: str, lines: Lines) -> Texts:
    """The captions of one text; at least one, maybe empty, each without line ends."""
    if lines == "join":
        return (one_line(text),)
    full = tuple(line for line in map(one_line, text.splitlines()) if line)
    return (full or ("",)) if lines == "several" else full[:1] or ("",)


def from_value(value: Any, name: str, lines: Lines) -> Texts | None:  # noqa: ANN401 - any column
    """The captions in a column's or a JSON field's value.

    Args:
        value: Text, bytes of UTF-8, a number (its text is the caption), or a list of these, each a
            caption of its own.
        name: Where it is from, for the message.
        lines: What the lines of each text are.

    Returns:
        The captions; None where there is nothing (None, NaN, an empty list).

    Raises:
        UnusableTextError: if it is anything else.
    """
    if hasattr(value, "tolist"):  # numpy's arrays and numbers
        value = value.tolist()
    if isinstance(value, bytes):
        value = decode(value, name)
    if isinstance(value, str):
        return split(value, lines)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, Sequence):
        parts = [from_value(part, name, lines) for part in value]
        return tuple(text for part in parts for text in part or ()) or None
    # True is a number to Python, not to people.
    if not isinstance(value, bool) and isinstance(value, numbers.Number):
        return (str(value),)
    raise UnusableTextError(f"{name}: expected text or a list of texts, got {type(value).__name__}")


def from_json(text: str, name: str, keys: Sequence[str], lines: Lines) -> Texts | None:
    """The captions in a JSON document.

    Args:
        text: The document: an object, of which the first of `keys` with a value counts; or the
            captions themselves. Numbers are kept as they are written.
        name: Where it is from, for the message.
        keys: The fields that may hold captions.
        lines: What the lines of each text are.

    Returns:
        The captions; None where there are none.

    Raises:
        UnusableTextError: if it is no JSON or the field is no text.
    """
    try:
        document = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError) as error:
        raise UnusableTextError(f"{name} is no JSON: {error}") from error
    return from_document(document, name, keys, lines)


def from_document(
    document: Any,  # noqa: ANN401 - any JSON value
    name: str,
    keys: Sequence[str],
    lines: Lines,
) -> Texts | None:
    """As `from_json`, of a document that is read already."""
    if not isinstance(document, Mapping):
        return from_value(document, name, lines)
    for key in keys:
        found = from_value(document.get(key), f"{name}, {key!r}", lines)
        if found is not None:
            return found
    return None
