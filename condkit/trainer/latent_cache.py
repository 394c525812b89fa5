"""The VAE's encodings of all pictures of a run, made once, on the disk.

What is kept is the encoder's distribution (mean and deviation, bf16, unscaled), under a hash of the
picture's bytes, of what was done to it, and of the VAE: neither another dataset nor another setting
can hit it by mistake, and whatever is equal is found again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from condkit.budget import Budget
from condkit.settings import as_mapping
from condkit.trainer.base_model import BaseModel
from condkit.trainer.config import TrainConfig
from condkit.trainer.data import Cut
from condkit.trainer.examples import ExampleMaker
from condkit.trainer.piecework import Piece, Report, complete, unreported
from condkit.trainer.rows import PairedRow, PairedRows
from condkit.trainer.sources import DataSource
from condkit.trainer.tensor_store import TensorStore, hashed

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_AT_ONCE = 32
"""Rows that are encoded together; as many more are read meanwhile."""

# What decides the cuts of a row, apart from the row itself.
_DECIDES = ("resolution", "resize", "buckets", "bucket_multiple", "crop", "flip")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A picture to encode."""

    key: str
    pixels: NDArray[np.float32]


class DiskLatents:
    """Encodings on the disk.

    Args:
        base: The model whose VAE encodes.
        folder: Where all caches lie; this one takes a subfolder for its VAE and precision.
    """

    def __init__(self, base: BaseModel, folder: Path) -> None:
        self._base = base
        name = f"latents-{base.vae_fingerprint.removeprefix('sha256:')[:16]}"
        self.store = TensorStore(folder / f"{name}-{base.compute.dtype_name}")
        self._missed = False

    def __call__(self, row: PairedRow, cut: Cut) -> torch.Tensor | None:
        """The moments of a row's cut, (2C, h, w) bf16, or None.

        Raises:
            TrainingError: if they are damaged.
        """
        found = self.store.get(self.key(row, cut))
        if found is None and not self._missed:
            self._missed = True
            logger.warning(
                "row %s: its latents are not in %s, so it is encoded as it comes",
                row.key,
                self.store.folder,
            )
        return found

    def key(self, row: PairedRow, cut: Cut) -> str:
        """The hash of all that the encoding depends on."""
        return hashed(
            "moments unscaled 1",
            self._base.vae_fingerprint,
            content_of(row),
            cut.scaled_hw,
            cut.box,
            cut.flipped,
        )

    def fill(
        self,
        sources: Sequence[tuple[DataSource, ExampleMaker]],
        config: TrainConfig,
        report: Report = unreported,
    ) -> int:
        """Encode what is not there yet.

        Ranks and runs share the work; each ends when all is done, whoever did it.

        Args:
            sources: Datasets and what cuts their rows.
            config: The settings.
            report: Called after each piece.

        Returns:
            How many pictures this process has encoded.

        Raises:
            TrainingError: if a row's crop is another one at each use.
            OutputError: if the folder cannot be written.
        """
        pieces = [piece for source in sources for piece in self._pieces(*source, config)]
        return complete(self.store, pieces, "latents", report)

    def _pieces(
        self, source: DataSource, maker: ExampleMaker, config: TrainConfig
    ) -> Iterator[Piece]:
        rows, settings = source.rows, as_mapping(config.data)
        if rows is None:
            return
        decided = {name: settings[name] for name in _DECIDES}
        who = hashed(
            source.fingerprint,
            len(rows),
            rows[0].key,
            config.run.seed,
            config.cache.variants,
            maker.unit,
            sorted(decided.items()),
            source.spec.flip,
        )
        for first in range(0, len(rows), config.cache.shard_rows):
            numbers = range(first, min(first + config.cache.shard_rows, len(rows)))
            name = hashed(who, first, len(numbers))[:24]
            make = partial(self._make, rows, maker, numbers, config.data.workers)
            yield Piece(name, len(numbers), make)

    def _make(self, rows: PairedRows, maker: ExampleMaker, numbers: range, workers: int) -> int:
        made = dict(self._encoded(rows, maker, numbers, workers))
        self.store.add(made)
        return len(made)

    def _encoded(
        self, rows: PairedRows, maker: ExampleMaker, numbers: range, workers: int
    ) -> Iterator[tuple[str, torch.Tensor]]:
        budget = Budget.on(self._base.compute.device, "the VAE")
        seen: set[str] = set()
        with ThreadPoolExecutor(workers, thread_name_prefix="condkit-latents") as pool:

            def read(first: int) -> list[Future[list[_Wanted]]]:
                few = numbers[first : first + _AT_ONCE]
                return [pool.submit(self._missing, maker, rows, number) for number in few]

            ahead = read(0)
            for first in range(0, len(numbers), _AT_ONCE):
                # The next rows are read while these are encoded.
                now, ahead = ahead, read(first + _AT_ONCE)
                wanted = {w.key: w for of_a_row in now for w in of_a_row.result()}
                fresh = [w for w in wanted.values() if w.key not in seen]
                seen |= {w.key for w in fresh}
                moments = budget.run_by_shape(fresh, lambda chunk: encode(self._base, chunk))
                yield from zip((w.key for w in fresh), moments, strict=True)

    def _missing(self, maker: ExampleMaker, rows: PairedRows, number: int) -> list[_Wanted]:
        """The cuts of a row that are not there, with their pixels."""
        row = rows[number]
        keys = {cut: self.key(row, cut) for cut in maker.cuts(row)}
        wanted = {cut: key for cut, key in keys.items() if not self.store.has(key)}
        pictures = maker.pictures(row, list(wanted), maker.size_of(row))
        return [_Wanted(*pair) for pair in zip(wanted.values(), pictures, strict=True)]


def content_of(row: PairedRow) -> str:
    """A hash of the picture: of its file where the row knows it, else of its pixels."""
    known = getattr(row, "content", None)
    if known is not None:
        return str(known)
    digest = hashlib.sha256(f"{row.image.shape}".encode())
    digest.update(np.ascontiguousarray(row.image).data)
    return digest.hexdigest()


def encode(base: BaseModel, pictures: Sequence[_Wanted]) -> list[torch.Tensor]:
    """The VAE's moments of pictures of one size, (2C, h, w) bf16 on the CPU each."""
    import torch

    pixels = torch.from_numpy(np.stack([picture.pixels for picture in pictures]))
    with torch.no_grad(), base.compute.autocast():
        distribution = base.vae.encode(pixels.to(base.compute.device)).latent_dist
    moments = torch.cat([distribution.mean, distribution.std], dim=1)
    return [one.clone() for one in moments.to(torch.bfloat16).cpu()]
