"""Detectors turn images into predictions, conditions render predictions into maps."""

from __future__ import annotations

from condkit.annotators.loaded import ImageLike, LoadedCondition, load

__all__ = ["ImageLike", "LoadedCondition", "load"]
