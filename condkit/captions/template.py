"""Captions made from the file's name."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from condkit.captions.base import Captions, one_line
from condkit.errors import ConfigError
from condkit.settings import suggest
from condkit.types import Rejection, RgbImage, SourceFile
from condkit.weights import AnyWeights

FIELDS = ("stem", "name", "folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateCaptions:
    """One text for all, with parts of the file's name put in.

    Attributes:
        text: The caption; `{stem}` is the file's name without its ending, `{name}` with it, and
            `{folder}` the name of the folder it lies in below the source (empty at the top). In
            stem and folder, underscores and dashes become spaces. `{{` and `}}` are plain braces.
    """

    text: str = "{stem}"
    many: ClassVar[bool] = False
    weights: ClassVar[tuple[AnyWeights, ...]] = ()
    name: ClassVar[str] = "template"

    def __post_init__(self) -> None:
        try:
            parts = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise ConfigError(
                f"captions.text: {self.text!r} is no template: {error}; write {{{{ for a brace"
            ) from error
        for _, field, spec, conversion in parts:
            if field is not None and (field not in FIELDS or spec or conversion):
                raise ConfigError(
                    f"captions.text: unknown part {{{field}}} in {self.text!r}"
                    f"{suggest(field, FIELDS)} (known: {', '.join(FIELDS)})"
                )

    def as_dict(self) -> dict[str, Any]:
        """Name and text."""
        return {"captioner": self.name, "text": self.text}

    def reads(self, source: SourceFile) -> tuple[Path, ...]:
        """Nothing: the name is all."""
        return ()

    def __call__(
        self, images: Sequence[RgbImage], sources: Sequence[SourceFile]
    ) -> list[Captions | Rejection]:
        """The text filled in for each image."""
        return [
            Captions((self._fill(PurePosixPath(source.relative)),), self.name) for source in sources
        ]

    def _fill(self, relative: PurePosixPath) -> str:
        return one_line(
            self.text.format(
                stem=_words(relative.stem),
                name=relative.name,
                folder=_words(relative.parent.name),
            )
        )


def _words(name: str) -> str:
    return name.replace("_", " ").replace("-", " ")
