"""Captions made from the file's name and from columns of the source."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from condkit.captions.base import Captions, WithoutNetwork, one_line, reject
from condkit.captions.texts import UnusableTextError, from_value
from condkit.errors import ConfigError
from condkit.settings import suggest
from condkit.types import Rejection, RgbImage, SourceFile

FIELDS = ("stem", "name", "folder")
_COLUMN = re.compile(r"fields\[([^\[\]]+)\]")


@dataclass(frozen=True, slots=True)
class Template:
    """A text with gaps that are filled for each image.

    Attributes:
        text: `{stem}` is the file's name without its ending, `{name}` with it, and `{folder}` the
            name of the folder it lies in below the source (empty at the top). In stem and folder,
            underscores and dashes become spaces. `{fields[COLUMN]}` is a column of the source.
            `{{` and `}}` are plain braces.
        setting: The setting's name, for messages.

    Raises:
        ConfigError: if the text is no such template.
    """

    text: str
    setting: str

    def __post_init__(self) -> None:
        try:
            parts = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise ConfigError(
                f"{self.setting}: {self.text!r} is no template: {error}; write {{{{ for a brace"
            ) from error
        for _, field, spec, conversion in parts:
            if field is not None and (not _known(field) or spec or conversion):
                raise ConfigError(
                    f"{self.setting}: unknown part {{{field}}} in {self.text!r}"
                    f"{suggest(field, FIELDS)} (known: {', '.join(FIELDS)}, fields[COLUMN])"
                )

    def fill(self, source: SourceFile) -> str:
        """The text for one image, in one line.

        Raises:
            UnusableTextError: if a column is missing or holds no text.
        """
        parts = string.Formatter().parse(self.text)
        return one_line(
            "".join(
                literal + ("" if field is None else _value(field, source))
                for literal, field, _, _ in parts
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateCaptions(WithoutNetwork):
    """One text for all, with parts of the file's name and columns of the source put in.

    Attributes:
        text: The caption; see `Template`.
    """

    text: str = "{stem}"
    many: ClassVar[bool] = False
    name: ClassVar[str] = "template"

    def __post_init__(self) -> None:
        Template(self.text, "captions.text")

    def as_dict(self) -> dict[str, Any]:
        """Name and text."""
        return {"captioner": self.name, "text": self.text}

    def reads(self, source: SourceFile) -> tuple[Path, ...]:
        """Nothing: name and columns are all."""
        return ()

    def __call__(
        self, images: Sequence[RgbImage], sources: Sequence[SourceFile]
    ) -> list[Captions | Rejection]:
        """The text filled in for each image, or a rejection where a column is missing."""
        template = Template(self.text, "captions.text")
        return [self._caption(template, source) for source in sources]

    def _caption(self, template: Template, source: SourceFile) -> Captions | Rejection:
        try:
            return Captions((template.fill(source),), self.name)
        except UnusableTextError as error:
            return reject(source, str(error))


def _known(field: str) -> bool:
    return field in FIELDS or _COLUMN.fullmatch(field) is not None


def _value(field: str, source: SourceFile) -> str:
    relative = PurePosixPath(source.relative)
    names = {
        "stem": _words(relative.stem),
        "name": relative.name,
        "folder": _words(relative.parent.name),
    }
    if field in names:
        return names[field]
    column = field.removeprefix("fields[").removesuffix("]")
    found = from_value(source.fields.get(column), f"column {column!r}", "join")
    if found is None:
        known = ", ".join(map(str, source.fields)) or "none"
        raise UnusableTextError(f"no text in column {column!r} (columns: {known})")
    return ", ".join(found)


def _words(name: str) -> str:
    return name.replace("_", " ").replace("-", " ")
