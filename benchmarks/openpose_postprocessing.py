"""OpenPose's parser here against controlnet_aux's: the same real heat maps, the same run, one core.

    python benchmarks/openpose_postprocessing.py NETWORK.tflite PICTURE... [--json FILE]

The heat maps come from a small body network with OpenPose's layout (19 heat maps and 38 fields,
stride 8, input 368 x 432), reduced to those of the 184 pixels at which controlnet_aux works. Each
picture is cut to a square of `--size`. The two parsers take turns; medians count. Prints
milliseconds per picture, the ratio, what both find, and how far the joints are apart.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# One core, before any library starts its threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter

from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.pose.parser import parse
from condkit.imageio import decode
from condkit.types import RgbImage

NET = 184
INPUT_HW = (368, 432)
Bodies = list[np.ndarray]


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    network, aux = body_network(arguments.network), aux_parser()
    rows = []
    for path in arguments.pictures:
        image = square(decode(path).image, arguments.size)
        rows.append({"picture": path.name} | compare(image, network(image), aux, arguments.repeats))
        print("{picture}: {condkit_ms:.1f} ms, controlnet_aux {aux_ms:.1f} ms".format(**rows[-1]))
    result = summary(rows, arguments.size)
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result | {"rows": rows}, indent=2), encoding="utf-8")


def square(image: RgbImage, size: int) -> RgbImage:
    """The middle of an image."""
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    middle = image[top : top + side, left : left + side]
    return np.asarray(cv2.resize(middle, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def body_network(path: Path) -> Callable[[RgbImage], torch.Tensor]:
    """A square image to (1, 57, 23, 23) maps."""
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(image: RgbImage) -> torch.Tensor:
        canvas = np.full((1, *INPUT_HW, 3), 128, np.float32)
        canvas[0, :, : 2 * NET] = cv2.resize(image, (2 * NET, 2 * NET))
        interpreter.set_tensor(source["index"], canvas)
        interpreter.invoke()
        maps = torch.from_numpy(interpreter.get_tensor(target["index"]).copy())
        maps = maps.permute(0, 3, 1, 2)[..., : 2 * NET // 8]
        return torch.nn.functional.avg_pool2d(maps, 2).contiguous()

    return run


def aux_parser() -> Callable[[RgbImage, torch.Tensor], Bodies]:
    """controlnet_aux's body estimation with given maps in place of its network's."""
    body = network_class("open_pose.body", "Body")
    parser: Any = body.__new__(body)

    class Given(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = torch.nn.Parameter(torch.zeros(1))
            self.maps = torch.zeros(0)

        def forward(self, data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.maps[:, 19:], self.maps[:, :19]

    parser.model = Given()

    def run(image: RgbImage, maps: torch.Tensor) -> Bodies:
        parser.model.maps = maps
        candidates, persons = parser(image)
        surest = sorted(persons, key=lambda person: -person[18] / person[19])
        return [
            np.array([candidates[int(i)][:3] if i >= 0 else (0, 0, 0) for i in person[:18]])
            for person in surest
        ]

    return run


def compare(
    image: RgbImage,
    maps: torch.Tensor,
    aux: Callable[[RgbImage, torch.Tensor], Bodies],
    repeats: int,
) -> dict[str, Any]:
    """Milliseconds of both, and whether they find the same."""
    size_hw = image.shape[:2]

    def ours() -> Bodies:
        with torch.inference_mode():
            return parse(maps, (NET, NET), size_hw)[0]

    runs = {"condkit": ours, "aux": lambda: aux(image, maps)}
    found = {name: run() for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    milliseconds = {f"{name}_ms": 1e3 * float(np.median(all_)) for name, all_ in seconds.items()}
    return milliseconds | difference(found["condkit"], found["aux"])


def difference(ours: Bodies, theirs: Bodies) -> dict[str, Any]:
    """Persons and joints of both, and the largest distance in pixels of a joint that both have."""
    apart = [0.0]
    for a, b in zip(ours, theirs, strict=False):
        both = (a[:, 2] > 0) & (b[:, 2] != 0)
        apart += np.abs(a[both, :2] - b[both, :2]).ravel().tolist()
    return {
        "persons": len(ours),
        "aux_persons": len(theirs),
        "joints": sum(int((body[:, 2] > 0).sum()) for body in ours),
        "aux_joints": sum(int((body[:, 2] != 0).sum()) for body in theirs),
        "pixels_apart": max(apart),
    }


def summary(rows: list[dict[str, Any]], size: int) -> dict[str, Any]:
    """Medians over all pictures."""
    ours, theirs = (np.array([row[name] for row in rows]) for name in ("condkit_ms", "aux_ms"))
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, one thread, torch "
        f"{torch.__version__}",
        "size": size,
        "condkit_ms": round(float(np.median(ours)), 2),
        "aux_ms": round(float(np.median(theirs)), 1),
        "ratio": round(float(np.median(theirs / ours)), 1),
        "persons_joints": [(row["persons"], row["joints"]) for row in rows],
        "aux_persons_joints": [(row["aux_persons"], row["aux_joints"]) for row in rows],
        "pixels_apart": max(row["pixels_apart"] for row in rows),
    }


if __name__ == "__main__":
    main()
