"""Weight files: pinned by hash, found in folders and caches, fetched once, verified every time.

The order of places: override folders, condkit's cache, then each source of the spec in its own
order (the hub's cache counts as the hub). Nothing is handed out whose sha256 is not the pinned one;
where no sha256 is published, the one of the file that is used first becomes the pin.

Environment variables:
    CONDKIT_WEIGHTS_DIR: override folders, separated as in PATH, after those given in code.
    CONDKIT_CACHE: condkit's cache folder (else `$XDG_CACHE_HOME/condkit`, `~/.cache/condkit`).
    CONDKIT_OFFLINE: 1 forbids the network.
"""

from __future__ import annotations

from condkit.weights.mediapipe import Network, TaskFromWheel
from condkit.weights.shelf import Shelf
from condkit.weights.sources import FetchError, HubFile, Source, UrlFile, ZipMember
from condkit.weights.specs import AnyWeights, ModelSpec, WeightSpec, hub_model
from condkit.weights.store import Presence, WeightStore
from condkit.weights.wheels import WheelFile

__all__ = [
    "AnyWeights",
    "FetchError",
    "HubFile",
    "ModelSpec",
    "Network",
    "Presence",
    "Shelf",
    "Source",
    "TaskFromWheel",
    "UrlFile",
    "WeightSpec",
    "WeightStore",
    "WheelFile",
    "ZipMember",
    "hub_model",
]
