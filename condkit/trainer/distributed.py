"""Several processes that train one ControlNet, each on its own device.

The gradient is averaged once per optimizer step, after all passes: no wrapper changes the names of
weights, a parameter without a gradient stops nobody, and a rank that runs out of memory can say so
before anybody waits for its gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import torch

Batch = TypeVar("Batch")

_BUCKET_BYTES = 64 * 2**20
"""Gradients are sent in pieces of about this size: the copies stay small, the pieces overlap."""

PATIENCE = timedelta(hours=6)
"""How long ranks wait for the one that saves and makes previews."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together; `Ranks()` is a run of one.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
        local_rank: Number of this process on its machine; chooses the device.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process saves, logs and reports."""
        return self.rank == 0

    def cursor(self, cursor: int) -> int:
        """The run's number of this rank's micro-batch `cursor`: nobody else has it."""
        return cursor * self.size + self.rank

    def any(self, happened: bool) -> bool:
        """Whether it happened on one rank at least. Only the processes wait, not the devices."""
        return any(self.gather(happened))

    def gather(self, value: Any) -> list[Any]:  # noqa: ANN401 - any picklable value
        """Every rank's value, in order of rank."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=_host_group())
        return values

    def average_gradients(self, parameters: Sequence[torch.Tensor], samples: int) -> None:
        """Replace gradients by their mean over all samples of all ranks.

        Args:
            parameters: The trained weights, in the same order on every rank; one without a
                gradient counts as zero.
            samples: How many samples this rank's gradient is the mean of.
        """
        if self.size == 1:
            return
        share = samples / sum(self.gather(samples))
        for group in _buckets(parameters):
            _sum_over_ranks(group, share)

    def same_weights(self, parameters: Sequence[torch.Tensor]) -> None:
        """Give every rank the first one's weights."""
        if self.size == 1:
            return
        import torch
        import torch.distributed as dist

        with torch.no_grad():
            for parameter in parameters:
                dist.broadcast(parameter.data, src=0)


def _buckets(parameters: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    group: list[torch.Tensor] = []
    size = 0
    for parameter in parameters:
        group.append(parameter)
        size += parameter.numel() * 4
        if size >= _BUCKET_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _sum_over_ranks(parameters: Sequence[torch.Tensor], share: float) -> None:
    import torch
    import torch.distributed as dist

    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients]).mul_(share)
    dist.all_reduce(flat)
    pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
    torch._foreach_copy_(
        gradients, [p.view(g.shape) for p, g in zip(pieces, gradients, strict=True)]
    )


_HOSTS: list[Any] = []


def forget_host_group() -> None:
    """The processes part: the next run makes a group of its own."""
    _HOSTS.clear()


def _host_group() -> Any:  # noqa: ANN401 - torch.distributed.ProcessGroup
    """A group of the processes on their CPUs, made at the first use on every rank alike."""
    import torch.distributed as dist

    if not _HOSTS:
        _HOSTS.append(dist.new_group(backend="gloo", timeout=PATIENCE))
    return _HOSTS[0]


@dataclass(frozen=True, slots=True)
class RankSampler(Generic[Batch]):
    """Every `size`-th micro-batch of a run, so that no two ranks see the same one.

    With R ranks and A passes the samples of a step are those of one rank with R * A passes.

    Attributes:
        sampler: Which rows a micro-batch of the run holds.
        ranks: This process among the others.
    """

    sampler: Callable[[int], Batch]
    ranks: Ranks

    def __call__(self, cursor: int) -> Batch:
        """What the sampler says of this rank's micro-batch number `cursor`."""
        return self.sampler(self.ranks.cursor(cursor))
