"""Captions from a column that the source has beside each picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from condkit.captions.reading import Reader
from condkit.captions.texts import Lines, Missing, Texts, from_value
from condkit.settings import as_mapping, suggest
from condkit.types import SourceFile

COLUMNS = ("text", "caption", "prompt", "captions", "txt")
"""The columns that may hold captions, in this order; the last is WebDataset's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataCaptions(Reader):
    """A column of the source is the caption: of a table, a Hugging Face dataset, an archive.

    A list of texts is several captions. A number is taken as its text; None and NaN are no
    caption.

    Attributes:
        column: Its name; None takes the first of `COLUMNS` that has a value.
        lines: What the lines of a text are: join, first or several.
        missing: What becomes of an image without a caption: reject or empty.
    """

    column: str | None = None
    lines: Lines = "join"
    missing: Missing = "reject"
    many: ClassVar[bool] = True
    name: ClassVar[str] = "metadata"

    def as_dict(self) -> dict[str, Any]:
        """Name and settings."""
        return {"captioner": self.name, **as_mapping(self)}

    def reads(self, source: SourceFile) -> tuple[Path, ...]:
        """Nothing: the columns come with the picture."""
        return ()

    def find(self, source: SourceFile) -> Texts | None:
        """The captions of one image; None where there are none.

        Raises:
            UnusableTextError: if the column holds something else.
        """
        for column in self._columns:
            found = from_value(source.fields.get(column), f"column {column!r}", self.lines)
            if found is not None:
                return found
        return None

    @property
    def _columns(self) -> tuple[str, ...]:
        return COLUMNS if self.column is None else (self.column,)

    def _nothing(self, source: SourceFile) -> str:
        known = [str(name) for name in source.fields]
        empty = [column for column in self._columns if column in known]
        if empty:
            return f"column {empty[0]!r} has no text"
        wanted = " or ".join(map(repr, self._columns))
        hint = suggest(self.column, known) if self.column else ""
        return f"no column {wanted}{hint} (columns: {', '.join(known) or 'none'})"
