"""What each condition costs, and what sharing a prediction saves.

    python benchmarks/bench_annotate.py PHOTOS --weights-dir WEIGHTS [--size 512] [--count 8]

Prints milliseconds per image for predicting and for drawing, of some conditions alone and of all of
these in one pass, on photographs with a short side of `--size`.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import cv2

from condkit.annotators.annotator import Annotator, plan_annotation
from condkit.errors import ImageError
from condkit.imageio import IMAGE_SUFFIXES, decode
from condkit.runtime import Runtime
from condkit.types import RgbImage
from condkit.weights import WeightStore

# Two share a prediction, two do not; all can be had without a model hub.
CONDITIONS = {
    "canny": {},
    "lines": {"lines.detector": "hough"},
    "scribble": {"scribble.weights": "bsds500"},
    "softedge": {"softedge.weights": "bsds500"},
}


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights-dir", type=Path, action="append", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--count", type=int, default=8)
    arguments = parser.parse_args()

    images = read_images(arguments.photos, arguments.size, arguments.count)
    store = WeightStore(overrides=tuple(arguments.weights_dir))
    runtime = Runtime(arguments.device, arguments.dtype, store=store)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{len(images)} images, short side {arguments.size}, load {load:.1f}")
    everything = tuple(CONDITIONS)
    for conditions in [(name,) for name in everything] + [everything]:
        predicting, drawing = measure(conditions, images, runtime)
        print(
            f"{' + '.join(conditions):36} predict {predicting * 1e3:8.1f} ms  "
            f"draw {drawing * 1e3:7.1f} ms"
        )


def read_images(folder: Path, size: int, count: int) -> list[RgbImage]:
    """The first `count` readable photographs at the short side asked for."""
    images = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or len(images) == count:
            continue
        try:
            image = decode(path).image
        except ImageError:
            continue
        scale = size / min(image.shape[:2])
        height, width = (round(side * scale) for side in image.shape[:2])
        images.append(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    return images


def measure(
    conditions: tuple[str, ...], images: list[RgbImage], runtime: Runtime
) -> tuple[float, float]:
    """Seconds per image for predicting and for drawing."""
    settings = {name: value for each in conditions for name, value in CONDITIONS[each].items()}
    plan = plan_annotation(conditions, settings, detect_size=min(images[0].shape[:2]))
    with Annotator(plan, runtime) as annotator:
        annotator(images[:1])
        start = time.perf_counter()
        predictions = annotator.predict(images)
        middle = time.perf_counter()
        for prediction in predictions:
            annotator.render(prediction)
        end = time.perf_counter()
    return (middle - start) / len(images), (end - middle) / len(images)


if __name__ == "__main__":
    main()
