"""Hugging Face datasets for training: from the hub or a folder, whole or streamed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from condkit.errors import DatasetError
from condkit.settings import choose, suggest
from condkit.trainer.config import TrainConfig
from condkit.trainer.data_config import SourceConfig
from condkit.trainer.flips import Flipper
from condkit.trainer.hf_files import CellFiles, bytes_of
from condkit.trainer.hf_loading import load_splits
from condkit.trainer.known_conditions import spec_of
from condkit.trainer.rows import PairedRow, PairedRows
from condkit.trainer.sources import DataSource, LazyRow, RowsFeed
from condkit.trainer.streaming import StreamFeed
from condkit.trainer.tensor_store import hashed
from condkit.types import ConditionSpec

_MAP_COLUMNS = ("conditioning_image", "condition_image", "condition")
_CAPTION_COLUMNS = ("captions", "text", "caption", "prompt")
_VALIDATION = ("validation", "valid", "val", "test")
_LOOKED_AT = 16


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a dataset keeps what.

    Attributes:
        image: The pictures.
        condition: The maps.
        caption: The captions.
    """

    image: str
    condition: str
    caption: str


@dataclass(frozen=True, slots=True)
class RowMaker:
    """Turns a dataset's rows into the trainer's.

    Attributes:
        name: The dataset, for messages.
        columns: Where it keeps what.
        spec: What its maps mean.
        root: The folder that relative paths begin at, or None.
        resize_map: Whether maps are brought to their pictures' size.
    """

    name: str
    columns: Columns
    spec: ConditionSpec
    root: Path | None
    resize_map: bool

    def __call__(self, row: Mapping[str, Any], number: int) -> LazyRow:
        """A row, its pictures not decoded yet.

        Raises:
            DatasetError: if a cell is not what it should be.
        """
        where = f"{self.name}, row {number}"
        image, condition = (
            bytes_of(row[column], self.root, f"{where}, column {column!r}")
            for column in (self.columns.image, self.columns.condition)
        )
        files = CellFiles(image, condition, self.spec, self.resize_map, where)
        height, width = files.image_hw
        return LazyRow(
            files.content(),
            self.spec.name,
            files,
            _captions(row[self.columns.caption], where),
            {"height": height, "width": width},
        )


def _captions(cell: Any, where: str) -> tuple[str, ...]:  # noqa: ANN401 - a cell
    if cell is None:
        return ("",)
    texts = (cell,) if isinstance(cell, str) else tuple(cell)
    if not all(isinstance(text, str) for text in texts):
        raise DatasetError(f"{where}: expected a caption or a list of them, got {cell!r:.60}")
    return texts or ("",)


