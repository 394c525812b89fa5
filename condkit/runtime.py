"""Where networks run, in which arithmetic, and where their weights come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from condkit.device import DTYPES, choose_device, choose_dtype
from condkit.settings import choose
from condkit.weights import WeightStore

if TYPE_CHECKING:
    import torch


BACKENDS = ("torch", "compile", "openvino")


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where networks run, in which arithmetic, and where their weights come from.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        dtype: "auto", "fp32", "bf16" or "fp16".
        backend: What runs the networks, one of `BACKENDS`: "torch" as they are, "compile" through
            `torch.compile`, "openvino" exported for CPUs (the extra `openvino`).
        store: The weight store.
    """

    device: str = "auto"
    dtype: str = "auto"
    backend: str = "torch"
    store: WeightStore = field(default_factory=WeightStore)

    def __post_init__(self) -> None:
        choose(self.dtype, DTYPES, what="dtype")
        choose(self.backend, BACKENDS, what="backend")

    def resolve(self) -> tuple[torch.device, torch.dtype]:
        """The torch device and dtype that networks are built in on this machine.

        The dtype is what `dtype` stands for, but fp32 with OpenVINO, which converts by itself.

        Raises:
            ConfigError: if the device is not there; the CPU never stands in silently.
        """
        import torch

        device, dtype = choose_device(self.device), self.computes_in()
        return device, torch.float32 if self.backend == "openvino" else dtype

    def computes_in(self) -> torch.dtype:
        """The number format of the networks' arithmetic, whatever runs them.

        Raises:
            ConfigError: as for `resolve`.
        """
        return choose_dtype(self.dtype, choose_device(self.device))
