"""Hashes of weights for which none is published: that of the first file used becomes the pin."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condkit.atomic import write_json
from condkit.errors import WeightsError

_LOCK_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """What a file has to be.

    Attributes:
        sha256: Lower-case hex digest.
        recorded: Day of its first use, such as "2026-11-25"; None where the hash is published and
            stands in condkit itself.
        source: Where the recorded file came from, in words.
        same: Digests of other files that are as good.
    """

    sha256: str
    recorded: str | None = None
    source: str = ""
    same: tuple[str, ...] = ()

    def fits(self, sha256: str) -> bool:
        """Whether a file with this digest may be used."""
        return sha256 == self.sha256 or sha256 in self.same


@dataclass(frozen=True, slots=True)
class PinBook:
    """The recorded pins: one JSON file, written whole under a lock, so that processes may share it.

    Attributes:
        path: The file; it need not exist yet.
    """

    path: Path

    def get(self, key: str) -> Pin | None:
        """The pin recorded under a key (`WeightSpec.key`), or None.

        Raises:
            WeightsError: if the file is damaged.
        """
        return self._read().get(key)

    def record(self, key: str, sha256: str, source: str) -> Pin:
        """Record a hash, unless another process was first.

        Args:
            key: `WeightSpec.key`.
            sha256: Of the file that is being used for the first time.
            source: Where it came from, in words.

        Returns:
            The pin that counts from now on.

        Raises:
            WeightsError: if the file is damaged.
            OSError: if it cannot be written.
        """
        from filelock import FileLock, Timeout

        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.path.with_suffix(".lock"), timeout=_LOCK_TIMEOUT_S):
                pins = self._read()
                if key in pins:
                    return pins[key]
                today = datetime.datetime.now(datetime.UTC).date().isoformat()
                pins[key] = Pin(sha256=sha256, recorded=today, source=source)
                write_json(self.path, {name: _as_json(pins[name]) for name in sorted(pins)})
                return pins[key]
        except Timeout as error:
            raise WeightsError(
                f"{self.path}: locked by another process for {_LOCK_TIMEOUT_S} s; stop it or "
                f"delete {self.path.with_suffix('.lock')}"
            ) from error

    def _read(self) -> dict[str, Pin]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise WeightsError(f"{self.path}: cannot be read: {error}") from error
        try:
            return {key: _from_json(entry) for key, entry in json.loads(text).items()}
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            raise WeightsError(
                f"{self.path}: damaged ({type(error).__name__}: {error}); it holds the hashes of "
                "weights without a published one. Delete it to have them recorded anew at their "
                "next use"
            ) from error


def _as_json(pin: Pin) -> dict[str, Any]:
    return {"sha256": pin.sha256, "recorded": pin.recorded, "source": pin.source}


def _from_json(entry: Mapping[str, Any]) -> Pin:
    if len(entry["sha256"]) != 64:
        raise ValueError(f"expected a sha256, got {entry['sha256']!r}")
    return Pin(sha256=entry["sha256"], recorded=str(entry["recorded"]), source=str(entry["source"]))
