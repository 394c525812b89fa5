"""Near copies of pictures: perceptual hashes, and which of them lie within a few bits.

Pictures that were resized, compressed again or made a little brighter keep almost all bits of
their hash; other pictures differ in about half of them. Mirrored, turned and cropped copies are not
found.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from condkit import geometry
from condkit.types import RgbImage

MOST_BITS = 10
"""The largest distance that can be asked for; above it most pictures have chance neighbours."""

_SIDE = 32
_FREQUENCIES = slice(1, 9)
# A picture whose grey hardly varies has noise in place of a hash, and would be a copy of any other.
_FLAT = 1.0
_BANDS = 4
_BAND_BITS = 16
_VALUES = 1 << _BAND_BITS
# Pictures taken in at once, and pairs compared at once: these bound the memory.
_CHUNK = 32_768
_SMALLEST_CHUNK = 1024
_PAIRS = 1 << 18

Hashes = NDArray[np.uint64]


def perceptual_hash(image: RgbImage) -> int | None:
    """64 bits that say how the large shapes of a picture lie.

    The grey picture at 32 x 32 pixels is transformed by a DCT-II; each of the 64 coefficients of
    the lowest 8 frequencies in both directions, without the constant ones, gives one bit: whether
    it is above their median.

    Args:
        image: (H, W, 3) uint8 RGB; a small version of the picture is enough (64 pixels and more).

    Returns:
        0 to 2**64 - 1; None where the picture is flat, so that nothing can be said about it.

    Source: C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010.
    """
    import cv2

    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(np.float32)
    small = geometry.resize(grey, (_SIDE, _SIDE), "area").astype(np.float64)
    if small.std() < _FLAT:
        return None
    cosines = _cosines()
    low = cosines @ small @ cosines.T
    bits = (low > np.median(low)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes())


@lru_cache
def _cosines() -> NDArray[np.float64]:
    """(8, 32): the lowest frequencies of the DCT-II, without the constant."""
    frequency = np.arange(_SIDE)[_FREQUENCIES, None]
    place = (2 * np.arange(_SIDE)[None] + 1) / (2 * _SIDE)
    return np.cos(np.pi * frequency * place)


def keep_first(hashes: Hashes, most_bits: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Go through hashes in order and keep each that is no near copy of one kept before.

    So each hash that is not kept lies within `most_bits` of one that is, and no two that are kept
    do. A million hashes take some seconds and less than 100 megabytes.

    Args:
        hashes: (N,) uint64, those to be preferred first.
        most_bits: Hashes that differ in at most so many bits are near copies; 0 to `MOST_BITS`.

    Returns:
        (N,) the place of the one kept in its stead, the nearest and of these the first, or -1 where
        it is kept itself; (N,) the bits in which the two differ.
    """
    unique, first, of_unique = np.unique(hashes, return_index=True, return_inverse=True)
    # Equal hashes share their fate, so only the first of each takes part, in the order of these.
    order = np.argsort(first)
    instead, bits = _keep_first_distinct(unique[order], most_bits)
    kept = first.copy()
    kept[order] = np.where(instead < 0, first[order], first[order][instead])
    bits[order] = bits.copy()
    kept_place = kept[of_unique]
    kept_place[kept_place == np.arange(len(hashes))] = -1
    return kept_place, bits[of_unique]


