"""Measuring a ControlNet: generate, detect the condition again, compare.

This is the one module of the trainer that uses the annotators.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condkit import atomic
from condkit.annotators.annotator import AnnotationPlan, Annotator, plan_annotation
from condkit.datasets.reader import PairedDataset, open_dataset
from condkit.errors import ConfigError, DatasetError
from condkit.imageio import encode_png
from condkit.runtime import Runtime
from condkit.settings import choose
from condkit.trainer.compute import resolve_compute
from condkit.trainer.data import hint_from_map
from condkit.trainer.evaluation import Evaluation, PairScores, ShownPair
from condkit.trainer.generation import Painter, Sampling, through_vae
from condkit.trainer.grid import map_picture, picture_grid
from condkit.trainer.metrics import binarise, edge_f1
from condkit.trainer.rows import PairedRow
from condkit.trainer.run_folder import RunFolder
from condkit.trainer.sample import TrainedRun, hint_padding, open_run
from condkit.types import ConditionSpec, MapPixels, RgbImage

DEFAULT_BATCH = 32
SHOWN = 8
"""Pairs whose pictures are kept."""

Report = Callable[[int, int, str], None]
"""Pictures done, pictures in all, a note."""


def evaluate(
    run: Path,
    data: Path,
    *,
    split: str = "validation",
    pairs: int = 64,
    steps: int = 20,
    guidance: float = 3.0,
    seed: int = 0,
    batch_size: int | None = None,
    base: str | None = None,
    runtime: Runtime | None = None,
    on_progress: Report | None = None,
) -> Evaluation:
    """Measure how well a run's ControlNet follows its condition, between floor and ceiling.

    With control, without, and with another pair's map: always the same captions and noise. The
    condition is detected again with the parameters that the dataset's manifest records. Writes
    `evaluation.json` and `evaluation.png` into the run's folder.

    Args:
        run: Folder of a training run.
        data: A dataset with the run's condition.
        split: Which rows.
        pairs: How many of them, from the first; at least 2.
        steps: DDIM steps.
        guidance: Classifier-free guidance scale.
        seed: Seed of the first pair's noise; the next one takes the next number.
        batch_size: Pictures generated at once; None is 32.
        base: Another base model than the run's.
        runtime: Device, precision and weight store; None decides by itself.
        on_progress: Called with pictures done, pictures in all, and a note.

    Raises:
        ConfigError: if a number is impossible.
        TrainingError: if the run or its base cannot be used.
        DatasetError: if the dataset has too few pairs or does not say how its maps were made.
        UnknownNameError: if it lacks the split or the condition.
    """
    if pairs < 2:
        raise ConfigError(f"pairs: expected at least 2 (one map is given to another), got {pairs}")
    runtime = runtime or Runtime()
    sampling = Sampling(steps=steps, guidance=guidance)
    compute = resolve_compute(runtime.device, runtime.dtype)
    trained = open_run(run, compute, base=base, offline=runtime.store.is_offline)
    spec = trained.record.condition
    dataset = open_dataset(data)
    rows = _rows(dataset, data, split, spec, pairs)
    plan = _plan(dataset.manifest, data, spec)
    report = on_progress or (lambda done, total, note: None)
    pictures = _generate(trained, rows, sampling, seed, batch_size or DEFAULT_BATCH, report)
    with Annotator(plan, runtime) as annotator:
        maps = pictures.detect(annotator, spec.name, batch_size or DEFAULT_BATCH)
    evaluation = Evaluation(
        condition=spec.name,
        split=split,
        steps=steps,
        guidance=guidance,
        seed=seed,
        scores=[_score(row, spec, maps, i) for i, row in enumerate(rows)],
        shown=[_shown(row, spec, pictures, maps, i) for i, row in enumerate(rows[:SHOWN])],
    )
    write_evaluation(RunFolder(run), evaluation)
    return evaluation


def redetector(
    condition: str, data: Path, runtime: Runtime
) -> Callable[[Sequence[RgbImage]], list[MapPixels]]:
    """What detects a dataset's condition on pictures.

    With the detector and parameters that the dataset's manifest records; where there is no manifest
    (a dataset that condkit did not build), with the condition's own defaults. Networks are loaded
    for each call and let go after it, so that training has their memory.

    Args:
        condition: The condition.
        data: The dataset.
        runtime: Device, precision and weight store.

    Raises:
        DatasetError: if the manifest does not say how the maps were made.
        UnknownNameError: if condkit knows no such condition.
    """
    if (data / "manifest.json").is_file():
        dataset = open_dataset(data)
        plan = _plan(dataset.manifest, data, dataset.conditions[condition])
    else:
        plan = plan_annotation([condition])

    def detect(pictures: Sequence[RgbImage]) -> list[MapPixels]:
        maps: list[MapPixels] = []
        with Annotator(plan, runtime) as annotator:
            for first in range(0, len(pictures), DEFAULT_BATCH):
                batch = annotator(pictures[first : first + DEFAULT_BATCH])
                maps += [by_name[condition].pixels for by_name in batch]
        return maps

    return detect


def write_evaluation(folder: RunFolder, evaluation: Evaluation) -> None:
    """Write the figures and a grid: condition, real, with control, without, detected again."""
    atomic.write_json(folder.evaluation, evaluation.as_dict())
    grid = picture_grid(
        [
            [
                map_picture(pair.condition),
                pair.real,
                pair.controlled,
                pair.uncontrolled,
                map_picture(pair.redetected),
            ]
            for pair in evaluation.shown
        ]
    )
    atomic.write_bytes(folder.evaluation_grid, encode_png(grid))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kinds:
    """One list per kind of picture, in the order of the rows."""

    control: list[Any]
    no_control: list[Any]
    shuffled: list[Any]
    ceiling: list[Any]
    real: list[Any]

    def detect(self, annotator: Annotator, condition: str, batch_size: int) -> _Kinds:
        """The condition on every picture."""

        def maps(pictures: list[RgbImage]) -> list[MapPixels]:
            found: list[MapPixels] = []
            for first in range(0, len(pictures), batch_size):
                batch = annotator(pictures[first : first + batch_size])
                found += [by_name[condition].pixels for by_name in batch]
            return found

        return _Kinds(**{name: maps(getattr(self, name)) for name in self.__slots__})


def _rows(
    dataset: PairedDataset, data: Path, split: str, spec: ConditionSpec, pairs: int
) -> list[PairedRow]:
    choose(spec.name, dataset.conditions, what=f"condition in {data}")
    chosen = dataset.split(choose(split, dataset.splits, what=f"split in {data}"))
    if len(chosen) < 2:
        raise DatasetError(
            f"{data}: its {split} split has {len(chosen)} rows, and an evaluation needs 2 or more; "
            "build it with a larger --val, or use --split train"
        )
    return [chosen[i] for i in range(min(pairs, len(chosen)))]


def _plan(manifest: Mapping[str, Any], data: Path, spec: ConditionSpec) -> AnnotationPlan:
    """The detector and parameters that made the dataset's maps."""
    made = manifest.get("annotation", {}).get(spec.name)
    if made is None:
        raise DatasetError(
            f"{data}/manifest.json does not say how its {spec.name!r} maps were made, so they "
            "cannot be detected again; build the dataset with condkit build"
        )
    settings = {**made["detector_params"], **made["render_params"], "detector": made["detector"]}
    return plan_annotation([spec.name], {f"{spec.name}.{k}": v for k, v in settings.items()})


