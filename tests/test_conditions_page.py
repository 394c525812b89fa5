"""The pages about conditions name everything that is registered, as it is registered."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from condkit.annotators.registry import available_conditions, available_detectors, get_condition

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "conditions.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
TABLES = runpy.run_path(str(ROOT / "scripts" / "condition_tables.py"))


def test_the_tables_are_what_is_registered():
    assert TABLES["update"](PAGE) == PAGE, (
        "run: python scripts/condition_tables.py docs/conditions.md"
    )


@pytest.mark.parametrize("name", available_conditions())
def test_every_condition_has_a_section_with_a_picture_and_its_table(name):
    section = re.search(rf"^## {name}\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
    assert section
    assert f"(images/{name}.jpg)" in section.group(1)
    assert f"<!-- begin: {name} -->" in section.group(1)


@pytest.mark.parametrize("name", available_detectors())
def test_every_detector_has_a_section(name):
    assert f"\n### Detector {name}\n" in PAGE


def test_every_link_inside_of_the_page_leads_somewhere():
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in PAGE.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(#([^)]+)\)", PAGE):
        assert target in headings


def test_the_pictures_are_there_and_small():
    linked = set(re.findall(r"\((images/[^)]+)\)", PAGE))
    there = {f"images/{path.name}" for path in (ROOT / "docs" / "images").iterdir()}
    assert linked == there
    assert sum(path.stat().st_size for path in (ROOT / "docs" / "images").iterdir()) < 1_500_000


@pytest.mark.parametrize("name", available_conditions())
def test_the_readme_has_a_row_for_every_condition_with_all_that_makes_it(name):
    row = re.search(rf"^\| \[?`{name}`.*$", README, re.MULTILINE)
    assert row
    for choice in get_condition(name).detectors:
        assert f"`{choice}`" in row.group(0)


def test_every_test_that_the_promises_name_exists():
    page = (ROOT / "docs" / "promises.md").read_text("utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 40
    for file, test in named:
        assert re.search(rf"^def {test}\(", (ROOT / file).read_text("utf-8"), re.MULTILINE), test
