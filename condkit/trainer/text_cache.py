"""The text encoders' states of all captions of a run, made once, on the disk.

The empty caption is one of them, so dropout goes on choosing at each use. Equal captions are kept
once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from condkit.budget import Budget
from condkit.trainer.base_model import BaseModel, TextStates
from condkit.trainer.piecework import Piece, Report, complete, unreported
from condkit.trainer.rows import PairedRows, captions_of
from condkit.trainer.sources import DataSource
from condkit.trainer.tensor_store import TensorStore, hashed

if TYPE_CHECKING:
    import torch

_AT_ONCE = 256
_PIXELS_PER_CAPTION = 512 * 512
"""How much of a device a caption is reckoned to take, in the pixels that budgets count."""


class DiskText:
    """Text states on the disk; a `condkit.trainer.base_model.TextMemory`.

    Args:
        base: The model whose text encoders read.
        folder: Where all caches lie; this one takes a subfolder for its encoders and precision.
    """

    def __init__(self, base: BaseModel, folder: Path) -> None:
        self._base = base
        self._encoders = base.text_fingerprint
        name = f"text-{self._encoders.removeprefix('sha256:')[:16]}"
        self.store = TensorStore(folder / f"{name}-{base.compute.dtype_name}")

    def __call__(self, captions: Sequence[str]) -> TextStates | None:
        """The states of captions on the model's device, or None where one is not there.

        Raises:
            TrainingError: if one is damaged.
        """
        import torch

        hidden = self._all("hidden", captions)
        pooled = self._all("pooled", captions) if self._base.is_xl else []
        if hidden is None or pooled is None:
            return None
        send = self._base.compute.send
        states = send(torch.stack(hidden)).float()
        return TextStates(states, send(torch.stack(pooled)).float() if pooled else None)

    def fill(
        self,
        sources: Sequence[DataSource],
        shard_rows: int,
        report: Report = unreported,
    ) -> int:
        """Encode the captions that are not there yet, and the empty one.

        Returns:
            How many captions this process has encoded.

        Raises:
            OutputError: if the folder cannot be written.
        """
        pieces = [Piece(hashed("text", "")[:24], 0, partial(self._encode_missing, [""]))]
        for source in sources:
            if source.rows is not None:
                pieces += self._pieces(source.fingerprint, source.rows, shard_rows)
        return complete(self.store, pieces, "captions", report)

    def _pieces(self, fingerprint: str, rows: PairedRows, shard_rows: int) -> Iterator[Piece]:
        who = hashed("text", fingerprint, len(rows), rows[0].key)
        for first in range(0, len(rows), shard_rows):
            numbers = range(first, min(first + shard_rows, len(rows)))
            name = hashed(who, first, len(numbers))[:24]
            yield Piece(name, len(numbers), partial(self._encode_rows, rows, numbers))

    def _encode_rows(self, rows: PairedRows, numbers: range) -> int:
        return self._encode_missing(itertools.chain(*(captions_of(rows[n]) for n in numbers)))

    def _encode_missing(self, captions: Iterable[str]) -> int:
        """Write the states of captions that are not there, as one shard."""
        unique = dict.fromkeys(captions)
        wanted = [c for c in unique if not self.store.has(self._key("hidden", c))]
        budget = Budget.on(self._base.compute.device, "the text encoder")
        tensors: dict[str, torch.Tensor] = {}
        for first in range(0, len(wanted), _AT_ONCE):
            chunk = wanted[first : first + _AT_ONCE]
            parts = budget.run(chunk, _PIXELS_PER_CAPTION, self._states)
            for caption, state in zip(chunk, parts, strict=True):
                tensors |= {self._key(name, caption): tensor for name, tensor in state.items()}
        self.store.add(tensors)
        return len(wanted)

    def _states(self, captions: Sequence[str]) -> list[dict[str, torch.Tensor]]:
        import torch

        with torch.no_grad(), self._base.compute.autocast():
            states = self._base.read_text(captions)
        parts = {"hidden": states.hidden} | ({"pooled": states.pooled} if self._base.is_xl else {})
        kept = {name: p.to(torch.bfloat16).cpu() for name, p in parts.items() if p is not None}
        return [{name: p[i].clone() for name, p in kept.items()} for i in range(len(captions))]

    def _all(self, name: str, captions: Sequence[str]) -> list[torch.Tensor] | None:
        found = [self.store.get(self._key(name, caption)) for caption in captions]
        kept = [tensor for tensor in found if tensor is not None]
        return kept if len(kept) == len(found) else None

    def _key(self, name: str, caption: str) -> str:
        return hashed("text 1", self._encoders, name, caption)
