"""Fixtures for the whole suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Machines differ in speed; only what comes out is tested, not how fast. A developer's run searches
# new examples every time, CI always the same ones, so that what lands does not depend on luck.
settings.register_profile("condkit", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("condkit")

ASSETS_VARIABLE = "CONDKIT_TEST_ASSETS"


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real weights, photographs and odd files that tests may read, never copy."""
    folder = os.environ.get(ASSETS_VARIABLE)
    if not folder:
        pytest.skip(f"{ASSETS_VARIABLE} is not set: real weights and photographs are not here")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"{ASSETS_VARIABLE}={folder} is no folder")
    return path


@pytest.fixture(scope="session")
def _cache_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache-home")


@pytest.fixture(autouse=True)
def _no_surprises_from_the_environment(monkeypatch: pytest.MonkeyPatch, _cache_home: Path) -> None:
    """A developer's own cache and weights must not change what a test sees, nor be changed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(_cache_home))
    for name in ("CONDKIT_WEIGHTS_DIR", "CONDKIT_CACHE", "CONDKIT_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
