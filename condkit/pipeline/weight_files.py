"""What `condkit weights` does: list, fetch and verify the weights of the networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from condkit.annotators.listing import commercial_cell, shorten, size_cell
from condkit.errors import WeightsError
from condkit.pipeline.weight_choices import Choice, all_weights
from condkit.weights import AnyWeights, ModelSpec, Presence, Shelf, WeightSpec, WeightStore
from condkit.weights.hashes import sha256_of
from condkit.weights.pins import Pin

Verdict: TypeAlias = Literal["good", "different", "not pinned", "unreadable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFile:
    """One weight file of one detector or captioner.

    Attributes:
        name: OWNER:WEIGHTS, the owner a detector or captioner.
        model: The model's name on the hub, where the file is one of several.
        file: Its name.
        present: Whether it is on this disk (by name and size; the hash is checked at use).
        size: Bytes; None where it is not known.
        pin: "pinned" (the hash is published), "recorded 2026-11-25" (none is; that of the file
            used first counts) or "not yet known" (it will be recorded at the first use).
        sha256: The hash that counts; None where it is not yet known.
        licence: Licence of the weights.
        commercial_use: Whether that allows commercial use; None where it is not clear.
        origin: Who made the weights, from what.
        sources: Where it is fetched from, in this order.
    """

    name: str
    model: str | None
    file: str
    present: Presence
    size: int | None
    pin: str
    sha256: str | None
    licence: str
    commercial_use: bool | None
    origin: str
    sources: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"sources": list(self.sources)}

    def cells(self) -> tuple[str, ...]:
        """Name, file, presence, size, pin, licence, commercial use and source, in words."""
        return (
            self.name,
            self.file,
            self.present,
            size_cell(self.size),
            self.pin,
            shorten(self.licence),
            commercial_cell(self.commercial_use),
            "; ".join(self.sources),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What became of weights that were asked for.

    Attributes:
        name: OWNER:WEIGHTS, the owner a detector or captioner.
        path: The verified file or folder; None where it could not be had.
        error: Why not.
    """

    name: str
    path: Path | None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"name": self.name, "path": self.path and str(self.path), "error": self.error}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """One file that passes for a weight file by its name, and what it really is.

    Attributes:
        name: OWNER:WEIGHTS, the owner a detector or captioner.
        path: The file.
        verdict: "good", "different" (damaged, or another file), "not pinned" (nothing to compare
            with before its first use) or "unreadable".
        sha256: Of the file; None where it cannot be read.
        expected: What it should be; None where that is not yet known.
    """

    name: str
    path: Path
    verdict: Verdict
    sha256: str | None
    expected: str | None

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"path": str(self.path)}

    def cells(self) -> tuple[str, ...]:
        """Verdict, name, path and the hash, in words."""
        found = self.sha256 or ""
        if self.verdict == "different":
            found = f"{found}, expected {self.expected}"
        return (self.verdict, self.name, str(self.path), found)


def list_files(store: WeightStore, choices: Sequence[Choice]) -> list[ListedFile]:
    """Every file of some weights, with what is known of it; no file is hashed.

    Args:
        store: Where weights are looked for.
        choices: From `choose_weights`.
    """
    shelf = Shelf(store.folders)
    return [
        _listed(store, choice, file, present)
        for choice in choices
        for file, present in _presence(store, choice.spec, shelf)
    ]


def fetch_weights(
    store: WeightStore,
    choices: Sequence[Choice],
    on_progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> Iterator[Fetched]:
    """Bring weights to this disk, one after the other; what is there already is verified.

    Args:
        store: May use the network.
        choices: From `choose_weights`.
        on_progress: Called with how many are through, of how many, and what comes next.
    """
    for done, choice in enumerate(choices):
        on_progress(done, len(choices), f"{choice.name}, {size_cell(choice.spec.size)}")
        try:
            spec = choice.spec
            path = store.folder(spec) if isinstance(spec, ModelSpec) else store.path(spec)
        except WeightsError as error:
            yield Fetched(name=choice.name, path=None, error=str(error))
        else:
            yield Fetched(name=choice.name, path=path)
    on_progress(len(choices), len(choices), "")


def verify_weights(
    store: WeightStore,
    choices: Sequence[Choice],
    on_progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> list[Verified]:
    """Hash every file on this disk that passes for one of some weights; nothing is recorded.

    A file that is good for other weights of the same file name is not reported.

    Args:
        store: Where weights are looked for.
        choices: From `choose_weights`.
        on_progress: Called with how many are through, of how many, and what comes next.
    """
    shelf = Shelf(store.folders)
    pins = {file.sha256 for choice in all_weights() for file in choice.spec.files} - {None}
    found = []
    for done, choice in enumerate(choices):
        on_progress(done, len(choices), choice.name)
        for file, path in store.named(choice.spec, shelf):
            verified = _verified(store, choice, file, path)
            others = isinstance(choice.spec, WeightSpec) and verified.sha256 in pins
            if verified.verdict == "good" or not others:
                found.append(verified)
    on_progress(len(choices), len(choices), "")
    return found


def _presence(
    store: WeightStore, spec: AnyWeights, shelf: Shelf
) -> Iterator[tuple[WeightSpec, Presence]]:
    whole = bool(store.copies(spec, shelf))
    for file in spec.files:
        yield file, "present" if whole or store.cached(file) else "missing"


def _listed(store: WeightStore, choice: Choice, file: WeightSpec, present: Presence) -> ListedFile:
    pin = store.pin(file)
    if pin is None:
        words = "not yet known"
    else:
        words = f"recorded {pin.recorded}" if pin.recorded else "pinned"
    return ListedFile(
        name=choice.name,
        model=choice.spec.name if isinstance(choice.spec, ModelSpec) else None,
        file=file.name,
        present=present,
        size=file.size,
        pin=words,
        sha256=pin.sha256 if pin else None,
        licence=file.licence,
        commercial_use=file.commercial_use,
        origin=file.origin,
        sources=tuple(source.place for source in file.sources),
    )


def _verified(store: WeightStore, choice: Choice, file: WeightSpec, path: Path) -> Verified:
    pin = store.pin(file)
    try:
        digest = sha256_of(path)
    except OSError:
        digest = None
    return Verified(
        name=choice.name,
        path=path,
        verdict=_verdict(digest, pin),
        sha256=digest,
        expected=pin.sha256 if pin else None,
    )


def _verdict(digest: str | None, pin: Pin | None) -> Verdict:
    if digest is None:
        return "unreadable"
    if pin is None:
        return "not pinned"
    return "good" if pin.fits(digest) else "different"
