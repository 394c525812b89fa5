"""Counting the bytes of tensors that come and go. Imports torch: load it inside functions only."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_LOW = frozenset(
    (F.conv2d, F.linear, torch.matmul, torch.bmm, torch.baddbmm, F.scaled_dot_product_attention)
)
"""What autocast computes in the low precision on every device."""

_FULL_ON_CUDA = frozenset((F.group_norm, F.layer_norm, F.softmax, torch.softmax))
"""What it computes in fp32 on CUDA. Source: PyTorch's documentation of torch.amp."""


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, the tensors made inside it are counted until they are freed.

    Args:
        granularity: Allocations are multiples of this many bytes (512 on CUDA).

    Attributes:
        now: Bytes held.
        peak: The most that were held at once.
    """

    def __init__(self, granularity: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._granularity = granularity
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run one operation and look at what it made."""
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor):
                # What was there before: a view of it is nothing new.
                self._known.add(leaf.untyped_storage())
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.see(leaf)
        return result

    def see(self, tensor: torch.Tensor) -> None:
        """Count a tensor's memory, unless it is counted already."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        size = -(-storage.nbytes() // self._granularity) * self._granularity
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


class MetaAutocast(TorchFunctionMode):
    """Autocast's rules and fused attention's memory, for tensors without numbers.

    Args:
        dtype: The low precision; torch.float32 casts nothing.
        device_type: "cuda" or another: their rules differ for normalisation.
    """

    def __init__(self, dtype: torch.dtype, device_type: str) -> None:
        super().__init__()
        self._dtype = dtype
        self._is_cuda = device_type == "cuda"

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Cast the arguments as autocast would, then run the function."""
        kwargs = kwargs or {}
        if self._dtype != torch.float32:
            if func in _LOW:
                args, kwargs = _cast((args, kwargs), self._dtype)
            elif self._is_cuda and func in _FULL_ON_CUDA:
                args, kwargs = _cast((args, kwargs), torch.float32)
        if func is F.scaled_dot_product_attention:
            return _FusedAttention.apply(*args[:3]) if len(args) >= 3 else _attention(**kwargs)
        return func(*args, **kwargs)


def _attention(query: Any, key: Any, value: Any, **_: Any) -> Any:  # noqa: ANN401
    return _FusedAttention.apply(query, key, value)


def _cast(values: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401
    def one(value: Any) -> Any:  # noqa: ANN401
        is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(dtype) if is_float else value

    return tree_map(one, values)


class _FusedAttention(torch.autograd.Function):
    """What flash attention keeps: its inputs, its output, one fp32 number per query and head."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:  # noqa: ANN401
        output = torch.empty_like(query)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, sums)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ANN401
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
