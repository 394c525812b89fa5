"""What every captioner promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from condkit.types import Rejection, RgbImage, SourceFile
from condkit.weights import AnyWeights

_NO_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], " ")
"""Characters that mean nothing in a caption and break files of lines."""


@dataclass(frozen=True, slots=True)
class Captions:
    """What is said of one image.

    Attributes:
        texts: One line each, maybe empty; at least one, the first is the row's caption.
        captioner: Who said so: a captioner's name.
    """

    texts: tuple[str, ...]
    captioner: str


class Captioner(Protocol):
    """Gives captions to each image of a batch."""

    @property
    def name(self) -> str:
        """The name on the command line and in the manifest."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Name and parameters as JSON values; two captioners with equal values write equal text.

        Networks tell the hashes of their weights under "weights", as an annotation plan does.
        """
        ...

    @property
    def many(self) -> bool:
        """Whether an image may get more than one caption."""
        ...

    @property
    def weights(self) -> tuple[AnyWeights, ...]:
        """The weights it runs on; empty for those without a network."""
        ...

    def reads(self, source: SourceFile) -> tuple[Path, ...]:
        """The files besides the image whose bytes decide its caption.

        A build remembers their content, so that a caption edited half-way is noticed.
        """
        ...

    def __call__(
        self, images: Sequence[RgbImage], sources: Sequence[SourceFile]
    ) -> list[Captions | Rejection]:
        """Caption a batch.

        Networks are loaded at the first call. Calls come from one thread at a time.

        Args:
            images: The pictures at their final size, (H, W, 3) uint8 each.
            sources: Where each one comes from; `sources[i]` belongs to `images[i]`.

        Returns:
            For each image its captions, or why it cannot have one (stage "caption").

        Raises:
            WeightsError: if weights cannot be had.
            DeviceMemoryError: if the device does not hold even one image.
        """
        ...

    def close(self) -> None:
        """Give the memory of its networks back; a later call loads them again."""
        ...


class WithoutNetwork:
    """The parts of a captioner that reads and needs no weights."""

    __slots__ = ()

    weights: ClassVar[tuple[AnyWeights, ...]] = ()

    def close(self) -> None:
        """Nothing: there is no network."""


def one_line(text: str) -> str:
    """`text` with every run of white space, line ends and control characters as one space."""
    return " ".join(text.translate(_NO_CONTROLS).split())


def reject(source: SourceFile, reason: str) -> Rejection:
    """The rejection of an image that cannot have a caption."""
    return Rejection(source=source.relative, stage="caption", reason=reason)
