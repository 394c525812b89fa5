"""`caption`: captions of the pictures in a folder, as text files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from condkit import atomic, imageio
from condkit.captions.base import Captioner, Captions, reject
from condkit.captions.sidecar import SidecarCaptions
from condkit.captions.texts import UnusableTextError
from condkit.datasets.lock import locked, sweep
from condkit.datasets.manifest import NAME, write_rejected
from condkit.datasets.sources.base import SourceEntry
from condkit.datasets.sources.directories import is_picture_name
from condkit.datasets.sources.folder import FolderSource
from condkit.errors import ConfigError, ImageError
from condkit.pipeline import streaming
from condkit.pipeline.execution import check_counts, default_batch_for
from condkit.pipeline.runs import Meter, OnProgress, RunSummary, default_workers
from condkit.runtime import Runtime
from condkit.types import Rejection, RgbImage, SourceFile

Extension: TypeAlias = Literal[".txt", ".caption"]
"""The endings of caption files."""

# Captioners see pictures at 224 to 768 pixels; larger JPEGs may be decoded at a part of their size.
_ENOUGH = 768


def caption(
    source: Path,
    captioner: Captioner,
    runtime: Runtime,
    *,
    output: Path | None = None,
    extension: Extension = ".txt",
    overwrite: bool = False,
    batch_size: int | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
) -> RunSummary:
    """Write the captions of the pictures in a folder; called again, it goes on where it was.

    `cat.txt` is written beside `cat.jpg`, or to the same place below `output`. Where pictures of a
    folder share a stem (`cat.jpg`, `cat.png`), their captions are `cat.jpg.txt` and `cat.png.txt`.
    Several captions of a picture are lines of one file. A picture that has a caption already is
    skipped: beside the pictures any file that the captioner "sidecar" reads is one, in `output`
    the file that would be written. Each file appears whole, under its final name.

    Args:
        source: Folder of pictures, with its subfolders.
        captioner: Where the texts come from; it is closed at the end.
        runtime: Where its networks run.
        output: Folder for the captions; None puts them beside the pictures. Rejected pictures are
            listed in its `rejected.jsonl`; without it, in the summary alone.
        extension: Of the caption files.
        overwrite: Write all captions anew, whatever is there.
        batch_size: Pictures per call of a network; None chooses.
        workers: Threads that decode; None takes all cores.
        dry_run: Only say what would be done.
        on_progress: Called after each picture, from a thread of its own.

    Raises:
        ConfigError: if a value is impossible, no picture is found, or the folder is a dataset.
        DatasetError: if a folder cannot be read.
        OutputError: if captions cannot be written, or another run is writing them.
        WeightsError: if weights cannot be had.
    """
    started = time.monotonic()
    check_counts(batch_size=batch_size, workers=workers)
    if (source / NAME).is_file():
        raise ConfigError(
            f"{source} is a dataset, which is not changed; `caption_dataset` writes a new one"
        )
    folder = FolderSource(source, output=output)
    place = _Place(source if output is None else output, extension, beside=output is None)
    run = _Run(folder, captioner, place, overwrite=overwrite)
    if dry_run:
        run.count()
        return run.summary(started, dry_run=True)
    with locked(place.root):
        sweep([place.root], deep=True)
        run.count()
        try:
            run.work(
                batch_size or default_batch_for(captioner.weights, runtime),
                workers or default_workers(),
                on_progress,
            )
        finally:
            captioner.close()
            if output is not None:
                write_rejected(output, run.sorted_rejections())
        return run.summary(started)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where captions are written, and which are there.

    Attributes:
        root: The folder.
        extension: Of the files.
        beside: Whether the pictures lie there, too.
    """

    root: Path
    extension: Extension
    beside: bool
    _reader: SidecarCaptions = field(default_factory=SidecarCaptions)

    def path(self, source: SourceFile) -> Path:
        """The caption file of a picture."""
        relative = PurePosixPath(source.relative)
        shared = any(
            is_picture_name(name) and PurePosixPath(name).stem == relative.stem
            for name in source.beside or ()
        )
        name = (relative.name if shared else relative.stem) + self.extension
        return self.root / relative.with_name(name)

    def has(self, source: SourceFile) -> bool | Rejection:
        """Whether a picture has a caption; a rejection where what is there cannot be read."""
        if not self.beside:
            return self.path(source).exists()
        for path in self._reader.reads(source):
            if path.suffix.lower() != ".json":
                return True
        try:
            return self._reader.find(source) is not None
        except UnusableTextError as error:
            return reject(source, str(error))


