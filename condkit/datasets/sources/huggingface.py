"""Hugging Face datasets: on the hub, saved by `save_to_disk`, or a folder of Parquet shards."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condkit.datasets.sources.chained_rows import ChainedRows
from condkit.datasets.sources.hub_rows import ArrowRows, StreamedRows
from condkit.datasets.sources.rows import Rows
from condkit.datasets.sources.table import Table, TableSource
from condkit.errors import ConfigError, DatasetError

HUB_PREFIX = "hf://"
SAVED_MARKS = ("dataset_dict.json", "state.json")
"""What `save_to_disk` leaves at the top of a folder."""

_HUB_NAME = re.compile(r"(?:datasets/)?([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?")
_offline_lock = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFaceOptions:
    """How a dataset is opened.

    Attributes:
        split: Take this split alone.
        config: Its configuration; None takes the default one.
        image_column: The column of the pictures; None takes the only one, or a usual name.
        maps: By condition, the column of its maps.
        streaming: Read it as it comes; nothing is kept on disk.
        offline: Use no network, only what was fetched before.
    """

    split: str | None = None
    config: str | None = None
    image_column: str | None = None
    maps: Mapping[str, str] | None = None
    streaming: bool = False
    offline: bool = False


def open_huggingface(place: str, options: HuggingFaceOptions) -> TableSource:
    """A dataset's pictures, as the bytes that were put in; named `SPLIT/000000012`.

    Args:
        place: `hf://owner/name`, with `@revision` behind it where one is wanted, or a folder:
            saved by `save_to_disk`, or one that `datasets.load_dataset` reads. Parquet shards in a
            folder are read where they are; everything else that is not streamed goes through the
            cache of `datasets`.
        options: How.

    Raises:
        ConfigError: if the place, the split, the configuration or a column does not exist.
        DatasetError: if it cannot be reached or read.
    """
    if place.startswith(HUB_PREFIX):
        name, revision = _parse_hub_name(place)
        if options.streaming and options.offline:
            raise ConfigError(f"streaming: {place} cannot be streamed offline; leave out one")
        about: dict[str, Any] = {"name": name, "revision": revision}
        rows = _load(name, revision, options)
        folder = Path.cwd()
    else:
        folder = Path(place).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"{place}: expected the folder of a dataset, there is none")
        about = {}
        is_saved = any((folder / mark).is_file() for mark in SAVED_MARKS)
        rows = _load_saved(folder, options) if is_saved else _load(str(folder), None, options)
    about |= {"config": options.config, "splits": list(rows)}
    tables = [
        Table(found, split, f"{split}/", folder.absolute(), numbered=True)
        for split, found in rows.items()
    ]
    _refuse_without_pictures(place, tables, options.image_column)
    return TableSource(
        tables,
        kind="huggingface",
        image_column=options.image_column,
        maps=options.maps,
        about=about,
    )


def _parse_hub_name(place: str) -> tuple[str, str | None]:
    match = _HUB_NAME.fullmatch(place.removeprefix(HUB_PREFIX))
    if match is None:
        raise ConfigError(f"{place}: expected hf://owner/name or hf://owner/name@revision")
    return match.group(1), match.group(2)


def _load_saved(folder: Path, options: HuggingFaceOptions) -> dict[str, Rows]:
    import datasets

    if options.config is not None:
        raise ConfigError(f"config: {folder} was saved by save_to_disk and has none; leave it out")
    with _as_errors(str(folder), options):
        found = datasets.load_from_disk(str(folder))
    splits = found if isinstance(found, dict) else {str(found.split or "train"): found}
    chosen = _choose(str(folder), list(splits), options.split)
    if options.streaming:
        return {
            split: StreamedRows(
                splits[split].to_iterable_dataset(), folder, splits[split]._fingerprint
            )
            for split in chosen
        }
    return {split: ArrowRows(splits[split], folder) for split in chosen}


def _load(place: str, revision: str | None, options: HuggingFaceOptions) -> dict[str, Rows]:
    """By split, the rows of what `datasets.load_dataset` would load."""
    import datasets

    with _as_errors(place, options), _offline(options.offline):
        builder = datasets.load_dataset_builder(place, name=options.config, revision=revision)
        files = _local_parquet(builder)
        if files is not None:
            chosen = _choose(place, list(files), options.split)
            return {split: ChainedRows(files[split]) for split in chosen}
        if options.streaming:
            return _stream(place, builder, options)
        builder.download_and_prepare()
        found = builder.as_dataset()
        chosen = _choose(place, list(found), options.split)
        return {split: ArrowRows(found[split], Path(place)) for split in chosen}


def _stream(place: str, builder: Any, options: HuggingFaceOptions) -> dict[str, Rows]:  # noqa: ANN401 - untyped library
    found = builder.as_streaming_dataset()
    rows: dict[str, Rows] = {}
    for split in _choose(place, list(found), options.split):
        dataset = found[split]
        if dataset.features is None:
            dataset = dataset._resolve_features()
        rows[split] = StreamedRows(dataset, Path(place), f"{builder.hash}.{split}")
    return rows


def _local_parquet(builder: Any) -> dict[str, list[Path]] | None:  # noqa: ANN401 - untyped library
    """By split, the Parquet shards of a dataset that lies on this machine as nothing else."""
    files = builder.config.data_files
    if builder.__class__.__module__.rpartition(".")[2] != "parquet" or not files:
        return None
    found = {str(split): [Path(str(file)) for file in places] for split, places in files.items()}
    is_here = all(path.is_file() for paths in found.values() for path in paths)
    return found if is_here else None


def _choose(place: str, splits: list[str], wanted: str | None) -> list[str]:
    if wanted is None:
        return splits
    if wanted not in splits:
        raise ConfigError(
            f"split: {place} has no split {wanted!r}; its splits are: {', '.join(splits)}"
        )
    return [wanted]


def _refuse_without_pictures(place: str, tables: list[Table], asked: str | None) -> None:
    for table in tables:
        if asked is None and not table.rows.pictures:
            raise ConfigError(
                f"{place}: the split {table.name} has no column of pictures; its columns are "
                f"{', '.join(table.rows.columns)}"
            )


@contextmanager
def _as_errors(place: str, options: HuggingFaceOptions) -> Iterator[None]:
    """What `datasets` raises, as the errors of condkit."""
    import datasets

    try:
        yield
    except (ConfigError, DatasetError):
        raise
    except ConnectionError as error:
        hint = "offline it must have been fetched before" if options.offline else "try again"
        raise DatasetError(f"cannot reach the dataset {place}: {_line(error)}; {hint}") from error
    except (FileNotFoundError, datasets.exceptions.DatasetNotFoundError) as error:
        raise ConfigError(
            f"there is no dataset {place}, or no right to read it: {_line(error)}"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{place}: {_line(error)}") from error
    except (OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DatasetError(f"cannot read the dataset {place}: {_line(error)}") from error


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """`datasets` knows offline only as a switch of the whole process."""
    from datasets import config

    if not wanted:
        yield
        return
    with _offline_lock:
        before = config.HF_HUB_OFFLINE
        config.HF_HUB_OFFLINE = True
        try:
            yield
        finally:
            config.HF_HUB_OFFLINE = before


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
