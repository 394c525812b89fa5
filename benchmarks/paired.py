"""Measuring several ways of making the same maps side by side, for `annotators.py`."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from condkit.types import RgbImage

Run = Callable[[Sequence[RgbImage]], list[np.ndarray]]
"""Images to their maps, in order."""


@dataclass(frozen=True)
class Way:
    """One way of making a detector's maps.

    Attributes:
        name: As in the table.
        run: Makes them.
        batch: Images per call.
    """

    name: str
    run: Run
    batch: int = 1


@dataclass(frozen=True)
class Row:
    """What was measured of one way.

    Attributes:
        detector: As condkit calls it.
        weights: "real", "random" or "none".
        way: As in the table.
        batch: Images per call.
        images_per_second: From the median time of a call.
        speed: As a multiple of the first way's.
        largest: Grey levels by which a pixel differs from the first way's map.
        mean: Grey levels on average.
    """

    detector: str
    weights: str
    way: str
    batch: int
    images_per_second: float
    speed: float
    largest: int
    mean: float


def compare(
    detector: str,
    weights: str,
    ways: Sequence[Way],
    images: Sequence[RgbImage],
    repeats: int,
) -> list[Row]:
    """Let the ways take turns, call by call, so that what else the machine does disturbs all.

    Args:
        detector: Its name.
        weights: What it runs on.
        ways: The first is what the others are compared with.
        images: All of one size.
        repeats: Rounds over the images.
    """
    maps = {way: _maps(way, images) for way in ways}  # also the warm-up
    seconds: dict[Way, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for number in range(len(images)):
            for way in ways:
                chunk = [images[(number + k) % len(images)] for k in range(way.batch)]
                start = time.perf_counter()
                way.run(chunk)
                seconds[way].append((time.perf_counter() - start) / way.batch)
    first = statistics.median(seconds[ways[0]])
    rows = []
    for way in ways:
        each = statistics.median(seconds[way])
        off = [_apart(a, b) for a, b in zip(maps[way], maps[ways[0]], strict=True)]
        rows.append(
            Row(
                detector=detector,
                weights=weights,
                way=way.name,
                batch=way.batch,
                images_per_second=1 / each,
                speed=first / each,
                largest=max(int(difference.max()) for difference in off),
                mean=float(np.mean([difference.mean() for difference in off])),
            )
        )
    return rows


def _maps(way: Way, images: Sequence[RgbImage]) -> list[np.ndarray]:
    made: list[np.ndarray] = []
    for start in range(0, len(images), way.batch):
        chunk = [images[(start + k) % len(images)] for k in range(way.batch)]
        made += way.run(chunk)
    return made[: len(images)]


def _apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Grey levels between two maps; a grey map meets a coloured one in its first channel."""
    if one.ndim != other.ndim:
        one, other = (m[:, :, 0] if m.ndim == 3 else m for m in (one, other))
    return np.abs(one.astype(int) - other.astype(int))


def machine(device: str) -> dict[str, object]:
    """What has to stand beside figures."""
    on_cuda = device.startswith("cuda")
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "device": torch.cuda.get_device_name(device) if on_cuda else device,
        "torch": str(torch.__version__),
    }


def table(rows: Sequence[Row]) -> str:
    """The rows as a table in Markdown."""
    lines = [
        "| detector | weights | way | batch | images/s | speed | levels apart: largest, mean |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.detector} | {row.weights} | {row.way} | {row.batch} | "
        f"{row.images_per_second:.2f} | {row.speed:.2f} × | {row.largest}, {row.mean:.3f} |"
        for row in rows
    ]
    return "\n".join(lines)


def as_json(facts: Mapping[str, object], rows: Sequence[Row]) -> dict[str, object]:
    """All of it as JSON values."""
    return {"machine": dict(facts), "rows": [asdict(row) for row in rows]}
