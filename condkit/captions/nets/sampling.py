"""Nucleus sampling with random numbers of each row's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class NucleusSampler:
    """A logits processor that leaves one token per row: the one that was drawn.

    `torch.multinomial` draws for all rows from one generator, so that a caption would depend on
    the other images of its batch. Here each row has numbers of its own, and greedy decoding then
    takes the token that is left.

    Attributes:
        numbers: (R, T) float32 in [0, 1): for row and step what decides.
        top_p: Share of the probability that may be drawn.
        temperature: Divides the scores.
    """

    def __init__(self, numbers: torch.Tensor, *, top_p: float, temperature: float) -> None:
        self._numbers = numbers
        self._top_p = top_p
        self._temperature = temperature
        self._step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Draw the next token of each row.

        Args:
            input_ids: (R, L) what is there; not looked at.
            scores: (R, V) float32 logits.

        Returns:
            (R, V): 0 for the drawn token, minus infinity for the others.
        """
        number = self._numbers[:, self._step, None]
        self._step += 1
        probabilities, order = (
            (scores / self._temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
        )
        above = probabilities.cumsum(-1) - probabilities
        # The first token always stays, whatever top_p is.
        nucleus = probabilities.where(above < self._top_p, 0)
        reached = nucleus.cumsum(-1)
        place = (reached <= number * reached[:, -1:]).sum(-1, keepdim=True)
        # Rounding must not carry the draw past the last token of the nucleus.
        last = (nucleus > 0).sum(-1, keepdim=True) - 1
        token = order.gather(-1, place.minimum(last))
        return scores.new_full(scores.shape, float("-inf")).scatter(-1, token, 0.0)
