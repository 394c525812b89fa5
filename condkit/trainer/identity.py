"""What must be equal in both halves of a resumed run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condkit.errors import TrainingError

# Settings that may change between two halves of a run: none of them reaches the weights of a step
# but by rounding (the base is compared by its weights, not by its name; passes times devices
# count, however they share the work).
_FREE = (
    "base",
    "summary",
    "run.steps",
    "run.log_every",
    "run.trackers",
    "optim.accumulation",
    "data.prefetch",
    "data.cache_latents",
    "data.cache_mib",
    "data.workers",
    "cache.folder",
    "cache.shard_rows",
)
_FREE_TABLES = ("checkpoint", "preview", "compute", "watch", "stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIdentity:
    """What must be equal in both halves of a resumed run.

    Attributes:
        config: Every setting, as `condkit.settings.as_mapping` gives it.
        base_fingerprint: Hash of the base's weights.
        manifest_sha256: Hash of the dataset's manifest.
        rows: Rows in the training split.
        micro_batches: Micro-batches of an optimizer step, of all devices together.
        condition: The condition's spec, as a dictionary.
        noise_scheme: How random numbers are derived.
        dtype: Precision of the arithmetic.
    """

    config: dict[str, Any]
    base_fingerprint: str
    manifest_sha256: str
    rows: int
    micro_batches: int
    condition: dict[str, Any]
    noise_scheme: str
    dtype: str

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


def check_same_run(state: Mapping[str, Any], identity: RunIdentity, checkpoint: Path) -> None:
    """Whether a checkpoint belongs to a run.

    Args:
        state: The identity that stands in the checkpoint.
        identity: The run's.
        checkpoint: Its folder, for the message.

    Raises:
        TrainingError: if something differs that would change the weights; it names all of it.
    """
    differences = _setting_differences(state["config"], identity.config)
    wanted = identity.as_dict()
    words = {
        "base_fingerprint": "the base model's weights",
        "manifest_sha256": "the dataset (its manifest.json)",
        "rows": "the number of training rows",
        "micro_batches": "the micro-batches of a step (optim.accumulation times devices)",
        "condition": "the condition's spec",
        "noise_scheme": "the scheme of random numbers",
        "dtype": "the precision (--dtype)",
    }
    differences += [
        f"{text}: {state[name]!r} then, {wanted[name]!r} now"
        for name, text in words.items()
        if state[name] != wanted[name]
    ]
    if differences:
        raise TrainingError(
            f"cannot resume from {checkpoint}, because these differ: {'; '.join(differences)}. "
            "Give the same as before, or start a new run in another folder"
        )


def _setting_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    before, now = _flat(old), _flat(new)
    return [
        f"{name}: {before.get(name)!r} then, {now.get(name)!r} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
        and name not in _FREE
        and name.partition(".")[0] not in _FREE_TABLES
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
