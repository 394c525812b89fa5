"""How much a device takes at once: chunks of a batch, halved when its memory runs out."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from condkit.device import free_memory, is_out_of_memory
from condkit.errors import DeviceMemoryError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
R = TypeVar("R")


class Shaped(Protocol):
    """A picture at a network's working size."""

    @property
    def pixels(self) -> Any:  # noqa: ANN401 - numpy's or torch's
        """An array of three channels."""
        ...


S = TypeVar("S", bound=Shaped)

_log = logging.getLogger(__name__)

# On CPUs one image at a time is the fastest; accelerators are full at some millions of pixels.
_PIXELS = {"cuda": 32 * 512 * 512, "mps": 2 * 512 * 512}


@dataclass(slots=True)
class Budget:
    """The most that one detector sends through its network at once on one device.

    Attributes:
        name: The detector, for messages.
        pixels: Of all images of a chunk together; halved for good when memory runs out.
        advice: What to do where not even one image fits.
    """

    name: str
    pixels: int
    advice: str = "use a smaller --detect-size, --dtype bf16, or --device cpu"

    @classmethod
    def on(cls, device: torch.device, name: str, *, scale: float = 1.0) -> Budget:
        """What suits a device.

        Args:
            device: Where the network runs.
            name: The detector.
            scale: Below 1 for networks that need more memory per pixel than HED does.
        """
        return cls(name, max(1, int(_PIXELS.get(device.type, 1) * scale)))

    def run(
        self,
        items: Sequence[T],
        pixels: int,
        forward: Callable[[Sequence[T]], Sequence[R]],
    ) -> list[R]:
        """Send items of one shape through a network, as many at once as fit.

        Args:
            items: All of one shape.
            pixels: Of one item.
            forward: Takes a chunk, never an empty one; one result per item.

        Returns:
            The results in the items' order.

        Raises:
            DeviceMemoryError: if not even one item fits.
        """
        results: list[R] = []
        while len(results) < len(items):
            count = max(1, self.pixels // pixels)
            chunk = items[len(results) : len(results) + count]
            try:
                results += forward(chunk)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._shrink(len(chunk), pixels, error)
        return results

    def run_by_shape(
        self, items: Sequence[S], forward: Callable[[Sequence[S]], Sequence[R]]
    ) -> list[R]:
        """Send items of any shapes through a network; those of one shape go together.

        Args:
            items: With `pixels` of three channels.
            forward: As for `run`; all items of a chunk are of one shape.

        Returns:
            The results in the items' order.

        Raises:
            DeviceMemoryError: if not even one item fits.
        """
        places: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, item in enumerate(items):
            places[tuple(item.pixels.shape)].append(place)
        results: dict[int, R] = {}
        for shape, group in places.items():
            done = self.run([items[place] for place in group], math.prod(shape) // 3, forward)
            results |= zip(group, done, strict=True)
        return [results[place] for place in range(len(items))]

    def _shrink(self, count: int, pixels: int, error: BaseException) -> None:
        if count == 1:
            raise DeviceMemoryError(
                f"{self.name}: the device's memory does not hold one image of {pixels / 1e6:.1f} "
                f"million pixels; {self.advice} "
                f"({str(error).splitlines()[0] if str(error) else type(error).__name__})"
            ) from error
        self.pixels = max(1, count // 2) * pixels
        _log.warning(
            "%s: the device's memory does not hold %d images at once; going on with %d",
            self.name,
            count,
            max(1, count // 2),
        )
        free_memory()
