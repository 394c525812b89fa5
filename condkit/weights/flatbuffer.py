"""A small FlatBuffers writer whose bytes never change, and which can keep the content of a file.

The bytes that the `flatbuffers` library writes differ between its versions, so they cannot be
pinned. This one writes a new head (the root table and what is new) and lets it point into the old
content behind it, which stays as it is, alignment included.

Source: the FlatBuffers binary format, https://flatbuffers.dev/internals/.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

_ALIGNMENT = 16
"""Of the old content: what was aligned in it stays aligned."""


@dataclass(frozen=True, slots=True)
class Old:
    """A table, vector or string of the old content.

    Attributes:
        position: Where it begins in the old file.
    """

    position: int


@dataclass(frozen=True, slots=True)
class Table:
    """A table: field number to value, numbers as unsigned 32-bit (or narrower) integers."""

    fields: Mapping[int, int | Node]


@dataclass(frozen=True, slots=True)
class Floats:
    """A vector of 32-bit floats."""

    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Tables:
    """A vector of tables."""

    items: Sequence[Old | Table]


Node: TypeAlias = Old | Table | Floats | Tables | str | bytes


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads tables and vectors of offsets.

    Attributes:
        data: The whole file.
    """

    data: bytes

    @property
    def root(self) -> int:
        """Position of the root table."""
        return self.follow(0)

    def follow(self, position: int) -> int:
        """The position that the offset at a position leads to."""
        return position + self._number("<I", position)

    def fields(self, table: int) -> dict[int, int]:
        """Field number to the position of its value, for the fields that a table has."""
        vtable = table - self._number("<i", table)
        count = (self._number("<H", vtable) - 4) // 2
        places = {n: self._number("<H", vtable + 4 + 2 * n) for n in range(count)}
        return {n: table + place for n, place in places.items() if place}

    def number(self, position: int) -> int:
        """The unsigned 32-bit integer at a position."""
        return self._number("<I", position)

    def items(self, vector: int) -> list[int]:
        """Positions of the items of a vector of tables or strings."""
        return [self.follow(vector + 4 + 4 * n) for n in range(self.number(vector))]

    def text(self, string: int) -> bytes:
        """A string's bytes."""
        return self.data[string + 4 : string + 4 + self.number(string)]

    def _number(self, form: str, position: int) -> int:
        value: int = struct.unpack_from(form, self.data, position)[0]
        return value


def write(root: Table, identifier: bytes, old: bytes = b"") -> bytes:
    """A whole file.

    Args:
        root: The root table.
        identifier: Four bytes that name the schema.
        old: A file whose content `Old` nodes point to; it is kept whole behind the new head.
    """
    head = bytearray(4) + identifier
    waiting: list[tuple[int, Node]] = [(0, root)]
    kept: list[tuple[int, int]] = []
    while waiting:
        slot, node = waiting.pop(0)
        if isinstance(node, Old):
            kept.append((slot, node.position))
        else:
            position, children = _append(head, node)
            struct.pack_into("<I", head, slot, position - slot)
            waiting += children
    if old:
        head += bytes(-len(head) % _ALIGNMENT)
    for slot, position in kept:
        struct.pack_into("<I", head, slot, len(head) + position - slot)
    return bytes(head) + old


def _append(
    head: bytearray, node: Table | Floats | Tables | str | bytes
) -> tuple[int, list[tuple[int, Node]]]:
    """Append one node; its position, and the places that still need the offset of a child."""
    if isinstance(node, Table):
        return _append_table(head, node)
    head += bytes(-len(head) % 4)
    position = len(head)
    if isinstance(node, Tables):
        head += struct.pack("<I", len(node.items)) + bytes(4 * len(node.items))
        return position, [(position + 4 + 4 * n, item) for n, item in enumerate(node.items)]
    if isinstance(node, Floats):
        head += struct.pack(f"<I{len(node.values)}f", len(node.values), *node.values)
    else:
        content = node.encode() + b"\0" if isinstance(node, str) else node
        head += struct.pack("<I", len(content) - isinstance(node, str)) + content
    return position, []


def _append_table(head: bytearray, table: Table) -> tuple[int, list[tuple[int, Node]]]:
    """Append the list of its fields' places and the table itself, four bytes a field."""
    slots = max(table.fields) + 1
    places = {number: 4 + 4 * n for n, number in enumerate(table.fields)}
    size = 4 + 4 * len(places)
    head += bytes(-(len(head) + 4 + 2 * slots) % 4)
    vtable = len(head)
    head += struct.pack(
        f"<HH{slots}H", 4 + 2 * slots, size, *(places.get(n, 0) for n in range(slots))
    )
    position = len(head)
    head += struct.pack("<i", position - vtable) + bytes(size - 4)
    children: list[tuple[int, Node]] = []
    for number, value in table.fields.items():
        if isinstance(value, int):
            struct.pack_into("<I", head, position + places[number], value)
        else:
            children.append((position + places[number], value))
    return position, children
