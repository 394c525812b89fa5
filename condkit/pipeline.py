"""The two runs over many images: `annotate` writes map files, `build` makes paired datasets.

Both decode, predict, render and encode as a stream (`condkit.streaming`); this module is their
common door.
"""

from __future__ import annotations

from condkit.annotating import annotate
from condkit.building import build
from condkit.runs import Progress, RunSummary

__all__ = ["Progress", "RunSummary", "annotate", "build"]
