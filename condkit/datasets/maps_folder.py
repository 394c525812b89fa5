"""The output folder of `annotate`: maps, what goes beside them, and a record of each."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from condkit import atomic
from condkit.datasets.encoded import EncodedMap, Facts
from condkit.datasets.fingerprints import hash_file
from condkit.datasets.lock import RECORDS, sweep
from condkit.datasets.resuming import describe_changes
from condkit.datasets.workspace import PLAN
from condkit.errors import OutputError
from condkit.types import Rejection, SourceFile

FORMAT_VERSION = 1
FACTS = "facts.jsonl"
"""What was counted in each map: `{"source": ..., "condition": ..., "facts": {...}}` a line."""
_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class MapEntry:
    """What a map was made from and how.

    Attributes:
        map: Its path in the folder, forward slashes.
        settings: Digest of the settings of its condition.
        sha256: Of the source's bytes.
        size: Bytes of the source.
        mtime_ns: When the source was last changed.
        facts: What was counted in the map.
        data: Suffixes of the files that were written beside it.
    """

    map: str
    settings: str
    sha256: str
    size: int
    mtime_ns: int
    facts: Facts
    data: list[str]

    @property
    def condition(self) -> str:
        """The condition's name."""
        return self.map.partition("/")[0]

    @property
    def source(self) -> str:
        """The source's relative name."""
        return self.map.partition("/")[2].removesuffix(".png")


