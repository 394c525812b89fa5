"""Weight files: pinned by hash, found in folders and caches, fetched once, verified every time.

The order of places: override folders, condkit's cache, then each source of the spec in its own
order (the hub's cache counts as the hub). Nothing is handed out whose sha256 is not the pinned one.

Environment variables:
    CONDKIT_WEIGHTS_DIR: override folders, separated as in PATH, after those given in code.
    CONDKIT_CACHE: condkit's cache folder (else `$XDG_CACHE_HOME/condkit`, `~/.cache/condkit`).
    CONDKIT_OFFLINE: 1 forbids the network.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from condkit.errors import WeightsError
from condkit.fetch import FetchError, HubFile, Source, UrlFile, WheelFile

__all__ = [
    "AnyWeights",
    "HubFile",
    "ModelSpec",
    "Presence",
    "UrlFile",
    "WeightSpec",
    "WeightStore",
    "WheelFile",
    "hub_model",
]

_log = logging.getLogger(__name__)

Presence: TypeAlias = Literal["present", "missing"]

_LOCK_TIMEOUT_S = 3600
_TRUE = frozenset({"1", "true", "yes", "on"})


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSpec:
    """One published weight file.

    Attributes:
        name: The file's name; override folders are searched for it.
        sha256: Lower-case hex digest of the whole file; None where none is published: then it is
            recorded at the first download and pinned from then on.
        size: Bytes; None where it is not known.
        licence: SPDX name where there is one.
        commercial_use: Whether the licence allows it; None where that is not clear.
        origin: Who made the weights, from what, in a sentence.
        sources: Where to fetch the file, in this order.
    """

    name: str
    sha256: str | None
    size: int | None
    licence: str
    commercial_use: bool | None
    origin: str
    sources: tuple[Source, ...]

    @property
    def files(self) -> tuple[WeightSpec, ...]:
        """Itself: a model of one file."""
        return (self,)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A published model of several files in one folder, as `from_pretrained` reads it.

    Attributes:
        name: The hub's id, "owner/model"; override folders are searched for a folder of that name.
        files: Its files, `name` relative to the folder.
        licence: SPDX name where there is one.
        commercial_use: Whether the licence allows it; None where that is not clear.
        origin: Who made the weights, from what, in a sentence.
    """

    name: str
    files: tuple[WeightSpec, ...]
    licence: str
    commercial_use: bool | None
    origin: str


AnyWeights: TypeAlias = WeightSpec | ModelSpec


