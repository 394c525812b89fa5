"""The running average of trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from condkit.trainer.sharding import shared_out_like

if TYPE_CHECKING:
    import torch


class Ema:
    """An exponential moving average of some weights, on their device.

    The decay of update n is the smaller of `decay` and (1 + n) / (10 + n), so that the first,
    worthless weights are soon forgotten; diffusers' EMAModel does the arithmetic.

    Args:
        parameters: The weights by name; the average begins as a copy.
        decay: Share of the old average that stays, below 1.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], decay: float) -> None:
        from diffusers.training_utils import EMAModel

        self._parameters = dict(parameters)
        self._model = EMAModel(self._parameters.values(), decay=decay, foreach=True)

    @property
    def updates(self) -> int:
        """How many steps went into the average."""
        return int(self._model.optimization_step)

    def update(self) -> None:
        """Let the present weights into the average; nothing is read from the device."""
        self._model.step(self._parameters.values())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The average in place of the weights; at the end they are back, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def load(self, tensors: Mapping[str, torch.Tensor], updates: int) -> None:
        """Go on from a saved average.

        Raises:
            KeyError: if a tensor is missing.
            RuntimeError: if one has another shape.
        """
        for name, average in zip(self._parameters, self._model.shadow_params, strict=True):
            average.copy_(shared_out_like(tensors[name], average))
        self._model.optimization_step = updates

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The averages by name."""
        return dict(zip(self._parameters, self._model.shadow_params, strict=True))

    def _swap(self) -> None:
        averages = self._model.shadow_params
        for i, parameter in enumerate(self._parameters.values()):
            parameter.data, averages[i] = averages[i], parameter.data
