"""Detectors here against controlnet_aux's: same photographs, same weights, same run.

    python benchmarks/annotators.py PHOTOS --weights-dir WEIGHTS [--device cpu] [--only hed,pidinet]

Both make the map of square photographs with a side of `--size`, files already decoded, and take
turns call by call; medians count. On the CPU condkit runs in fp32, in what `--dtype auto` means and
with OpenVINO where that is installed; on CUDA in fp32 and bf16, with 1, 8 and 32 images per call.
Where the weights folders lack a detector's weights, both run on the same random ones of the
published size, and the table says so: that shows the speed, and that the arithmetic is the same.
MiDaS, whose files differ, gets random weights of its own on each side: there only speed counts.
Prints a table in Markdown; `--json FILE` writes the figures as well.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import importlib.util
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from paired import Row, Run, Way, as_json, compare, machine, table

from condkit.annotators.annotator import AnnotationPlan, Annotator, plan_annotation
from condkit.annotators.nets.aux_networks import network_class
from condkit.annotators.registry import available_detectors, get_detector
from condkit.errors import ImageError, WeightsError
from condkit.imageio import IMAGE_SUFFIXES, decode
from condkit.runtime import Runtime
from condkit.types import RgbImage
from condkit.weights import AnyWeights, ModelSpec, WeightSpec, WeightStore

Paths = Mapping[str, Path]
Peer = Callable[[RgbImage], np.ndarray]


@dataclass(frozen=True)
class Entry:
    """A detector to measure; another one is one more of these.

    Attributes:
        detector: As condkit calls it.
        condition: Which of its maps is made.
        theirs: (paths of the weights by file name, device, side in pixels) to controlnet_aux's
            detector as a function.
        settings: Of the condition, beside `detector`.
        random: Random networks of the published size, by the name of the weight file.
        write: Saves a random model of several files below a folder, in the published layout; then
            `theirs` has random weights of its own.
    """

    detector: str
    condition: str
    theirs: Callable[[Paths, str, int], Peer]
    settings: Mapping[str, Any] = field(default_factory=dict)
    random: Mapping[str, Callable[[], Mapping[str, torch.Tensor]]] = field(default_factory=dict)
    write: Callable[[Path], None] | None = None


def _at(side: int) -> dict[str, Any]:
    return {"detect_resolution": side, "image_resolution": side, "output_type": "np"}


def _canny(paths: Paths, device: str, side: int) -> Peer:
    detector = network_class("canny", "CannyDetector")()
    return lambda image: detector(image, **_at(side))


def _hed(paths: Paths, device: str, side: int) -> Peer:
    from condkit.annotators.nets.hed import load_hed

    (path,) = paths.values()
    detector = network_class("hed", "HEDdetector")(load_hed(path).eval()).to(device)
    return lambda image: detector(image, **_at(side))


def _pidinet(paths: Paths, device: str, side: int) -> Peer:
    from condkit.annotators.nets.pidinet import load_pidinet

    (path,) = paths.values()
    detector = network_class("pidi", "PidiNetDetector")(load_pidinet(path).eval()).to(device)
    return lambda image: detector(image, **_at(side))


def _teed(paths: Paths, device: str, side: int) -> Peer:
    from condkit.annotators.nets.teed import load_teed

    (path,) = paths.values()
    detector = network_class("teed", "TEEDdetector")(load_teed(path).eval()).to(device)
    return lambda image: detector(image, detect_resolution=side, safe_steps=0, output_type="np")


def _lineart(paths: Paths, device: str, side: int) -> Peer:
    from condkit.annotators.nets.lineart import load_lineart

    (path,) = paths.values()
    network = load_lineart(path).eval()
    detector = network_class("lineart", "LineartDetector")(network, network).to(device)
    return lambda image: detector(image, **_at(side))


def _lineart_anime(paths: Paths, device: str, side: int) -> Peer:
    from condkit.annotators.nets.lineart import load_lineart_anime

    (path,) = paths.values()
    kind = network_class("lineart_anime", "LineartAnimeDetector")
    detector = kind(load_lineart_anime(path).eval()).to(device)
    return lambda image: detector(image, **_at(side))


def _standard(paths: Paths, device: str, side: int) -> Peer:
    detector = network_class("lineart_standard", "LineartStandardDetector")()
    return lambda image: detector(image, detect_resolution=side, output_type="np")


def _mlsd(paths: Paths, device: str, side: int) -> Peer:
    (path,) = paths.values()
    network = network_class("mlsd.models.mbv2_mlsd_tiny", "MobileV2_MLSD_Tiny")()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    detector = network_class("mlsd", "MLSDdetector")(network.eval()).to(device)
    return lambda image: detector(image, **_at(side))


def _openpose(paths: Paths, device: str, side: int) -> Peer:
    (path,) = paths.values()
    body = network_class("open_pose.body", "Body")(str(path)).to(device)
    detector = network_class("open_pose", "OpenposeDetector")(body)
    return lambda image: detector(image, **_at(side))


def _bae(paths: Paths, device: str, side: int) -> Peer:
    from condkit.annotators.nets.bae import bae_network

    (path,) = paths.values()
    network = bae_network()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    detector = network_class("normalbae", "NormalBaeDetector")(network.eval()).to(device)
    return lambda image: detector(image, **_at(side))


def _midas(paths: Paths, device: str, side: int) -> Peer:
    torch.manual_seed(0)
    kind = network_class("midas.midas.dpt_depth", "DPTDepthModel")
    network = kind(path=None, backbone="vitb_rn50_384", non_negative=True).eval()
    detector = network_class("midas", "MidasDetector")(network).to(device)
    return lambda image: detector(image, **_at(side))


def _bae_state() -> dict[str, torch.Tensor]:
    from condkit.annotators.nets.bae import bae_network

    torch.manual_seed(0)
    return dict(bae_network().state_dict())


def _write_midas(folder: Path) -> None:
    """DPT-hybrid of the published size, random."""
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    torch.manual_seed(0)
    network = DPTForDepthEstimation(
        DPTConfig(is_hybrid=True, neck_hidden_sizes=[256, 512, 768, 768])
    )
    target = folder / "Intel" / "dpt-hybrid-midas"
    network.config.save_pretrained(target)
    torch.save(network.state_dict(), target / "pytorch_model.bin")
    DPTImageProcessor().save_pretrained(target)


def _state(module: str, name: str, *arguments: Any, **options: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = network_class(module, name)(*arguments, **options)
    return dict(network.state_dict())


def _anime_state() -> dict[str, torch.Tensor]:
    norm = functools.partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
    return _state("lineart_anime", "UnetGenerator", 3, 1, 8, 64, norm_layer=norm)


def _body_state() -> dict[str, torch.Tensor]:
    """Of maps below the threshold: with random peaks, grouping them would be all that is timed."""
    state = _state("open_pose.model", "bodypose_model")
    # The published file leaves out the block that a layer is in.
    return {key.partition(".")[2]: value * 0.5 for key, value in state.items()}


ENTRIES = (
    Entry("canny", "canny", _canny),
    Entry("hed", "softedge", _hed, {"weights": "bsds500"}),
    Entry("pidinet", "softedge", _pidinet),
    Entry(
        "teed",
        "softedge",
        _teed,
        random={"5_model.pth": lambda: _state("teed.ted", "TED")},
    ),
    Entry(
        "lineart",
        "lineart",
        _lineart,
        random={"sk_model.pth": lambda: _state("lineart", "Generator", 3, 1, 3)},
    ),
    Entry("lineart_anime", "lineart", _lineart_anime, random={"netG.pth": _anime_state}),
    Entry("standard", "lineart", _standard),
    Entry("mlsd", "lines", _mlsd, {"weights": "tiny"}),
    Entry("openpose", "openpose", _openpose, random={"body_pose_model.pth": _body_state}),
    # At one size; its own default is 384, theirs 512.
    Entry("midas", "depth", _midas, {"detect_size": 512}, write=_write_midas),
    Entry("bae", "normal", _bae, random={"scannet.pt": _bae_state}),
)


def main() -> None:
    """Read the arguments, measure, print."""
    arguments = read_arguments()
    images = read_images(arguments.photos, arguments.size, arguments.count)
    facts = machine(arguments.device) | {"images": len(images), "size": arguments.size}
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    rows: list[Row] = []
    for entry in chosen(arguments.only):
        with tempfile.TemporaryDirectory() as folder:
            rows += measured(entry, Path(folder), images, arguments)
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    print()
    print(table(rows))
    if arguments.json is not None:
        text = json.dumps(as_json(facts, rows), indent=1)
        arguments.json.write_text(text + "\n", encoding="utf-8")


def read_arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights-dir", type=Path, action="append", default=[])
    parser.add_argument("--only", default="", help="names of detectors, with commas between them")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=512, help="a multiple of 64")
    parser.add_argument("--count", type=int, default=4, help="photographs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def chosen(only: str) -> Iterator[Entry]:
    """The entries asked for whose detector this condkit has."""
    names = [name for name in only.split(",") if name]
    known = {entry.detector for entry in ENTRIES}
    if unknown := set(names) - known:
        raise SystemExit(f"--only: unknown {sorted(unknown)}; known are {sorted(known)}")
    for entry in ENTRIES:
        if entry.detector not in available_detectors():
            print(f"{entry.detector}: condkit has no such detector, left out")
        elif not names or entry.detector in names:
            yield entry


def read_images(folder: Path, size: int, count: int) -> list[RgbImage]:
    """Squares from the middle of the first readable photographs."""
    images: list[RgbImage] = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or len(images) == count:
            continue
        try:
            image = decode(path).image
        except ImageError:
            continue
        side = min(image.shape[:2])
        top, left = ((length - side) // 2 for length in image.shape[:2])
        square = np.ascontiguousarray(image[top : top + side, left : left + side])
        way = cv2.INTER_AREA if side > size else cv2.INTER_LANCZOS4
        images.append(cv2.resize(square, (size, size), interpolation=way))
    if not images:
        raise SystemExit(f"{folder}: no photographs")
    return images


def measured(
    entry: Entry, folder: Path, images: Sequence[RgbImage], arguments: argparse.Namespace
) -> list[Row]:
    """The rows of one detector; controlnet_aux comes first."""
    store, kind = store_for(entry, folder, arguments.weights_dir)
    plan = plan_for(entry)
    files = [each for each in plan.weights if isinstance(each, WeightSpec)]
    paths = {file.name: store.path(file) for file in files}
    peer = entry.theirs(paths, arguments.device, arguments.size)
    ways = [Way("controlnet_aux", lambda batch: [peer(image) for image in batch])]
    for name, runtime, batch in runtimes(arguments.device, store, networks=bool(plan.weights)):
        ways.append(Way(f"condkit {name}", ours(entry, runtime), batch))
    return compare(entry.detector, kind, ways, images, arguments.repeats)


def runtimes(
    device: str, store: WeightStore, *, networks: bool
) -> Iterator[tuple[str, Runtime, int]]:
    """How condkit is to run: a name, a runtime and the images per call."""
    if not networks:
        yield "", Runtime(device, store=store), 1
    elif device == "cpu":
        yield "fp32", Runtime(device, "fp32", store=store), 1
        yield "auto", Runtime(device, "auto", store=store), 1
        if importlib.util.find_spec("openvino") is not None:
            yield "openvino", Runtime(device, "auto", "openvino", store), 1
    else:
        for dtype in ("fp32", "bf16"):
            for batch in (1, 8, 32):
                yield dtype, Runtime(device, dtype, store=store), batch


def ours(entry: Entry, runtime: Runtime) -> Run:
    """This package's maps."""
    annotator = Annotator(plan_for(entry), runtime).load()
    return lambda images: [maps[entry.condition].pixels for maps in annotator(images)]


