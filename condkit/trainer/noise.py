"""Random numbers that depend on what they are for, not on when they are drawn.

Every draw comes from its own counter-based generator (Philox), keyed by the run's seed, the
purpose, the sample and how often that sample was used before. A batch's size, its neighbours, the
number of worker threads and a resume change nothing.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SCHEME = "sha256-philox-1"
"""Name of the way keys become numbers; stands in every checkpoint."""


def generator(seed: int, purpose: str, key: str, use: int) -> np.random.Generator:
    """The generator of one decision.

    Args:
        seed: The run's seed.
        purpose: What is drawn: "noise", "timestep", "caption", ...
        key: The sample's key.
        use: How often the sample was used before; the epoch.
    """
    word = f"{seed}\x00{purpose}\x00{key}\x00{use}".encode()
    digest = hashlib.sha256(word).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def normal(
    seed: int, purpose: str, key: str, use: int, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Standard normal numbers of `shape`, float32."""
    return generator(seed, purpose, key, use).standard_normal(shape, dtype=np.float32)


def timestep(seed: int, key: str, use: int, count: int) -> int:
    """A timestep from 0 to `count` - 1, uniform."""
    return int(generator(seed, "timestep", key, use).integers(count))


def happens(seed: int, purpose: str, key: str, use: int, probability: float) -> bool:
    """Whether an event of this probability happens this time; 0 never, 1 always."""
    return bool(generator(seed, purpose, key, use).random() < probability)


@lru_cache(maxsize=8)
def permutation(seed: int, epoch: int, count: int, key: str = "") -> NDArray[np.int64]:
    """The order of `count` samples in an epoch; read-only, since it is remembered.

    Args:
        seed: The run's seed.
        epoch: Which epoch.
        count: How many samples.
        key: Tells the datasets of a mix apart.
    """
    order = generator(seed, "order", key, epoch).permutation(count)
    order.setflags(write=False)
    return order


def permutation_of_window(
    seed: int, name: str, epoch: int, window: int, count: int
) -> NDArray[np.int64]:
    """The order of the `count` rows of one window of a stream called `name`."""
    return generator(seed, "window", f"{name} {window}", epoch).permutation(count)
