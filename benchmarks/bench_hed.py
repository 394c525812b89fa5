"""HED here against controlnet_aux's detector: same photographs, same weights, same run.

    python benchmarks/bench_hed.py PHOTOS --weights-dir WEIGHTS [--size 512] [--count 8]

Both make the soft edge map of images whose sides are multiples of 64 with a short side of `--size`.
The two take turns image by image, so that whatever else the machine does disturbs both; the best of
`--repeats` rounds counts. Prints seconds per image, the ratio, and how far the maps are apart.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.annotators.base import Runtime
from condkit.annotators.nets.aux_networks import hed_network, network_class
from condkit.annotators.nets.hed import load_hed
from condkit.errors import ImageError
from condkit.imageio import IMAGE_SUFFIXES, decode
from condkit.types import RgbImage
from condkit.weights import WeightStore

Run = Callable[[RgbImage], np.ndarray]


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights-dir", type=Path, action="append", default=[])
    parser.add_argument("--weights", default="bsds500", choices=["bsds500", "controlnet"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()

    images = read_images(arguments.photos, arguments.size, arguments.count)
    store = WeightStore(overrides=tuple(arguments.weights_dir))
    runs = {"controlnet_aux fp32": reference(store, arguments)}
    for dtype in ("fp32", "bf16"):
        runs[f"condkit {dtype}"] = ours(store, dtype, arguments)
    seconds, maps = measure(runs, images, arguments.repeats)
    report(arguments, seconds, maps)


def read_images(folder: Path, size: int, count: int) -> list[RgbImage]:
    """The first `count` readable photographs, sides brought to multiples of 64."""
    images = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or len(images) == count:
            continue
        try:
            image = decode(path).image
        except ImageError:
            continue
        scale = size / min(image.shape[:2])
        height, width = (max(64, round(side * scale / 64) * 64) for side in image.shape[:2])
        images.append(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    return images


def reference(store: WeightStore, arguments: argparse.Namespace) -> Run:
    """controlnet_aux's own detector on the same weights."""
    plan = plan_annotation(["softedge"], {"softedge.weights": arguments.weights})
    trained = load_hed(store.path(plan.weights[0]), torch.device("cpu"), torch.float32)
    network = hed_network()
    network.load_state_dict(trained.state_dict())
    detector = network_class("hed", "HEDdetector")(network.eval()).to(arguments.device)
    size = arguments.size
    return lambda image: detector(
        image, detect_resolution=size, image_resolution=size, output_type="np"
    )[:, :, 0]


def ours(store: WeightStore, dtype: str, arguments: argparse.Namespace) -> Run:
    """This package's soft edges."""
    settings = {"softedge.weights": arguments.weights}
    plan = plan_annotation(["softedge"], settings, detect_size=arguments.size)
    annotator = Annotator(plan, Runtime(arguments.device, dtype, store=store)).load()
    return lambda image: annotator([image])[0]["softedge"].pixels


def measure(
    runs: dict[str, Run], images: list[RgbImage], repeats: int
) -> tuple[dict[str, float], dict[str, list[np.ndarray]]]:
    """Seconds per image (best round) and the maps of each run."""
    for run in runs.values():
        run(images[0])
    rounds: dict[str, list[float]] = {name: [] for name in runs}
    maps: dict[str, list[np.ndarray]] = {}
    for _ in range(repeats):
        spent = dict.fromkeys(runs, 0.0)
        maps = {name: [] for name in runs}
        for image in images:
            for name, run in runs.items():
                start = time.perf_counter()
                maps[name].append(run(image))
                spent[name] += time.perf_counter() - start
        for name, total in spent.items():
            rounds[name].append(total / len(images))
    return {name: min(times) for name, times in rounds.items()}, maps


def report(
    arguments: argparse.Namespace, seconds: dict[str, float], maps: dict[str, list[np.ndarray]]
) -> None:
    """Print the machine, then a line per run; ratio and distance are to the first."""
    first = next(iter(seconds))
    where = arguments.device
    if where.startswith("cuda"):
        where = torch.cuda.get_device_name(where)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, load {load:.1f}, device {where}, "
        f"torch {torch.__version__}"
    )
    print(f"{len(maps[first])} images, short side {arguments.size}, weights {arguments.weights}")
    for name, each in seconds.items():
        off = [
            np.abs(a.astype(int) - b.astype(int))
            for a, b in zip(maps[name], maps[first], strict=True)
        ]
        print(
            f"{name:20} {each:7.3f} s/image  {seconds[first] / each:5.2f} x  "
            f"off by at most {max(d.max() for d in off)}, "
            f"{np.mean([d.mean() for d in off]):.4f} on average"
        )


if __name__ == "__main__":
    main()
