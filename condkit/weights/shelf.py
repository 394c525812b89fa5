"""Folders that people fill with weights themselves, and what is found in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from condkit.weights.sources import HubFile, hub_cache_name
from condkit.weights.specs import ModelSpec


@dataclass(frozen=True, slots=True)
class Shelf:
    """Override folders with an index of everything below them, made at the first look.

    Attributes:
        folders: In search order; they need not exist.
    """

    folders: tuple[Path, ...]
    _index: dict[Path, dict[str, list[Path]]] = field(default_factory=dict)

    def named(self, name: str) -> Iterator[Path]:
        """Every file called `name` at or below the folders, nearest and alphabetical first."""
        for folder in self.folders:
            if folder not in self._index:
                self._index[folder] = _index(folder)
            yield from self._index[folder].get(name, [])

    def models(self, model: ModelSpec) -> Iterator[Path]:
        """Folders that may hold a model: OWNER/NAME, NAME, or a snapshot as in the hub's cache.

        An override folder that is itself called NAME counts as well.
        """
        short = model.name.rpartition("/")[2]
        for root in self.folders:
            if root.resolve().name == short:
                yield root
            yield root / model.name
            yield root / short
            cached = root / hub_cache_name(model.name)
            if cached.is_dir():
                yield from _snapshots(cached, model)


def _index(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for root, below, files in os.walk(folder):
        below.sort()
        for name in files:
            found.setdefault(name, []).append(Path(root, name))
    return found


def _snapshots(cached: Path, model: ModelSpec) -> Iterator[Path]:
    """Snapshot folders of one repository: the wanted revision first, then the others."""
    revisions = [s.revision for f in model.files for s in f.sources if isinstance(s, HubFile)]
    wanted = []
    for revision in dict.fromkeys(revisions):
        try:
            wanted.append((cached / "refs" / revision).read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError):
            wanted.append(revision)
    others = sorted(path.name for path in (cached / "snapshots").glob("*") if path.is_dir())
    for commit in dict.fromkeys([*wanted, *others]):
        yield cached / "snapshots" / commit
