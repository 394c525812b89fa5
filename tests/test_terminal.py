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


def test_no_bar_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress_bar("annotate", quiet=False) as bar:
        bar.update(1, 2, "1 image/s")
    assert capsys.readouterr() == ("", "")
