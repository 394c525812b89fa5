"""What captioners share that read what the source says, and look at no pixels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from condkit.captions.base import Captions, WithoutNetwork, reject
from condkit.captions.texts import Missing, Texts, UnusableTextError
from condkit.types import Rejection, RgbImage, SourceFile


class Reader(WithoutNetwork):
    """Finds the captions of an image, or says why there are none.

    Attributes:
        name: The captioner's name.
        missing: What becomes of an image without a caption.
    """

    __slots__ = ()

    name: ClassVar[str]
    missing: Missing

    def __call__(
        self, images: Sequence[RgbImage], sources: Sequence[SourceFile]
    ) -> list[Captions | Rejection]:
        """What is said of each image, or a rejection where that is missing or unreadable."""
        return [self.read(source) for source in sources]

    def read(self, source: SourceFile) -> Captions | Rejection:
        """The captions of one image, without a look at its pixels."""
        try:
            texts = self.find(source)
        except UnusableTextError as error:
            return reject(source, str(error))
        if texts is None and self.missing == "empty":
            texts = ("",)
        if texts is None:
            return reject(source, self._nothing(source))
        return Captions(texts, self.name)

    @abstractmethod
    def find(self, source: SourceFile) -> Texts | None:
        """The captions of one image; None where there are none.

        Raises:
            UnusableTextError: if what is there is unreadable.
        """

    @abstractmethod
    def _nothing(self, source: SourceFile) -> str:
        """Why an image has none."""
