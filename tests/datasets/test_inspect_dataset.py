"""`inspect`: the figures are those of the rows, in bounded memory; the page shows them."""

from __future__ import annotations

import base64
import html.parser
import json
import runpy
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from condkit import cli_inspect
from condkit.datasets.formats import available_formats
from condkit.datasets.inspecting import tallies
from condkit.datasets.inspecting.inspection import inspect_dataset
from condkit.datasets.inspecting.looking import coverage
from condkit.datasets.inspecting.page import write_page
from condkit.datasets.inspecting.plots import histogram, number, sparkline
from condkit.datasets.inspecting.rejections import kind_of
from condkit.datasets.inspecting.tables import all_tables
from condkit.datasets.inspecting.tallies import Frequencies, Repeats, Spread, words_of
from condkit.datasets.inspecting.tally import SHEET_ROWS
from condkit.datasets.reader import open_dataset
from condkit.errors import ConfigError, DatasetError, OutputError

MADE = runpy.run_path(str(Path(__file__).with_name("made_dataset.py")))
make, rows = MADE["make"], MADE["rows"]

COMMAND = typer.Typer()
COMMAND.command()(cli_inspect.inspect)
FINITE = st.floats(-1e9, 1e9)


@pytest.fixture(scope="module", params=available_formats())
def dataset(request, tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("inspected") / request.param, request.param)


@given(st.lists(FINITE, min_size=1, max_size=50))
def test_the_figures_of_a_spread_are_numpys(values):
    spread = Spread()
    for value in values:
        spread.add(value)
    figures = spread.as_dict()
    assert (figures["count"], figures["min"], figures["max"]) == (
        len(values),
        min(values),
        max(values),
    )
    assert figures["mean"] == pytest.approx(np.mean(values), abs=1e-3)
    for share in tallies.QUANTILES:
        assert figures[f"p{share * 100:g}"] == pytest.approx(np.quantile(values, share))
    assert figures["quantiles_exact"]


@given(st.lists(FINITE, min_size=1, max_size=50), st.integers(1, 30))
def test_a_histogram_holds_every_value(values, bins):
    spread = Spread()
    for value in values:
        spread.add(value)
    counts, edges = spread.histogram(bins)
    assert sum(counts) == len(values)
    assert len(edges) == len(counts) + 1
    assert len(counts) <= bins
    assert set(sparkline(spread, bins)) <= set(" ▁▂▃▄▅▆▇█")
    drawn = histogram("values", spread)
    assert drawn is not None
    assert all(bar.y + bar.height == pytest.approx(drawn.base) for bar in drawn.bars)


def test_a_spread_of_many_values_keeps_a_fair_sample_of_them():
    spread = Spread()
    for value in range(50_000):
        spread.add(value)
    assert len(spread._kept) == tallies.KEPT_VALUES
    figures = spread.as_dict()
    assert (figures["count"], figures["min"], figures["max"]) == (50_000, 0, 49_999)
    assert not figures["quantiles_exact"]
    assert figures["p50"] == pytest.approx(25_000, rel=0.05)


@given(st.lists(st.integers(0, 8), max_size=60))
def test_repeats_are_the_groups_of_equal_values(values):
    repeats, expected = Repeats(), defaultdict(list)
    for place, value in enumerate(values):
        repeats.add(place, value)
        expected[value].append(place)
    found = repeats.groups()
    assert sorted(map(tuple, found)) == sorted(tuple(g) for g in expected.values() if len(g) > 1)
    assert [len(group) for group in found] == sorted(map(len, found), reverse=True)


def test_rare_keys_are_forgotten_and_frequent_ones_are_not(monkeypatch):
    monkeypatch.setattr(tallies, "KEPT_KEYS", 10)
    found = Frequencies()
    for place in range(1000):
        found.add([f"rare {place}", "often"])
    assert len(found.counts) <= 20
    assert found.forgotten
    assert found.most_common(1) == [("often", 1000)]


def test_words_are_letters_and_digits_of_any_script():
    text = "A cat's half-eaten Öl_bild, 2 猫; \"don't\" — end."
    assert words_of(text) == ["a", "cat's", "half-eaten", "öl", "bild", "2", "猫", "don't", "end"]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.123456, "%", "12.3 %"), (1234567, "", "1,234,567"), (1.5, "px", "1.5 px"), (0, "", "0")],
)
def test_numbers_are_short(value, unit, text):
    assert number(value, unit) == text


def test_reasons_are_counted_by_what_they_say_and_not_by_whom():
    reasons = [f"same bytes as folder/{n}.png" for n in range(3)]
    reasons += [f"has {n}x7 = {n * 7} pixels, fewer than 9" for n in range(3)]
    reasons += [f"short side {n} is below 'min_side'" for n in range(3)]
    assert len({kind_of(reason) for reason in reasons}) == 3


def test_coverage_is_the_share_of_pixels_that_differ_from_the_background():
    grey = np.zeros((4, 5), np.uint8)
    grey[0, :2] = 255
    assert coverage(grey, 0) == 0.1
    colour = np.full((2, 2, 3), 128, np.uint8)
    colour[0, 0, 1] = 0
    assert coverage(colour, 128) == 0.25


