"""Where networks run and in which arithmetic: the meaning of `--device` and `--dtype`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from condkit.errors import ConfigError
from condkit.settings import choose

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "fp32", "bf16", "fp16")


def choose_device(name: str) -> torch.device:
    """The device that `name` stands for.

    Args:
        name: "auto" (CUDA, else MPS, else CPU) or a torch device string such as "cuda:1".

    Raises:
        ConfigError: if the text is no device or the device is not there.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device {name!r}: expected auto, cpu, cuda, cuda:N or mps ({reason})"
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices; "
            "use --device auto or cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps': not available here; use --device auto or cpu")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The arithmetic that `name` stands for on `device`.

    "auto" is bf16 where the hardware computes in it (CUDA from Ampere on, CPUs with AMX or
    AVX512-BF16), else fp32.

    Raises:
        ConfigError: if the name is none of `DTYPES`, or the device cannot compute in it.
    """
    import torch

    choose(name, DTYPES, what="dtype")
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("dtype 'fp16': not on the CPU; use --dtype bf16, fp32 or auto")
    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name in named:
        return named[name]
    return torch.bfloat16 if computes_bf16(device) else torch.float32


def computes_bf16(device: torch.device) -> bool:
    """Whether bf16 is done in hardware; emulated, it is slower than fp32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    abilities = torch.cpu.get_capabilities()
    return bool(abilities.get("amx_bf16") or abilities.get("avx512_bf16"))


def free_memory() -> None:
    """Give memory that nothing holds any more back to the devices; cheap without torch."""
    import gc
    import sys

    torch = sys.modules.get("torch")
    if torch is None:
        return
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device (or the machine) has no memory left."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # MPS and the CPU's allocator raise plain RuntimeErrors.
    texts = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in texts)
