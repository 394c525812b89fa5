"""Loading models of transformers from local folders: offline, and never half filled.

`from_pretrained` leaves tensors that the file lacks at random values and only prints a warning; a
network in that state still draws something. Here that is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condkit.errors import WeightsError

if TYPE_CHECKING:
    import torch

_SHOWN = 5


def load_pretrained(
    model_class: str,
    folder: Path,
    *,
    may_lack: Sequence[str] = (),
    may_have: Sequence[str] = (),
    dtype: torch.dtype | None = None,
) -> Any:  # noqa: ANN401 - transformers' models have no useful types
    """A model of transformers with the weights of a folder, on the CPU, frozen.

    Args:
        model_class: Its class in transformers, such as "DPTForDepthEstimation".
        folder: Holds `config.json` and the weights; pickles are read with `weights_only`.
        may_lack: Regular expressions for names of tensors that the published file may lack, because
            the network never uses them.
        may_have: Regular expressions for names of tensors that the published file may have more
            than the network, because its training or an older release used them.
        dtype: Of its tensors; None is float32. Modules that transformers keeps in float32 stay so.

    Raises:
        WeightsError: if the folder cannot be read, or its tensors are not the network's: missing,
            foreign or of another shape.
    """
    import torch
    import transformers

    try:
        with _quiet():
            network, report = getattr(transformers, model_class).from_pretrained(
                folder,
                local_files_only=True,
                output_loading_info=True,
                dtype=dtype or torch.float32,
            )
    # transformers raises whatever the broken file made it stumble over.
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise WeightsError(
            f"{folder}: cannot be loaded as {model_class} ({type(error).__name__}: {reason}); "
            "fetch the model anew"
        ) from error
    problems = [f"{key} is missing" for key in _others(report["missing_keys"], may_lack)]
    problems += [f"{key} is foreign" for key in _others(report["unexpected_keys"], may_have)]
    problems += [f"{key[0]} has another shape" for key in report["mismatched_keys"]]
    if problems:
        rest = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise WeightsError(
            f"{folder}: these are not the weights of its {model_class}: "
            f"{'; '.join(problems[:_SHOWN])}{rest}"
        )
    return network.eval().requires_grad_(False)


def read_normalisation(
    folder: Path,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation per channel, of RGB in [0, 1], that a model was trained with.

    Args:
        folder: Holds `preprocessor_config.json`.

    Raises:
        WeightsError: if the file is missing, broken or without them.
    """
    path = folder / "preprocessor_config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        mean, std = (_triple(settings[name]) for name in ("image_mean", "image_std"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path}: expected image_mean and image_std of three channels: {error!r}"
        ) from error
    return mean, std


def _triple(values: Iterable[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _others(keys: Iterable[str], patterns: Sequence[str]) -> list[str]:
    return [key for key in sorted(keys) if not any(re.search(p, key) for p in patterns)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars and warnings: what matters in them is an error here."""
    from transformers.utils import logging

    settings: Any = logging
    level, bars = settings.get_verbosity(), settings.is_progress_bar_enabled()
    settings.set_verbosity_error()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        settings.set_verbosity(level)
        if bars:
            settings.enable_progress_bar()
