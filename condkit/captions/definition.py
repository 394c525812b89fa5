"""What a network that captions is: its definition, and what it can do once it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from condkit.captions.generation import Generation
from condkit.types import RgbImage
from condkit.weights import ModelSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


class CaptionNetwork(Protocol):
    """A network on its device, as `NetworkDefinition.load` gives it."""

    @property
    def pixels(self) -> int:
        """Of one image at the network's own size."""
        ...

    @property
    def longest(self) -> int:
        """Most tokens of prompt and caption together."""
        ...

    def resize(self, image: RgbImage) -> NDArray[np.uint8]:
        """A picture at the network's own size, (H, W, 3) uint8."""
        ...

    def tokens(self, prompt: str) -> tuple[int, ...]:
        """A prompt as the network reads it."""
        ...

    def on_device(self, values: NDArray[Any]) -> torch.Tensor:
        """An array, copied to the network's device."""
        ...

    def encode(self, pictures: NDArray[np.uint8], prompts: torch.Tensor) -> torch.Tensor:
        """What the network sees.

        Args:
            pictures: (B, H, W, 3) uint8, from `resize`.
            prompts: (B, T) int64, from `tokens`, on the device.

        Returns:
            (B, N, C) on the device.
        """
        ...

    def generate(
        self, seen: torch.Tensor, prompts: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        """Tokens of one caption per row.

        Args:
            seen: (R, N, C), from `encode`.
            prompts: (R, T) int64.
            options: Of transformers' `generate`.

        Returns:
            (R, L) int64: the prompt, if the network repeats it, and what comes behind it.
        """
        ...

    def texts(self, tokens: torch.Tensor, prompts: torch.Tensor, *, keep_prompt: bool) -> list[str]:
        """The captions in what `generate` returned, one per row."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkDefinition:
    """A captioner with a network.

    Attributes:
        name: On the command line.
        source: The paper.
        settings: Its settings' class.
        weights: Name to weights, the default first.
        variant: Which of them the settings mean.
        load: Builds the network from a folder, on a device, in a number format.
    """

    name: str
    source: str
    settings: type[Generation]
    weights: dict[str, ModelSpec]
    variant: Callable[[Any], str]
    load: Callable[[Path, Any, torch.device, torch.dtype], CaptionNetwork]
