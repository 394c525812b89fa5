"""Rows of datasets that the library `datasets` opens, their pictures as the files they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from condkit.datasets.sources.forward_cursor import ForwardCursor
from condkit.datasets.sources.rows import ScannedRow, Values
from condkit.errors import DatasetError

BATCH_ROWS = 256


class ArrowRows:
    """A `datasets.Dataset`, whose rows lie in memory-mapped files and are read at random."""

    def __init__(self, dataset: Any, path: Path) -> None:  # noqa: ANN401 - untyped library
        """Take a dataset.

        Args:
            dataset: A `datasets.Dataset`.
            path: What to call its place in messages.
        """
        self.path = path
        self.columns = tuple(dataset.column_names)
        self.pictures = picture_columns(dataset.features)
        # Arrow tables as they lie there: nothing is decoded, whatever the features say.
        self._dataset = dataset.with_format("arrow")
        self._stamp = str(dataset._fingerprint)

    def scan(self) -> Iterator[ScannedRow]:
        """See `Rows`."""
        number = 0
        for table in self._dataset.iter(batch_size=BATCH_ROWS):
            plain = [name for name in self.columns if name not in self.pictures]
            inside = {name: _without_bytes(table[name]) for name in self.pictures}
            rows = table.select(plain).to_pylist() if plain else [{} for _ in range(len(table))]
            for index, row in enumerate(rows):
                values = {**row, **{name: column[index] for name, column in inside.items()}}
                yield _scanned(number, self._stamp, values)
                number += 1

    def read(self, where: str) -> Values:
        """See `Rows`."""
        row: dict[str, Any] = self._dataset[int(where) : int(where) + 1].to_pylist()[0]
        return row


class StreamedRows:
    """A `datasets.IterableDataset`: rows as they come, nothing is kept on disk.

    A row is read by going forward to it; see `ForwardCursor` for what going back costs.
    """

    def __init__(self, dataset: Any, path: Path, stamp: str) -> None:  # noqa: ANN401 - as above
        """Take a dataset.

        Args:
            dataset: A `datasets.IterableDataset` with known features.
            path: What to call its place in messages.
            stamp: Text that changes when the dataset does.
        """
        self.path = path
        self.columns = tuple(dataset.features)
        self.pictures = picture_columns(dataset.features)
        self._dataset = _undecoded(dataset, self.pictures)
        self._stamp = stamp
        self._cursor = ForwardCursor(self._from)

    def scan(self) -> Iterator[ScannedRow]:
        """See `Rows`."""
        for number, row in enumerate(self._from(0)):
            inside = {name: _light(row[name]) for name in self.pictures}
            yield _scanned(number, self._stamp, {**row, **inside})

    def read(self, where: str) -> Values:
        """See `Rows`."""
        row = self._cursor.read(int(where))
        return {**row, **{name: self._filled(row[name]) for name in self.pictures}}

    def _from(self, number: int) -> Iterator[Values]:
        dataset = self._dataset.skip(number) if number else self._dataset
        try:
            yield from dataset
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise DatasetError(
                f"cannot go on reading {self.path}: {why}; start again, or take it whole without "
                "streaming"
            ) from error

    def _filled(self, value: Any) -> Any:  # noqa: ANN401 - a cell of any column
        """A picture that the stream only refers to, with its bytes."""
        if not isinstance(value, Mapping) or value.get("bytes") is not None:
            return value
        if not value.get("path"):
            return value
        from datasets.download.streaming_download_manager import xopen

        try:
            with xopen(value["path"], "rb") as file:
                return {**value, "bytes": file.read()}
        except (OSError, ValueError) as error:
            raise DatasetError(f"cannot read {value['path']} of {self.path}: {error}") from error


def picture_columns(features: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns whose feature is `datasets.Image`."""
    import datasets

    return tuple(name for name, kind in features.items() if isinstance(kind, datasets.Image))


def _undecoded(dataset: Any, pictures: tuple[str, ...]) -> Any:  # noqa: ANN401 - as above
    import datasets

    for name in pictures:
        dataset = dataset.cast_column(name, datasets.Image(decode=False))
    return dataset


def _without_bytes(column: Any) -> list[dict[str, Any] | None]:  # noqa: ANN401 - a pyarrow column
    """What is known of a batch of pictures without reading them."""
    import pyarrow.compute as pc

    paths = pc.struct_field(column, "path").to_pylist()
    inside = pc.is_valid(pc.struct_field(column, "bytes")).to_pylist()
    there = pc.is_valid(column).to_pylist()
    return [
        {"path": path, "bytes": b"" if has_bytes else None} if is_there else None
        for path, has_bytes, is_there in zip(paths, inside, there, strict=True)
    ]


def _light(value: Any) -> Any:  # noqa: ANN401 - a cell of any column
    """A picture's cell without its bytes; one that lies elsewhere is fetched like one inside."""
    if not isinstance(value, Mapping):
        return value
    is_there = value.get("bytes") is not None or bool(value.get("path"))
    return {"path": value.get("path"), "bytes": b"" if is_there else None}


def _scanned(number: int, stamp: str, values: Values) -> ScannedRow:
    return ScannedRow(
        where=str(number),
        number=number,
        label=f"row {number + 1}",
        stamp=f"{stamp}.{number}",
        values=values,
    )
