"""The whole way, small: drawn scenes to a dataset, a trained ControlNet, figures and a page.

It runs the same `build`, `train` and `evaluate` as a user's own photographs do.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from condkit import scenes
from condkit.annotators.annotator import plan_annotation
from condkit.captions import make_captioner
from condkit.errors import ConfigError
from condkit.report import Figure, Pair, Report, write_report
from condkit.runtime import Runtime
from condkit.weights import WeightStore

if TYPE_CHECKING:
    from condkit.trainer.evaluation import Evaluation
    from condkit.trainer.train import TrainSummary

OnProgress = Callable[[int, int, str], None]
OnStage = Callable[[str], None]

CONDITION = "canny"
RECIPE = "tiny-canny"
SIZE = scenes.SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """How much the demo does; the defaults fit two CPU cores and eight minutes.

    Attributes:
        scenes: Pictures that are drawn.
        val: Share of them kept for validation.
        steps: Optimizer steps of the recipe `tiny-canny`.
        pairs: Validation pairs that are measured, at most.
        sampling_steps: DDIM steps per picture.
        guidance: Classifier-free guidance scale.
        seed: Seed of the scenes, the training and the noise.
    """

    scenes: int = 2400
    val: float = 0.05
    steps: int = 700
    pairs: int = 96
    sampling_steps: int = 20
    guidance: float = 1.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scenes < 8:
            raise ConfigError(f"scenes: expected at least 8, got {self.scenes}")
        if not 0 < self.val < 1:
            raise ConfigError(f"val: expected a share between 0 and 1, got {self.val}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSummary:
    """What the demo did.

    Attributes:
        report: The page.
        control: Mean edge F1 with control.
        no_control: The floor without it.
        shuffled: The floor with another pair's map.
        ceiling: The real pictures through the base's VAE.
        pairs: Validation pairs measured.
        seconds: Wall time by stage, in order.
    """

    report: str
    control: float
    no_control: float
    shuffled: float
    ceiling: float
    pairs: int
    seconds: dict[str, float]

    def rows(self) -> list[tuple[str, str]]:
        """The figures as a table of name and value."""
        times = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in self.seconds.items())
        return [
            ("edge F1 with control", f"{self.control:.3f}"),
            ("floor: no control", f"{self.no_control:.3f}"),
            ("floor: shuffled condition", f"{self.shuffled:.3f}"),
            ("ceiling: real pictures", f"{self.ceiling:.3f}"),
            ("times the no-control floor", f"{self.control / max(self.no_control, 1e-9):.1f}"),
            ("share of the ceiling", f"{self.control / max(self.ceiling, 1e-9):.3f}"),
            ("validation pairs", str(self.pairs)),
            ("seconds", f"{sum(self.seconds.values()):.0f} ({times})"),
        ]


@dataclass(slots=True)
class _Stopwatch:
    on_stage: OnStage
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, text: str) -> Iterator[None]:
        self.on_stage(text)
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start


def run(
    output: Path,
    settings: DemoSettings | None = None,
    *,
    on_progress: OnProgress = lambda done, total, note: None,
    on_stage: OnStage = lambda text: None,
) -> DemoSummary:
    """Run the demo in `output`; stopped and started again, it goes on where it was.

    Args:
        output: Folder for the scenes, the dataset, the run and `report.html`.
        settings: How much it does.
        on_progress: Called with done, total and a note within a stage.
        on_stage: Called with a sentence when a stage begins.

    Raises:
        OutputError: if `output` cannot be written or holds a demo with other settings.
    """
    settings = settings or DemoSettings()
    watch = _Stopwatch(on_stage)
    with watch.stage("scenes", f"drawing {settings.scenes} scenes"):
        scenes.write_scenes(output / "scenes", settings.scenes, settings.seed)
    with watch.stage("build", "building the dataset (canny maps, sidecar captions)"):
        _build(output, settings, on_progress)
    with watch.stage("train", f"training a ControlNet on condkit/tiny, {settings.steps} steps"):
        trained = _train(output, settings, on_progress)
    with watch.stage("evaluate", "generating with and without control"):
        evaluation = _evaluate(output, settings, on_progress)
    page = output / "report.html"
    write_report(page, _report(output, settings, trained, evaluation, watch.seconds))
    return DemoSummary(
        report=str(page),
        control=evaluation.control,
        no_control=evaluation.no_control,
        shuffled=evaluation.shuffled,
        ceiling=evaluation.ceiling,
        pairs=len(evaluation.scores),
        seconds=watch.seconds,
    )


def _runtime() -> Runtime:
    return Runtime(store=WeightStore(offline=True))


def _build(output: Path, settings: DemoSettings, on_progress: OnProgress) -> None:
    from condkit import pipeline

    pipeline.build(
        output / "scenes",
        output / "dataset",
        plan_annotation([CONDITION]),
        _runtime(),
        captioner=make_captioner("sidecar"),
        size=SIZE,
        val=settings.val,
        on_progress=lambda p: on_progress(
            p.done, p.total, f"build, {p.images_per_second:.0f} images/s"
        ),
    )


def _train(output: Path, settings: DemoSettings, on_progress: OnProgress) -> TrainSummary:
    from condkit.trainer.recipes import load_recipe
    from condkit.trainer.train import train

    config = load_recipe(RECIPE, {"run.steps": str(settings.steps), "run.seed": str(settings.seed)})
    return train(
        config,
        output / "dataset",
        output / "run",
        resume=True,
        offline=True,
        on_progress=lambda p: on_progress(
            p.step, p.total, f"train, loss {p.loss:.3f}, {p.images_per_second:.0f} images/s"
        ),
    )


def _evaluate(output: Path, settings: DemoSettings, on_progress: OnProgress) -> Evaluation:
    from condkit.trainer.evaluate import evaluate

    return evaluate(
        output / "run",
        output / "dataset",
        pairs=settings.pairs,
        steps=settings.sampling_steps,
        guidance=settings.guidance,
        seed=settings.seed,
        runtime=_runtime(),
        on_progress=on_progress,
    )


def _report(
    output: Path,
    settings: DemoSettings,
    trained: TrainSummary,
    evaluation: Evaluation,
    seconds: dict[str, float],
) -> Report:
    return Report(
        title="condkit demo",
        lead=(
            "A ControlNet for Canny edges, trained on drawn scenes on top of the small base model "
            "condkit/tiny. The captions name colours and shapes, but no places: those come from "
            "the condition alone."
        ),
        figures=[
            Figure("edge F1 with control", f"{evaluation.control:.3f}", main=True),
            Figure("floor: no control", f"{evaluation.no_control:.3f}"),
            Figure("floor: shuffled condition", f"{evaluation.shuffled:.3f}"),
            Figure("ceiling: real pictures", f"{evaluation.ceiling:.3f}"),
            Figure("of the ceiling", f"{evaluation.share_of_ceiling:.0%}"),
            Figure("times the floor", f"{evaluation.times_floor:.1f}×"),
        ],
        explanation=(
            f"Mean over {len(evaluation.scores)} validation pairs that training never saw. The "
            "condition is detected again on each generated picture and compared with the one it "
            "was to follow, with a tolerance of one pixel. With and without control start from the "
            "same noise and caption; the ceiling is the real pictures through the base's VAE."
        ),
        pairs=[
            Pair(
                condition=pair.condition,
                caption=pair.caption,
                controlled=pair.controlled,
                uncontrolled=pair.uncontrolled,
                redetected=pair.redetected,
                real=pair.real,
                score=pair.score,
            )
            for pair in evaluation.shown
        ],
        losses=_losses(output / "run"),
        facts=_facts(settings, trained, evaluation, seconds),
    )


def _losses(run: Path) -> list[tuple[int, float]]:
    from condkit.trainer.run_folder import RunFolder
    from condkit.trainer.run_log import read_metrics

    return [(row["step"], row["loss"]) for row in read_metrics(RunFolder(run)) if "loss" in row]


def _facts(
    settings: DemoSettings,
    trained: TrainSummary,
    evaluation: Evaluation,
    seconds: dict[str, float],
) -> list[tuple[str, str]]:
    times = ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
    return [
        ("Dataset", f"{settings.scenes} scenes of {SIZE}×{SIZE}, seed {settings.seed}"),
        (
            "Training",
            f"recipe {RECIPE}, {trained.steps} steps, half of the captions emptied at each use",
        ),
        (
            "Sampling",
            f"DDIM, {evaluation.steps} steps, guidance {evaluation.guidance:g}",
        ),
        ("Time", times),
        (
            "Machine",
            f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        ),
    ]
