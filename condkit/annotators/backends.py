"""What runs a network: torch as it is, `torch.compile`, or OpenVINO on CPUs.

A detector passes its network through `runner` once, when it is loaded, and calls what comes back:

    device, dtype = runtime.resolve()           # fp32 on the CPU for OpenVINO
    network = load_network(path).to(device, dtype)
    forward = runner(network, runtime, key=f"hed-{sha256}", any_size=True)
    forward(pixels)                             # (N, 3, h, w) float32 in, one tensor out

The network is one `nn.Module` with everything in it that is worth the backend's while: from the
colours to the values that are drawn. What depends on the runtime in another way (where the layers
of `nets/cpu_convolution.py` fit, for example) asks `Runtime.computes_in` and `Runtime.backend`.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from condkit.errors import ConfigError, DependencyError, OutputError
from condkit.runtime import Runtime

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

_SHAPES_KEPT = 8
"""Input shapes whose compiled forms are kept in memory, the last used."""


def runner(
    network: torch.nn.Module, runtime: Runtime, *, key: str, any_size: bool = False
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A network as a function, run by the runtime's backend.

    Args:
        network: Takes one (N, 3, h, w) float32 tensor and gives one tensor; on the runtime's
            device and in its number format already, in evaluation mode.
        runtime: Says which backend.
        key: What the network is, in a few words; exported forms are kept under it and under a hash
            of the network's tensors.
        any_size: Whether an export made at one size is right for all: so for networks of
            convolutions, not for those that compute constants from the size in Python.

    Raises:
        ConfigError: if the backend does not run on the runtime's device.
        DependencyError: if the backend is not installed.
    """
    if runtime.backend == "compile":
        return _compiled(network)
    if runtime.backend == "openvino":
        return _OpenVino(network, runtime, key=key, any_size=any_size)
    return network


def _compiled(network: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    import torch

    compiled: Callable[[torch.Tensor], torch.Tensor] = torch.compile(network)

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        try:
            return compiled(pixels)
        except Exception as error:
            # Inductor wraps what its compilers raise in classes that differ between versions.
            if "compiler" not in str(error).lower() or "Inductor" not in _where(error):
                raise
            raise DependencyError(
                "backend 'compile': torch.compile found no working compiler "
                f"({str(error).splitlines()[0]}); install g++, or use --backend torch"
            ) from error

    return forward


def _where(error: BaseException) -> str:
    """The names of an error's class and causes, and its text."""
    inner = error.__cause__ or getattr(error, "inner_exception", None)
    return f"{type(error).__module__}.{type(error).__name__} Inductor {error} {inner}"


class _OpenVino:
    """A network exported to OpenVINO, compiled for each input shape when it first comes."""

    def __init__(
        self, network: torch.nn.Module, runtime: Runtime, *, key: str, any_size: bool
    ) -> None:
        device, _ = runtime.resolve()
        if device.type != "cpu":
            raise ConfigError(
                f"backend 'openvino' runs on the CPU, not on device '{device}'; use --device cpu, "
                "or --backend torch"
            )
        self._library = _openvino()
        self._network = network
        self._key, self._any_size = key, any_size
        self._folder = runtime.store.cache_folder / "openvino"
        self._precision = _precision(runtime)
        self._compiled: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        import torch

        shape = tuple(pixels.shape)
        if shape not in self._compiled:
            self._compiled[shape] = self._compile(pixels)
            while len(self._compiled) > _SHAPES_KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(shape)
        # Channels last is how images come and what OpenVINO computes in: no pixel is moved.
        values = np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())
        (found,) = self._compiled[shape]([values], share_inputs=True).values()
        return torch.from_numpy(found)

    def _compile(self, pixels: torch.Tensor) -> Any:  # noqa: ANN401 - openvino is optional
        import torch
        from openvino import Layout
        from openvino.preprocess import PrePostProcessor

        model = self._exported(pixels)
        model.reshape(list(pixels.shape))
        layouts = PrePostProcessor(model)
        layouts.input().tensor().set_layout(Layout("NHWC"))
        layouts.input().model().set_layout(Layout("NCHW"))
        options = {
            "INFERENCE_PRECISION_HINT": self._precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        return self._library.Core().compile_model(layouts.build(), "CPU", options)

    def _exported(self, pixels: torch.Tensor) -> Any:  # noqa: ANN401
        """The network in OpenVINO's form, read from the cache where it is there."""
        from condkit.atomic import new_folder

        place = self._place(pixels)
        if (place / "model.xml").is_file():
            return self._library.Core().read_model(place / "model.xml")
        model = self._convert(pixels)
        try:
            with new_folder(place) as folder:
                self._library.save_model(model, folder / "model.xml", compress_to_fp16=False)
        except OutputError as error:
            _log.warning("the OpenVINO form of %s is not kept: %s", self._key, error)
        return model

    def _convert(self, pixels: torch.Tensor) -> Any:  # noqa: ANN401
        import warnings

        import torch

        _log.info("exporting %s to OpenVINO", self._key)
        try:
            with warnings.catch_warnings(), _logging_kept(), torch.no_grad():
                warnings.simplefilter("ignore")  # what a trace warns of is said by `any_size`
                return self._library.convert_model(
                    self._network, example_input=torch.zeros_like(pixels)
                )
        # The exporter raises bare exceptions of many kinds, all of which mean the same.
        except Exception as error:
            raise DependencyError(
                f"backend 'openvino' cannot export {self._key} ({type(error).__name__}: "
                f"{str(error).splitlines()[0]}); use --backend torch"
            ) from error

    def _place(self, pixels: torch.Tensor) -> Path:
        from condkit import __version__

        size = "" if self._any_size else "x".join(str(side) for side in pixels.shape)
        parts = [self._key, __version__, self._library.__version__, size, *_tensors(self._network)]
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        name = "".join(c if c.isalnum() else "-" for c in self._key[:40])
        return self._folder / f"{name}-{digest[:16]}"


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Leave the root logger as it is: OpenVINO's exporter silences it and adds its own handler."""
    root = logging.getLogger()
    level, handlers, filters = root.level, list(root.handlers), list(root.filters)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:], root.filters[:] = handlers, filters


def backend_version(backend: str) -> dict[str, str]:
    """The version of what runs the networks where it is not torch itself, by its name."""
    return {"openvino": str(_openvino().__version__)} if backend == "openvino" else {}


def _openvino() -> Any:  # noqa: ANN401
    try:
        import openvino
    except ImportError as error:
        raise DependencyError(
            "backend 'openvino': OpenVINO is not installed; pip install 'condkit[openvino]', or "
            "use --backend torch"
        ) from error
    return openvino


def _precision(runtime: Runtime) -> str:
    """OpenVINO's name of the number format to compute in."""
    import torch

    return {torch.bfloat16: "bf16", torch.float16: "f16"}.get(runtime.computes_in(), "f32")


def _tensors(network: torch.nn.Module) -> list[str]:
    """What the network's class and tensors are, hashed: no wrong key can mix up two networks."""
    described = [type(network).__qualname__]
    for name, value in sorted(network.state_dict().items()):
        digest = hashlib.sha256(value.detach().cpu().float().contiguous().numpy().tobytes())
        described.append(f"{name} {tuple(value.shape)} {digest.hexdigest()}")
    return described
