"""Reading Hugging Face datasets: from the hub, a folder, or one that was saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from condkit.errors import ConfigError, DatasetError
from condkit.trainer.data_config import SourceConfig


def load_splits(path: str, source: SourceConfig, *, offline: bool) -> Mapping[str, Any]:
    """All splits of a dataset, by name.

    Args:
        path: A folder or a hub id.
        source: Configuration, and whether it is streamed.
        offline: Take hub files from the local cache alone.

    Raises:
        DatasetError: if it cannot be read.
        ConfigError: if it should be streamed from the hub without a network.
    """
    import datasets

    if (Path(path) / "dataset_dict.json").is_file() or (Path(path) / "state.json").is_file():
        return _from_disk(path, source)
    if offline and source.streaming and not Path(path).is_dir():
        raise ConfigError(
            f"data.streaming: {path} cannot be streamed from the hub offline; leave out one of both"
        )
    try:
        with _quiet(offline=offline):
            loaded: Any = datasets.load_dataset(path, source.config, streaming=source.streaming)
    # datasets raises whatever a broken file or a missing network made it stumble over.
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise DatasetError(
            f"{path} cannot be read as a dataset ({reason}); give --data a folder made by condkit "
            "build, one that datasets.load_dataset reads, or the id of a dataset on the hub"
        ) from error
    found: Mapping[str, Any] = loaded
    return found


@contextmanager
def _quiet(*, offline: bool) -> Iterator[None]:
    """Without the bars of `datasets`, and without the network where that is asked for.

    Both are switches of the whole process.
    """
    import datasets

    config: Any = datasets.config
    before, shown = config.HF_HUB_OFFLINE, datasets.are_progress_bars_disabled()
    config.HF_HUB_OFFLINE = offline or before
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before
        if not shown:
            datasets.enable_progress_bars()


def _from_disk(path: str, source: SourceConfig) -> Mapping[str, Any]:
    import datasets

    try:
        loaded: Any = datasets.load_from_disk(path)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as a saved dataset: {error}") from error
    splits = loaded if isinstance(loaded, dict) else {source.split: loaded}
    if not source.streaming:
        return splits
    return {name: table.to_iterable_dataset() for name, table in splits.items()}
