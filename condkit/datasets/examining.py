"""What has to be known of all pictures before a row is made: near copies, and the largest ones.

Each picture is looked at once and cheaply, in any order and by any number of threads; then all of
them are compared. What the original's size rules out takes no part, so that no picture is left out
in favour of one that is itself not kept.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from condkit import imageio
from condkit.datasets.filters import Filters, FilterSettings
from condkit.datasets.near_duplicates import keep_first, perceptual_hash
from condkit.datasets.ranking import by_size
from condkit.imageio import formats
from condkit.imageio.decoding import DecodePolicy, check_size, read_source

_ENOUGH = 64
"""Short side in pixels of the version that is hashed."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found out about a picture.

    Attributes:
        width: Of the upright original, in pixels; where no hash was asked for, of the original as
            it is stored.
        height: The same.
        phash: The perceptual hash, 16 hexadecimal digits; None where it was not asked for or the
            picture is flat.
    """

    width: int
    height: int
    phash: str | None = None


@dataclass(frozen=True, slots=True)
class Examiner:
    """Finds the pictures that are left out because of others.

    Attributes:
        settings: The limits; those on the original's size act here as well.
        too_small: Says of a height and width why such a picture cannot have its final size, or
            None: `SizePolicy.too_small`.
    """

    settings: FilterSettings
    too_small: Callable[[tuple[int, int]], str | None] | None = None

    @property
    def is_needed(self) -> bool:
        """Whether a limit is on that needs all pictures."""
        return self.settings.near_duplicates is not None or self.settings.keep_largest is not None

    def examine(self, data: bytes | Path) -> Examined:
        """Look at one picture.

        For near copies it is decoded, JPEGs at a fraction of their size; for the largest ones its
        header is enough.

        Args:
            data: Its file, or the file's bytes.

        Raises:
            ImageError: if it cannot be decoded; it will not become a row either.
        """
        if self.settings.near_duplicates is None:
            policy = DecodePolicy()
            picture = formats.open_image(read_source(data, policy), name="picture")
            check_size(picture, policy)
            return Examined(*picture.size)
        decoded = imageio.decode(data, name="picture", at_least=_ENOUGH)
        value = perceptual_hash(decoded.image)
        height, width = decoded.original_hw
        return Examined(width, height, None if value is None else f"{value:016x}")

    def select(self, examined: Iterable[tuple[int, str, Examined]]) -> Iterator[tuple[int, str]]:
        """Which pictures are left out, and why.

        The order they come in does not matter; sorted by name they take the least memory, less than
        200 bytes each.

        Args:
            examined: Index, name and what was found out; every name once. Pictures that could not
                be examined are left away.

        Yields:
            Index and reason, first those left out for their own size, then near copies, then those
            that are not among the largest.
        """
        table = _Table()
        filters = Filters(self.settings)
        for index, name, one in examined:
            reason = self._of_itself(filters, (one.height, one.width))
            if reason is None:
                table.add(index, name, one)
            else:
                yield index, reason
        yield from self._compare(table)

    def _of_itself(self, filters: Filters, hw: tuple[int, int]) -> str | None:
        reason = filters.of_source(hw).reason
        if reason is None and self.too_small is not None:
            reason = self.too_small(hw)
        return reason

    def _compare(self, table: _Table) -> Iterator[tuple[int, str]]:
        preferred = table.preferred()
        if self.settings.near_duplicates is not None:
            hashed = preferred[table.is_hashed[preferred]]
            instead, bits = keep_first(table.hashes[hashed], self.settings.near_duplicates)
            copies = np.flatnonzero(instead >= 0)
            for copy in copies.tolist():
                kept = table.name(int(hashed[instead[copy]]))
                yield (
                    table.index(int(hashed[copy])),
                    f"is a near copy of {kept}, which is kept: their perceptual hashes differ in "
                    f"{bits[copy]} of 64 bits, within near_duplicates="
                    f"{self.settings.near_duplicates}",
                )
            preferred = preferred[~np.isin(preferred, hashed[copies])]
        if self.settings.keep_largest is not None:
            for place in preferred[self.settings.keep_largest :].tolist():
                yield (
                    table.index(place),
                    f"has {table.pixels(place)} pixels and is not among the "
                    f"{self.settings.keep_largest} largest pictures (keep_largest)",
                )


class _Table:
    """All pictures that take part, column by column, a few numbers and the name for each."""

    def __init__(self) -> None:
        self._indices = array("q")
        self._pixels = array("q")
        self._hashes = array("Q")
        self._is_hashed = array("b")
        self._text = bytearray()
        self._ends = array("q")
        self._last = ""
        self._in_order = True

    def add(self, index: int, name: str, one: Examined) -> None:
        self._indices.append(index)
        self._pixels.append(one.width * one.height)
        self._hashes.append(int(one.phash or "0", 16))
        self._is_hashed.append(one.phash is not None)
        self._text += name.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._text))
        self._in_order = self._in_order and name >= self._last
        self._last = name

    def index(self, place: int) -> int:
        return self._indices[place]

    def pixels(self, place: int) -> int:
        return self._pixels[place]

    def name(self, place: int) -> str:
        begin = self._ends[place - 1] if place else 0
        return self._text[begin : self._ends[place]].decode("utf-8", "surrogateescape")

    @property
    def hashes(self) -> NDArray[np.uint64]:
        return np.frombuffer(self._hashes, np.uint64) if self._ends else np.empty(0, np.uint64)

    @property
    def is_hashed(self) -> NDArray[np.bool_]:
        return np.array(self._is_hashed, np.bool_)

    def preferred(self) -> NDArray[np.int64]:
        """The places, those with most pixels first."""
        by_name = np.arange(len(self._ends))
        if not self._in_order:
            by_name[sorted(by_name.tolist(), key=self.name)] = np.arange(len(self._ends))
        return by_size(np.array(self._pixels, np.int64), by_name)
