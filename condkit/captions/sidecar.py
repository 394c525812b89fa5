"""Captions from files that lie beside the images, as kohya, SimpleTuner and taggers write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from condkit.captions.reading import Reader
from condkit.captions.texts import (
    Lines,
    Missing,
    Texts,
    UnusableTextError,
    decode,
    from_document,
    from_json,
    from_value,
)
from condkit.errors import ConfigError
from condkit.settings import as_mapping
from condkit.types import SourceFile

JSON_KEYS = ("caption", "text", "prompt")
"""The fields of a JSON file that may hold its captions, in this order."""

_JSON = ".json"


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarCaptions(Reader):
    """The file beside an image holds its caption.

    For `cat.jpg` the first of `cat.jpg.txt`, `cat.jpg.caption`, `cat.jpg.json`, `cat.txt`,
    `cat.caption`, `cat.json` that is there and holds one is taken: the full name first, so that
    `cat.jpg` and `cat.png` in one folder can have captions of their own. The ending may be in
    capitals. A sample of an archive has them as its fields `txt`, `caption` and `json`. Files are
    UTF-8, with or without a byte order mark. An empty file is an empty caption; a JSON file
    without a caption counts as none.

    Attributes:
        suffixes: The endings that are looked for, in this order, each with its dot.
        json_key: The field of a JSON file that holds its caption: text, or a list of texts, each
            a caption of its own. None takes the first that is there of `JSON_KEYS`.
        lines: What the lines of a text are: join, first or several.
        missing: What becomes of an image without a caption: reject or empty.
    """

    suffixes: tuple[str, ...] = (".txt", ".caption", _JSON)
    json_key: str | None = None
    lines: Lines = "join"
    missing: Missing = "reject"
    name: ClassVar[str] = "sidecar"

    def __post_init__(self) -> None:
        if not self.suffixes or any(not s.startswith(".") or s == "." for s in self.suffixes):
            raise ConfigError(
                f"captions.suffixes: expected endings such as .txt, got {list(self.suffixes)}"
            )

    @property
    def many(self) -> bool:
        """With several lines, and with JSON files, which may hold lists."""
        return self.lines == "several" or _JSON in self.suffixes

    def as_dict(self) -> dict[str, Any]:
        """Name and settings."""
        return {"captioner": self.name, **as_mapping(self)}

    def reads(self, source: SourceFile) -> tuple[Path, ...]:
        """The caption files that are there, up to the first that surely holds one."""
        found = []
        for path in self._files(source):
            found.append(path)
            if path.suffix.lower() != _JSON:
                break
        return tuple(found)

    def find(self, source: SourceFile) -> Texts | None:
        """The captions of one image; None where there are none.

        Raises:
            UnusableTextError: if what is there is unreadable.
        """
        found = (self._of_field(source, suffix) for suffix in self.suffixes)
        in_files = (self._of_file(path) for path in self._files(source))
        return next(
            (texts for part in (found, in_files) for texts in part if texts is not None), None
        )

    def _files(self, source: SourceFile) -> Iterator[Path]:
        """The files that may hold its captions and are there, in order."""
        image = source.path
        names = (
            name + ending
            for name in dict.fromkeys((image.name, image.stem))
            for suffix in self.suffixes
            for ending in dict.fromkeys((suffix, suffix.upper()))
        )
        if source.beside is not None:
            there = frozenset(source.beside)
            yield from (image.with_name(name) for name in names if name in there)
        # A picture inside an archive or a table has no files beside it.
        elif PurePosixPath(source.relative).name == image.name:
            seen: list[Path] = []
            for path in (image.with_name(name) for name in names):
                # Where the file system ignores case, both spellings are one file.
                if path.is_file() and not any(path.samefile(other) for other in seen):
                    seen.append(path)
                    yield path

    def _of_file(self, path: Path) -> Texts | None:
        name = f"caption file {path.name}"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UnusableTextError(f"{name} cannot be read: {error.strerror}") from error
        text = decode(data, name)
        if path.suffix.lower() == _JSON:
            return from_json(text, name, self._keys, self.lines)
        return from_value(text, name, self.lines)

    def _of_field(self, source: SourceFile, suffix: str) -> Texts | None:
        key = suffix.removeprefix(".")
        value, name = source.fields.get(key), f"field {key!r}"
        if suffix != _JSON:
            return from_value(value, name, self.lines)
        if isinstance(value, bytes):
            value = decode(value, name)
        if isinstance(value, str):
            return from_json(value, name, self._keys, self.lines)
        return from_document(value, name, self._keys, self.lines)

    @property
    def _keys(self) -> tuple[str, ...]:
        return JSON_KEYS if self.json_key is None else (self.json_key,)

    def _nothing(self, source: SourceFile) -> str:
        there = [path.name for path in self._files(source)]
        if there:
            return f"{', '.join(there)} has no caption (expected a field {' or '.join(self._keys)})"
        expected = " or ".join(source.path.stem + suffix for suffix in self.suffixes)
        if source.fields:
            fields = ", ".join(map(str, source.fields))
            return f"no caption beside it (fields: {fields}); --captions metadata reads columns"
        return f"no caption file beside it (expected {expected})"