def test_the_figures_are_those_of_the_rows(dataset):
    found = inspect_dataset(dataset)
    made = rows(12)
    opened = open_dataset(dataset)
    decoded = [row for split in opened.splits for row in opened.split(split)]
    values = found.as_dict()
    assert values["format"] == dataset.name
    assert values["rows"]["looked_at"] == "all 12 rows"
    splits = {name: split["rows"] for name, split in values["rows"]["splits"].items()}
    assert splits == Counter(row.split for row in made)
    assert values["sizes"]["most_frequent"] == {"96x64": 12}
    assert values["sizes"]["original_short_side"]["max"] == 128
    captions = values["captions"]
    assert captions["empty"] == sum(not row.text for row in made)
    assert captions["characters"]["mean"] == pytest.approx(np.mean([len(r.text) for r in made]))
    assert captions["frequent_words"]["cat"] == sum("cat" in row.text for row in made)
    texts = Counter(row.text for row in made if row.text)
    assert {item["text"]: item["rows"] for item in captions["repeated"]} == texts
    shares = [(row.maps["bright"] > 0).mean() for row in decoded]
    figures = values["maps"]["bright"]["coverage"]
    assert (figures["min"], figures["max"]) == (min(shares), max(shares))
    assert values["maps"]["seg"]["classes"][0]["name"] == "sky"
    assert {item["rows"] for item in values["maps"]["seg"]["classes"]} == {12}
    sky = next(item for item in values["maps"]["seg"]["classes"] if item["name"] == "sky")
    assert sky["mean_share"] == pytest.approx(np.mean(shares))
    assert values["maps"]["seg"]["facts"]["classes"]["mean"] == 2
    assert values["scores"]["blur"]["max"] == 21
    assert values["rejections"]["by_stage"] == {"filter": 2, "decode": 1}
    assert values["rejections"]["reasons"]["filter: same bytes as …"] == 2
    assert values["unreadable"]["rows"] == 0
    json.dumps(values, allow_nan=False)


def test_classes_and_joints_are_counted_from_the_json_beside_the_maps(tmp_path):
    def person(*joints: int) -> dict[str, object]:
        points = [[5, 5, 0.9] if joint in joints else [0, 0, 0] for joint in range(18)]
        return {"pose_keypoints_2d": [value for point in points for value in point]}

    people = [[], [person(0, 1)], [person(0), person(), person(0, 17)]]
    made = []
    for number_, found in enumerate(people):
        one = MADE["row"](number_, MADE["picture"](number_), "x")
        told = json.dumps({"people": found}).encode()
        made.append(replace(one, data={**one.data, "seg_classes_json": told}))
    figures = inspect_dataset(make(tmp_path, "parquet", made)).maps["seg"]
    assert figures.bodies == 3
    assert figures.joints.counts == {"nose": 3, "neck": 1, "left ear": 1}
    assert (figures.joints_each.least, figures.joints_each.largest) == (1, 2)
    titles = [table.title for table in all_tables(inspect_dataset(tmp_path))]
    assert "body joints of seg" in titles
    assert "classes of seg" not in titles


def test_copies_are_found_over_all_splits_and_named(dataset):
    found = inspect_dataset(dataset)
    assert found.equal.rows == 1
    (group,) = found.equal.examples
    assert set(group) == {"in/2.png", "in/3.png"}
    splits = {row.index: row.split for row in rows(12)}
    assert found.equal.across == (splits[2] != splits[3])
    assert found.near.rows == 0


def test_copies_in_another_split_are_counted_apart(tmp_path):
    made = rows(30)
    train = next(row for row in made if row.split == "train")
    held_out = [row for row in made if row.split == "validation"][:3]
    copied = [replace(row, image=train.image) if row in held_out else row for row in made]
    found = inspect_dataset(make(tmp_path, "parquet", copied))
    before = inspect_dataset(make(tmp_path / "before", "parquet", made))
    assert found.equal.across - before.equal.across == 3


def test_pictures_that_look_alike_are_told_of_apart_from_equal_ones(tmp_path):
    rng = np.random.default_rng(0)
    smooth = [
        cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), (96, 64)) for _ in range(4)
    ]
    pictures = [*smooth, np.clip(smooth[1].astype(int) + 3, 0, 255).astype(np.uint8), smooth[2]]
    made = [MADE["row"](n, pixels, f"caption {n}") for n, pixels in enumerate(pictures)]
    found = inspect_dataset(make(tmp_path, "parquet", made))
    assert found.equal.rows == 1
    assert set(found.equal.examples[0]) == {"in/2.png", "in/5.png"}
    assert found.near.rows == 1
    assert set(found.near.examples[0]) == {"in/1.png", "in/4.png"}


def test_empty_and_flat_maps_are_counted(tmp_path):
    from condkit.imageio import encode_png

    made = rows(12)
    for place, value in ((1, 0), (4, 255)):
        flat = encode_png(np.full((64, 96), value, np.uint8))
        made[place] = replace(made[place], maps={**made[place].maps, "bright": flat})
    figures = inspect_dataset(make(tmp_path, "parquet", made)).maps["bright"]
    assert (figures.empty, figures.flat) == (1, 2)