class HubRows(Sequence[PairedRow]):
    """The rows of a split by number.

    Args:
        table: A `datasets.Dataset` whose pictures stay encoded.
        make: Turns a row into the trainer's.
    """

    def __init__(self, table: Any, make: RowMaker) -> None:  # noqa: ANN401 - datasets.Dataset
        self._table = table
        self._make = make

    def __len__(self) -> int:
        """How many rows."""
        return len(self._table)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - a row; a list of them for a slice
        """The row at `index`."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = int(index) % len(self)
        return self._make(self._table[number], number)


@dataclass(frozen=True, slots=True)
class StreamedTable:
    """A split that is read from its beginning.

    Attributes:
        table: A `datasets.IterableDataset` whose pictures stay encoded.
        make: Turns a row into the trainer's.
    """

    table: Any
    make: RowMaker

    @property
    def shards(self) -> int:
        """In how many files it comes."""
        return int(self.table.num_shards)

    def read(self, shard: int) -> Iterator[Any]:
        """The raw rows of a shard."""
        yield from self.table.shard(num_shards=self.shards, index=shard)

    def row(self, raw: Any, number: int) -> PairedRow:  # noqa: ANN401 - a row of `datasets`
        """What the trainer makes of a raw row."""
        return self.make(raw, number)


def open_hub(
    path: str, source: SourceConfig, config: TrainConfig, *, name: str = "", offline: bool = False
) -> DataSource:
    """Open a Hugging Face dataset for training.

    Args:
        path: A folder or a hub id.
        source: Split, columns, weight, streaming.
        config: The settings of the run.
        name: Tells the datasets of a mix apart; empty for the first.
        offline: Take hub files from the local cache alone.

    Raises:
        DatasetError: if it cannot be read.
        UnknownNameError: if it lacks the split or a column.
        ConfigError: if nothing says what its maps mean.
    """
    splits = load_splits(path, source, offline=offline)
    table = splits[choose(source.split, splits, what=f"split in {path}")]
    columns = _columns(table, source, config.condition, path)
    folder = Path(path)
    make = RowMaker(
        path,
        columns,
        spec_of(config.condition, config.data.spec),
        folder if folder.is_dir() else None,
        config.data.resize == "cover",
    )
    validation = next((s for s in _VALIDATION if s in splits and s != source.split), None)
    preview = splits[validation] if validation is not None else table
    encoded = _encoded(table, columns)
    if source.streaming:
        return _streamed(encoded, preview, make, source, config, name)
    rows = HubRows(encoded, make)
    if len(rows) == 0:
        raise DatasetError(f"{path}: its {source.split} split is empty")
    return DataSource(
        name=path,
        spec=make.spec,
        feed=RowsFeed(rows, config.run.seed, name),
        rows=rows,
        preview_rows=rows if validation is None else HubRows(_encoded(preview, columns), make),
        fingerprint=_fingerprint(rows, columns),
        weight=source.weight,
        flipper=Flipper(make.spec),
    )


def _streamed(
    table: Any,  # noqa: ANN401 - datasets.IterableDataset
    preview: Any,  # noqa: ANN401
    make: RowMaker,
    source: SourceConfig,
    config: TrainConfig,
    name: str,
) -> DataSource:
    stream = StreamedTable(table, make)
    pairs = max(1, config.preview.pairs, config.watch.pairs if config.watch.every else 1)
    first = islice(_encoded(preview, make.columns), pairs)
    shown: PairedRows = [make(row, number) for number, row in enumerate(first)]
    if not len(shown):
        raise DatasetError(f"{make.name}: its {source.split} split is empty")
    return DataSource(
        name=make.name,
        spec=make.spec,
        feed=StreamFeed(stream, config.run.seed, source.shuffle_buffer, name),
        rows=None,
        preview_rows=shown,
        fingerprint=hashed(
            make.name,
            source.config,
            source.split,
            source.shuffle_buffer,
            stream.shards,
            make.columns,
            shown[0].key,
        ),
        weight=source.weight,
        flipper=Flipper(make.spec),
    )


def _encoded(table: Any, columns: Columns) -> Any:  # noqa: ANN401 - a datasets table
    """The table with its pictures as files, for condkit's own decoder."""
    import datasets

    table = table.select_columns([columns.image, columns.condition, columns.caption])
    for column in (columns.image, columns.condition):
        feature = (table.features or {}).get(column)
        if isinstance(feature, datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
    return table


def _columns(table: Any, source: SourceConfig, condition: str, path: str) -> Columns:  # noqa: ANN401
    names = list(table.column_names or next(iter(table), {}))

    def column(wanted: str | None, guesses: Sequence[str], setting: str) -> str:
        if wanted is not None:
            return choose(wanted, names, what=f"column in {path} (data.{setting})")
        found = next((guess for guess in guesses if guess in names), None)
        if found is None:
            raise DatasetError(
                f"{path}: which column data.{setting} is cannot be told from its columns "
                f"{', '.join(names)}; set it{suggest(guesses[0], names)}, or make pairs of plain "
                "pictures by condkit build"
            )
        return found

    return Columns(
        column(source.image_column, ("image",), "image_column"),
        column(source.condition_column, (condition, *_MAP_COLUMNS), "condition_column"),
        column(source.caption_column, _CAPTION_COLUMNS, "caption_column"),
    )


def _fingerprint(rows: HubRows, columns: Columns) -> str:
    """A hash of what the dataset holds: its length, its columns, and some rows of it."""
    count = len(rows)
    places = sorted({count * i // _LOOKED_AT for i in range(min(count, _LOOKED_AT))})
    return hashed(count, columns, *(rows[place].key for place in places))
