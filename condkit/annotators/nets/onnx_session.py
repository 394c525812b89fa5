"""Networks in ONNX files, run by ONNX Runtime: on the device that was asked for, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from condkit.device import is_out_of_memory
from condkit.errors import DependencyError, WeightsError
from condkit.runtime import Runtime

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

Provider: TypeAlias = tuple[str, dict[str, Any]]

_CPU = "CPUExecutionProvider"
_PROVIDERS = {"cpu": _CPU, "cuda": "CUDAExecutionProvider", "mps": "CoreMLExecutionProvider"}
_PACKAGES = {"cuda": "onnxruntime-gpu (pip install 'condkit[onnx-gpu]')", "mps": "onnxruntime"}
_ERRORS_ONLY = 3
_MEMORY_SHORT = ("failed to allocate memory", "out of memory", "bad_alloc")


@dataclass(frozen=True, slots=True)
class OnnxNetwork:
    """A network of one picture input.

    Attributes:
        session: ONNX Runtime's session.
        path: The file.
        shape: (N, 3, h, w) of its input; None where a side is not fixed.
        provider: What runs it, in ONNX Runtime's name.
    """

    session: Any
    path: Path
    shape: tuple[int | None, ...]
    provider: str

    def __call__(self, pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Its outputs for a batch of any length, in the file's order.

        A file with a fixed batch is run as often as it takes.

        Args:
            pixels: (N, 3, h, w) float32, N at least 1.

        Raises:
            MemoryError: if the device's memory does not hold the batch.
        """
        step = self.shape[0] or len(pixels)
        parts = [self._run(pixels[start : start + step]) for start in range(0, len(pixels), step)]
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    def _run(self, pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        count = len(pixels)
        missing = (self.shape[0] or count) - count
        if missing:
            pixels = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.float32)])
        name = self.session.get_inputs()[0].name
        try:
            found = self.session.run(None, {name: np.ascontiguousarray(pixels)})
        # ONNX Runtime's exceptions have no common base but Exception.
        except Exception as error:
            text = str(error).lower()
            if is_out_of_memory(error) or any(words in text for words in _MEMORY_SHORT):
                raise MemoryError(f"ONNX Runtime: {error}") from error
            raise
        return [output[:count] for output in found]


def load_onnx(path: Path, runtime: Runtime, detector: str) -> OnnxNetwork:
    """A network of an ONNX file, on the runtime's device, in the file's own number format.

    Args:
        path: The file.
        runtime: Says where. "auto" takes the CPU, with a warning, where ONNX Runtime cannot use the
            GPU; a device that was asked for by name is an error then.
        detector: For messages.

    Raises:
        DependencyError: if ONNX Runtime is missing, or cannot use the device.
        WeightsError: if the file is damaged or has another kind of input.
    """
    library = _onnxruntime()
    device, _ = runtime.resolve()
    try:
        session = _session(library, path, device, detector)
    except DependencyError as error:
        if runtime.device != "auto":
            raise
        _log.warning("%s: %s; going on with the CPU", detector, error)
        session = _opened(library, path, [(_CPU, {})], detector)
    used = str(session.get_providers()[0])
    _log.info("%s: %s is run by ONNX Runtime's %s", detector, path.name, used)
    shape = _input_shape(session, path, detector)
    return OnnxNetwork(session, path, shape, used)


def provider_for(device: torch.device) -> Provider:
    """ONNX Runtime's name for a device, and its settings."""
    options = {"device_id": device.index or 0} if device.type == "cuda" else {}
    return _PROVIDERS[device.type], options


def _session(library: Any, path: Path, device: torch.device, detector: str) -> Any:  # noqa: ANN401
    wanted = provider_for(device)
    if wanted[0] not in library.get_available_providers():
        raise _refusal(device, "is not in the installed ONNX Runtime")
    if device.type == "cuda" and hasattr(library, "preload_dlls"):
        library.preload_dlls()  # those that torch has brought along
    providers = [wanted] if wanted[0] == _CPU else [wanted, (_CPU, {})]
    session = _opened(library, path, providers, detector)
    # ONNX Runtime goes on with the CPU by itself when a provider cannot be started.
    if session.get_providers()[0] != wanted[0]:
        raise _refusal(device, "could not be started (see ONNX Runtime's own message)")
    return session


def _refusal(device: torch.device, reason: str) -> DependencyError:
    package = _PACKAGES.get(device.type, "onnxruntime")
    return DependencyError(
        f"device '{device}': {_PROVIDERS[device.type]} {reason}; install {package}, "
        "without the package onnxruntime beside it, or use --device cpu"
    )


def _opened(
    library: Any,  # noqa: ANN401 - onnxruntime has no types
    path: Path,
    providers: Sequence[Provider],
    detector: str,
) -> Any:  # noqa: ANN401
    import torch

    options = library.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return library.InferenceSession(str(path), options, providers=list(providers))
    # Each kind of damage has an exception of its own.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise WeightsError(
            f"{path}: cannot be loaded as the ONNX network of {detector} "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); fetch the file anew"
        ) from error


def _input_shape(session: Any, path: Path, detector: str) -> tuple[int | None, ...]:  # noqa: ANN401
    inputs = session.get_inputs()
    shape = tuple(side if isinstance(side, int) else None for side in inputs[0].shape)
    if len(inputs) != 1 or len(shape) != 4 or shape[1] not in (3, None):
        described = [tuple(each.shape) for each in inputs]
        raise WeightsError(
            f"{path}: expected one input (N, 3, h, w) for {detector}, got {described}"
        )
    return shape


def _onnxruntime() -> Any:  # noqa: ANN401
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(
            "ONNX Runtime is not installed; pip install 'condkit[onnx]', or for NVIDIA GPUs "
            "'condkit[onnx-gpu]'"
        ) from error
    return onnxruntime
