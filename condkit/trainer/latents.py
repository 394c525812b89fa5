"""Pictures as the base model's latents, remembered where that pays.

Encoding costs a third of a training step's arithmetic. What is kept is the encoder's distribution
(mean and deviation), not one draw from it, so a remembered picture trains exactly as a fresh one.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from condkit.trainer.base_model import BaseModel
from condkit.trainer.data import Example

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

LatentKey = tuple[Any, ...]
"""A cut and the VAE's fingerprint: all that the encoding depends on."""


class LatentCache:
    """Encodings in memory; the least recently used go when the budget is spent.

    Args:
        budget_bytes: How much may be kept; 0 keeps nothing.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._used = 0
        self._entries: OrderedDict[LatentKey, torch.Tensor] = OrderedDict()

    def __len__(self) -> int:
        """How many encodings are kept."""
        return len(self._entries)

    def get(self, key: LatentKey) -> torch.Tensor | None:
        """The moments kept under `key`, or None."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: LatentKey, moments: torch.Tensor) -> None:
        """Keep `moments`, if the budget allows at all."""
        size = moments.numel() * moments.element_size()
        if size > self._budget or key in self._entries:
            return
        while self._used + size > self._budget:
            _, oldest = self._entries.popitem(last=False)
            self._used -= oldest.numel() * oldest.element_size()
        self._entries[key] = moments
        self._used += size


class LatentEncoder:
    """Turns examples into latents for training.

    Args:
        base: The model whose VAE encodes.
        cache: Where encodings of repeating crops are kept.
    """

    def __init__(self, base: BaseModel, cache: LatentCache) -> None:
        self._base = base
        self._cache = cache

    def __call__(self, examples: Sequence[Example], draws: torch.Tensor) -> torch.Tensor:
        """Draw one latent per example.

        Args:
            examples: Pictures of one size.
            draws: (B, C, h, w) standard normal numbers for the encoder's distribution.

        Returns:
            (B, C, h, w) float32, scaled by the VAE's scaling factor.
        """
        import torch

        compute = self._base.compute
        found = [self._moments(example) for example in examples]
        if len({moments.device for moments in found}) > 1:
            found = [moments.to(compute.device, non_blocking=True) for moments in found]
        mean, deviation = compute.send(torch.stack(found)).chunk(2, dim=1)
        latents = mean + deviation * compute.send(draws)
        return latents * float(self._base.vae.config.scaling_factor)

    def _moments(self, example: Example) -> torch.Tensor:
        """(2C, h, w) float32 mean and deviation, from a cache or the VAE."""
        if example.moments is not None:
            return example.moments.float()
        key = (example.cut, self._base.vae_fingerprint)
        kept = self._cache.get(key) if example.crop_repeats else None
        if kept is None:
            kept = self._encode(example)
            if example.crop_repeats:
                self._cache.put(key, kept.cpu())
        return kept

    def _encode(self, example: Example) -> torch.Tensor:
        # One picture at a time: in a batch the last bits would depend on the neighbours, and a
        # resumed run, whose cache begins empty, could not repeat an uninterrupted one.
        import torch

        pixels = self._base.compute.send(torch.from_numpy(example.picture)[None])
        with torch.no_grad(), self._base.compute.autocast():
            distribution = self._base.vae.encode(pixels).latent_dist
        return torch.cat([distribution.mean[0], distribution.std[0]]).float()