@dataclass(frozen=True, slots=True)
class _Picture:
    """A decoded picture and its name."""

    image: RgbImage
    file: SourceFile


class _Run:
    """One call of `caption`."""

    def __init__(
        self, folder: FolderSource, captioner: Captioner, place: _Place, *, overwrite: bool
    ) -> None:
        self._folder = folder
        self._captioner = captioner
        self._place = place
        self._overwrite = overwrite
        self._planned = 0
        self._skipped = 0
        self._written = 0
        self._rejections: dict[str, Rejection] = {}

    def count(self) -> None:
        """Look at every name once, so that the work has an end; nothing but counts is kept."""
        for _ in self._todo(counting=True):
            pass

    def work(self, batch_size: int, workers: int, on_progress: OnProgress | None) -> None:
        """Caption what is missing."""
        meter = Meter(self._planned, self._skipped + len(self._rejections), on_progress)
        meter.rejected_before = len(self._rejections)

        def commit(entry: SourceEntry, result: tuple[Path, str] | Rejection) -> None:
            if isinstance(result, Rejection):
                self._rejections[result.source] = result
            else:
                atomic.write_text(*result)
                self._written += 1
            meter.count(rejected=isinstance(result, Rejection))

        streaming.run(
            self._todo(counting=False),
            streaming.Stages(
                load=self._load, predict=self._predict, finish=self._finish, commit=commit
            ),
            workers=workers,
            batch_size=batch_size,
        )

    def sorted_rejections(self) -> tuple[Rejection, ...]:
        """The rejections, by name."""
        return tuple(self._rejections[name] for name in sorted(self._rejections))

    def summary(self, started: float, *, dry_run: bool = False) -> RunSummary:
        """What was done."""
        return RunSummary(
            output=self._place.root,
            planned=self._planned,
            written=self._written,
            skipped=self._skipped,
            rejections=self.sorted_rejections(),
            rejections_listed=not self._place.beside,
            left_out=self._folder.left_out,
            seconds=time.monotonic() - started,
            dry_run=dry_run,
        )

    def _todo(self, *, counting: bool) -> Iterator[SourceEntry]:
        """The pictures without a caption, in the order of the search."""
        for entry in self._folder.scan():
            self._planned += counting
            if isinstance(entry, Rejection):
                self._rejections[entry.source] = entry
                continue
            has = False if self._overwrite else self._place.has(self._folder.file(entry))
            if isinstance(has, Rejection):
                self._rejections[entry.relative] = has
            elif has:
                self._skipped += counting
            else:
                yield entry

    def _load(self, entry: SourceEntry) -> _Picture | Rejection:
        file = self._folder.file(entry)
        try:
            too_big = file.path.stat().st_size > imageio.DecodePolicy().max_bytes
            data = file.path if too_big else file.path.read_bytes()
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror}") from error
        decoded = imageio.decode_or_reject(data, entry.relative, at_least=_ENOUGH)
        return decoded if isinstance(decoded, Rejection) else _Picture(decoded.image, file)

    def _predict(
        self, entries: Sequence[SourceEntry], pictures: Sequence[_Picture]
    ) -> list[Captions | Rejection]:
        return self._captioner([p.image for p in pictures], [p.file for p in pictures])

    def _finish(
        self, entry: SourceEntry, picture: _Picture, captions: Captions
    ) -> tuple[Path, str]:
        text = "\n".join(captions.texts)
        return self._place.path(picture.file), f"{text}\n" if text else ""
