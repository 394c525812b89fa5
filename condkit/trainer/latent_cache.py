"""The VAE's encodings of all pictures of a run, made once, on the disk.

What is kept is the encoder's distribution (mean and deviation, bf16, unscaled), under a hash of the
picture's bytes, of what was done to it, and of the VAE: neither another dataset nor another setting
can hit it by mistake, and whatever is equal is found again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from condkit.budget import Budget
from condkit.settings import as_mapping
from condkit.trainer.base_model import BaseModel
from condkit.trainer.config import TrainConfig
from condkit.trainer.data import Cut, ExampleMaker, PairedRow, PairedRows
from condkit.trainer.sources import DataSource
from condkit.trainer.tensor_store import TensorStore, hashed

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Report = Callable[[int, int, str], None]
"""Pictures done, pictures in all, a note."""

_AT_ONCE = 64
"""Rows whose pictures are in memory at the same time."""

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
        report: Report = lambda done, total, note: None,
    ) -> int:
        """Encode what is not there yet.

        The work is cut into pieces. Several ranks, and several runs, take different pieces; each
        ends when all are done, whoever did them.

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
        total, done, made = sum(len(piece.numbers) for piece in pieces), 0, 0
        later: list[_Piece] = []
        for piece in pieces:
            encoded = self._do(piece, config, wait=False)
            if encoded is None:
                later.append(piece)
                continue
            made, done = made + encoded, done + len(piece.numbers)
            report(done, total, "latents")
        for piece in later:
            made += self._do(piece, config, wait=True) or 0
            done += len(piece.numbers)
            report(done, total, "latents")
        self.store.refresh()
        return made

    def _pieces(
        self, source: DataSource, maker: ExampleMaker, config: TrainConfig
    ) -> Iterator[_Piece]:
        rows, settings = source.rows, as_mapping(config.data)
        if rows is None:
            return
        decided = {name: settings[name] for name in _DECIDES}
        who = hashed(
            source.fingerprint,
            len(rows),
            config.data.split,
            config.run.seed,
            config.cache.variants,
            maker.unit,
            sorted(decided.items()),
            source.spec.flip,
        )
        for first in range(0, len(rows), config.cache.shard_rows):
            numbers = range(first, min(first + config.cache.shard_rows, len(rows)))
            yield _Piece(hashed(who, first, len(numbers))[:24], rows, maker, numbers)

    def _do(self, piece: _Piece, config: TrainConfig, *, wait: bool) -> int | None:
        """Encode a piece; None where somebody else is at it."""
        if self.store.is_done(piece.name):
            return 0
        with self.store.working_on(piece.name, wait=wait) as mine:
            if not mine:
                return None
            # Whoever held it before may have done it.
            if self.store.is_done(piece.name):
                return 0
            self.store.refresh()
            made = dict(self._encoded(piece, config.data.workers))
            self.store.add(made)
            self.store.set_done(piece.name, len(made))
            return len(made)

    def _encoded(self, piece: _Piece, workers: int) -> Iterator[tuple[str, torch.Tensor]]:
        budget = Budget.on(self._base.compute.device, "the VAE")
        seen: set[str] = set()
        with ThreadPoolExecutor(workers, thread_name_prefix="condkit-latents") as pool:
            for first in range(0, len(piece.numbers), _AT_ONCE):
                numbers = piece.numbers[first : first + _AT_ONCE]
                found = pool.map(lambda number: self._missing(piece, number), numbers)
                wanted = {w.key: w for of_a_row in found for w in of_a_row}
                fresh = [w for w in wanted.values() if w.key not in seen]
                seen |= {w.key for w in fresh}
                moments = budget.run_by_shape(fresh, lambda chunk: encode(self._base, chunk))
                yield from zip((w.key for w in fresh), moments, strict=True)

    def _missing(self, piece: _Piece, number: int) -> list[_Wanted]:
        """The cuts of a row that are not there, with their pixels."""
        row = piece.rows[number]
        keys = {cut: self.key(row, cut) for cut in piece.maker.cuts(row)}
        return [
            _Wanted(key, piece.maker.picture(row, cut, piece.maker.size_of(row)))
            for cut, key in keys.items()
            if not self.store.has(key)
        ]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some rows of a dataset."""

    name: str
    rows: PairedRows
    maker: ExampleMaker
    numbers: range


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
