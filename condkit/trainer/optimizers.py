"""The optimizers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from condkit.errors import DependencyError
from condkit.trainer.config import OptimConfig, OptimizerName

if TYPE_CHECKING:
    import torch

STATE_BYTES: Mapping[OptimizerName, float] = {"adamw": 8.0, "adamw8bit": 2.0, "adafactor": 0.0}
"""Bytes that an optimizer remembers per weight; Adafactor's rows and columns hardly count."""


def new_optimizer(config: OptimConfig, parameters: Sequence[torch.nn.Parameter]) -> Any:  # noqa: ANN401
    """The optimizer that `config` names.

    Args:
        config: Name, rate, betas, weight decay.
        parameters: The weights to train.

    Returns:
        torch.optim.Optimizer.

    Raises:
        DependencyError: if no library has it; the message says what to install.
    """
    makers: dict[OptimizerName, Callable[..., Any]] = {
        "adamw": _adamw,
        "adamw8bit": _adamw_8bit,
        "adafactor": _adafactor,
    }
    return makers[config.name](config, parameters)


def _adamw(config: OptimConfig, parameters: Sequence[torch.nn.Parameter]) -> Any:  # noqa: ANN401
    import torch

    fused = parameters[0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(parameters, **_adam_arguments(config), fused=fused)


def _adamw_8bit(config: OptimConfig, parameters: Sequence[torch.nn.Parameter]) -> Any:  # noqa: ANN401
    """That of bitsandbytes on CUDA, where its kernels are; elsewhere torchao's."""
    places = [("bitsandbytes.optim", "bitsandbytes"), ("torchao.optim", "torchao")]
    if parameters[0].device.type != "cuda":
        places.reverse()
    problems = []
    for module, package in places:
        try:
            make = import_module(module).AdamW8bit
        except (ImportError, RuntimeError, OSError, AttributeError) as error:
            # A CUDA library that does not load raises more than ImportError.
            problems.append(f"{package}: {error}")
            continue
        return make(parameters, **_adam_arguments(config))
    raise DependencyError(
        "optim.name='adamw8bit': expected bitsandbytes or torchao, and neither can be used "
        f"({'; '.join(problems)}); install one by pip install 'condkit[8bit]', or choose "
        "optim.name=adamw or adafactor"
    )


def _adam_arguments(config: OptimConfig) -> dict[str, Any]:
    return {
        "lr": config.lr,
        "betas": config.betas,
        "eps": config.eps,
        "weight_decay": config.weight_decay,
    }


def _adafactor(config: OptimConfig, parameters: Sequence[torch.nn.Parameter]) -> Any:  # noqa: ANN401
    """Adafactor (arXiv 1804.04235) with the rate as it is given.

    Its own rule makes a step proportional to the weight's size, and zero convolutions, which
    begin at zero, would hardly leave it.
    """
    from transformers.optimization import Adafactor

    make = cast("Callable[..., Any]", Adafactor)
    return make(
        parameters,
        lr=config.lr,
        scale_parameter=False,
        relative_step=False,
        weight_decay=config.weight_decay,
    )