def plan_for(entry: Entry) -> AnnotationPlan:
    """What condkit makes."""
    settings = {"detector": entry.detector, **entry.settings}
    dotted = {f"{entry.condition}.{name}": value for name, value in settings.items()}
    return plan_annotation([entry.condition], dotted)


def store_for(entry: Entry, folder: Path, weights_dirs: Sequence[Path]) -> tuple[WeightStore, str]:
    """A store with the weights, and whether they are real, random, or none are needed."""
    cache = folder / "cache"
    needed = [file for each in plan_for(entry).weights for file in each.files]
    if not needed:
        return WeightStore(cache=cache), "none"
    real = WeightStore(overrides=tuple(weights_dirs), cache=cache, offline=True)
    try:
        for weights in plan_for(entry).weights:
            real.folder(weights) if isinstance(weights, ModelSpec) else real.path(weights)
    except WeightsError:
        if entry.write is None and not all(file.name in entry.random for file in needed):
            raise
    else:
        return real, "real"
    if entry.write is not None:
        entry.write(folder)
    for name, make in entry.random.items():
        torch.save(dict(make()), folder / name)
    specs: Any = get_detector(entry.detector).spec.weights
    for name, spec in list(specs.items()):
        specs[name] = _pinned(spec, folder)
    return WeightStore(overrides=(folder,), cache=cache, offline=True), "random"


def _pinned(spec: AnyWeights, folder: Path) -> AnyWeights:
    """The same weights, pinned to the files in `folder` where they are there."""
    if isinstance(spec, ModelSpec):
        files = tuple(_pinned(file, folder / spec.name) for file in spec.files)
        return dataclasses.replace(spec, files=files)
    path = folder / spec.name
    if not path.is_file():
        return spec
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return dataclasses.replace(spec, sha256=digest, size=path.stat().st_size)


if __name__ == "__main__":
    main()
