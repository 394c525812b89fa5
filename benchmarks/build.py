"""What `condkit build` costs: against a bare loop, and as rows grow.

    python benchmarks/build.py [FOLDER] [--photos 2000] [--rows 1000 10000 100000] [--plan 1000000]
                               [--rounds 3] [--json FILE]

It makes its pictures in FOLDER (a temporary folder by default; the largest step needs some
gigabytes and a million files). Two tables come out:

1. JPEGs of 2 to 4 megapixels to a Parquet dataset of 512 pixels with Canny maps, by condkit and by
   a straight loop over the same calls of Pillow, OpenCV and pyarrow on two threads, taking turns,
   each in a process of its own. The loop hashes nothing, can not go on after a stop, and has no
   manifest.
2. Tiny pictures, more and more of them: seconds to plan, to build and to start a finished build
   again, and the peak memory of each process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

THREADS = 2
SIDE = 512
ROWS_PER_FILE = 1000
LOW, HIGH = 100, 200


def main() -> None:
    """Read the arguments, make the pictures, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--plan", type=int, nargs="*", default=[1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run_child(*arguments.child)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        results = {"machine": machine()}
        if arguments.photos:
            results["throughput"] = throughput(folder, arguments.photos, arguments.rounds)
        results["growth"] = growth(folder, arguments.rows, arguments.plan)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    return {
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "opencv": cv2.__version__,
    }


def throughput(folder: Path, count: int, rounds: int) -> dict[str, float]:
    """Images per second of both, taking turns, and condkit's share of the loop's."""
    photos = folder / f"photos-{count}"
    make_photos(photos, count)
    rates: dict[str, list[float]] = {"loop": [], "condkit": []}
    peaks: dict[str, float] = {}
    for _ in range(rounds):
        for way in rates:
            told = child(way, photos, folder / "out")
            rates[way].append(count / told["seconds"])
            peaks[way] = max(peaks.get(way, 0), told["megabytes"])
    shares = [ours / theirs for ours, theirs in zip(rates["condkit"], rates["loop"], strict=True)]
    result = {
        "loop images/s": statistics.median(rates["loop"]),
        "condkit images/s": statistics.median(rates["condkit"]),
        "share": statistics.median(shares),
        "loop MB": peaks["loop"],
        "condkit MB": peaks["condkit"],
    }
    print(f"{count} JPEGs of 2 to 4 megapixels, {rounds} rounds")
    for name, value in result.items():
        print(f"  {name:18} {value:8.2f}")
    return result


def growth(folder: Path, rows: list[int], plans: list[int]) -> list[dict[str, float]]:
    """Seconds and peak megabytes for more and more tiny pictures."""
    print(f"{'rows':>9} {'step':>7} {'seconds':>9} {'peak MB':>8}")
    results = []
    for count in sorted({*rows, *plans}):
        pictures, output = folder / f"tiny-{count}", folder / "out"
        make_tiny(pictures, count)
        shutil.rmtree(output, ignore_errors=True)
        for step in ("plan", "build", "again") if count in rows else ("plan",):
            told = child(step, pictures, output)
            results.append({"rows": count, "step": step, **told})
            print(f"{count:9} {step:>7} {told['seconds']:9.2f} {told['megabytes']:8.0f}")
        shutil.rmtree(pictures)
    return results


def child(way: str, source: Path, output: Path) -> dict[str, float]:
    """Run one measurement in a process of its own."""
    if way in ("loop", "condkit"):
        shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, __file__, "--child", way, str(source), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def run_child(way: str, source: str, output: str) -> None:
    """One measurement: seconds without the imports, and the peak memory of all of it."""
    import resource

    from condkit.datasets.formats import parquet  # noqa: F401 - imported before the clock starts

    ways: dict[str, Callable[[Path, Path], None]] = {
        "loop": bare_loop,
        "condkit": lambda s, o: condkit_build(s, o, SIDE),
        "plan": lambda s, o: condkit_build(s, o, 16, dry_run=True),
        "build": lambda s, o: condkit_build(s, o, 16),
        "again": lambda s, o: condkit_build(s, o, 16),
    }
    started = time.perf_counter()
    ways[way](Path(source), Path(output))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "megabytes": peak}))


