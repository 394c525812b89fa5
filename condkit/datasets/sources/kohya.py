"""A dataset configuration of kohya's sd-scripts: subsets, each a flat folder of pictures."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from condkit.datasets.sources.base import SourceEntry, SourceSample
from condkit.datasets.sources.directories import identity
from condkit.datasets.sources.folder import FolderSource
from condkit.datasets.sources.kohya_metadata import KohyaMetadata
from condkit.errors import ConfigError, DatasetError
from condkit.types import Rejection, SourceFile

MAPS_KEY = "conditioning_data_dir"
"""The configuration's one folder of maps per subset; which condition they are, the user says."""

DEFAULT_CAPTION_EXTENSION = ".caption"
"""What sd-scripts look for where neither the subset nor what is above it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subset:
    """One folder of the configuration.

    Attributes:
        name: What the names of its pictures begin with.
        folder: Its pictures; folders inside are left out, as sd-scripts do.
        caption_extension: The ending of the captions beside them, with its dot.
        metadata: What a JSON file says of its pictures.
    """

    name: str
    folder: FolderSource
    caption_extension: str
    metadata: KohyaMetadata | None = None


class KohyaSource:
    """The pictures of all subsets of a configuration, `FOLDER/cat.jpg` each.

    Of the files beside a picture only the one with the subset's caption ending is its own, as in
    sd-scripts. Repeats are a matter of training and are not followed.
    """

    kind: ClassVar[str] = "kohya"

    def __init__(
        self,
        config: Path,
        *,
        maps: Mapping[str, str] | None = None,
        output: Path | None = None,
    ) -> None:
        """Read a configuration.

        Args:
            config: The TOML file. Its folders are relative to its own, or to where we are.
            maps: At most one condition, with the value "conditioning_data_dir".
            output: Where the run writes.

        Raises:
            ConfigError: if it has no subset, a folder is missing, or a map is asked for in another
                way.
            DatasetError: if it cannot be read or is not TOML.
        """
        self._asked = dict(maps or {})
        self._refuse_other_maps()
        self._subsets = _read_subsets(config, self._asked, output)

    @property
    def given(self) -> tuple[str, ...]:
        """See `Source`."""
        return tuple(self._asked)

    @property
    def left_out(self) -> dict[str, int]:
        """See `Source`."""
        counts: Counter[str] = Counter()
        for subset in self._subsets:
            counts.update(subset.folder.left_out)
        return dict(sorted(counts.items()))

    def as_dict(self) -> dict[str, Any]:
        """See `Source`."""
        subsets = [
            {"name": subset.name, "caption_extension": subset.caption_extension}
            for subset in self._subsets
        ]
        return {"kind": self.kind, "subsets": subsets, "maps": self._asked}

    def scan(self) -> Iterator[SourceEntry | Rejection]:
        """See `Source`; subset by subset."""
        for index, subset in enumerate(self._subsets):
            for found in subset.folder.scan():
                if isinstance(found, Rejection):
                    yield replace(found, source=f"{subset.name}/{found.source}")
                else:
                    yield self._outer(index, found)

    def file(self, entry: SourceEntry) -> SourceFile:
        """See `Source`."""
        subset, inner = self._inner(entry)
        return self._file(entry, subset, subset.folder.file(inner))

    def read(self, entry: SourceEntry) -> SourceSample:
        """See `Source`."""
        subset, inner = self._inner(entry)
        sample = subset.folder.read(inner)
        return replace(sample, file=self._file(entry, subset, sample.file))

    def _refuse_other_maps(self) -> None:
        fits = len(self._asked) <= 1 and set(self._asked.values()) <= {MAPS_KEY}
        if not fits:
            raise ConfigError(
                f"maps: a kohya configuration has one folder of maps per subset, {MAPS_KEY}; say "
                f"which condition it is, such as canny={MAPS_KEY}"
            )

    def _outer(self, index: int, inner: SourceEntry) -> SourceEntry:
        subset = self._subsets[index]
        said = "" if subset.metadata is None else subset.metadata.stamp(inner.relative)
        return SourceEntry(
            relative=f"{subset.name}/{inner.relative}",
            stamp=f"{inner.stamp} {said}".rstrip(),
            where=f"{index} {inner.where}",
        )

    def _inner(self, entry: SourceEntry) -> tuple[_Subset, SourceEntry]:
        index, _, where = entry.where.partition(" ")
        subset = self._subsets[int(index)]
        relative = entry.relative.removeprefix(f"{subset.name}/")
        return subset, SourceEntry(relative=relative, stamp=entry.stamp, where=where)

    def _file(self, entry: SourceEntry, subset: _Subset, inner: SourceFile) -> SourceFile:
        caption = inner.path.stem + subset.caption_extension
        beside = tuple(name for name in inner.beside or () if name == caption)
        said = {} if subset.metadata is None else subset.metadata.fields(inner.path.name)
        return SourceFile(inner.path, entry.relative, beside=beside, fields=said)


def _read_subsets(config: Path, maps: Mapping[str, str], output: Path | None) -> list[_Subset]:
    if not config.is_file():
        raise ConfigError(f"{config}: expected a kohya configuration (.toml), there is none")
    try:
        values = tomllib.loads(config.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DatasetError(f"cannot read {config}: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"{config} is not TOML in UTF-8: {error}") from error
    merged = _merged(config, values)
    if not merged:
        raise ConfigError(
            f"{config}: expected [[datasets]] with [[datasets.subsets]] that name an image_dir"
        )
    merged = _without_repeats(config, merged)
    names = _distinct_names([_folder(config, subset, "image_dir") for subset in merged])
    return [_subset(config, s, n, maps, output) for s, n in zip(merged, names, strict=True)]


def _merged(config: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Each subset's settings, with those of its dataset and of [general] where it has none."""
    found = []
    general = _table(config, values.get("general", {}), "general")
    for dataset in _tables(config, values.get("datasets", []), "datasets"):
        above = {**general, **{k: v for k, v in dataset.items() if k != "subsets"}}
        for subset in _tables(config, dataset.get("subsets", []), "datasets.subsets"):
            found.append({**above, **subset})
    return found


