"""Words around every caption: a prefix, a suffix, a trigger word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from condkit.captions.base import Captioner, Captions, one_line
from condkit.errors import ConfigError
from condkit.types import Rejection, RgbImage, SourceFile
from condkit.weights import AnyWeights

_SEPARATOR = ", "
# A suffix that begins so needs no space in front.
_CLOSING = (",", ".", ";", ":", "!", "?", ")", "'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """What goes around a caption; each part is one line and may be empty.

    Attributes:
        prefix: Before the caption, with a space between.
        suffix: Behind it, with a space between unless it begins with punctuation.
        trigger: The word that a training is to learn, first of all, with a comma behind it; left
            out where the text has it already (as a whole word, in any case).
    """

    prefix: str = ""
    suffix: str = ""
    trigger: str = ""

    def __post_init__(self) -> None:
        for name in ("prefix", "suffix", "trigger"):
            value = getattr(self, name)
            if len(value.splitlines()) > 1:
                raise ConfigError(f"captions.{name}: expected one line, got {value!r}")

    def __bool__(self) -> bool:
        """Whether it changes anything."""
        return bool(self.prefix.strip() or self.suffix.strip() or self.trigger.strip())

    def around(self, text: str) -> str:
        """A caption with its words around it, in one line."""
        suffix = self.suffix.strip()
        joint = "" if suffix.startswith(_CLOSING) else " "
        worded = one_line(f"{self.prefix} {text}")
        worded = one_line(f"{worded}{joint}{suffix}")
        trigger = one_line(self.trigger)
        if not trigger or _has(worded, trigger):
            return worded
        return f"{trigger}{_SEPARATOR}{worded}" if worded else trigger


@dataclass(frozen=True, slots=True)
class WordedCaptions:
    """Another captioner's texts, each with words around it.

    Attributes:
        inner: The captioner.
        wording: The words.
    """

    inner: Captioner
    wording: Wording

    @property
    def name(self) -> str:
        """The inner captioner's."""
        return self.inner.name

    @property
    def many(self) -> bool:
        """As the inner captioner."""
        return self.inner.many

    @property
    def weights(self) -> tuple[AnyWeights, ...]:
        """The inner captioner's."""
        return self.inner.weights

    def as_dict(self) -> dict[str, Any]:
        """The inner captioner's values and the words."""
        words = {name: getattr(self.wording, name) for name in ("prefix", "suffix", "trigger")}
        return {**self.inner.as_dict(), **words}

    def reads(self, source: SourceFile) -> tuple[Path, ...]:
        """As the inner captioner."""
        return self.inner.reads(source)

    def __call__(
        self, images: Sequence[RgbImage], sources: Sequence[SourceFile]
    ) -> list[Captions | Rejection]:
        """The inner captioner's texts with the words around each."""
        return [
            found
            if isinstance(found, Rejection)
            else replace(found, texts=tuple(map(self.wording.around, found.texts)))
            for found in self.inner(images, sources)
        ]

    def close(self) -> None:
        """Close the inner captioner."""
        self.inner.close()


def _has(text: str, trigger: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", text, re.IGNORECASE) is not None