def _generate(
    trained: TrainedRun,
    rows: Sequence[PairedRow],
    sampling: Sampling,
    seed: int,
    batch_size: int,
    report: Report,
) -> _Kinds:
    spec, total, done = trained.record.condition, 3 * len(rows), 0
    with_control = Painter(trained.base, trained.control_net)
    without = Painter(trained.base, None)
    kinds = _Kinds(
        control=[None] * len(rows),
        no_control=[None] * len(rows),
        shuffled=[None] * len(rows),
        ceiling=[None] * len(rows),
        real=[row.image for row in rows],
    )
    hints = [hint_from_map(row.maps[spec.name]) for row in rows]
    for places, others in _batches(rows, batch_size):
        captions, seeds = [rows[i].text for i in places], [seed + i for i in places]

        def paint(
            painter: Painter,
            sources: Sequence[int],
            captions: Sequence[str] = captions,
            seeds: Sequence[int] = seeds,
        ) -> list[RgbImage]:
            chosen = [hints[i] for i in sources]
            return painter(captions, chosen, seeds, sampling, padding=hint_padding(spec))

        _put(kinds.control, places, paint(with_control, places))
        _put(kinds.shuffled, places, paint(with_control, others))
        _put(kinds.no_control, places, paint(without, places))
        _put(kinds.ceiling, places, through_vae(trained.base, [rows[i].image for i in places]))
        done += 3 * len(places)
        report(done, total, "generate")
    return kinds


def _batches(rows: Sequence[PairedRow], batch_size: int) -> Iterator[tuple[list[int], list[int]]]:
    """Row numbers of one picture size at a time, each with another row's number beside it.

    The other row is the next one of the same size; where a size has a single row there is none,
    and its own map stays, which can only raise that floor.
    """
    by_size: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        by_size[row.image.shape[:2]].append(i)
    for places in by_size.values():
        others = places[1:] + places[:1]
        for first in range(0, len(places), batch_size):
            yield places[first : first + batch_size], others[first : first + batch_size]


def _put(slots: list[Any], places: Sequence[int], values: Sequence[Any]) -> None:
    for place, value in zip(places, values, strict=True):
        slots[place] = value


def _score(row: PairedRow, spec: ConditionSpec, maps: _Kinds, i: int) -> PairScores:
    wanted = binarise(row.maps[spec.name])

    def f1(kind: list[MapPixels]) -> float:
        return edge_f1(binarise(kind[i]), wanted)

    return PairScores(
        key=row.key,
        control=f1(maps.control),
        no_control=f1(maps.no_control),
        shuffled=f1(maps.shuffled),
        ceiling=f1(maps.ceiling),
        real=f1(maps.real),
    )


def _shown(
    row: PairedRow, spec: ConditionSpec, pictures: _Kinds, maps: _Kinds, i: int
) -> ShownPair:
    return ShownPair(
        key=row.key,
        caption=row.text,
        condition=row.maps[spec.name],
        real=row.image,
        controlled=pictures.control[i],
        uncontrolled=pictures.no_control[i],
        redetected=maps.control[i],
        score=_score(row, spec, maps, i).control,
    )
