"""The direction of dependencies, read from the imports: docs/architecture.md as a test."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "condkit"

# Layers from the bottom; a part may import its own layer's neighbours only where allowed below.
BASE = {"errors", "types", "predictions"}
SHARED = BASE | {
    "settings",
    "atomic",
    "geometry",
    "imageio",
    "weights",
    "device",
    "budget",
    "draws",
    "pretrained",
    "runtime",
    "buckets",
    "sizing",
}
PARTS = {"annotators", "captions", "datasets"}
PIPELINE = {"pipeline"}
ALLOWED = {
    "errors": set(),
    "types": {"errors"},
    "predictions": {"errors", "types"},
    **dict.fromkeys(SHARED - BASE, SHARED),
    "annotators": SHARED,
    "captions": SHARED,
    "datasets": SHARED,
    **dict.fromkeys(PIPELINE, SHARED | PARTS | PIPELINE),
    "trainer": SHARED | {"datasets"},
    "hub": SHARED | {"datasets"},
}
MAY_PRINT = {"cli.py", "terminal.py", "__main__.py"}


TOP = {
    *(path.stem for path in PACKAGE.glob("cli*.py")),
    "terminal",
    "demo",
    "report",
    "doctor",
    "__main__",
    "__init__",
}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


MODULES = sorted(PACKAGE.rglob("*.py"))
LAYERED = [path for path in MODULES if part_of(path) in ALLOWED]
BELOW = [path for path in MODULES if part_of(path) not in TOP]
SILENT = [path for path in MODULES if path.name not in MAY_PRINT]


def imported_parts(path: Path) -> set[str]:
    """The parts of condkit that a module imports, inside functions and for types too."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "condkit":
            names = [f"condkit.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        parts |= {name.split(".")[1] for name in names if name.startswith("condkit.")}
    return parts


@pytest.mark.parametrize("path", LAYERED, ids=name_of)
def test_imports_go_one_way(path):
    part = part_of(path)
    allowed = ALLOWED[part] | {part, "__version__"}
    if path in (PACKAGE / "trainer" / "evaluate.py", PACKAGE / "trainer" / "redraw.py"):
        allowed |= {"annotators"}
    assert imported_parts(path) <= allowed


@pytest.mark.parametrize("path", BELOW, ids=name_of)
def test_nothing_below_imports_what_is_on_top(path):
    assert not imported_parts(path) & TOP


@pytest.mark.parametrize("path", SILENT, ids=name_of)
def test_only_the_command_line_prints(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [f for f in called if isinstance(f, ast.Name) and f.id == "print"]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_are_absolute(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]


def test_the_parts_do_not_know_each_other():
    for part in PARTS:
        for path in (PACKAGE / part).rglob("*.py"):
            assert not imported_parts(path) & (PARTS - {part}), path
