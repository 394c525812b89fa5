"""Finds weight files in folders and caches, and fetches and verifies them."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from condkit.errors import WeightsError
from condkit.weights import files
from condkit.weights.pins import Pin, PinBook
from condkit.weights.shelf import Shelf
from condkit.weights.sources import FetchError, Source
from condkit.weights.specs import AnyWeights, ModelSpec, WeightSpec
from condkit.weights.verify import Verifier

_log = logging.getLogger(__name__)

Presence: TypeAlias = Literal["present", "missing"]

_LOCK_TIMEOUT_S = 3600
_TRUE = frozenset({"1", "true", "yes", "on"})


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightStore:
    """Finds and fetches weight files.

    Attributes:
        overrides: Folders searched (with everything below them) before anything else;
            those of `CONDKIT_WEIGHTS_DIR` follow.
        cache: Where fetched files are kept; None takes `CONDKIT_CACHE` or the user's cache folder.
        offline: Never touch the network; `CONDKIT_OFFLINE=1` does the same.
    """

    overrides: tuple[Path, ...] = ()
    cache: Path | None = None
    offline: bool = False

    @property
    def folders(self) -> tuple[Path, ...]:
        """All override folders, in search order."""
        listed = os.environ.get("CONDKIT_WEIGHTS_DIR", "").split(os.pathsep)
        return (*self.overrides, *(Path(name).expanduser() for name in listed if name))

    @property
    def cache_folder(self) -> Path:
        """The cache of condkit itself; it need not exist yet."""
        if self.cache is not None:
            return self.cache
        if chosen := os.environ.get("CONDKIT_CACHE"):
            return Path(chosen).expanduser()
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base) if base else Path("~/.cache").expanduser()) / "condkit"

    @property
    def is_offline(self) -> bool:
        """Whether the network is forbidden."""
        return self.offline or os.environ.get("CONDKIT_OFFLINE", "").lower() in _TRUE

    @property
    def pins(self) -> PinBook:
        """The recorded hashes of files without a published one."""
        return PinBook(self.cache_folder / "weights" / "pins.json")

    def pin(self, spec: WeightSpec) -> Pin | None:
        """What the file has to be; None where no hash is published and none recorded yet."""
        return self._verifier.pin(spec)

    @property
    def _verifier(self) -> Verifier:
        return Verifier(self.pins)

    def status(self, weights: AnyWeights) -> Presence:
        """Whether a file of the right name and size (for a model: all of them) is on this disk.

        Cheap enough for a listing: the content is not hashed and the network is not touched.
        """
        return self.statuses([weights])[0]

    def statuses(self, weights: Iterable[AnyWeights]) -> list[Presence]:
        """The status of each; the override folders are looked through once."""
        shelf = Shelf(self.folders)
        return ["present" if self.copies(each, shelf) else "missing" for each in weights]

    def copies(self, weights: AnyWeights, shelf: Shelf | None = None) -> list[Path]:
        """Files (for a model: folders) of the right name and size on this disk, in search order.

        Args:
            weights: What to look for.
            shelf: The override folders with their index, to share it between look-ups.
        """
        shelf = shelf or Shelf(self.folders)
        if isinstance(weights, ModelSpec):
            places = [*shelf.models(weights), self._model_kept(weights)]
            cached = [self.in_caches(file) for file in weights.files]
            places += files.common_folder(weights, cached)
            return [place for place in places if files.complete(weights, place)]
        return [path for _, path in self.named(weights, shelf) if files.fits(path, weights)]

    def named(
        self, weights: AnyWeights, shelf: Shelf | None = None
    ) -> list[tuple[WeightSpec, Path]]:
        """Every file on this disk that passes for one of the weights by its name and place alone.

        For a model: whatever of its files lies in a folder of its name.
        """
        shelf = shelf or Shelf(self.folders)
        pairs = [(file, path) for file in weights.files for path in self.in_caches(file)]
        if isinstance(weights, ModelSpec):
            folders = [*shelf.models(weights), self._model_kept(weights)]
            own = [(file, place / file.name) for place in folders for file in weights.files]
        else:
            own = [(weights, path) for path in shelf.named(weights.name)]
        return [pair for pair in dict.fromkeys([*own, *pairs]) if pair[1].is_file()]

    def cached(self, spec: WeightSpec) -> bool:
        """Whether condkit's cache or a source's own has a file of the right size."""
        return any(files.fits(path, spec) for path in self.in_caches(spec))

    def in_caches(self, spec: WeightSpec) -> list[Path]:
        """Where the file is or would be kept: condkit's cache, then the sources' own caches."""
        local = (source.local() for source in spec.sources)
        return [self._kept(spec), *(path for path in local if path is not None)]

    def path(self, spec: WeightSpec) -> Path:
        """The verified local file, fetched now if it has to be.

        Several processes may ask at once; one fetches, the others wait for it.

        Raises:
            WeightsError: if no place has it; the message lists every place and what to do.
        """
        tried: list[str] = []
        found = self._on_shelf(spec, tried) or self._obtain(spec, tried)
        if found is None:
            raise WeightsError(files.not_found(spec, tried))
        return found

    def folder(self, model: ModelSpec) -> Path:
        """The local folder with all files of a model, verified, fetched now if it has to be.

        Searched are OWNER/NAME, NAME and models--OWNER--NAME (as in the hub's cache) in each
        override folder, then condkit's cache and the hub's. What is fetched from the hub stays in
        the hub's cache.

        Raises:
            WeightsError: if no place has it; the message lists every place and what to do.
        """
        tried: list[str] = []
        for place in [*Shelf(self.folders).models(model), self._model_kept(model)]:
            if self._verified(model, place, tried):
                return place
        parts = {}
        for file in model.files:
            found = self._obtain(file, tried)
            if found is None:
                raise WeightsError(files.not_found(model, tried))
            parts[file.name] = found
        if common := files.common_folder(model, [[path] for path in parts.values()]):
            return common[0]
        kept = self._model_kept(model)
        with self._lock(kept.parent, model.name):
            files.assemble(parts, kept)
        return kept

    def _verified(self, model: ModelSpec, place: Path, tried: list[str]) -> bool:
        lacking = [file.name for file in model.files if not (place / file.name).is_file()]
        if len(lacking) == len(model.files):
            tried.append(f"folder {place}: {'empty of them' if place.is_dir() else 'not there'}")
            return False
        if lacking:
            tried.append(f"folder {place}: without {', '.join(lacking)}")
            return False
        own = place == self._model_kept(model)
        for file in model.files:
            if not self._verifier.accepts(place / file.name, file, own=own):
                tried.append(f"folder {place}: {file.name} is another file, its sha256 differs")
                return False
        return True

    def _on_shelf(self, spec: WeightSpec, tried: list[str]) -> Path | None:
        """A verified file of the override folders; the places without one go to `tried`."""
        for folder in self.folders:
            candidates = Shelf((folder,)).named(spec.name)
            for candidate in self._verifier.candidates(list(candidates), spec):
                if self._verifier.accepts(candidate, spec):
                    return candidate
                tried.append(f"{candidate}: another file of that name, its sha256 differs")
            pinned = " with the pinned sha256" if self.pin(spec) else ""
            found = f"no {spec.name}{pinned}" if folder.is_dir() else "no such folder"
            tried.append(f"weights folder {folder}: {found}")
        return None

    def _obtain(self, spec: WeightSpec, tried: list[str]) -> Path | None:
        """A verified file of the caches or, unless that is forbidden, of the network."""
        kept = self._kept(spec)
        if self._verifier.accepts(kept, spec, own=True):
            return kept
        tried.append(f"cache {kept}: {'damaged' if kept.is_file() else 'not there'}")
        for source in spec.sources:
            local = source.local()
            if local is not None and self._verifier.accepts(local, spec):
                return local
            if source.cached_at is not None:
                found = f"no {spec.name}" if local is None else f"{local} is another file"
                tried.append(f"cache {source.cached_at}: {found}")
        if self.is_offline:
            tried.append("network: not used (--offline or CONDKIT_OFFLINE)")
            return None
        with self._lock(kept.parent, spec.name):
            if self._verifier.accepts(kept, spec, own=True):
                return kept
            for source in spec.sources:
                try:
                    return self._from(source, spec)
                except FetchError as error:
                    _log.info("%s: %s: %s", spec.name, source.place, error)
                    tried.append(f"{source.place}: {error}")
        return None

    def _from(self, source: Source, spec: WeightSpec) -> Path:
        """Fetch, verify, and only then give the file its final name."""
        kept = self._kept(spec)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=kept.parent) as name:
            folder = Path(name)
            _log.info("fetching %s (%s): %s", spec.name, files.size_words(spec), source.place)
            fetched = source.fetch(folder)
            self._verifier.check_fetched(fetched, spec, source)
            if not fetched.is_relative_to(folder):
                return fetched
            with fetched.open("rb") as file:
                os.fsync(file.fileno())
            fetched.replace(kept)
        return kept

    def _kept(self, spec: WeightSpec) -> Path:
        # The hash is part of the place: different weights often share a name (model.safetensors).
        place = _slug(spec.key) if spec.sha256 is None else spec.sha256[:16]
        return self.cache_folder / "weights" / place / Path(spec.name).name

    def _model_kept(self, model: ModelSpec) -> Path:
        identity = "\n".join(f"{file.name} {file.key} {file.sha256}" for file in model.files)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
        return self.cache_folder / "weights" / "models" / f"{_slug(model.name)}-{digest}"

    @contextmanager
    def _lock(self, folder: Path, name: str) -> Iterator[None]:
        """Hold a folder's lock between processes; the folder exists inside the block."""
        from filelock import FileLock, Timeout

        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock", timeout=_LOCK_TIMEOUT_S):
                yield
        except Timeout as error:
            raise WeightsError(
                f"{name}: another process has been fetching it for {_LOCK_TIMEOUT_S} s; "
                f"stop that process or delete {folder / '.lock'}"
            ) from error
        except OSError as error:
            raise WeightsError(
                f"{name}: cannot write the cache {folder}: {error.strerror or error}; "
                "set CONDKIT_CACHE to a writable folder"
            ) from error


def _slug(text: str) -> str:
    """A folder name of a key: readable, and different for different keys."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', text).strip('-.')[-80:]}-{digest}"
