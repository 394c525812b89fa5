"""Which files of a folder are published, and whether they are what they should be."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from condkit.datasets import manifest
from condkit.datasets.contact_sheet import CONTACT_SHEET
from condkit.errors import DatasetError, TrainingError

CARD = "README.md"
ABOUT_THE_WHOLE = (
    manifest.REJECTED,
    CONTACT_SHEET,
    manifest.NAME,
    CARD,
    manifest.CHECKSUMS,
)
"""Files that describe a dataset; sent last, so that a half-sent one cannot be taken for whole."""
MODEL_SUFFIXES = frozenset({".json", ".safetensors", ".md", ".txt", ".toml", ".png", ".jpg"})
"""What an exported ControlNet is made of; never pickles."""

ENTRIES_PER_FOLDER = 10_000
FILES_PER_REPOSITORY = 100_000
"""The Hub's advice (huggingface.co/docs/hub/storage-limits): more gets slow or is refused."""

_READ_AT_ONCE = 1024

Kind = Literal["dataset", "model"]
OnProgress = Callable[[int, int], None]

_PICTURE = re.compile(r"!\[[^\]]*\]\(<?([^)<>\s]+)>?\)|<img[^>]+src=\"([^\"]+)\"")
_SUM = re.compile(r"([0-9a-f]{64}) [ *](.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnFile:
    """A file to publish.

    Attributes:
        path: Its name in the repository: relative to the folder, forward slashes.
        local: Where it lies.
        size: Bytes.
        sha256: Of its bytes, in hexadecimal; None until `check` has read it.
    """

    path: str
    local: Path
    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Everything that is published of a folder.

    Attributes:
        folder: Where it lies.
        kind: The type of the repository.
        files: What is sent, in the order of sending; what describes the whole comes last.
        left_out: What else lies in the folder; folders that are not entered end in "/".
    """

    folder: Path
    kind: Kind
    files: tuple[OwnFile, ...]
    left_out: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def entries(self) -> Counter[str]:
        """Files and folders that each folder holds directly; the top folder is "."."""
        counts: Counter[str] = Counter()
        seen: set[PurePosixPath] = set()
        for file in self.files:
            path = PurePosixPath(file.path)
            while path not in seen and path.name:
                seen.add(path)
                path = path.parent
                counts[str(path)] += 1
        return counts

    def advice(self) -> list[str]:
        """Where the folder goes beyond what the Hub advises; empty where all is well."""
        out = "another --format has few files: parquet or webdataset (`condkit export`)"
        found = [
            f"{folder}: {count:,} entries, the Hub advises fewer than {ENTRIES_PER_FOLDER:,} in "
            f"a folder; {out}"
            for folder, count in self.entries().items()
            if count >= ENTRIES_PER_FOLDER
        ]
        if len(self.files) >= FILES_PER_REPOSITORY:
            found.append(
                f"{len(self.files):,} files, the Hub advises fewer than "
                f"{FILES_PER_REPOSITORY:,} in a repository; {out}"
            )
        return found


def gather(folder: Path) -> Bundle:
    """Find what is published of a folder; nothing is read but what lists the files.

    Args:
        folder: A dataset of `condkit build`, or a ControlNet of `condkit export`.

    Raises:
        DatasetError: if it is neither, or a dataset that is unfinished or damaged.
        TrainingError: if it is a training run, or a model that is incomplete.
    """
    if folder.is_file():
        raise DatasetError(
            f"{folder} is a file; push sends the folder of a dataset, or of a model as `condkit "
            "export --format diffusers` writes it"
        )
    if (folder / "run.json").is_file() and not (folder / manifest.NAME).is_file():
        raise TrainingError(
            f"{folder} is a training run; write its ControlNet with `condkit export {folder} "
            "-o MODEL` and push MODEL"
        )
    if _is_model(folder):
        return _bundle(folder, "model", _model_files(folder))
    manifest.read_manifest(folder)
    return _bundle(folder, "dataset", _dataset_files(folder))


def check(bundle: Bundle, *, workers: int = 4, on_progress: OnProgress | None = None) -> Bundle:
    """Read every file and compare it with `SHA256SUMS`.

    Args:
        bundle: From `gather`.
        workers: Threads that read.
        on_progress: Called with the files read so far, and their number.

    Returns:
        The bundle with the hash of every file.

    Raises:
        DatasetError: naming files that are not what `SHA256SUMS` says.
    """
    checked: list[OwnFile] = []
    changed: list[str] = []
    with ThreadPoolExecutor(workers, thread_name_prefix="condkit-check") as pool:
        for file, digest in _digests(pool, bundle.files):
            if file.sha256 not in (None, digest):
                changed.append(file.path)
            checked.append(OwnFile(path=file.path, local=file.local, size=file.size, sha256=digest))
            if on_progress is not None:
                on_progress(len(checked), len(bundle.files))
    if changed:
        raise DatasetError(
            f"{len(changed)} of {len(checked)} files of {bundle.folder} are not what "
            f"{manifest.CHECKSUMS} says: {_some(changed)}; nothing was sent. Run the same "
            "`condkit build` again to make them anew, or restore them"
        )
    return Bundle(
        folder=bundle.folder, kind=bundle.kind, files=tuple(checked), left_out=bundle.left_out
    )


def _digests(pool: Executor, files: Sequence[OwnFile]) -> Iterator[tuple[OwnFile, str]]:
    # A pool takes all it is given at once, which a million files should not be.
    for start in range(0, len(files), _READ_AT_ONCE):
        some = files[start : start + _READ_AT_ONCE]
        yield from zip(some, pool.map(_sha256, some), strict=True)


def _sha256(file: OwnFile) -> str:
    try:
        with file.local.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise DatasetError(
            f"cannot read {file.local}: {error.strerror}; nothing was sent"
        ) from error


def _is_model(folder: Path) -> bool:
    """Whether the folder holds a network as diffusers lays it out."""
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and "_class_name" in values


def _model_files(folder: Path) -> dict[str, str | None]:
    names = {
        path.name: None
        for path in folder.iterdir()
        if path.suffix.lower() in MODEL_SUFFIXES and not path.name.startswith(".")
    }
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights:
        raise TrainingError(
            f"{folder} has a config.json and no .safetensors file beside it; write it again with "
            "`condkit export`"
        )
    for name in weights:
        _check_weights(folder / name)
    return {**names, **_pictures(folder)}


def _check_weights(path: Path) -> None:
    """A file that was cut off does not open."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{path} is no whole safetensors file ({error}); write it again with `condkit export`"
        ) from error


