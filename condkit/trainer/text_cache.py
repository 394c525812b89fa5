"""The text encoders' states of all captions of a run, made once, on the disk.

The empty caption is one of them, so dropout goes on choosing at each use. Equal captions are kept
once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from condkit.budget import Budget
from condkit.trainer.base_model import BaseModel, TextStates
from condkit.trainer.data import PairedRows, captions_of
from condkit.trainer.sources import DataSource
from condkit.trainer.tensor_store import TensorStore, hashed

if TYPE_CHECKING:
    import torch

_AT_ONCE = 256
_PIXELS_PER_CAPTION = 512 * 512
"""How much of a device a caption is reckoned to take, in the pixels that budgets count."""

Report = Callable[[int, int, str], None]


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
        device = self._base.compute.device
        states = torch.stack(hidden).to(device).float()
        return TextStates(states, torch.stack(pooled).to(device).float() if pooled else None)

    def fill(
        self,
        sources: Sequence[DataSource],
        shard_rows: int,
        report: Report = lambda done, total, note: None,
    ) -> int:
        """Encode the captions that are not there yet, and the empty one.

        Returns:
            How many captions this process has encoded.

        Raises:
            OutputError: if the folder cannot be written.
        """
        made = self._encode_missing([""])
        there = [(s.fingerprint, s.rows) for s in sources if s.rows is not None]
        total, done = sum(len(rows) for _, rows in there), 0
        for fingerprint, rows in there:
            for first in range(0, len(rows), shard_rows):
                numbers = range(first, min(first + shard_rows, len(rows)))
                piece = hashed("text", fingerprint, len(rows), first, len(numbers))[:24]
                made += self._do(piece, rows, numbers)
                done += len(numbers)
                report(done, total, "captions")
        return made

    def _do(self, piece: str, rows: PairedRows, numbers: range) -> int:
        if self.store.is_done(piece):
            return 0
        with self.store.working_on(piece, wait=True):
            if self.store.is_done(piece):
                return 0
            self.store.refresh()
            made = self._encode_missing(_captions(rows, numbers))
            self.store.set_done(piece, made)
            return made

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


def _captions(rows: PairedRows, numbers: range) -> Iterator[str]:
    for number in numbers:
        yield from captions_of(rows[number])
