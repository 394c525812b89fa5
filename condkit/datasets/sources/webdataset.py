"""WebDataset: tars whose neighbouring members share a name up to its first dot."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, ClassVar

from condkit.datasets.sources.base import SourceEntry, SourceSample
from condkit.datasets.sources.directories import NOT_UTF8, readable
from condkit.datasets.sources.folder import stamp_of
from condkit.datasets.sources.naming import UniqueNames
from condkit.datasets.sources.tar_files import Member, members, read_member
from condkit.datasets.sources.tar_places import TarFile
from condkit.errors import ConfigError, DatasetError
from condkit.imageio import IMAGE_SUFFIXES
from condkit.types import Rejection, SourceFile

TEXT_ENDINGS = frozenset({"txt", "text", "caption", "json", "cls"})
"""Last endings of members that are read as text."""
LARGEST_TEXT_BYTES = 1 << 20

_KEY = re.compile(r"((?:.*/)?[^./][^/.]*)\.([^/]+)")
"""WebDataset's rule: the key goes to the first dot of the last component, then the ending."""


@dataclass(slots=True)
class _Group:
    """The members of one sample, by ending."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)


class WebDatasetSource:
    """The samples of one or more uncompressed tars; nothing is unpacked.

    A sample's name is its tar's name, its key, and its picture's ending. Its picture is the one
    member whose whole ending is that of a picture (`jpg`, not `canny.png`). Texts become fields by
    their ending, and the keys of `json` become fields where no text has that name.

    `where` of an entry is JSON: the tar's number and the offset and size of each member.
    """

    kind: ClassVar[str] = "webdataset"

    def __init__(
        self,
        tars: Sequence[TarFile],
        *,
        image_ending: str | None = None,
        maps: Mapping[str, str] | None = None,
    ) -> None:
        """Take tars; nothing is read yet.

        Args:
            tars: At least one, their names unique.
            image_ending: The ending of the pictures, such as "jpg"; None takes the only one.
            maps: By condition, the ending of its maps: "canny.png", or "canny" with any picture's
                ending behind it.
        """
        self._tars = tuple(tars)
        self._image_ending = None if image_ending is None else image_ending.lower().lstrip(".")
        self._asked = {name: ending.lower().lstrip(".") for name, ending in (maps or {}).items()}
        self._left_out: Counter[str] = Counter()
        # What each tar was when it was searched: its members' places hold only as long as it is so.
        self._stamps: dict[int, str] = {}

    @property
    def given(self) -> tuple[str, ...]:
        """See `Source`."""
        return tuple(self._asked)

    @property
    def left_out(self) -> dict[str, int]:
        """See `Source`."""
        return dict(sorted(self._left_out.items()))

    def as_dict(self) -> dict[str, Any]:
        """See `Source`."""
        return {
            "kind": self.kind,
            "tars": [tar.name for tar in self._tars],
            "image_ending": self._image_ending,
            "maps": self._asked,
        }

    def scan(self) -> Iterator[SourceEntry | Rejection]:
        """See `Source`; tar by tar, sample by sample."""
        self._left_out = Counter()
        seen = _Seen()
        for index, tar in enumerate(self._tars):
            stamp = self._stamps[index] = self._stamp(tar)
            for group in self._groups(tar):
                yield self._entry(index, group, stamp, seen)
        if not seen.samples:
            places = ", ".join(str(tar.path) for tar in self._tars[:3])
            raise ConfigError(f"{places}: no sample in it; expected members such as 0001.jpg")
        missing = [ending for ending in self._asked.values() if ending not in seen.maps]
        if missing:
            raise ConfigError(
                f"maps: no sample has a member {missing[0]!r}; the endings there are: "
                f"{', '.join(sorted(seen.endings))}"
            )

    def file(self, entry: SourceEntry) -> SourceFile:
        """See `Source`."""
        return self._file(entry, _unpack(entry))

    def read(self, entry: SourceEntry) -> SourceSample:
        """See `Source`."""
        places = _unpack(entry)
        maps = {name: self._bytes(entry, places, at) for name, at in places["maps"].items()}
        return SourceSample(
            image=self._bytes(entry, places, places["image"]),
            file=self._file(entry, places),
            maps=maps,
        )

    def _stamp(self, tar: TarFile) -> str:
        try:
            return stamp_of(str(tar.path))
        except OSError as error:
            raise DatasetError(f"cannot read {tar.path}: {error.strerror}") from error

    def _groups(self, tar: TarFile) -> Iterator[_Group]:
        """The samples of one tar: members that follow each other and share a key."""
        group: _Group | None = None
        with closing(UniqueNames()) as keys:
            for member in members(tar.path, self._left_out):
                match = _KEY.fullmatch(member.name)
                if match is None:
                    self._left_out["without an ending"] += 1
                    continue
                key, ending = match.group(1), match.group(2).lower()
                if group is None or group.key != key:
                    if group is not None:
                        yield group
                    _refuse_scattered(tar, key, keys)
                    group = _Group(key)
                if ending in group.members:
                    raise DatasetError(
                        f"{tar.path} holds {member.name} twice in one sample; write it again"
                    )
                group.members[ending] = member
        if group is not None:
            yield group

    def _entry(self, index: int, group: _Group, stamp: str, seen: _Seen) -> SourceEntry | Rejection:
        tar = self._tars[index]
        source = f"{tar.name}/{_inside(group.key)}"
        shown = readable(source)
        if shown is not None:
            return Rejection(shown, "decode", NOT_UTF8)
        maps = {name: self._find_map(group, wanted) for name, wanted in self._asked.items()}
        found = {name: ending for name, ending in maps.items() if ending is not None}
        seen.note(group, (self._asked[name] for name in found))
        images = self._images(group, set(found.values()))
        if len(images) != 1:
            return Rejection(source, "decode", self._why_no_image(group, images))
        texts = [ending for ending, member in group.members.items() if _is_text(ending, member)]
        fault = self._fault_of_texts(tar, group, texts, stamp)
        if fault is not None:
            return Rejection(source, "caption", fault)
        places = {
            "tar": index,
            "image": _place(group, images[0]),
            "texts": {ending: _place(group, ending) for ending in texts},
            "maps": {name: _place(group, ending) for name, ending in found.items()},
        }
        where = json.dumps(places, ensure_ascii=False, separators=(",", ":"))
        return SourceEntry(relative=f"{source}.{images[0]}", stamp=stamp, where=where)

    def _images(self, group: _Group, maps: set[str]) -> list[str]:
        """The endings that may be the sample's picture."""
        if self._image_ending is not None:
            return [self._image_ending] if self._image_ending in group.members else []
        return [e for e in group.members if f".{e}" in IMAGE_SUFFIXES and e not in maps]

    def _why_no_image(self, group: _Group, images: list[str]) -> str:
        if images:
            return f"has several pictures ({', '.join(images)}); name one with image_column"
        wanted = self._image_ending or "a picture's ending such as jpg"
        return f"has no member with {wanted}; its endings are {', '.join(group.members)}"

    def _find_map(self, group: _Group, wanted: str) -> str | None:
        if wanted in group.members:
            return wanted
        endings = (f"{wanted}{suffix}" for suffix in sorted(IMAGE_SUFFIXES))
        return next((ending for ending in endings if ending in group.members), None)

    def _fault_of_texts(
        self, tar: TarFile, group: _Group, endings: list[str], stamp: str
    ) -> str | None:
        """Why a text of the sample cannot be read, where one cannot."""
        for ending in endings:
            member = group.members[ending]
            try:
                text = read_member(tar.path, member.offset, member.size, stamp).decode("utf-8-sig")
                if ending == "json":
                    json.loads(text)
            except UnicodeDecodeError as error:
                return f"its .{ending} is not UTF-8 (byte {error.start}); write it as UTF-8"
            except (ValueError, RecursionError) as error:
                return f"its .{ending} is not JSON ({error}); write it again"
        return None

    def _file(self, entry: SourceEntry, places: dict[str, Any]) -> SourceFile:
        fields: dict[str, Any] = {}
        for ending, at in places["texts"].items():
            fields[ending] = self._bytes(entry, places, at).decode("utf-8-sig")
        values = json.loads(fields["json"]) if "json" in fields else None
        if isinstance(values, dict):
            fields = {**values, **fields}
        path = self._tars[places["tar"]].path
        return SourceFile(path, entry.relative, beside=(), fields=fields)

    def _bytes(self, entry: SourceEntry, places: dict[str, Any], at: list[int]) -> bytes:
        index = places["tar"]
        # An entry out of a plan comes without its stamp, and is compared by its content.
        stamp = entry.stamp or self._stamps.get(index, "")
        return read_member(self._tars[index].path, at[0], at[1], stamp)


class _Seen:
    """What a scan has met, for the errors at its end."""

    def __init__(self) -> None:
        self.samples = 0
        self.maps: set[str] = set()
        self.endings: set[str] = set()

    def note(self, group: _Group, maps: Iterator[str]) -> None:
        self.samples += 1
        self.maps.update(maps)
        if len(self.endings) < 50:
            self.endings.update(group.members)


def _refuse_scattered(tar: TarFile, key: str, keys: UniqueNames) -> None:
    if keys.count(key) > 1:
        raise DatasetError(
            f"{tar.path}: members of the sample {key} lie apart; a WebDataset keeps those of one "
            "sample side by side. Write the tar again with sorted names (tar --sort=name)"
        )


def _inside(key: str) -> str:
    """A key as a name below the tar's; nothing is unpacked, but names go into file names later."""
    return "/".join(part for part in key.split("/") if part not in ("", ".", ".."))


def _is_text(ending: str, member: Member) -> bool:
    return ending.rpartition(".")[2] in TEXT_ENDINGS and member.size <= LARGEST_TEXT_BYTES


def _place(group: _Group, ending: str) -> list[int]:
    member = group.members[ending]
    return [member.offset, member.size]


def _unpack(entry: SourceEntry) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(entry.where)
    return values
