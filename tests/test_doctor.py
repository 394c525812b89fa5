from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import pytest

from condkit import doctor


def test_this_installation_is_sound() -> None:
    bad = [finding for finding in doctor.examine() if not finding.good]
    assert bad == []


def test_several_versions_of_cv2_are_named_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        return "4.8.0.76" if name == "opencv-python-headless" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    finding = next(f for f in doctor.examine() if f.what == "cv2")
    assert not finding.good
    assert "opencv-python-headless 4.8.0.76" in finding.found
    assert "pip install --force-reinstall --no-deps opencv-python==" in finding.found


def test_a_broken_library_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    finding = next(f for f in doctor.examine() if f.what == "diffusers")
    assert not finding.good
    assert "PackageNotFoundError" in finding.found


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda cache: cache.write_bytes(b""), "not writable; set CONDKIT_CACHE"),
        (lambda cache: _write(cache / "weights" / "pins.json", "{"), "damaged"),
    ],
)
def test_a_cache_that_cannot_keep_weights_is_a_finding(
    spoil: Callable[[Path], object], found: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CONDKIT_CACHE", str(tmp_path / "cache"))
    spoil(tmp_path / "cache")
    finding = next(f for f in doctor.examine() if f.what == "weights")
    assert not finding.good
    assert found in finding.found


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)
