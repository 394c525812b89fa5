"""Tensors on the disk under the hashes of what they were made from; many runs share them.

```
FOLDER/shard-1f0c....safetensors    tensors by key, a checksum of each in the metadata
FOLDER/done/3ab1....json            pieces of work that are complete
FOLDER/locks/3ab1....lock           who is at work on a piece
```

A shard appears whole or not at all. Reading maps the files into memory, so that what is held is the
index alone: 12 bytes per tensor.
"""

from __future__ import annotations

import hashlib
import json
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from condkit import atomic
from condkit.errors import OutputError, TrainingError

if TYPE_CHECKING:
    import torch

_FORMAT = "condkit-tensors-1"
_OPEN_FILES = 128


def hashed(*parts: object) -> str:
    """A key of 64 hexadecimal digits for whatever something was made from."""
    return hashlib.sha256("\x00".join(map(str, parts)).encode()).hexdigest()


class TensorStore:
    """Reads and adds tensors; may be used from many threads, and by many processes at once.

    Args:
        folder: Made when the first shard is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards: list[Path] = []
        self._heads: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._shard_of: NDArray[np.int32] = np.empty(0, np.int32)
        self._open: OrderedDict[int, tuple[Any, dict[str, int]]] = OrderedDict()
        self._lock = threading.Lock()
        self.refresh()

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self._heads)

    def refresh(self) -> None:
        """Look for shards that others have added since.

        Raises:
            TrainingError: if a shard is damaged.
        """
        known = set(self._shards)
        for path in sorted(self.folder.glob("shard-*.safetensors")):
            if path not in known:
                self._add_to_index(path)

    def has(self, key: str) -> bool:
        """Whether there is a tensor under `key`."""
        return self._place(key) is not None

    def get(self, key: str) -> torch.Tensor | None:
        """The tensor under `key`, on the CPU, or None.

        Raises:
            TrainingError: if it is damaged.
        """
        shard = self._place(key)
        if shard is None:
            return None
        with self._lock:
            file, sums = self._file(shard)
            tensor: torch.Tensor = file.get_tensor(key)
        if _checksum(tensor) != sums.get(key):
            raise _damaged(self._shards[shard])
        return tensor

    def add(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write tensors as one new shard.

        Args:
            tensors: By key, on the CPU.

        Raises:
            OutputError: if they cannot be written.
        """
        from safetensors.torch import save_file

        if not tensors:
            return
        sums = {key: _checksum(tensor) for key, tensor in tensors.items()}
        metadata = {"format": _FORMAT, "crc32": json.dumps(sums)}
        path = self.folder / f"shard-{hashed(*sorted(tensors))[:24]}.safetensors"
        with atomic.new_file(path) as temporary:
            try:
                save_file({k: t.contiguous() for k, t in tensors.items()}, temporary, metadata)
            except OSError as error:
                raise OutputError(f"cannot write {path}: {error}; check the space") from error
        self.refresh()

    def is_done(self, piece: str) -> bool:
        """Whether a piece of work is complete."""
        return (self.folder / "done" / f"{piece}.json").is_file()

    def set_done(self, piece: str, count: int) -> None:
        """Note that a piece of work is complete; its tensors are on the disk already."""
        atomic.write_json(self.folder / "done" / f"{piece}.json", {"tensors": count})

    @contextmanager
    def working_on(self, piece: str, *, wait: bool) -> Iterator[bool]:
        """Hold a piece of work for this process; the system lets go if the process dies.

        Args:
            piece: Its name.
            wait: Whether to wait for others that hold it.

        Yields:
            Whether this process holds it.
        """
        from filelock import FileLock, Timeout

        path = self.folder / "locks" / f"{piece}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise OutputError(
                f"cannot write to {self.folder}: {error.strerror or error}; set cache.folder to a "
                "folder that can be written"
            ) from error
        try:
            yield True
        finally:
            lock.release()

    def _add_to_index(self, path: Path) -> None:
        with self._lock:
            number = len(self._shards)
            self._shards.append(path)
            keys = list(self._file(number)[1])
            heads = np.fromiter((_head(key) for key in keys), np.uint64, len(keys))
            heads = np.concatenate([self._heads, heads])
            shards = np.concatenate([self._shard_of, np.full(len(keys), number, np.int32)])
            order = np.argsort(heads, kind="stable")
            self._heads, self._shard_of = heads[order], shards[order]

    def _place(self, key: str) -> int | None:
        heads, shard_of = self._heads, self._shard_of
        place = int(np.searchsorted(heads, _head(key)))
        if place == len(heads) or heads[place] != _head(key):
            return None
        return int(shard_of[place])

    def _file(self, shard: int) -> tuple[Any, dict[str, int]]:
        """An open shard and its checksums; the one not used for longest is closed."""
        from safetensors import SafetensorError, safe_open

        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        path = self._shards[shard]
        try:
            file: Any = safe_open(path, framework="pt")
            metadata = file.metadata() or {}
            sums: dict[str, int] = json.loads(metadata["crc32"])
            if metadata["format"] != _FORMAT or set(sums) != set(file.keys()):
                raise _damaged(path)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise _damaged(path) from error
        self._open[shard] = file, sums
        if len(self._open) > _OPEN_FILES:
            self._open.popitem(last=False)
        return file, sums


def _head(key: str) -> np.uint64:
    return np.uint64(int(key[:16], 16))


def _checksum(tensor: torch.Tensor) -> int:
    import torch

    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return zlib.crc32(flat.numpy().data)


def _damaged(path: Path) -> TrainingError:
    return TrainingError(
        f"{path} is damaged; remove it and the folder {path.parent / 'done'}, and start again: "
        "what it held is made anew"
    )