def _keep_first_distinct(
    hashes: Hashes, most_bits: int
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """`keep_first` of hashes of which no two are equal."""
    instead = np.full(len(hashes), -1, np.int64)
    bits = np.zeros(len(hashes), np.uint8)
    kept = np.empty(0, np.int64)
    starts = range(0, len(hashes), _CHUNK)
    waiting = [np.arange(start, min(start + _CHUNK, len(hashes))) for start in reversed(starts)]
    while waiting:
        chunk = waiting.pop()
        _join_kept(hashes, kept, chunk, most_bits, instead, bits)
        left = chunk[instead[chunk] < 0]
        if _join_each_other(hashes, left, most_bits, instead, bits):
            kept = np.concatenate([kept, left[instead[left] < 0]])
        else:
            waiting += [left[len(left) // 2 :], left[: len(left) // 2]]
    left_out = np.flatnonzero(instead >= 0)
    for start in range(0, len(left_out), _CHUNK):
        # A later one that is kept may be nearer than the one that decided.
        _join_kept(hashes, kept, left_out[start : start + _CHUNK], most_bits, instead, bits)
    return instead, bits


def _join_kept(
    hashes: Hashes,
    kept: NDArray[np.int64],
    asking: NDArray[np.int64],
    most_bits: int,
    instead: NDArray[np.int64],
    bits: NDArray[np.uint8],
) -> None:
    """Note for each that asks the nearest of the kept ones, of these the first."""
    best = np.full(len(asking), np.iinfo(np.int64).max)
    for mine, theirs, distance in _near_pairs(hashes[asking], hashes[kept], most_bits):
        # One number that sorts by distance first and by order then.
        np.minimum.at(best, mine, (distance.astype(np.int64) << 48) | kept[theirs])
    found = best < np.iinfo(np.int64).max
    instead[asking[found]] = best[found] & ((1 << 48) - 1)
    bits[asking[found]] = (best[found] >> 48).astype(np.uint8)


def _join_each_other(
    hashes: Hashes,
    asking: NDArray[np.int64],
    most_bits: int,
    instead: NDArray[np.int64],
    bits: NDArray[np.uint8],
) -> bool:
    """Within a chunk, where who is kept depends on those before; False: too many for one chunk."""
    pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    count = 0
    for mine, theirs, _ in _near_pairs(hashes[asking], hashes[asking], most_bits):
        later = mine > theirs
        pairs.append((asking[mine[later]], asking[theirs[later]]))
        count += int(later.sum())
        if count > _PAIRS and len(asking) > _SMALLEST_CHUNK:
            return False
    if not count:
        return True
    late, early = (np.concatenate(side) for side in zip(*pairs, strict=True))
    for place in np.lexsort((early, late)).tolist():
        one, other = int(late[place]), int(early[place])
        if instead[one] < 0 and instead[other] < 0:
            instead[one] = other
            bits[one] = int(np.bitwise_count(hashes[one] ^ hashes[other]))
    return True


def _near_pairs(
    asking: Hashes, known: Hashes, most_bits: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]]:
    """All pairs within a distance, some of them more than once; places in both, and distances.

    Of hashes within 4 q + r bits, one of the first r + 1 quarters differs in at most q bits, or one
    of the others in at most q - 1, so only hashes with such a quarter are compared.

    Source: M. Norouzi et al., "Fast Search in Hamming Space with Multi-Index Hashing", CVPR 2012.
    """
    radius, rest = divmod(most_bits, _BANDS)
    for band in range(_BANDS):
        masks = _masks(radius if band <= rest else radius - 1)
        if not len(masks):
            continue
        values = _band(known, band)
        order = np.argsort(values, kind="stable")
        starts = np.zeros(_VALUES + 1, np.int64)
        np.cumsum(np.bincount(values, minlength=_VALUES), out=starts[1:])
        wanted = _band(asking, band)
        for mask in masks:
            looked_up = wanted ^ mask
            for mine, spot in _expanded(starts[looked_up], starts[looked_up.astype(np.int64) + 1]):
                theirs = order[spot]
                distance = np.bitwise_count(asking[mine] ^ known[theirs])
                near = distance <= most_bits
                if near.any():
                    yield mine[near], theirs[near], distance[near]


def _masks(radius: int) -> NDArray[np.uint16]:
    """All changes of at most so many bits of a quarter; none for a radius below 0."""
    changed = (
        sum(1 << bit for bit in bits)
        for count in range(radius + 1)
        for bits in combinations(range(_BAND_BITS), count)
    )
    return np.fromiter(changed, np.uint16)


def _band(hashes: Hashes, band: int) -> NDArray[np.uint16]:
    return (hashes >> np.uint64(band * _BAND_BITS)).astype(np.uint16)


def _expanded(
    starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Ranges, number by number: which range, and the number; a bounded number at a time."""
    lengths = ends - starts
    totals = np.cumsum(lengths)
    begin = 0
    while begin < len(starts):
        before = int(totals[begin - 1]) if begin else 0
        # At least one range, however long it is.
        end = max(begin + 1, int(np.searchsorted(totals, before + _PAIRS, side="right")))
        counts = lengths[begin:end]
        which = np.repeat(np.arange(begin, end), counts)
        offset = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        if len(which):
            yield which, starts[which] + offset
        begin = end
