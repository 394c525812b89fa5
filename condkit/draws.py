"""Random numbers that depend on the image alone: not on batches, threads, order or restarts."""

from __future__ import annotations

import hashlib

import numpy as np

from condkit.types import RgbImage


def image_key(image: RgbImage) -> int:
    """A 64-bit number of the image's pixels and size.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8)
    digest.update(repr(image.shape).encode())
    return int.from_bytes(digest.digest())


def generator(seed: int, purpose: str, key: int) -> np.random.Generator:
    """The random numbers of one image for one purpose.

    Args:
        seed: The user's seed, at least 0.
        purpose: What is drawn; other purposes get other numbers.
        key: The image's, from `image_key`.
    """
    text = f"{seed}/{purpose}/{key}".encode()
    entropy = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest())
    return np.random.Generator(np.random.Philox(entropy))