def condkit_build(source: Path, output: Path, size: int, *, dry_run: bool = False) -> None:
    """What a user would run."""
    from condkit import pipeline
    from condkit.annotators.annotator import plan_annotation
    from condkit.captions import make_captioner
    from condkit.runtime import Runtime

    pipeline.build(
        source,
        output,
        plan_annotation(["canny"], {"canny.low": LOW, "canny.high": HIGH}),
        Runtime(),
        captioner=make_captioner("template"),
        size=size,
        val=0.0,
        shard_size=ROWS_PER_FILE,
        workers=THREADS,
        dry_run=dry_run,
    )


def bare_loop(source: Path, output: Path) -> None:
    """What a careful person writes in an afternoon: decode, cut, resize, Canny, PNG, Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    cv2.setNumThreads(1)
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", picture), ("text", pa.string()), ("canny", picture)])
    (output / "data").mkdir(parents=True)
    paths = sorted(source.iterdir())
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), ROWS_PER_FILE):
            rows = list(pool.map(make_row, paths[start : start + ROWS_PER_FILE]))
            target = output / "data" / f"train-{start // ROWS_PER_FILE:05d}.parquet"
            table = pa.Table.from_pylist(rows, schema=schema)
            pq.write_table(table, target, compression="none", row_group_size=100)


def make_row(path: Path) -> dict[str, object]:
    """One picture of the bare loop."""
    from PIL import Image, ImageOps

    with Image.open(path) as opened:
        image = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    height, width = image.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = np.ascontiguousarray(image[top : top + short, left : left + short])
    small = cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    edges = cv2.Canny(small, LOW, HIGH)
    name = f"{path.stem}.png"
    return {
        "image": {"bytes": png(cv2.cvtColor(small, cv2.COLOR_RGB2BGR)), "path": name},
        "text": path.stem,
        "canny": {"bytes": png(edges), "path": name},
    }


def png(pixels: np.ndarray) -> bytes:
    """OpenCV's own default."""
    return cv2.imencode(".png", pixels)[1].tobytes()


def make_photos(folder: Path, count: int) -> None:
    """JPEGs of 2 to 4 megapixels with the detail of photographs: smooth shapes, edges and noise."""
    if folder.is_dir() and len(list(folder.iterdir())) == count:
        return
    folder.mkdir(parents=True, exist_ok=True)

    def make(number: int) -> None:
        draw = np.random.default_rng(number)
        width = int(draw.integers(1640, 2320))
        height = width * 3 // 4
        coarse = draw.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        for _ in range(60):
            x, y = (int(draw.integers(0, side)) for side in (width, height))
            colour = [int(value) for value in draw.integers(0, 256, 3)]
            cv2.circle(image, (x, y), int(draw.integers(10, 300)), colour, int(draw.integers(1, 9)))
        noise = draw.normal(0, 6, (height, width, 1)).astype(np.int16)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
        (folder / f"{number:06d}.jpg").write_bytes(data)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(make, range(count)))


def make_tiny(folder: Path, count: int) -> None:
    """PNGs of 16 x 16 pixels that differ in a comment alone, a thousand per folder."""
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    data = cv2.imencode(".png", pixels)[1].tobytes()
    head, end = data[:-12], data[-12:]
    shutil.rmtree(folder, ignore_errors=True)
    for number in range(count):
        place = folder / f"{number // 1000:04d}"
        if number % 1000 == 0:
            place.mkdir(parents=True)
        text = b"tEXtnumber\0%d" % number
        chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
        (place / f"{number:07d}.png").write_bytes(head + chunk + end)


if __name__ == "__main__":
    main()
