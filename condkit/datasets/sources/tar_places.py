"""Which tars the user means: one, those of a folder, or those of a pattern with braces."""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path

from condkit.errors import ConfigError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_NAMED = 5


@dataclass(frozen=True, slots=True)
class TarFile:
    """A tar of a source.

    Attributes:
        path: Where it is.
        name: What it is called in the source: its name without `.tar`, below the place asked for.
    """

    path: Path
    name: str


def find_tars(place: str) -> list[TarFile]:
    """The tars at a place, sorted by name.

    Args:
        place: A tar, a folder (searched with its subfolders), or a pattern such as
            `shards/{00000..00012}.tar` or `{train,val}-{0..3}.tar`.

    Raises:
        ConfigError: if there is none, or one that a pattern names is missing.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if path.exists() or "{" not in place:
        return [TarFile(path, _bare(path.name))]
    paths = [Path(text).expanduser() for text in expand_braces(place)]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise ConfigError(
            f"{place}: {len(missing)} of {len(paths)} tars are not there: "
            f"{', '.join(missing[:_NAMED])}{more}; correct the pattern or fetch them"
        )
    base = os.path.commonpath([path.parent for path in paths])
    return [TarFile(path, _bare(os.path.relpath(path, base))) for path in paths]


def tars_of_split(place: str, tars: list[TarFile], split: str) -> list[TarFile]:
    """Those called `SPLIT-00000.tar` or `SPLIT.tar`, or in a folder of the split's name.

    Raises:
        ConfigError: if there is none.
    """
    chosen = [tar for tar in tars if split in _splits_of(tar.name)]
    if not chosen:
        shown = ", ".join(tar.name for tar in tars[:_NAMED])
        raise ConfigError(
            f"split: no tar of {place} is called {split}-*.tar or lies in a folder {split}; there "
            f"are {shown}"
        )
    return chosen


def _splits_of(name: str) -> set[str]:
    *folders, last = name.split("/")
    return {*folders, last, last.partition("-")[0]}


def expand_braces(pattern: str) -> list[str]:
    """All texts that a pattern stands for: `{00..12}` counts, zeros kept; `{a,b}` lists.

    Raises:
        ConfigError: if braces hold neither.
    """
    pieces = _BRACES.split(pattern)
    choices = [[text] if index % 2 == 0 else _choices(text) for index, text in enumerate(pieces)]
    return ["".join(parts) for parts in itertools.product(*choices)]


def _choices(text: str) -> list[str]:
    counted = _RANGE.fullmatch(text)
    if counted is not None:
        first, last = counted.groups()
        if int(first) <= int(last):
            return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    elif "," in text:
        return text.split(",")
    raise ConfigError(
        f"{{{text}}}: expected a range from low to high such as {{00000..00012}}, or a list such "
        "as {train,val}"
    )


def _in_folder(folder: Path) -> list[TarFile]:
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(place)
        found += [inside / name for name in names if _is_tar(name)]
    if not found:
        raise ConfigError(f"{folder}: expected tars (.tar) in this folder, there is none")
    tars = [TarFile(path, _bare(path.relative_to(folder).as_posix())) for path in found]
    return sorted(tars, key=lambda tar: tar.name)


def _is_tar(name: str) -> bool:
    # Compressed ones are found too, so that they are refused and not forgotten.
    lower = name.lower()
    return not name.startswith(".") and (lower.endswith((".tar", ".tgz")) or ".tar." in lower)


def _bare(name: str) -> str:
    return re.sub(r"\.tar$", "", name.replace(os.sep, "/"), flags=re.IGNORECASE)