class MapsFolder:
    """`OUT/CONDITION/RELATIVE PATH.png`, with its record under `OUT/.condkit`.

    A map is there when its file and those beside it exist and its entry says that it was made with
    the present settings from the present source. Entries are appended as maps are written, so a
    killed run loses at most the map it was writing; `OUT/facts.jsonl` is made of them at the end.

    Args:
        output: The folder; it need not exist yet.
        settings: For each condition all that decides its maps, as JSON values.
        data: For each condition the suffixes of the files wanted beside its maps.
    """

    def __init__(
        self,
        output: Path,
        settings: Mapping[str, Mapping[str, Any]],
        data: Mapping[str, Sequence[str]],
    ) -> None:
        self.output = output
        self._data = {name: tuple(data.get(name, ())) for name in settings}
        self._settings = {name: dict(values) for name, values in settings.items()}
        self._digests = {name: _digest(values) for name, values in self._settings.items()}
        self._record = output / RECORDS / "annotate.json"
        self._log = output / RECORDS / "maps.jsonl"
        self._known_settings: dict[str, Any] = {}
        self._entries: dict[str, MapEntry] = {}
        self._file: IO[str] | None = None
        self._load()

    def check(self, sources: Sequence[SourceFile], *, overwrite: bool) -> None:
        """Refuse to mix maps of different settings, or to replace files that are not ours.

        Raises:
            OutputError: naming the settings that changed, or the files in the way.
        """
        if (self.output / RECORDS / PLAN).exists():
            raise OutputError(f"{self.output} is a dataset; name another folder for the maps")
        if overwrite:
            return
        facts = self.output / FACTS
        if facts.exists() and not self._record.exists():
            raise OutputError(_in_the_way(facts))
        made = {entry.condition for entry in self._entries.values()}
        for name, values in self._settings.items():
            before = self._known_settings.get(name)
            if name not in made and before != values:
                # A run that ended before its first map binds nobody to its settings.
                before = None
            changes = [] if before is None else describe_changes({name: before}, {name: values})
            if changes:
                raise OutputError(
                    f"{self.output} holds {name} maps with other settings: {'; '.join(changes)}; "
                    "use another output folder, or --overwrite to make them again"
                )
            if before is None and (self.output / name).is_dir():
                self._refuse_strangers(name, sources)

    def _refuse_strangers(self, condition: str, sources: Sequence[SourceFile]) -> None:
        for source in sources:
            for suffix in self._suffixes(condition):
                path = self.path(condition, source, suffix)
                if path.exists():
                    raise OutputError(_in_the_way(path))

    def _suffixes(self, condition: str) -> tuple[str, ...]:
        """Of the map's file and of those wanted beside it."""
        return (".png", *self._data[condition])

    def path(self, condition: str, source: SourceFile, suffix: str = ".png") -> Path:
        """Where a map lies: the source's whole name and `.png`, so that nothing collides.

        Args:
            condition: The condition's name.
            source: What the map is of.
            suffix: Another one for a file beside the map.
        """
        return self.output / self.relative(condition, source, suffix)

    @staticmethod
    def relative(condition: str, source: SourceFile, suffix: str = ".png") -> str:
        """`path` within the folder, forward slashes."""
        return f"{condition}/{source.relative}{suffix}"

    def impossible(self, sources: Sequence[SourceFile]) -> list[Rejection]:
        """The sources whose maps, or what goes beside them, cannot have the names they should."""
        folders = {parent.as_posix() for s in sources for parent in Path(s.relative).parents}
        maps = {f"{source.relative}.png" for source in sources}
        suffixes = dict.fromkeys(s for name in self._data for s in self._suffixes(name))
        rejections = []
        for source in sources:
            for suffix in suffixes:
                reason = _obstacle(f"{source.relative}{suffix}", suffix, folders, maps)
                if reason:
                    rejections.append(Rejection(source.relative, "write", reason))
                    break
        return rejections

    def missing(self, source: SourceFile, *, overwrite: bool) -> tuple[str, ...]:
        """The conditions whose maps of a source are not there yet."""
        if overwrite:
            return tuple(self._settings)
        return tuple(name for name in self._settings if not self._is_there(name, source))

    def _is_there(self, condition: str, source: SourceFile) -> bool:
        entry = self._entries.get(self.relative(condition, source))
        if entry is None or entry.settings != self._digests[condition]:
            return False
        if not set(self._data[condition]) <= set(entry.data):
            return False
        try:
            status = source.path.stat()
            paths = (self.path(condition, source, s) for s in self._suffixes(condition))
            if status.st_size != entry.size or not all(path.is_file() for path in paths):
                return False
            return status.st_mtime_ns == entry.mtime_ns or hash_file(source.path) == entry.sha256
        except OSError:
            return False

    def __enter__(self) -> Self:
        """Begin writing, with the lock held: the settings are noted before the first map.

        Raises:
            OutputError: if the folder cannot be written.
        """
        sweep((self.output, self.output / RECORDS), deep=False)
        sweep((self.output / name for name in self._settings), deep=True)
        known = {**self._known_settings, **self._settings}
        atomic.write_json(self._record, {"version": FORMAT_VERSION, "conditions": known})
        # A half line at the end would swallow the first new one.
        self._write_sorted()
        try:
            self._file = self._log.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise OutputError(f"cannot write {self._log}: {error.strerror}") from error
        return self

    def add(
        self,
        source: SourceFile,
        status: os.stat_result,
        sha256: str,
        maps: Mapping[str, EncodedMap],
    ) -> None:
        """Write the maps of a source with what goes beside them, and note them.

        Args:
            source: Where they come from.
            status: Of the source, taken before it was read.
            sha256: Of the source's bytes.
            maps: By condition.

        Raises:
            OutputError: if something cannot be written.
        """
        lines = []
        for condition, encoded in maps.items():
            self._remove_old_data(condition, source, keep=encoded.data)
            for suffix, data in {**encoded.data, ".png": encoded.png}.items():
                atomic.write_bytes(self.path(condition, source, suffix), data, fsync=False)
            entry = MapEntry(
                self.relative(condition, source),
                self._digests[condition],
                sha256,
                status.st_size,
                status.st_mtime_ns,
                dict(encoded.facts),
                list(encoded.data),
            )
            self._entries[entry.map] = entry
            lines.append(_line(entry))
        self._append("".join(lines))

    def _remove_old_data(
        self, condition: str, source: SourceFile, keep: Mapping[str, bytes]
    ) -> None:
        """What lies beside the map that is replaced would not be of the new one."""
        before = self._entries.get(self.relative(condition, source))
        for suffix in () if before is None else before.data:
            if suffix not in keep:
                path = self.path(condition, source, suffix)
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise OutputError(f"cannot remove {path}: {error.strerror}") from error

    def _append(self, lines: str) -> None:
        if self._file is None:
            raise RuntimeError("MapsFolder.add is called inside of `with folder:`")
        try:
            self._file.write(lines)
            self._file.flush()
        except OSError as error:
            raise OutputError(f"cannot write {self._log}: {error.strerror}") from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Sort the record, each map once, and write the facts."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._write_sorted()
        self._write_facts()

    def _write_facts(self) -> None:
        """One line a map, of those made with the present settings."""
        digests = {name: _digest(values) for name, values in self._known_settings.items()}
        digests |= self._digests
        entries = [e for e in self._entries.values() if digests.get(e.condition) == e.settings]
        entries.sort(key=lambda entry: (entry.source, entry.condition))
        text = "".join(
            json.dumps(
                {"source": e.source, "condition": e.condition, "facts": e.facts},
                ensure_ascii=False,
                allow_nan=False,
            )
            + "\n"
            for e in entries
        )
        if text or (self.output / FACTS).exists():
            atomic.write_text(self.output / FACTS, text)

    def _write_sorted(self) -> None:
        entries = (self._entries[name] for name in sorted(self._entries))
        atomic.write_text(self._log, "".join(map(_line, entries)))

    def _load(self) -> None:
        if not self._record.is_file():
            return
        try:
            values = json.loads(self._record.read_text(encoding="utf-8"))
            if values["version"] != FORMAT_VERSION:
                raise OutputError(
                    f"{self._record}: version {values['version']}, this condkit knows "
                    f"{FORMAT_VERSION}; use another output folder"
                )
            self._known_settings = values["conditions"]
            lines = self._log.read_text(encoding="utf-8").split("\n") if self._log.exists() else ()
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(
                f"{self._record} cannot be read ({error}); use another output folder"
            ) from error
        for line in lines:
            entry = _entry(line)
            if entry is not None:
                self._entries[entry.map] = entry


def _in_the_way(path: Path) -> str:
    return (
        f"{path} exists and condkit did not make it; use another output folder, or --overwrite to "
        "replace it"
    )


def _obstacle(name: str, suffix: str, folders: set[str], maps: set[str]) -> str:
    """Why no file of a source can have a name; empty where it can."""
    what = "map" if suffix == ".png" else f"map's {suffix} file"
    if name in folders:
        return f"its {what} would be called {name}, and so is a folder of other maps"
    if suffix != ".png" and name in maps:
        return f"its {what} would be called {name}, and so is the map of another input"
    if len(os.fsencode(name.rpartition("/")[2])) > _LONGEST_NAME:
        return f"its {what}'s name would be longer than {_LONGEST_NAME} bytes; rename it"
    return ""


def _line(entry: MapEntry) -> str:
    values = {name: getattr(entry, name) for name in MapEntry.__slots__}
    return json.dumps(values, ensure_ascii=False) + "\n"


def _entry(line: str) -> MapEntry | None:
    """The entry of a line; None for the half line that a killed run may have left."""
    try:
        return MapEntry(**json.loads(line))
    except (ValueError, TypeError):
        return None


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
