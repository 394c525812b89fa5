"""Captions that the source has already: kept, and only the missing ones are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from condkit.captions.base import Captioner, Captions, reject
from condkit.captions.metadata import MetadataCaptions
from condkit.captions.sidecar import SidecarCaptions
from condkit.captions.texts import UnusableTextError
from condkit.types import Rejection, RgbImage, SourceFile
from condkit.weights import AnyWeights

Existing: TypeAlias = Literal["keep", "replace"]
"""Whether a network leaves the captions of the source as they are."""


@dataclass(frozen=True, slots=True)
class KeptCaptions:
    """The source's own captions; another captioner makes those that are missing or empty.

    A caption that is there and cannot be read is a rejection, never replaced silently.

    Attributes:
        maker: Makes what is missing.
        sidecar: Reads the files beside the images.
        metadata: Reads the columns, where there are no such files.
    """

    maker: Captioner
    sidecar: SidecarCaptions = field(default_factory=SidecarCaptions)
    metadata: MetadataCaptions = field(default_factory=MetadataCaptions)

    @property
    def name(self) -> str:
        """The maker's."""
        return self.maker.name

    @property
    def many(self) -> bool:
        """True: the source may have several."""
        return True

    @property
    def weights(self) -> tuple[AnyWeights, ...]:
        """The maker's."""
        return self.maker.weights

    def as_dict(self) -> dict[str, Any]:
        """The maker's values, and that captions are kept."""
        return {**self.maker.as_dict(), "existing": "keep"}

    def reads(self, source: SourceFile) -> tuple[Path, ...]:
        """The caption files that are there."""
        return self.sidecar.reads(source)

    def __call__(
        self, images: Sequence[RgbImage], sources: Sequence[SourceFile]
    ) -> list[Captions | Rejection]:
        """What the source says of each image, else what the maker says."""
        results = [self.own(source) for source in sources]
        missing = [place for place, found in enumerate(results) if found is None]
        made = iter(
            self.maker([images[i] for i in missing], [sources[i] for i in missing])
            if missing
            else ()
        )
        return [next(made) if found is None else found for found in results]

    def own(self, source: SourceFile) -> Captions | Rejection | None:
        """What the source says of an image; None where it says nothing."""
        try:
            for reader in (self.sidecar, self.metadata):
                texts = reader.find(source)
                if texts is not None and any(texts):
                    return Captions(texts, reader.name)
        except UnusableTextError as error:
            return reject(source, str(error))
        return None

    def close(self) -> None:
        """Close the maker."""
        self.maker.close()
