"""Captions: where the text of each training pair comes from. One file per captioner."""

from __future__ import annotations

from condkit.captions.registry import available_captioners, make_captioner

__all__ = ["available_captioners", "make_captioner"]