def hub_model(
    repo: str,
    *,
    revision: str = "main",
    licence: str,
    commercial_use: bool | None,
    origin: str,
    sha256: str | None = None,
    size: int | None = None,
    weights: str = "model.safetensors",
    others: tuple[str, ...] = ("config.json", "preprocessor_config.json"),
) -> ModelSpec:
    """A transformers model on the Hugging Face hub.

    Args:
        repo: "owner/model".
        revision: A commit hash, or a branch.
        licence: Of the weights.
        commercial_use: Whether that allows commercial use; None where it is not clear.
        origin: Who made it, from what, in a sentence.
        sha256: Of the weights' file, where one is published.
        size: Of the weights' file in bytes, where it is known.
        weights: The weights' file.
        others: The files beside it that loading needs.
    """

    def file(name: str, sha256: str | None = None, size: int | None = None) -> WeightSpec:
        return WeightSpec(
            name=name,
            sha256=sha256,
            size=size,
            licence=licence,
            commercial_use=commercial_use,
            origin=origin,
            sources=(HubFile(repo=repo, filename=name, revision=revision),),
        )

    return ModelSpec(
        name=repo,
        files=(file(weights, sha256, size), *(file(name) for name in others)),
        licence=licence,
        commercial_use=commercial_use,
        origin=origin,
    )


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

    def status(self, spec: WeightSpec) -> Presence:
        """Whether a file of the right name and size lies on this disk.

        Cheap enough for a listing: the content is not hashed and the network is not touched.
        """
        places = [*_named(spec.name, self.folders), self._kept(spec)]
        places += [found for source in spec.sources if (found := source.local()) is not None]
        return "present" if any(_size(path) == spec.size for path in places) else "missing"

    def path(self, spec: WeightSpec) -> Path:
        """The verified local file, fetched now if it has to be.

        Several processes may ask at once; one fetches, the others wait for it.

        Raises:
            WeightsError: if no place has it; the message lists every place and what to do.
        """
        tried: list[str] = []
        if (found := self._on_disk(spec, tried)) is not None:
            return found
        if self.is_offline:
            tried.append("network: not used (--offline or CONDKIT_OFFLINE)")
        else:
            with self._lock(spec):
                kept = self._kept(spec)
                if _matches(kept, spec):
                    return kept
                for source in spec.sources:
                    try:
                        return self._from(source, spec)
                    except FetchError as error:
                        _log.info("%s: %s: %s", spec.name, source.place, error)
                        tried.append(f"{source.place}: {error}")
        raise WeightsError(_not_found(spec, tried))

    def folder(self, model: ModelSpec) -> Path:
        """The local folder with all files of a model, fetched now if it has to be.

        Raises:
            WeightsError: if no place has it; the message lists every place and what to do.
        """
        for root in self.folders:
            for name in (model.name, model.name.rpartition("/")[2]):
                place = root / name
                if all((place / file.name).is_file() for file in model.files):
                    return place
        raise WeightsError(f"{model.name} was not found below {[str(f) for f in self.folders]}")

    def _on_disk(self, spec: WeightSpec, tried: list[str]) -> Path | None:
        """A verified file that is already here; the places without one are added to `tried`."""
        for folder in self.folders:
            for candidate in _named(spec.name, (folder,)):
                if _matches(candidate, spec):
                    return candidate
                tried.append(f"{candidate}: another file of that name, its sha256 differs")
            if not folder.is_dir():
                tried.append(f"weights folder {folder}: no such folder")
            else:
                tried.append(f"weights folder {folder}: no {spec.name} with the pinned sha256")
        kept = self._kept(spec)
        if _matches(kept, spec):
            return kept
        tried.append(f"cache {kept}: not there" if not kept.is_file() else f"cache {kept}: damaged")
        for source in spec.sources:
            local = source.local()
            if local is not None and _matches(local, spec):
                return local
        return None

    def _from(self, source: Source, spec: WeightSpec) -> Path:
        """Fetch, verify, and only then give the file its final name."""
        import tempfile

        kept = self._kept(spec)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=kept.parent) as name:
            folder = Path(name)
            _log.info("fetching %s (%.1f MB): %s", spec.name, spec.size / 1e6, source.place)
            fetched = source.fetch(folder)
            digest = _sha256(fetched)
            if digest != spec.sha256:
                raise FetchError(
                    f"what came has sha256 {digest} ({_size(fetched)} bytes), "
                    f"expected {spec.sha256} ({spec.size} bytes)"
                )
            if not fetched.is_relative_to(folder):
                return fetched
            with fetched.open("rb") as file:
                os.fsync(file.fileno())
            fetched.replace(kept)
        return kept

    def _kept(self, spec: WeightSpec) -> Path:
        # The hash is part of the place: different weights often share a name (model.safetensors).
        return self.cache_folder / "weights" / spec.sha256[:16] / spec.name

    @contextmanager
    def _lock(self, spec: WeightSpec) -> Iterator[None]:
        """Hold the file's lock between processes; its folder exists inside the block."""
        from filelock import FileLock, Timeout

        folder = self._kept(spec).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock", timeout=_LOCK_TIMEOUT_S):
                yield
        except Timeout as error:
            raise WeightsError(
                f"{spec.name}: another process has been fetching it for {_LOCK_TIMEOUT_S} s; "
                f"stop that process or delete {folder / '.lock'}"
            ) from error
        except OSError as error:
            raise WeightsError(
                f"{spec.name}: cannot write the cache {folder}: {error.strerror or error}; "
                "set CONDKIT_CACHE to a writable folder"
            ) from error


def _named(name: str, folders: tuple[Path, ...]) -> Iterator[Path]:
    """Every file called `name` at or below the folders, nearest and alphabetical first."""
    for folder in folders:
        for root, below, files in os.walk(folder):
            below.sort()
            if name in files:
                yield Path(root, name)


def _matches(path: Path, spec: WeightSpec) -> bool:
    """Whether the file is there and has the pinned hash; one that has not is warned about."""
    if not path.is_file():
        return False
    try:
        digest = _sha256(path)
    except OSError as error:
        _log.warning("%s is left out: %s", path, error.strerror or error)
        return False
    if digest == spec.sha256:
        return True
    _log.warning("%s is left out: its sha256 is %s, expected %s", path, digest, spec.sha256)
    return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _not_found(spec: WeightSpec, tried: list[str]) -> str:
    places = "\n".join(f"  - {line}" for line in tried)
    return (
        f"{spec.name} ({spec.size / 1e6:.1f} MB, sha256 {spec.sha256}) was not found. Tried:\n"
        f"{places}\n"
        "Put the file below a folder named by --weights-dir or CONDKIT_WEIGHTS_DIR, "
        "or let condkit reach one of its sources: "
        f"{'; '.join(source.place for source in spec.sources) or 'it has none'}."
    )
