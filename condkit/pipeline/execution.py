"""How a run is executed: counts that have to make sense, defaults, the networks' arithmetic."""

from __future__ import annotations

from condkit.annotators.annotator import AnnotationPlan
from condkit.annotators.base import Runtime
from condkit.errors import ConfigError

_BATCH_ON_CPU = 4
_BATCH_ON_DEVICE = 16


def check_counts(**values: int | None) -> None:
    """Refuse counts below 1.

    Raises:
        ConfigError: naming the argument.
    """
    for name, value in values.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name}: expected a whole number of at least 1, got {value}")


def default_batch_size(plan: AnnotationPlan, runtime: Runtime) -> int:
    """Images per call: more where a device has to be kept busy."""
    on_cpu = not plan.weights or runtime.resolve()[0].type == "cpu"
    return _BATCH_ON_CPU if on_cpu else _BATCH_ON_DEVICE


def arithmetic(plan: AnnotationPlan, runtime: Runtime) -> dict[str, str]:
    """Device, number format and library of the networks; empty for a plan without any.

    Raises:
        ConfigError: if the device asked for is not there.
    """
    if not plan.weights:
        return {}
    import torch

    device, dtype = runtime.resolve()
    name = str(dtype).removeprefix("torch.")
    return {"device": device.type, "dtype": name, "torch": str(torch.__version__)}
