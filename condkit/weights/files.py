"""Weight files and folders of them on the disk: sizes, names, and the words for messages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from condkit.atomic import new_folder
from condkit.weights.sources import HubFile
from condkit.weights.specs import AnyWeights, ModelSpec, WeightSpec


def fits(path: Path, spec: WeightSpec) -> bool:
    """Whether a file is there and has the size it should have, where that is known."""
    try:
        size = path.stat().st_size
    except OSError:
        return False
    known = spec.size is None or size in {spec.size, *(size for _, size in spec.same)}
    return path.is_file() and known


def complete(model: ModelSpec, folder: Path) -> bool:
    """Whether a folder has every file of a model, in the right size."""
    return all(fits(folder / file.name, file) for file in model.files)


def common_folder(model: ModelSpec, found: Sequence[Sequence[Path]]) -> list[Path]:
    """Folders in which all files of a model lie under their own names.

    Args:
        model: The model.
        found: Paths of each of its files, in order.
    """
    roots = [
        [root for path in paths if (root := _root(path, file.name)) is not None]
        for file, paths in zip(model.files, found, strict=True)
    ]
    first, *others = roots
    return [root for root in first if all(root in other for other in others)]


def _root(path: Path, name: str) -> Path | None:
    """The folder in which `path` is called `name`, which may have folders of its own."""
    parts = Path(name).parts
    if path.parts[-len(parts) :] != parts:
        return None
    return path.parents[len(parts) - 1]


def assemble(files: Mapping[str, Path], folder: Path) -> None:
    """Put files into one folder, which appears whole; linked where the disk can do that.

    Args:
        files: Name inside the folder to file.
        folder: What to make; an older one is replaced.

    Raises:
        OutputError: if it cannot be written.
    """
    with new_folder(folder) as temporary:
        for name, path in files.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path.resolve(), target)
            except OSError:
                shutil.copyfile(path, target)


def size_words(weights: AnyWeights) -> str:
    """The size for people."""
    return "size not known" if weights.size is None else f"{weights.size / 1e6:.1f} MB"


def not_found(weights: AnyWeights, tried: Sequence[str]) -> str:
    """The message for weights that no place has.

    Args:
        weights: What was looked for.
        tried: Each place with its reason.
    """
    places = "\n".join(f"  - {line}" for line in dict.fromkeys(tried))
    # A repository once, not once for each of its files.
    sources = dict.fromkeys(
        source.repository if isinstance(source, HubFile) else source.place
        for file in weights.files
        for source in file.sources
    )
    return (
        f"{_title(weights)} was not found. Tried:\n{places}\n"
        f"Put {_what(weights)} below a folder named by --weights-dir or CONDKIT_WEIGHTS_DIR, "
        f"or let condkit reach one of its sources: {'; '.join(sources) or 'it has none'}."
    )


def _title(weights: AnyWeights) -> str:
    if isinstance(weights, ModelSpec):
        names = ", ".join(file.name for file in weights.files)
        return f"the model {weights.name} ({names}; {size_words(weights)})"
    pin = f"sha256 {weights.sha256}" if weights.sha256 else "no published sha256"
    return f"{weights.name} ({size_words(weights)}, {pin})"


def _what(weights: AnyWeights) -> str:
    if isinstance(weights, ModelSpec):
        return f"these files into a folder {weights.name} (or {weights.name.split('/')[-1]})"
    return "the file"
