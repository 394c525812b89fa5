"""The output folder of `annotate`: maps, and a record of what each was made from and how."""

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
from condkit.datasets.lock import RECORDS, sweep
from condkit.datasets.planning import hash_file
from condkit.datasets.resuming import describe_changes
from condkit.errors import OutputError
from condkit.types import Rejection, SourceFile

FORMAT_VERSION = 1
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
    """

    map: str
    settings: str
    sha256: str
    size: int
    mtime_ns: int


class MapsFolder:
    """`OUT/CONDITION/RELATIVE PATH.png`, with its record under `OUT/.condkit`.

    A map is there when the file exists and its entry says that it was made with the present
    settings from the present source. Entries are appended as maps are written, so a killed run
    loses at most the map it was writing.

    Args:
        output: The folder; it need not exist yet.
        settings: For each condition all that decides its maps, as JSON values.
    """

    def __init__(self, output: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
        self.output = output
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
        if (self.output / RECORDS / "plan.json").exists():
            raise OutputError(f"{self.output} is a dataset; name another folder for the maps")
        if overwrite:
            return
        for name, values in self._settings.items():
            before = self._known_settings.get(name)
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
            path = self.path(condition, source)
            if path.exists():
                raise OutputError(
                    f"{path} exists and condkit did not make it; use another output folder, or "
                    "--overwrite to replace it"
                )

    def path(self, condition: str, source: SourceFile) -> Path:
        """Where a map lies: the source's whole name and `.png`, so that nothing collides."""
        return self.output / self.relative(condition, source)

    @staticmethod
    def relative(condition: str, source: SourceFile) -> str:
        """`path` within the folder, forward slashes."""
        return f"{condition}/{source.relative}.png"

    def impossible(self, sources: Sequence[SourceFile]) -> list[Rejection]:
        """The sources whose maps cannot have the names they should have."""
        folders = {parent.as_posix() for s in sources for parent in Path(s.relative).parents}
        rejections = []
        for source in sources:
            name = f"{source.relative}.png"
            if name in folders:
                reason = f"its map would be called {name}, and so is a folder of other maps"
            elif len(os.fsencode(name.rpartition("/")[2])) > _LONGEST_NAME:
                reason = f"its map's name would be longer than {_LONGEST_NAME} bytes; rename it"
            else:
                continue
            rejections.append(Rejection(source.relative, "write", reason))
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
        try:
            status = source.path.stat()
            if not self.path(condition, source).is_file() or status.st_size != entry.size:
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
        self, source: SourceFile, status: os.stat_result, sha256: str, pngs: Mapping[str, bytes]
    ) -> None:
        """Write the maps of a source and note them.

        Args:
            source: Where they come from.
            status: Of the source, taken before it was read.
            sha256: Of the source's bytes.
            pngs: PNG files by condition.

        Raises:
            OutputError: if something cannot be written.
        """
        lines = []
        for condition, data in pngs.items():
            atomic.write_bytes(self.path(condition, source), data, fsync=False)
            entry = MapEntry(
                self.relative(condition, source),
                self._digests[condition],
                sha256,
                status.st_size,
                status.st_mtime_ns,
            )
            self._entries[entry.map] = entry
            lines.append(_line(entry))
        self._append("".join(lines))

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
        """Sort the record, each map once."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._write_sorted()

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