def _subset(
    config: Path, values: dict[str, Any], name: str, maps: Mapping[str, str], output: Path | None
) -> _Subset:
    folders = {condition: _folder(config, values, MAPS_KEY) for condition in maps}
    root = _folder(config, values, "image_dir")
    metadata = values.get("metadata_file")
    extension = str(values.get("caption_extension", DEFAULT_CAPTION_EXTENSION))
    return _Subset(
        name=name,
        folder=FolderSource(root, maps=folders, output=output, flat=True),
        caption_extension=extension if extension.startswith(".") else f".{extension}",
        metadata=None if metadata is None else KohyaMetadata(_place(config, str(metadata)), root),
    )


def _folder(config: Path, values: dict[str, Any], key: str) -> Path:
    given = values.get(key)
    if not isinstance(given, str):
        raise ConfigError(f"{config}: a subset has no {key}; its settings are {', '.join(values)}")
    place = _place(config, given)
    if not place.is_dir():
        raise ConfigError(
            f"{config}: {key} {given!r} is no folder, from the file's own or from here"
        )
    return place


def _place(config: Path, given: str) -> Path:
    beside = config.parent / Path(given).expanduser()
    return beside if beside.exists() else Path(given).expanduser()


def _without_repeats(config: Path, merged: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each folder once: to name it again is kohya's way to repeat it, or to use it at two sizes."""
    by_folder = {identity(_folder(config, subset, "image_dir")): subset for subset in merged[::-1]}
    kept = {id(subset) for subset in by_folder.values()}
    return [subset for subset in merged if id(subset) in kept]


def _distinct_names(folders: list[Path]) -> list[str]:
    """The shortest ends of the folders' paths that differ from each other."""
    parts = [folder.absolute().parts[1:] for folder in folders]
    longest = max(map(len, parts))
    for count in range(1, longest + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ConfigError(f"the subsets {', '.join(map(str, folders))} cannot be told apart by name")


def _table(config: Path, value: Any, name: str) -> dict[str, Any]:  # noqa: ANN401 - from a file
    if not isinstance(value, dict):
        raise ConfigError(f"{config}: {name} is {type(value).__name__}, expected a table")
    return value


def _tables(config: Path, value: Any, name: str) -> list[dict[str, Any]]:  # noqa: ANN401 - as above
    if not isinstance(value, list):
        raise ConfigError(f"{config}: {name} is {type(value).__name__}, expected [[{name}]]")
    return [_table(config, item, name) for item in value]
