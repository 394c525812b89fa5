"""What a training step costs: condkit against a plain loop, and against training the base itself.

    python benchmarks/training.py [--device cuda] [--kind sd15 sdxl] [--ways NAME ...] [--json FILE]
                                  [--batch N] [--steps 10] [--warmup 4] [--rounds 3] [--minutes 8]
                                  [--tiny] [--anew] [--no-memory]

It needs no file but the repository: the models have the published shapes and random weights (`sd15`
at 512, `sdxl` at 1024: the default on a card), or are the built-in base (`tiny` at 64: the default
on a CPU). The pairs are drawn scenes, made by `condkit build`. `--tiny` takes small twins of the
models, to try the script out.

- `condkit`: `condkit.trainer.train.train` itself, held up between turns, with all that belongs to
  it: reading and flipping pairs, latents cached on the disk, log lines.
- `condkit compiled`: the same with `compute.compile`.
- `plain`: what diffusers' train_controlnet.py does (see `plain_controlnet.py`).
- `plain fp32`: the same in that script's default precision.
- `fine-tuning`: the UNet trained without a ControlNet, with everything that `condkit` has.

The ways take turns of `--warmup` steps that are not timed and `--steps` that are, `--rounds` of
them, or fewer where another round would go beyond `--minutes`. Speeds are medians of the turns,
and ratios are medians of the ratios within a round, so that what else the machine does disturbs
both sides. On a card, and with `--anew`, a way is made anew for each turn, as not all fit beside
each other.

Model FLOPs utilisation is the counted arithmetic of a step (with the latents at hand; what is
computed twice counts once) over time and over what the device does with the best of ten large
products of matrices. Memory is the most that tensors took on a card; on a CPU, by how much a
process of its own grew.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

import diffusers
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from paired import machine
from plain_controlnet import PlainLoop
from torch.utils.flop_counter import FlopCounterMode
from training_models import KINDS, Kind, make_base, make_pairs
from training_ways import CondkitRun, FineTuning

from condkit.device import free_memory, is_out_of_memory
from condkit.errors import ConfigError, DeviceMemoryError
from condkit.trainer.arithmetic import peak_of, step_arithmetic
from condkit.trainer.compute import Compute, training_compute
from condkit.trainer.config import TrainConfig
from condkit.trainer.control_net import embedding_channels_for
from condkit.trainer.memory import peak_memory
from condkit.trainer.meta import meta_networks
from condkit.trainer.recipes import load_recipe

WAYS = ("condkit", "condkit compiled", "plain", "plain fp32", "fine-tuning")
USUAL = {
    "tiny": ("condkit", "plain", "plain fp32", "fine-tuning"),
    "sd15": ("condkit", "condkit compiled", "plain", "fine-tuning"),
    "sdxl": ("condkit", "plain", "fine-tuning"),
}


class Run(Protocol):
    """A way of training, ready to go."""

    def __call__(self, steps: int) -> None:
        """Do so many optimizer steps."""

    def close(self) -> None:
        """Let go of everything."""


@dataclass(frozen=True)
class Row:
    """What was measured of one way.

    Attributes:
        kind: Which model.
        way: Which way.
        batch: Samples per step.
        seconds: Per step, the median of the turns; None where it did not run.
        images_per_second: From it.
        speed: As a multiple of the plain loop's, the median of the ratios within a round.
        over_fine_tuning: Time as a multiple of fine-tuning's, in the same way.
        tflop: Counted arithmetic of one sample, 10^12 operations.
        mfu: Share of the device's best.
        peak_gb: The most memory, 10^9 bytes.
        turns: Seconds per step of each turn.
        failed: Why it did not run, or None.
    """

    kind: str
    way: str
    batch: int
    seconds: float | None
    images_per_second: float | None
    speed: float | None
    over_fine_tuning: float | None
    tflop: float
    mfu: float | None
    peak_gb: float | None
    turns: list[float]
    failed: str | None


@dataclass(frozen=True)
class Goal:
    """A figure that was to be reached.

    Attributes:
        text: What it is.
        wanted: The figure.
        found: What was measured.
        reached: Whether that is enough.
    """

    text: str
    wanted: float
    found: float
    reached: bool


@dataclass
class Bench:
    """One model, all ways of training it.

    Attributes:
        kind: The model.
        batch: Samples per step.
        compute: Where and in which precision.
        arguments: The command line's.
        folder: A folder of its own; pairs and caches lie there.
        times: Seconds per step of each turn, by way.
        peaks: Bytes, by way.
        failed: Why a way did not run.
    """

    kind: Kind
    batch: int
    compute: Compute
    arguments: argparse.Namespace
    folder: Path
    times: dict[str, list[float]] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    _runs: dict[str, tuple[Run, int]] = field(default_factory=dict)
    _took: dict[str, float] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def pairs(self) -> Path:
        """The dataset."""
        return self.folder / "pairs"

    @property
    def is_on_card(self) -> bool:
        """Whether the device says how much memory tensors took."""
        return self.compute.device.type == "cuda"

    def stays(self, way: str) -> bool:
        """Whether a way is kept for its next turn; what is compiled would be compiled again."""
        return "compiled" in way or not (self.is_on_card or self.arguments.anew)

    def turn(self, way: str) -> None:
        """One turn of a way; what does not fit into memory is noted and left out from now on."""
        if way in self.failed:
            return
        began, seconds = time.monotonic(), None
        try:
            seconds = self._measured(way)
        except (RuntimeError, MemoryError, DeviceMemoryError) as error:
            if not (isinstance(error, DeviceMemoryError) or is_out_of_memory(error)):
                raise
        self._took[way] = time.monotonic() - began
        if seconds is None:
            # By now the error has let go of what it held.
            free_memory()
            self.failed[way] = "out of memory"
            return
        self.times.setdefault(way, []).append(seconds)
        print(f"{self.kind.name}, {way}: {seconds:.3f} s per step", file=sys.stderr, flush=True)

    def expected(self) -> float:
        """Seconds that one more round takes: as the last turns, of kept ways their steps alone."""
        steps = self.arguments.warmup + self.arguments.steps
        return sum(
            steps * self.times[way][-1] if way in self._runs else took
            for way, took in self._took.items()
            if way not in self.failed
        )

    def _measured(self, way: str) -> float:
        """Seconds per step."""
        before = _allocated(self.compute.device)
        run, own = self._runs.pop(way, (None, 0))
        if run is None:
            run = self.made(way)
        run(self.arguments.warmup)
        _wait(self.compute.device)
        # What a way holds between its steps is seen when it is made.
        own = own or _allocated(self.compute.device) - before
        start = _allocated(self.compute.device)
        _forget_peak(self.compute.device)
        began = time.perf_counter()
        run(self.arguments.steps)
        _wait(self.compute.device)
        seconds = (time.perf_counter() - began) / self.arguments.steps
        peak = own + _peak(self.compute.device) - start
        if self.is_on_card:
            self.peaks[way] = max(peak, self.peaks.get(way, 0))
        if self.stays(way):
            self._runs[way] = (run, own)
        else:
            run.close()
            del run
            free_memory()
        return seconds

    def made(self, way: str) -> Run:
        """A way, ready to go."""
        if way.startswith("plain"):
            exact = way == "plain fp32"
            compute = Compute(self.compute.device, torch.float32 if exact else self.compute.dtype)
            return PlainLoop(make_base(self.kind, compute), self.pairs, self.batch)
        device, dtype = str(self.compute.device), _word(self.compute.dtype)
        folder = self.folder / f"run-{next(self._numbers)}"
        make = FineTuning if way == "fine-tuning" else CondkitRun
        return make(self._config(way), self.pairs, folder, device, dtype)

    def _config(self, way: str) -> TrainConfig:
        never = "1000000000"
        settings = {
            "base": self.kind.base,
            "run.steps": never,
            "run.trackers": "none",
            "data.batch_size": str(self.batch),
            "data.resolution": str(self.kind.side),
            # Few batches are ready when a turn begins: the warm-up uses them up.
            "data.prefetch": "1",
            "optim.accumulation": "1",
            "cache.latents": "true",
            "cache.text": str(self.kind.is_xl).lower(),
            "cache.folder": str(self.folder / "cache"),
            "compute.compile": str("compiled" in way).lower(),
            "checkpoint.every": never,
            "preview.every": "0",
        }
        return load_recipe("canny", settings)

    def close(self) -> None:
        """End all ways."""
        for run, _ in self._runs.values():
            run.close()
        self._runs.clear()

    def measure_growth(self, way: str) -> None:
        """On a CPU: how much a process that does nothing else grows."""
        given = [
            *("--child", way, "--folder", str(self.folder), "--kind", self.kind.name),
            *("--device", str(self.compute.device), "--dtype", _word(self.compute.dtype)),
            *("--batch", str(self.batch), *(["--tiny"] if self.arguments.tiny else [])),
        ]
        done = subprocess.run(
            [sys.executable, __file__, *given], check=True, stdout=subprocess.PIPE, text=True
        )
        self.peaks[way] = int(done.stdout.split()[-1])


def main() -> None:
    """Measure, print a table, and write the figures."""
    arguments = _arguments()
    logging.basicConfig(level=logging.WARNING)
    diffusers.utils.logging.set_verbosity_error()
    try:
        compute = training_compute(arguments.device, arguments.dtype)
    except ConfigError as error:
        sys.exit(f"training.py: {error}")
    bases = {kind.base: kind for kind in _kinds(arguments, compute)}

    def load(name: str, compute: Compute, **_: Any) -> Any:  # noqa: ANN401
        return make_base(bases[name], compute)

    with patch("condkit.trainer.job.load_base", load):
        if arguments.child:
            _child(arguments, compute, next(iter(bases.values())))
        else:
            _all(arguments, compute, list(bases.values()))


def _all(arguments: argparse.Namespace, compute: Compute, kinds: Sequence[Kind]) -> None:
    limit = time.monotonic() + 60 * arguments.minutes
    facts = machine(str(compute.device)) | {"dtype": _word(compute.dtype)}
    best = {dtype: measured_best(compute.device, dtype) for dtype in {compute.dtype, torch.float32}}
    with tempfile.TemporaryDirectory() as temporary:
        benches = []
        for kind in kinds:
            batch = arguments.batch or kind.batch
            folder = Path(temporary) / kind.name
            make_pairs(folder, kind.side, max(8, 2 * batch))
            benches.append(Bench(kind, batch, compute, arguments, folder))
        for number in range(arguments.rounds):
            for bench in benches:
                if number and time.monotonic() + bench.expected() > limit:
                    continue
                for way in arguments.ways or USUAL[bench.kind.name]:
                    bench.turn(way)
        for bench in benches:
            bench.close()
            if not bench.is_on_card and not arguments.no_memory:
                for way in bench.times:
                    bench.measure_growth(way)
        rows = [row for bench in benches for row in rows_of(bench, best)]
    goals = goals_of(rows, on_card=compute.device.type == "cuda")
    facts["best_tflops"] = {_word(dtype): found / 1e12 for dtype, found in best.items()}
    known = peak_of(compute.device, compute.dtype)
    facts["data_sheet_tflops"] = known / 1e12 if known else None
    _print(facts, rows, goals)
    if arguments.json:
        found = {
            "machine": facts,
            "rows": [asdict(row) for row in rows],
            "goals": [asdict(goal) for goal in goals],
        }
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _child(arguments: argparse.Namespace, compute: Compute, kind: Kind) -> None:
    """Print by how many bytes this process grows."""
    bench = Bench(kind, arguments.batch, compute, arguments, arguments.folder)
    bench._numbers = itertools.count(1000)
    before = _most_bytes()
    run = bench.made(arguments.child)
    run(2)
    after = _most_bytes()
    run.close()
    print(after - before)


def _most_bytes() -> int:
    """The most main memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # The usual figure begins at that of the process which started this one.
        found = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(found[0].split()[1]) * 1024
    return peak_memory(torch.device("cpu")) or 0


