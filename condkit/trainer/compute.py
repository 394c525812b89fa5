"""Where and in which precision a model runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from condkit.device import choose_device, choose_dtype
from condkit.errors import ConfigError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Compute:
    """A device and the precision of the arithmetic on it; weights stay fp32.

    Attributes:
        device: A torch device.
        dtype: torch.float32, torch.bfloat16 or torch.float16.
    """

    device: torch.device
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        """The precision as a word: "float32", "bfloat16", "float16"."""
        return str(self.dtype).removeprefix("torch.")

    def send(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor on the device; a CUDA device copies it while the host goes on."""
        if self.device.type == "cuda":
            return self.pin(tensor).to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor in page-locked memory, from where CUDA copies by itself; else as it is."""
        import torch

        if self.device.type != "cuda" or tensor.device.type != "cpu":
            return tensor
        # In another thread the current device is the first one, whichever this run has.
        with torch.cuda.device(self.device):
            return tensor.pin_memory()

    def autocast(self) -> Any:  # noqa: ANN401 - torch.autocast is untyped
        """A context in which convolutions and matrix products run in `dtype`."""
        import torch

        return torch.autocast(
            self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32
        )


def resolve_compute(device: str = "auto", dtype: str = "auto") -> Compute:
    """Turn `--device` and `--dtype` into a `Compute`.

    Raises:
        ConfigError: if the device is unknown or not there, or cannot compute so.
        UnknownNameError: if there is no such dtype.
    """
    place = choose_device(device)
    return Compute(place, choose_dtype(dtype, place))


def training_compute(device: str = "auto", dtype: str = "auto") -> Compute:
    """As `resolve_compute`, for training.

    Raises:
        ConfigError: also for fp16, whose gradients would vanish without loss scaling.
    """
    import torch

    compute = resolve_compute(device, dtype)
    if compute.dtype == torch.float16:
        raise ConfigError(
            "dtype 'fp16': training runs in bf16 or fp32, because small gradients vanish in fp16; "
            "use --dtype bf16, or fp32 where the device has no bf16"
        )
    return compute
