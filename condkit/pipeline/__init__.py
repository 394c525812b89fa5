"""The two runs over many images: `annotate` writes map files, `build` makes paired datasets.

Both decode, predict, render and encode as a stream (`condkit.pipeline.streaming`); this is their
common door.
"""

from __future__ import annotations

from condkit.pipeline.annotating import annotate
from condkit.pipeline.building import build
from condkit.pipeline.runs import Progress, RunSummary

__all__ = ["Progress", "RunSummary", "annotate", "build"]
