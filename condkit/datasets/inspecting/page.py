"""The page of an inspection: one HTML file that holds its plots and pictures."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from condkit import imageio
from condkit.atomic import write_text
from condkit.datasets.inspecting import plots, tables
from condkit.datasets.inspecting.findings import Inspection
from condkit.datasets.inspecting.looking import Shown
from condkit.types import RgbImage


def write_page(path: Path, found: Inspection) -> None:
    """Write the page, whole or not at all.

    Raises:
        OutputError: if the place cannot be written.
    """
    import jinja2
    import markupsafe

    folder = resources.files("condkit") / "assets"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((folder / "inspection.html.j2").read_text("utf-8"))
    page = template.render(
        style=markupsafe.Markup((folder / "page.css").read_text("utf-8")),
        title=Path(found.path).resolve().name,
        lead=_lead(found),
        figures=list(_figures(found)),
        conditions=list(found.maps),
        meanings={name: spec["meaning"] for name, spec in found.manifest["conditions"].items()},
        sheets={split: [_picture_row(row) for row in rows] for split, rows in found.shown.items()},
        groups=list(_plots(found)),
        words=_bars(tables.frequent_words(found)),
        tables=list(tables.all_tables(found)),
        facts=list(_facts(found)),
        width=plots.WIDTH,
        height=plots.HEIGHT,
    )
    write_text(path, page)


def _lead(found: Inspection) -> str:
    splits = ", ".join(f"{count:,} {name}" for name, count in found.chosen.total.items())
    return f"{splits} rows in the format {found.manifest['format']}; looked at {found.chosen}"


def _figures(found: Inspection) -> Iterator[dict[str, str]]:
    sizes = found.sizes.counts
    (most, _), *_ = sizes.most_common(1) or [("none", 0)]
    different = len(sizes.counts)
    words = found.captions.words
    median = words.quantiles().get("p50", 0.0)
    values = (
        ("rows", f"{sum(found.chosen.total.values()):,}"),
        ("size" if different == 1 else f"most frequent of {different} sizes", most),
        ("words in a caption, median", plots.number(median)),
        ("empty captions", f"{found.captions.empty:,}"),
        ("empty maps", f"{sum(maps.empty for maps in found.maps.values()):,}"),
        ("equal pictures", f"{found.equal.rows:,}"),
        ("pictures alike", f"{found.near.rows:,}"),
        ("inputs left out", f"{found.rejections.by_stage.total():,}"),
    )
    return ({"name": name, "value": value} for name, value in values)


def _plots(found: Inspection) -> Iterator[dict[str, Any]]:
    """Groups of histograms, each with a title."""
    sizes, captions = found.sizes, found.captions
    yield _group(
        "Sizes",
        plots.histogram("short side", sizes.short, unit="px"),
        plots.histogram("width / height", sizes.aspect),
        plots.histogram("short side of the input", sizes.original_short, unit="px"),
        plots.histogram("size of the input", sizes.original_megapixels, unit="MP"),
    )
    yield _group(
        "Captions",
        plots.histogram("words", captions.words),
        plots.histogram("characters", captions.characters),
    )
    for name, maps in found.maps.items():
        yield _group(
            f"Map {name}",
            plots.histogram("pixels that are not background", maps.coverage, unit="%"),
            *(
                plots.histogram(fact.replace("_", " "), s, unit="%" * tables.is_share(fact))
                for fact, s in maps.facts.items()
            ),
            plots.histogram("body joints of a person (of 18)", maps.joints_each),
        )
    if found.scores:
        scores = (plots.histogram(name, spread) for name, spread in found.scores.items())
        yield _group("Scores of filters", *scores)


def _group(title: str, *drawn: plots.Histogram | None) -> dict[str, Any]:
    return {"title": title, "plots": [plot for plot in drawn if plot is not None]}


def _bars(items: tuple[tuple[str, int], ...]) -> list[dict[str, Any]]:
    most = max((count for _, count in items), default=1)
    return [
        {"name": name, "count": f"{count:,}", "share": f"{100 * count / most:.1f}"}
        for name, count in items
    ]


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    """How the dataset was made, from its manifest."""
    for name, made in (found.manifest.get("annotation") or {}).items():
        yield f"condition {name}", _flat(made)
    for name in ("captions", "filters", "geometry", "size", "source", "split", "environment"):
        value = found.manifest.get(name)
        if value not in (None, {}, [], ""):
            yield name, _flat(value)


def _flat(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_flat, value)) or "none"
    return "none" if value is None else str(value)


def _picture_row(row: Shown) -> dict[str, Any]:
    return {
        "text": row.text,
        "source": row.source,
        "image": _data_uri(row.image),
        "maps": {name: _data_uri(pixels) for name, pixels in row.maps.items()},
    }


def _data_uri(pixels: RgbImage) -> str:
    return "data:image/png;base64," + base64.b64encode(imageio.encode_png(pixels)).decode("ascii")
