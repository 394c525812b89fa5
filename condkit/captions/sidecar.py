"""Captions from text files that lie beside the images, as kohya, SimpleTuner and taggers write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from condkit.captions.base import Captions, one_line
from condkit.errors import ConfigError
from condkit.types import Rejection, RgbImage, SourceFile
from condkit.weights import AnyWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarCaptions:
    """The text file beside an image is its caption.

    For `cat.jpg` the first that exists of `cat.jpg.txt`, `cat.jpg.caption`, `cat.txt`,
    `cat.caption` is read: the full name first, so that `cat.jpg` and `cat.png` in one folder can
    have captions of their own. The file is UTF-8, with or without a byte order mark; its lines are
    joined by spaces. An empty file is an empty caption; no file at all is a rejection.

    Attributes:
        suffixes: The endings that are looked for, in this order, each with its dot.
    """

    suffixes: tuple[str, ...] = (".txt", ".caption")
    many: ClassVar[bool] = False
    weights: ClassVar[tuple[AnyWeights, ...]] = ()
    name: ClassVar[str] = "sidecar"

    def __post_init__(self) -> None:
        if not self.suffixes or any(not s.startswith(".") or s == "." for s in self.suffixes):
            raise ConfigError(
                f"captions.suffixes: expected endings such as .txt, got {list(self.suffixes)}"
            )

    def as_dict(self) -> dict[str, Any]:
        """Name and endings."""
        return {"captioner": self.name, "suffixes": list(self.suffixes)}

    def reads(self, source: SourceFile) -> tuple[Path, ...]:
        """The caption file, where there is one."""
        found = self._find(source.path)
        return () if found is None else (found,)

    def __call__(
        self, images: Sequence[RgbImage], sources: Sequence[SourceFile]
    ) -> list[Captions | Rejection]:
        """The text beside each image, or a rejection where it is missing or no UTF-8."""
        return [self._read(source) for source in sources]

    def _find(self, image: Path) -> Path | None:
        names = (image.name, image.stem)
        candidates = (image.with_name(name + s) for name in names for s in self.suffixes)
        return next((path for path in candidates if path.is_file()), None)

    def _read(self, source: SourceFile) -> Captions | Rejection:
        path = self._find(source.path)
        if path is None:
            expected = " or ".join(source.path.stem + suffix for suffix in self.suffixes)
            return _reject(source, f"no caption file beside it (expected {expected})")
        try:
            text = one_line(path.read_bytes().decode("utf-8-sig"))
            return Captions((text,), self.name)
        except UnicodeDecodeError as error:
            return _reject(
                source,
                f"caption file {path.name} is not UTF-8 (byte {error.start}); save it as UTF-8",
            )
        except OSError as error:
            return _reject(source, f"caption file {path.name} cannot be read: {error.strerror}")


def _reject(source: SourceFile, reason: str) -> Rejection:
    return Rejection(source=source.relative, stage="caption", reason=reason)
