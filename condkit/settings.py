"""Settings as frozen dataclasses: read from TOML, JSON or `--set name=value`, checked by type.

A dataclass is the whole schema: its annotations say how a value is read, its `__post_init__` says
which values are possible. Mistakes are reported with the dotted name and the nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from condkit.errors import CondkitError, ConfigError, UnknownNameError

T = TypeVar("T")

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


def parse_assignments(pairs: Iterable[str]) -> dict[str, str]:
    """Read `name=value` words, as the command line takes them.

    Returns:
        Dotted name to text, in the order given; a later assignment wins.

    Raises:
        ConfigError: if a word has no `=` or no name.
    """
    assignments: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set {pair!r}: expected NAME=VALUE, such as canny.low=50")
        assignments[name.strip()] = value.strip()
    return assignments


def merge(values: Mapping[str, Any], assignments: Mapping[str, str]) -> dict[str, Any]:
    """A nested copy of `values` in which each dotted name of `assignments` is set.

    Raises:
        ConfigError: if a name goes through something that is no table.
    """
    merged = {key: merge(v, {}) if isinstance(v, Mapping) else v for key, v in values.items()}
    for name, text in assignments.items():
        *tables, last = name.split(".")
        place = merged
        for table in tables:
            inner = place.setdefault(table, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{name}: {table!r} is a value, not a table of settings")
            place = inner
        place[last] = text
    return merged


def from_mapping(cls: type[T], values: Mapping[str, Any], *, where: str = "") -> T:
    """Build the dataclass `cls` from plain values; text is converted as the annotation says.

    Args:
        cls: A dataclass; its fields may be dataclasses themselves.
        values: Field name to value (TOML types or text).
        where: The dotted prefix that error messages show.

    Raises:
        UnknownNameError: if a key is no field.
        ConfigError: if a value is missing, of the wrong type, or refused by the dataclass.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise UnknownNameError(
                f"unknown setting {_dotted(where, key)!r}{suggest(key, fields)} "
                f"(known: {', '.join(fields)})"
            )
    hints = typing.get_type_hints(cls)
    arguments = {
        key: _convert(hints[key], value, _dotted(where, key)) for key, value in values.items()
    }
    missing = [name for name, f in fields.items() if name not in arguments and _is_required(f)]
    if missing:
        raise ConfigError(f"{_dotted(where, missing[0])}: a value is needed and there is none")
    try:
        return cls(**arguments)
    except CondkitError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from error


def as_mapping(instance: Any) -> dict[str, Any]:  # noqa: ANN401 - any dataclass
    """The fields of a dataclass as JSON or TOML values, nested; tuples become lists."""

    def plain(value: Any) -> Any:  # noqa: ANN401
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return as_mapping(value)
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return value

    return {f.name: plain(getattr(instance, f.name)) for f in dataclasses.fields(instance)}


def suggest(name: str, known: Iterable[str]) -> str:
    """A clause that names the closest known name, or nothing: `; did you mean 'canny'?`."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def choose(name: str, known: Iterable[str], *, what: str) -> str:
    """`name`, if it is one of `known`.

    Args:
        name: What the user wrote.
        known: All that there is.
        what: The kind of thing, for the message: "condition", "recipe".

    Raises:
        UnknownNameError: if it is none of them; the message lists them.
    """
    names = list(known)
    if name in names:
        return name
    raise UnknownNameError(
        f"unknown {what} {name!r}{suggest(name, names)} (known: {', '.join(names)})"
    )


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _dotted(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _convert(annotation: Any, value: Any, name: str) -> Any:  # noqa: ANN401
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        if isinstance(value, annotation):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name}: expected a table of settings, got {value!r}")
        return from_mapping(annotation, value, where=name)
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return _convert_literal(typing.get_args(annotation), value, name)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(typing.get_args(annotation), value, name)
    if origin is tuple:
        return _convert_tuple(typing.get_args(annotation), value, name)
    return _convert_scalar(annotation, value, name)


def _convert_literal(options: tuple[Any, ...], value: Any, name: str) -> Any:  # noqa: ANN401
    for option in options:
        if value == option or (isinstance(value, str) and value == str(option)):
            return option
    known = [str(option) for option in options]
    raise ConfigError(
        f"{name}: expected one of {', '.join(known)}, got {value!r}{suggest(str(value), known)}"
    )


def _convert_union(options: tuple[Any, ...], value: Any, name: str) -> Any:  # noqa: ANN401
    if type(None) in options and (
        value is None or (isinstance(value, str) and value.lower() in ("none", ""))
    ):
        return None
    problems: list[CondkitError] = []
    for option in options:
        if option is type(None):
            continue
        try:
            return _convert(option, value, name)
        except CondkitError as error:
            problems.append(error)
    raise problems[0]


def _convert_tuple(items: tuple[Any, ...], value: Any, name: str) -> Any:  # noqa: ANN401
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ConfigError(f"{name}: expected a list, got {value!r}")
    if len(items) == 2 and items[1] is Ellipsis:
        kinds: tuple[Any, ...] = (items[0],) * len(parts)
    else:
        kinds = items
    if len(parts) != len(kinds):
        raise ConfigError(f"{name}: expected {len(kinds)} values, got {len(parts)}: {value!r}")
    return tuple(
        _convert(kind, part, f"{name}[{index}]")
        for index, (kind, part) in enumerate(zip(kinds, parts, strict=True))
    )


def _convert_scalar(kind: Any, value: Any, name: str) -> Any:  # noqa: ANN401
    if kind is bool:
        return _convert_bool(value, name)
    if kind is str:
        if isinstance(value, str):
            return value
    elif kind in (int, float):
        number = _convert_number(kind, value)
        if number is not None:
            return number
    elif isinstance(value, kind):
        return value
    words = {int: "a whole number", float: "a number", str: "text"}
    raise ConfigError(f"{name}: expected {words.get(kind, str(kind))}, got {value!r}")


def _convert_bool(value: Any, name: str) -> bool:  # noqa: ANN401
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise ConfigError(f"{name}: expected true or false, got {value!r}")


def _convert_number(kind: type, value: Any) -> int | float | None:  # noqa: ANN401
    """The value as `kind`, or None where it is no such number (a bool is none)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        if kind is float:
            return float(value)
        # A float on the way would round whole numbers above 2**53.
        if isinstance(value, int | str):
            return int(value)
        return int(value) if value.is_integer() else None
    except (ValueError, OverflowError):
        return None
