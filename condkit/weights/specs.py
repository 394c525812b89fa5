"""What a weight file and a model of several files are: names, pins, licences, sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from condkit.weights.sources import HubFile, Source


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
        same: (sha256, bytes) of other files that hold the same weights, packed otherwise; they
            are taken as well.
    """

    name: str
    sha256: str | None
    size: int | None
    licence: str
    commercial_use: bool | None
    origin: str
    sources: tuple[Source, ...]
    same: tuple[tuple[str, int], ...] = ()

    @property
    def files(self) -> tuple[WeightSpec, ...]:
        """Itself: a model of one file."""
        return (self,)

    @property
    def key(self) -> str:
        """What names the file among all others where no hash does: its first source's key."""
        return self.sources[0].key if self.sources else f"file:{self.name}"


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

    @property
    def size(self) -> int | None:
        """Bytes of the files whose size is known together; None where no size is known."""
        known = [file.size for file in self.files if file.size is not None]
        return sum(known) if known else None


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
