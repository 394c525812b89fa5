"""No captions: every text is empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from condkit.captions.base import Captions, WithoutNetwork
from condkit.types import Rejection, RgbImage, SourceFile


@dataclass(frozen=True, slots=True, kw_only=True)
class NoCaptions(WithoutNetwork):
    """Empty text for every image, as for training without a prompt."""

    many: ClassVar[bool] = False
    name: ClassVar[str] = "none"

    def as_dict(self) -> dict[str, Any]:
        """The name; there are no parameters."""
        return {"captioner": self.name}

    def reads(self, source: SourceFile) -> tuple[Path, ...]:
        """Nothing."""
        return ()

    def __call__(
        self, images: Sequence[RgbImage], sources: Sequence[SourceFile]
    ) -> list[Captions | Rejection]:
        """One empty text for each image."""
        return [Captions(("",), self.name)] * len(images)
