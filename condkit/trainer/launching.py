"""Starting several processes, and how they meet and part."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from condkit.errors import ConfigError
from condkit.trainer.distributed import PATIENCE, Ranks, forget_host_group


def under_launcher() -> bool:
    """Whether torchrun or accelerate's launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def is_main_process() -> bool:
    """Whether this process is the one that reports."""
    return not under_launcher() or os.environ["RANK"] == "0"


@contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, str]]:
    """Meet the other processes, if a launcher started several, and leave them at the end.

    Args:
        device: "auto", "cpu", "cuda" or "mps"; every rank takes the CUDA device of its number.

    Yields:
        This process's place, and the name of its device.

    Raises:
        ConfigError: if a single device is named for several ranks.
    """
    if not under_launcher():
        yield Ranks(), device
        return
    import torch
    import torch.distributed as dist

    size, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    local = int(os.environ.get("LOCAL_RANK", "0"))
    place = _device_of_rank(device, local)
    if place.startswith("cuda"):
        torch.cuda.set_device(local)
    began = not dist.is_initialized()
    if began:
        # Objects and flags travel by gloo between the hosts, so that no device has to wait.
        backend = "cpu:gloo,cuda:nccl" if place.startswith("cuda") else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Ranks(rank, size, local), place
    finally:
        if began:
            dist.destroy_process_group()
            forget_host_group()


def _device_of_rank(device: str, local_rank: int) -> str:
    import torch

    if device in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{local_rank}"
    if device.startswith("cuda:"):
        raise ConfigError(
            f"device {device!r}: several processes train together, each on a device of its own; "
            "give --device cuda or auto"
        )
    return "cpu" if device == "auto" else device


def launch(devices: int, arguments: Sequence[str]) -> int:
    """Run `condkit ARGUMENTS` in one process per device, by torchrun's launcher.

    When one process fails, the others are stopped.

    Args:
        devices: How many.
        arguments: The command line behind `condkit`.

    Returns:
        The exit code: 0 if every process ended well, else that of the first one that failed.

    Raises:
        ConfigError: if the machine has CUDA devices, but not so many.
    """
    import torch

    present = torch.cuda.device_count()
    if 0 < present < devices:
        raise ConfigError(f"--devices {devices}: this machine has {present} CUDA devices")
    elastic: Any = import_module("torch.distributed.launcher.api")
    errors: Any = import_module("torch.distributed.elastic.multiprocessing.errors")
    signals: Any = import_module("torch.distributed.elastic.multiprocessing.api")
    # The processes say themselves what is wrong.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    threads = max(1, (os.cpu_count() or 1) // devices)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    config = elastic.LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic.elastic_launch(config, sys.executable)("-m", "condkit", *arguments)
    except errors.ChildFailedError as error:
        first = min(error.failures.values(), key=lambda failure: failure.timestamp)
        return int(first.exitcode) if first.exitcode > 0 else 1
    except signals.SignalException as signal:
        return 128 + int(signal.sigval)
    return 0
