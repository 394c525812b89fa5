"""`datasets` must always be Hugging Face's, though a folder of ours has the same name."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_datasets_is_the_installed_library():
    spec = importlib.util.find_spec("datasets")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).resolve()
    own = (ROOT / "condkit", ROOT / "tests")
    assert not any(folder in path.parents for folder in own), path
    assert path != ROOT / "datasets" / "__init__.py"


def test_no_package_folder_is_on_the_search_path():
    folders = {Path(entry).resolve() for entry in sys.path if entry}
    assert ROOT / "condkit" not in folders
    assert ROOT / "tests" not in folders


def test_test_folders_are_no_packages():
    assert list((ROOT / "tests").rglob("__init__.py")) == []
