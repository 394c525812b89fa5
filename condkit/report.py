"""The report page: one HTML file that holds its pictures and needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from condkit import imageio
from condkit.atomic import write_text
from condkit.types import MapPixels, RgbImage

PIXELATED_BELOW = 128
"""Pictures with a side below this are shown with hard pixels, so that nothing is blurred."""

CURVE_SIZE = (640, 200)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of the page.

    Attributes:
        name: What it measures.
        value: The number as it is shown.
        main: Whether it is the one to look at.
    """

    name: str
    value: str
    main: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One row of pictures: a validation pair and what the model made of it.

    Attributes:
        condition: The condition map, (H, W) or (H, W, 3) uint8.
        caption: The caption that was used.
        controlled: Generated with control, (H, W, 3) uint8.
        uncontrolled: Generated from the same noise and caption without control.
        redetected: The condition as detected on `controlled`.
        real: The real picture.
        score: Edge F1 of `redetected` against `condition`.
    """

    condition: MapPixels
    caption: str
    controlled: RgbImage
    uncontrolled: RgbImage
    redetected: MapPixels
    real: RgbImage
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that stands on the page.

    Attributes:
        title: The headline.
        lead: One sentence under it.
        figures: The numbers, the main one first.
        explanation: What the numbers mean.
        pairs: The rows of pictures.
        losses: (step, loss) in order; may be empty.
        facts: Name and value of everything needed to make it again.
    """

    title: str
    lead: str
    figures: Sequence[Figure]
    explanation: str
    pairs: Sequence[Pair]
    losses: Sequence[tuple[int, float]]
    facts: Sequence[tuple[str, str]]


def write_report(path: Path, report: Report) -> None:
    """Write the page, whole or not at all.

    Raises:
        OutputError: if the place cannot be written.
    """
    import jinja2
    import markupsafe

    assets = resources.files("condkit") / "assets"
    template = (assets / "report.html.j2").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(template).render(
        style=markupsafe.Markup((assets / "page.css").read_text("utf-8")),
        title=report.title,
        lead=report.lead,
        figures=report.figures,
        explanation=report.explanation,
        pairs=[_shown(pair) for pair in report.pairs],
        pixelated=any(min(pair.real.shape[:2]) < PIXELATED_BELOW for pair in report.pairs),
        curve=_curve(report.losses),
        facts=report.facts,
    )
    write_text(path, page)


def _shown(pair: Pair) -> dict[str, str | float]:
    return {
        "condition": _data_uri(pair.condition),
        "caption": pair.caption,
        "controlled": _data_uri(pair.controlled),
        "uncontrolled": _data_uri(pair.uncontrolled),
        "redetected": _data_uri(pair.redetected),
        "real": _data_uri(pair.real),
        "score": pair.score,
    }


def _data_uri(pixels: MapPixels) -> str:
    return "data:image/png;base64," + base64.b64encode(imageio.encode_png(pixels)).decode("ascii")


def _curve(losses: Sequence[tuple[int, float]]) -> dict[str, str | int] | None:
    """The loss as an SVG path over `CURVE_SIZE`; None with fewer than two points."""
    if len(losses) < 2:
        return None
    width, height = CURVE_SIZE
    steps = [step for step, _ in losses]
    values = [loss for _, loss in losses]
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    points = (
        f"{(step - steps[0]) / ((steps[-1] - steps[0]) or 1) * width:.1f},"
        f"{height - 10 - (value - low) / spread * (height - 20):.1f}"
        for step, value in losses
    )
    return {
        "path": "M" + " L".join(points),
        "high": f"{high:.3f}",
        "low": f"{low:.3f}",
        "last_step": steps[-1],
    }