def _dataset_files(folder: Path) -> dict[str, str | None]:
    names: dict[str, str | None] = dict(_checksums(folder / manifest.CHECKSUMS))
    present = (name for name in ABOUT_THE_WHOLE if (folder / name).is_file())
    return {**names, **{name: names.get(name) for name in present}, **_pictures(folder, names)}


def _checksums(path: Path) -> Iterator[tuple[str, str]]:
    """Name and sha256 of the lines of `SHA256SUMS`."""
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                found = _SUM.fullmatch(line.rstrip("\n"))
                if found is None or not _is_inside(found[2]):
                    raise DatasetError(
                        f"{path}, line {number}: expected a hash and a file of this folder, got "
                        f"{line.strip()!r}; build the dataset again"
                    )
                yield found[2], found[1]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"cannot read {path}: {error}; run the same `condkit build` again to finish the dataset"
        ) from error


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and not name.startswith(".condkit/")


def _pictures(folder: Path, known: dict[str, str | None] | None = None) -> dict[str, str | None]:
    """The pictures that the card shows, as far as they are files of this folder."""
    try:
        card = (folder / CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    found = (match[1] or match[2] for match in _PICTURE.finditer(card))
    inside = (name for name in found if _is_inside(name) and (folder / name).is_file())
    return {str(PurePosixPath(name)): (known or {}).get(name) for name in inside}


def _bundle(folder: Path, kind: Kind, names: dict[str, str | None]) -> Bundle:
    files, gone = [], []
    for name in sorted(names, key=_sending_order):
        local = folder / name
        if local.is_file():
            size = local.stat().st_size
            files.append(OwnFile(path=name, local=local, size=size, sha256=names[name]))
        else:
            gone.append(name)
    if gone:
        raise DatasetError(
            f"{len(gone)} files of {folder} are gone: {_some(gone)}; nothing was sent. Run the "
            "same `condkit build` again to make them anew, or restore them"
        )
    left_out = tuple(sorted(_others(folder, names)))
    return Bundle(folder=folder, kind=kind, files=tuple(files), left_out=left_out)


def _sending_order(name: str) -> tuple[int, str]:
    is_last = name in ABOUT_THE_WHOLE
    return (1 + ABOUT_THE_WHOLE.index(name) if is_last else 0, name)


def _others(folder: Path, names: dict[str, str | None]) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        at = Path(parent).relative_to(folder)
        hidden = [name for name in folders if name.startswith(".")]
        yield from ((at / name).as_posix() + "/" for name in hidden)
        folders[:] = sorted(set(folders) - set(hidden))
        yield from (name for f in files if (name := (at / f).as_posix()) not in names)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
