"""How a run is executed: counts that have to make sense, defaults, the networks' arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from condkit.annotators.annotator import AnnotationPlan
from condkit.annotators.backends import backend_version
from condkit.captions.base import Captioner
from condkit.errors import ConfigError
from condkit.runtime import Runtime
from condkit.weights import AnyWeights, ModelSpec, WeightStore

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


def default_batch_size(
    plan: AnnotationPlan, runtime: Runtime, more: Sequence[AnyWeights] = ()
) -> int:
    """Images per call: more where a device has to be kept busy.

    Args:
        plan: What is made.
        runtime: Where networks run.
        more: Weights of other networks that run beside.
    """
    return default_batch_for((*plan.weights, *more), runtime)


def default_batch_for(weights: Sequence[AnyWeights], runtime: Runtime) -> int:
    """As `default_batch_size`, of networks with these weights."""
    on_cpu = not weights or runtime.resolve()[0].type == "cpu"
    return _BATCH_ON_CPU if on_cpu else _BATCH_ON_DEVICE


def arithmetic(
    plan: AnnotationPlan, runtime: Runtime, more: Sequence[AnyWeights] = ()
) -> dict[str, str]:
    """Device, number format, library and backend of the networks; empty where there are none.

    Args:
        plan: What is made.
        runtime: Where networks run.
        more: Weights of other networks that run beside.

    Raises:
        ConfigError: if the device asked for is not there.
    """
    if not (plan.weights or more):
        return {}
    import torch

    device, _ = runtime.resolve()
    name = str(runtime.computes_in()).removeprefix("torch.")
    used = {"device": device.type, "dtype": name, "torch": str(torch.__version__)}
    if runtime.backend == "torch":
        return used
    return used | {"backend": runtime.backend} | backend_version(runtime.backend)


def all_that_decides(plan: AnnotationPlan, store: WeightStore, *, fetch: bool) -> dict[str, Any]:
    """`AnnotationPlan.as_dict` with the hashes of those weights, too, for which none is published.

    Args:
        plan: What is made.
        store: Knows the hashes that were recorded at the first use of such weights.
        fetch: Use them now where none is recorded yet, so that one is.

    Raises:
        WeightsError: if weights cannot be had.
    """
    told = plan.as_dict()
    for planned in plan.conditions:
        needed = planned.detector.weights(planned.detector_params)
        told[planned.condition.spec.name]["weights"] = [
            file for weights in needed for file in _hashed(weights, store, fetch)
        ]
    return told


def captions_that_decide(
    captioner: Captioner, store: WeightStore, *, fetch: bool
) -> dict[str, Any]:
    """`Captioner.as_dict` with the hashes of those weights, too, for which none is published.

    Args:
        captioner: Where the texts come from.
        store: Knows the hashes that were recorded at the first use of such weights.
        fetch: Use them now where none is recorded yet, so that one is.

    Raises:
        WeightsError: if weights cannot be had.
    """
    told = captioner.as_dict()
    if captioner.weights:
        told["weights"] = [
            file for weights in captioner.weights for file in _hashed(weights, store, fetch)
        ]
    return told


def _hashed(weights: AnyWeights, store: WeightStore, fetch: bool) -> list[dict[str, str | None]]:
    if fetch and not all(store.pin(file) for file in weights.files):
        if isinstance(weights, ModelSpec):
            store.folder(weights)
        else:
            store.path(weights)
    pins = {file.name: store.pin(file) for file in weights.files}
    return [{"file": name, "sha256": pin.sha256 if pin else None} for name, pin in pins.items()]
