from __future__ import annotations

import pytest

from condkit import terminal


def test_a_table_is_aligned_and_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.table(("name", "n"), [("canny", "1"), ("softedge", "22")])
    out, err = capsys.readouterr()
    assert out.splitlines() == ["name      n", "canny     1", "softedge  22"]
    assert err == ""


def test_an_empty_table_still_names_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.table(("name", "n"), [])
    assert capsys.readouterr().out == "name  n\n"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (58_945_960, "58.9 MB"),
        (1_440_000_000, "1.4 GB"),
    ],
)
def test_sizes_are_decimal(size: int, text: str) -> None:
    assert terminal.size_text(size) == text


def test_no_bar_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress_bar("annotate", quiet=False) as bar:
        bar.update(1, 2, "1 image/s")
    assert capsys.readouterr() == ("", "")
