"""Whether a file is the one that is meant: its hash against the published or the recorded one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from condkit.errors import WeightsError
from condkit.weights.files import fits, size_words
from condkit.weights.hashes import sha256_of
from condkit.weights.pins import Pin, PinBook
from condkit.weights.sources import FetchError, Source
from condkit.weights.specs import WeightSpec

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verifier:
    """Checks files; where no hash is published, the first file that is used becomes the pin.

    Attributes:
        pins: The recorded hashes.
    """

    pins: PinBook

    def pin(self, spec: WeightSpec) -> Pin | None:
        """What the file has to be; None where no hash is published and none recorded yet."""
        if spec.sha256 is None:
            return self.pins.get(spec.key)
        return Pin(sha256=spec.sha256, same=tuple(digest for digest, _ in spec.same))

    def accepts(self, path: Path, spec: WeightSpec, *, own: bool = False) -> bool:
        """Whether the file is there and is the pinned one; without a pin it becomes that.

        Args:
            path: A file, or nothing.
            spec: What it should be.
            own: Whether condkit itself put it there: then another hash means damage.

        Raises:
            WeightsError: if another file was recorded at the first use.
        """
        if not path.is_file():
            return False
        try:
            digest = sha256_of(path)
        except OSError as error:
            _log.warning("%s is left out: %s", path, error.strerror or error)
            return False
        pin = self.pin(spec)
        if pin is None:
            if not fits(path, spec):
                return False
            pin = self._record(spec, digest, str(path))
        if pin.fits(digest):
            return True
        if pin.recorded and not own:
            raise WeightsError(f"{path} has sha256 {digest}; {self._since_recorded(spec, pin)}")
        _log.warning("%s is left out: its sha256 is %s, expected %s", path, digest, pin.sha256)
        return False

    def check_fetched(self, path: Path, spec: WeightSpec, source: Source) -> None:
        """Check what a source brought; without a pin it becomes that.

        Raises:
            FetchError: if it is not the pinned file.
        """
        digest, size = sha256_of(path), path.stat().st_size
        pin = self.pin(spec)
        if pin is None:
            if not fits(path, spec):
                raise FetchError(f"what came has {size} bytes, expected {spec.size}")
            pin = self._record(spec, digest, source.place)
        if not pin.fits(digest):
            came = f"what came has sha256 {digest} ({size} bytes)"
            if pin.recorded:
                raise FetchError(f"{came}; {self._since_recorded(spec, pin)}")
            raise FetchError(f"{came}, expected {pin.sha256} ({size_words(spec)})")

    def candidates(self, paths: Sequence[Path], spec: WeightSpec) -> list[Path]:
        """Files of the right name from folders that people fill, in the order to try them.

        Raises:
            WeightsError: if different ones fit and no hash tells which is meant.
        """
        pin = self.pin(spec)
        if pin is not None and not pin.recorded:
            return list(paths)
        fitting = [path for path in paths if fits(path, spec)]
        digests = {path: sha256_of(path) for path in fitting} if len(fitting) > 1 else {}
        if pin is not None:
            return sorted(fitting, key=lambda path: digests.get(path) != pin.sha256)
        if len(set(digests.values())) > 1:
            raise WeightsError(
                f"no sha256 is published for {spec.name}, and these different files have its "
                f"name: {', '.join(map(str, fitting))}; keep the one that is meant ({spec.origin})"
            )
        return fitting

    def _record(self, spec: WeightSpec, digest: str, place: str) -> Pin:
        _log.info("%s: no sha256 is published; %s is recorded", spec.name, digest)
        try:
            return self.pins.record(spec.key, digest, place)
        except OSError as error:
            _log.warning("%s: its sha256 cannot be recorded: %s", spec.name, error)
            return Pin(sha256=digest)

    def _since_recorded(self, spec: WeightSpec, pin: Pin) -> str:
        return (
            f"no sha256 is published for {spec.name}, and {pin.sha256} was recorded at its first "
            f"use on {pin.recorded} ({pin.source}). If the new file is the right one, delete the "
            f'entry "{spec.key}" of {self.pins.path}'
        )
