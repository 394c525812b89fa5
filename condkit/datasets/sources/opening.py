"""From what the user names to a source: which kind it is, and with which options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from condkit.datasets.sources.base import Source
from condkit.datasets.sources.detecting import detect_kind
from condkit.datasets.sources.folder import FolderSource
from condkit.datasets.sources.huggingface import HuggingFaceOptions, open_huggingface
from condkit.datasets.sources.kohya import KohyaSource
from condkit.datasets.sources.map_folders import resolve_map_folder
from condkit.datasets.sources.table import TableSource, open_table
from condkit.datasets.sources.table_folders import open_fill50k, open_imagefolder
from condkit.datasets.sources.tar_places import find_tars, tars_of_split
from condkit.datasets.sources.webdataset import WebDatasetSource
from condkit.errors import ConfigError, UnknownNameError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """What `open_source` was asked for."""

    place: str
    maps: Mapping[str, str] = field(default_factory=dict)
    image_column: str | None = None
    split: str | None = None
    config: str | None = None
    streaming: bool = False
    offline: bool = False
    output: Path | None = None

    @property
    def path(self) -> Path:
        return Path(self.place).expanduser()


def _folder(asked: _Options) -> Source:
    maps = {name: resolve_map_folder(given, asked.path) for name, given in asked.maps.items()}
    return FolderSource(asked.path, maps=maps, output=asked.output)


def _table(asked: _Options) -> Source:
    if asked.path.is_dir():
        return open_imagefolder(
            asked.path, split=asked.split, image_column=asked.image_column, maps=asked.maps
        )
    if asked.split is not None:
        raise ConfigError(f"split: {asked.place} is one table and has no splits")
    return TableSource([open_table(asked.path)], image_column=asked.image_column, maps=asked.maps)


def _fill50k(asked: _Options) -> Source:
    return open_fill50k(
        asked.path, split=asked.split, image_column=asked.image_column, maps=asked.maps
    )


def _kohya(asked: _Options) -> Source:
    return KohyaSource(asked.path, maps=asked.maps, output=asked.output)


def _webdataset(asked: _Options) -> Source:
    tars = find_tars(asked.place)
    if asked.split is not None:
        tars = tars_of_split(asked.place, tars, asked.split)
    return WebDatasetSource(tars, image_ending=asked.image_column, maps=asked.maps)


def _huggingface(asked: _Options) -> Source:
    options = HuggingFaceOptions(
        split=asked.split,
        config=asked.config,
        image_column=asked.image_column,
        maps=asked.maps,
        streaming=asked.streaming,
        offline=asked.offline,
    )
    return open_huggingface(asked.place, options)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of source.

    Attributes:
        open: Makes one.
        takes: The options that mean something to it, apart from maps, output and offline.
    """

    open: Callable[[_Options], Source]
    takes: frozenset[str]


_KINDS = {
    "folder": _Kind(_folder, frozenset()),
    "table": _Kind(_table, frozenset({"image_column", "split"})),
    "fill50k": _Kind(_fill50k, frozenset({"image_column", "split"})),
    "kohya": _Kind(_kohya, frozenset()),
    "webdataset": _Kind(_webdataset, frozenset({"image_column", "split"})),
    "huggingface": _Kind(_huggingface, frozenset({"image_column", "split", "config", "streaming"})),
}

SOURCE_KINDS: tuple[str, ...] = tuple(_KINDS)
"""The kinds of source; "auto" finds out which one it is."""


def open_source(
    place: str | Path,
    *,
    kind: str = "auto",
    maps: Mapping[str, str] | None = None,
    image_column: str | None = None,
    split: str | None = None,
    config: str | None = None,
    streaming: bool = False,
    offline: bool = False,
    output: Path | None = None,
) -> Source:
    """Open a source of pictures; nothing in it is read beyond what is needed to know its columns.

    Args:
        place: A folder, a table, a prompt.json, a kohya configuration (.toml), tars (one, a folder
            of them, or a pattern such as `shards/{00000..00012}.tar`), a dataset that `datasets`
            saved, or `hf://owner/name` with `@revision` behind it.
        kind: One of `SOURCE_KINDS`, or "auto".
        maps: By condition, where its maps are: a folder for pictures in a folder; a column, or a
            member's ending, for everything else.
        image_column: The column (for tars the ending) of the pictures, where it cannot be told.
        split: Take this split alone.
        config: The configuration of a Hugging Face dataset.
        streaming: Read a Hugging Face dataset as it comes and keep nothing of it.
        offline: Use no network.
        output: Where the run writes; it is not searched where it lies inside of a folder.

    Raises:
        UnknownNameError: if there is no such kind.
        ConfigError: if there is nothing there, it is of no known kind, or an option does not fit.
        DatasetError: if it is broken or cannot be read.
    """
    if kind != "auto" and kind not in _KINDS:
        raise UnknownNameError(
            f"source kind {kind!r}: expected one of auto, {', '.join(SOURCE_KINDS)}"
        )
    asked = _Options(
        place=str(place),
        maps=dict(maps or {}),
        image_column=image_column,
        split=split,
        config=config,
        streaming=streaming,
        offline=offline,
        output=output,
    )
    known = detect_kind(asked.place) if kind == "auto" else kind
    _refuse_what_does_not_fit(known, asked)
    return _KINDS[known].open(asked)


def _refuse_what_does_not_fit(kind: str, asked: _Options) -> None:
    for name in ("image_column", "split", "config", "streaming"):
        if getattr(asked, name) and name not in _KINDS[kind].takes:
            fitting = ", ".join(other for other, known in _KINDS.items() if name in known.takes)
            raise ConfigError(
                f"{name}: {asked.place} is a source of kind {kind}, which has none "
                f"(only {fitting or 'no kind'} has); leave it out, or name the kind"
            )
