from __future__ import annotations

import base64
import html.parser
from pathlib import Path

import cv2
import numpy as np
import pytest

from condkit.errors import OutputError
from condkit.report import Figure, Pair, Report, write_report


class Page(html.parser.HTMLParser):
    """Collects what a browser would show and fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[str] = []
        self.fetched: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        source = values.get("src") or values.get("href")
        if source and source.startswith("data:"):
            self.images.append(source)
        elif source:
            self.fetched.append(source)

    def handle_data(self, data: str) -> None:
        self.text += data


def a_report(**changes: object) -> Report:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 48, 3), dtype=np.uint8)
    edges = np.zeros((64, 48), np.uint8)
    edges[10, :] = 255
    pair = Pair(
        condition=edges,
        caption="<b>a red circle</b> & more",
        controlled=picture,
        uncontrolled=picture,
        redetected=edges,
        real=picture,
        score=0.876,
    )
    values: dict[str, object] = {
        "title": "condkit demo",
        "lead": "canny on scenes",
        "figures": [Figure("with control", "0.88", main=True)],
        "explanation": "F1 of edges",
        "pairs": [pair],
        "losses": [(1, 1.0), (2, 0.5), (3, 0.25)],
        "facts": [("steps", "600")],
    }
    return Report(**{**values, **changes})  # type: ignore[arg-type]


def read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text("utf-8"))
    return page


def test_the_page_holds_its_pictures_and_fetches_nothing(tmp_path: Path) -> None:
    report = a_report()
    write_report(tmp_path / "report.html", report)
    page = read(tmp_path / "report.html")
    assert page.fetched == []
    assert len(page.images) == 5
    data = base64.b64decode(page.images[1].partition(",")[2])
    shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert np.array_equal(shown, report.pairs[0].controlled)


def test_a_caption_is_text_never_markup(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", a_report())
    page = read(tmp_path / "report.html")
    assert "<b>a red circle</b> & more" in page.text
    assert "0.88" in page.text


@pytest.mark.parametrize(("losses", "curves"), [([], 0), ([(1, 0.5)], 0), ([(1, 2), (9, 2)], 1)])
def test_a_curve_needs_two_points(
    tmp_path: Path, losses: list[tuple[int, float]], curves: int
) -> None:
    write_report(tmp_path / "report.html", a_report(losses=losses))
    assert (tmp_path / "report.html").read_text("utf-8").count("<svg") == curves


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        write_report(tmp_path / "file" / "report.html", a_report())
