"""Commercial use of captioners."""

from __future__ import annotations

from condkit.captions.base import Captioner
from condkit.captions.registry import captioner_weights
from condkit.errors import ConfigError


def require_commercial_use(captioner: Captioner) -> None:
    """Refuse a captioner whose weights forbid commercial use or do not clearly allow it.

    Only the licences stated for the weights count; nothing is loaded.

    Raises:
        ConfigError: naming the weights, their licence, and the captioners that are allowed.
    """
    refused = [each for each in captioner.weights if each.commercial_use is not True]
    if not refused:
        return
    reasons = ", ".join(
        f"{weights.name} {'forbids it' if weights.commercial_use is False else 'is unclear'} "
        f"({weights.licence})"
        for weights in refused
    )
    allowed = [
        name
        for name, weights in captioner_weights().items()
        if next(iter(weights.values())).commercial_use is True
    ]
    raise ConfigError(
        f"refused for commercial use: {captioner.name}: {reasons}; allowed: {', '.join(allowed)}"
    )