def test_a_sample_is_drawn_by_its_seed_and_says_which_rows_it_took(dataset):
    first, again, other = (
        inspect_dataset(dataset, rows=5, seed=seed).as_dict() for seed in (1, 1, 2)
    )
    assert first == again
    assert first["rows"]["numbers"] != other["rows"]["numbers"]
    assert sum(map(len, first["rows"]["numbers"].values())) == 5
    assert first["rows"]["looked_at"] == "5 of 12 rows, drawn with seed 1"
    assert first["sizes"]["short_side"]["count"] == 5
    whole = inspect_dataset(dataset, rows=99).as_dict()
    assert whole["rows"]["looked_at"] == "all 12 rows"


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_do_not_change_a_figure(dataset, workers):
    done = []
    found = inspect_dataset(dataset, workers=workers, on_progress=lambda *a: done.append(a))
    assert found.as_dict() == inspect_dataset(dataset).as_dict()
    assert done == [(n, 12) for n in range(1, 13)]


def test_rows_that_cannot_be_read_are_counted_and_named(tmp_path):
    made = rows(12)
    made[5] = replace(made[5], image=made[5].image[:90])
    found = inspect_dataset(make(tmp_path, "parquet", made))
    assert found.unreadable_rows == 1
    assert found.sizes.short.count == 11
    done = CliRunner().invoke(COMMAND, [str(tmp_path)])
    assert done.exit_code == 3
    assert "rows that cannot be read" in done.stdout


class Page(html.parser.HTMLParser):
    """Collects what a browser would show and fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[str] = []
        self.fetched: list[str] = []
        self.tags: Counter[str] = Counter()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags[tag] += 1
        source = values.get("src") or values.get("href")
        if source and source.startswith("data:"):
            self.images.append(source)
        elif source:
            self.fetched.append(source)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1

    def handle_data(self, data):
        self.text += data


def read_page(path: Path) -> Page:
    page = Page()
    text = path.read_text("utf-8")
    page.feed(text)
    assert page.open == []
    assert "url(" not in text
    assert "@import" not in text
    return page


def test_the_page_holds_its_pictures_and_plots_and_fetches_nothing(dataset, tmp_path):
    found = inspect_dataset(dataset)
    write_page(tmp_path / "page.html", found)
    page = read_page(tmp_path / "page.html")
    assert page.fetched == []
    shown = sum(map(len, found.shown.values()))
    assert set(found.shown) == set(open_dataset(dataset).splits)
    assert max(map(len, found.shown.values())) <= SHEET_ROWS
    assert len(page.images) == shown * (1 + len(found.maps))
    data = base64.b64decode(page.images[0].partition(",")[2])
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(pixels, found.shown["train"][0].image)
    assert page.tags["svg"] >= 2 + len(found.maps)
    assert "all 64 px" in page.text
    assert "Map bright" in page.text
    for table in all_tables(found):
        assert table.title in page.text.lower() or table.title in page.text


def test_captions_and_names_are_text_on_the_page_and_never_markup(tmp_path):
    made = [MADE["row"](n, MADE["picture"](n), "<b>bold</b> & <script>x") for n in range(3)]
    made = [replace(r, facts={**r.facts, "source": "<i>.png"}) for r in made]
    write_page(tmp_path / "page.html", inspect_dataset(make(tmp_path / "<u>", "parquet", made)))
    page = read_page(tmp_path / "page.html")
    assert "<b>bold</b> & <script>x" in page.text
    assert "<i>.png" in page.text
    assert "<u>" in page.text
    assert not {"script", "u"} & set(page.tags)


def test_the_command_prints_tables_or_json_and_writes_the_page(dataset, tmp_path):
    done = CliRunner().invoke(COMMAND, [str(dataset)])
    assert done.exit_code == 0
    for title in ("rows:", "sizes:", "captions:", "map bright:", "classes of seg:", "copies:"):
        assert title in done.stdout
    page = tmp_path / "p.html"
    done = CliRunner().invoke(COMMAND, [str(dataset), "--json", "-q", "--html", str(page)])
    assert json.loads(done.stdout)["rows"]["looked_at"] == "all 12 rows"
    assert read_page(page).fetched == []


def test_what_cannot_be_inspected_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="no dataset of condkit"):
        inspect_dataset(tmp_path)
    make(tmp_path / "x")
    with pytest.raises(ConfigError, match="rows"):
        inspect_dataset(tmp_path / "x", rows=0)
    (tmp_path / "x/rejected.jsonl").write_text('{"stage"')
    with pytest.raises(DatasetError, match="line 1"):
        inspect_dataset(tmp_path / "x")
    (tmp_path / "file").write_text("")
    (tmp_path / "x/rejected.jsonl").unlink()
    with pytest.raises(OutputError, match="cannot write"):
        write_page(tmp_path / "file" / "p.html", inspect_dataset(tmp_path / "x"))