def measured_best(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second in the best of ten products of large matrices."""
    side = 8192 if device.type == "cuda" else 2048
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(12):
        _wait(device)
        began = time.perf_counter()
        _ = one @ other
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / min(seconds[2:])


def flops_of(kind: Kind, *, fine_tuning: bool) -> int:
    """The counted arithmetic of one sample: of the ControlNet's step, or of the UNet's own."""
    if kind.unet:
        with torch.device("meta"):
            unet, stride = UNet2DConditionModel(**kind.unet), 8
    else:
        base = make_base(kind, training_compute("cpu", "fp32"))
        unet, stride = base.unet, base.vae_stride
    with torch.device("meta"):
        control_net = ControlNetModel.from_unet(
            UNet2DConditionModel.from_config(unet.config),
            conditioning_embedding_out_channels=embedding_channels_for(stride),
            load_weights_from_unet=False,
        )
    networks, side = meta_networks(unet, control_net), kind.side // stride
    if not fine_tuning:
        return step_arithmetic(networks, (side, side)).total
    networks.unet.train().requires_grad_(True)
    given = networks.inputs(1, (side, side))
    with FlopCounterMode(display=False) as counter:
        predicted = networks.unet(given["sample"], given["timestep"], **given["conditions"])[0]
        predicted.square().mean().backward()
    return int(counter.get_total_flops())


def rows_of(bench: Bench, best: dict[torch.dtype, float]) -> list[Row]:
    """What was measured of a model."""
    counted = {fine: flops_of(bench.kind, fine_tuning=fine) for fine in (False, True)}
    return [
        _row(bench, way, counted[way == "fine-tuning"], best)
        for way in {**bench.times, **bench.failed}
    ]


def _row(bench: Bench, way: str, flops: int, best: dict[torch.dtype, float]) -> Row:
    turns = bench.times.get(way, [])
    seconds = statistics.median(turns) if turns else None
    peak = bench.peaks.get(way)
    dtype = torch.float32 if way == "plain fp32" else bench.compute.dtype
    return Row(
        kind=bench.kind.name,
        way=way,
        batch=bench.batch,
        seconds=seconds,
        images_per_second=bench.batch / seconds if seconds else None,
        speed=_ratio(bench.times.get("plain", []), turns),
        over_fine_tuning=_ratio(turns, bench.times.get("fine-tuning", [])),
        tflop=flops / 1e12,
        mfu=bench.batch * flops / seconds / best[dtype] if seconds else None,
        peak_gb=peak / 1e9 if peak is not None else None,
        turns=turns,
        failed=bench.failed.get(way),
    )


def _ratio(ones: Sequence[float], others: Sequence[float]) -> float | None:
    """The median of the ratios within a round."""
    ratios = [one / other for one, other in zip(ones, others, strict=False)]
    return statistics.median(ratios) if ratios else None


def goals_of(rows: Sequence[Row], *, on_card: bool) -> list[Goal]:
    """What was to be reached: on a card with sd15, by the better of condkit's rows."""
    found = {(row.kind, row.way): row for row in rows}
    kind = "sd15" if on_card else "tiny"
    ours = [
        row
        for way in ("condkit", "condkit compiled")
        if (row := found.get((kind, way))) is not None and row.seconds is not None
    ]
    if not ours:
        return []
    row = min(ours, key=lambda row: row.seconds or 0.0)
    goals = [_at_least(f"{row.way} against plain, times", 2.5 if on_card else 2.0, row.speed)]
    if not on_card:
        plain = found.get((kind, "plain fp32"))
        against = _ratio(plain.turns, row.turns) if plain else None
        goals.append(_at_least(f"{row.way} against plain fp32, times", 2.0, against))
        return [goal for goal in goals if goal is not None]
    other = found.get((kind, "fine-tuning"))
    memory = row.peak_gb / other.peak_gb if other and other.peak_gb and row.peak_gb else None
    goals += [
        _at_least(f"{row.way}, model FLOPs utilisation", 0.5, row.mfu),
        _at_most(f"{row.way} over fine-tuning, time", 1.0, row.over_fine_tuning),
        _at_most(f"{row.way} over fine-tuning, memory", 1.15, memory),
    ]
    return [goal for goal in goals if goal is not None]


def _at_least(text: str, wanted: float, found: float | None) -> Goal | None:
    return None if found is None else Goal(f"{text}, at least", wanted, found, found >= wanted)


def _at_most(text: str, wanted: float, found: float | None) -> Goal | None:
    return None if found is None else Goal(f"{text}, at most", wanted, found, found <= wanted)


def _print(facts: dict[str, Any], rows: Sequence[Row], goals: Sequence[Goal]) -> None:
    print("\n" + ", ".join(f"{name}: {value}" for name, value in facts.items()))
    print(
        "\n| model | way | batch | s per step | images/s | against plain | over fine-tuning "
        "| TFLOP per sample | MFU | memory |"
    )
    print("|" + "---|" * 10)
    for row in rows:
        cells = [
            *(row.kind, row.way, str(row.batch)),
            row.failed or _text(row.seconds, "{:.3f}"),
            _text(row.images_per_second, "{:.2f}"),
            _text(row.speed, "{:.2f} ×"),
            _text(row.over_fine_tuning, "{:.2f} ×"),
            f"{row.tflop:.4g}",
            _text(row.mfu, "{:.0%}"),
            _text(row.peak_gb, "{:.2f} GB"),
        ]
        print(f"| {' | '.join(cells)} |")
    for goal in goals:
        verdict = "reached" if goal.reached else "not reached"
        print(f"\n{goal.text} {goal.wanted:g}: {goal.found:.2f}, {verdict}")


def _text(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _word(dtype: torch.dtype) -> str:
    return "fp32" if dtype == torch.float32 else "bf16"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def _kinds(arguments: argparse.Namespace, compute: Compute) -> list[Kind]:
    usual = ["sd15", "sdxl"] if compute.device.type == "cuda" else ["tiny"]
    kinds = [KINDS[name] for name in arguments.kind or usual]
    return [kind.small() if arguments.tiny and kind.unet else kind for kind in kinds]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", nargs="+", choices=KINDS)
    parser.add_argument("--ways", nargs="+", choices=WAYS)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--anew", action="store_true", help="make ways anew for each turn")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
