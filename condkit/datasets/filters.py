"""Limits that decide which pictures become rows: what is too small, blurred, grey, empty or sparse.

Each limit acts at the earliest moment at which its value is known, measures nothing unless it is
on, and leaves a picture out with a sentence that names the value and the limit. What was measured
is kept in the row's scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from condkit.datasets.filter_settings import FilterSettings, read_filters
from condkit.datasets.measures import chroma, edge_density, is_one_value, sharpness
from condkit.errors import ConfigError, MapError
from condkit.types import ConditionMap, RgbImage

__all__ = ["EDGE_LIKE", "FilterSettings", "Filters", "Verdict", "read_filters"]

EDGE_LIKE = ("canny", "softedge", "scribble", "lines", "lineart")
"""The conditions whose edge density is measured."""

Scores: TypeAlias = dict[str, float]

# Each fact: the condition that counts it, its name among the map's facts, and how it is said.
_FACTS = {
    "lines": ("lines", "lines", "{} straight lines"),
    "persons": ("openpose", "persons", "{} persons"),
    "keypoints": ("openpose", "body_share", "a share of {} of a body's 18 joints"),
    "whole_body": ("openpose", "whole_body_share", "a share of {} of a whole body's 130 points"),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What filters say at one moment.

    Attributes:
        reason: Why the picture is left out; None where it is kept.
        scores: What was measured, by name; floats for the row's column `scores`.
    """

    reason: str | None = None
    scores: Scores = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Filters:
    """The limits that are on, at the four moments at which they can act.

    Safe to be used by many threads at once.

    Attributes:
        settings: The limits.
    """

    settings: FilterSettings = field(default_factory=FilterSettings)

    def check(self, conditions: Iterable[str], given: Iterable[str] = ()) -> None:
        """Refuse limits on what nothing in this build counts.

        Args:
            conditions: All conditions of the build; as a mapping, with what an annotation plan says
                of each (`AnnotationPlan.as_dict`), so that limits are refused that its detector
                cannot reach.
            given: Those whose maps the source may bring: such maps come without counts.

        Raises:
            ConfigError: naming the limit and the condition it needs.
        """
        told = conditions if isinstance(conditions, Mapping) else {}
        made, given = set(conditions), set(given)
        for limit in self._limits_on("keypoints", "whole_body", "lines", "persons"):
            condition = _FACTS[limit.partition("_")[2]][0]
            _require(
                condition in made,
                f"filters.{limit}: needs the condition {condition!r}, which counts them; add it "
                f"(this build makes {', '.join(sorted(made)) or 'none'})",
            )
            _require(
                condition not in given,
                f"filters.{limit}: the source brings {condition!r} maps of its own, and those come "
                f"without counts; leave the filter out, or have the build make {condition!r}",
            )
        for limit in self._limits_on("edge_density"):
            _require(
                bool(made & set(EDGE_LIKE)),
                f"filters.{limit}: needs an edge condition ({', '.join(EDGE_LIKE)}); this build "
                f"makes {', '.join(sorted(made)) or 'none'}",
            )
        self._check_whole_body(told)

    def _check_whole_body(self, told: Mapping[str, Any]) -> None:
        """Who looks for bodies alone never finds most of the 130 points."""
        limit = self.settings.min_whole_body
        if limit is None or not told.get("openpose"):
            return
        looked_for = told["openpose"]["detector_params"]
        points = sum(
            count
            for part, count in (("body", 18), ("hands", 42), ("face", 70))
            if looked_for.get(part, part == "body")
        )
        _require(
            limit * 130 <= points,
            f"filters.min_whole_body: {limit:g} of 130 points cannot be found where only {points} "
            "are looked for; switch on openpose.hands and openpose.face, or lower the limit",
        )

    def _limits_on(self, *whats: str) -> list[str]:
        names = [f"{end}_{what}" for what in whats for end in ("min", "max")]
        return [name for name in names if getattr(self.settings, name, None) is not None]

    def of_source(self, hw: tuple[int, int]) -> Verdict:
        """What the size of the upright original says.

        Args:
            hw: Height and width in pixels.
        """
        limits = self.settings
        height, width = hw
        size = f"{width}x{height} pixels (width x height)"
        aspect = max(hw) / min(hw)
        megapixels = height * width / 1e6
        if limits.min_side is not None and min(hw) < limits.min_side:
            return Verdict(f"has {size}; its short side is below min_side={limits.min_side}")
        if limits.max_side is not None and max(hw) > limits.max_side:
            return Verdict(f"has {size}; its long side is above max_side={limits.max_side}")
        if limits.max_aspect is not None and aspect > limits.max_aspect:
            return Verdict(
                f"has {size}; its long side is {_g(aspect, limits.max_aspect)} times its short "
                f"one, above max_aspect={limits.max_aspect:g}"
            )
        return _between("megapixels", megapixels, "{} megapixels", limits)

    def of_picture(self, image: RgbImage) -> Verdict:
        """What the pixels of the picture at its final size say.

        Args:
            image: (H, W, 3) uint8 RGB.
        """
        limits, scores = self.settings, Scores()
        if limits.min_sharpness is not None:
            scores["sharpness"] = sharpness(image)
            if scores["sharpness"] < limits.min_sharpness:
                return Verdict(
                    f"is blurred: its sharpness is "
                    f"{_g(scores['sharpness'], limits.min_sharpness)}, below "
                    f"min_sharpness={limits.min_sharpness:g}",
                    scores,
                )
        if limits.grey_tolerance is not None:
            scores["chroma"] = chroma(image)
            if scores["chroma"] <= limits.grey_tolerance:
                return Verdict(
                    f"is grey: 99 % of its pixels differ by at most {scores['chroma']:g} levels "
                    f"between their channels, within grey_tolerance={limits.grey_tolerance:g}",
                    scores,
                )
        return Verdict(None, scores)

    def of_caption(self, texts: Sequence[str]) -> Verdict:
        """What the captions say; each has to keep the limits. The scores are those of the first.

        Args:
            texts: The captions of one picture, at least one.
        """
        scores = Scores()
        for number, text in enumerate(texts):
            for what, count in (("chars", len(text.strip())), ("words", len(text.split()))):
                if not self._limits_on(what):
                    continue
                if number == 0:
                    scores[f"caption_{what}"] = float(count)
                verdict = _between(what, count, _UNITS[what], self.settings)
                if verdict.reason is not None:
                    which = f"caption {number + 1}" if len(texts) > 1 else "its caption"
                    return Verdict(f"{which} {verdict.reason}", scores)
        return Verdict(None, scores)

    def of_maps(self, maps: Mapping[str, ConditionMap]) -> Verdict:
        """What the condition maps say, with what their renderers counted.

        Args:
            maps: By condition, of one picture.

        Raises:
            MapError: if a map lacks a count that a limit needs (see `check`).
        """
        scores = Scores()
        for check in (self._empty, self._density, self._counts):
            verdict = check(maps)
            scores |= verdict.scores
            if verdict.reason is not None:
                return Verdict(verdict.reason, scores)
        return Verdict(None, scores)

    def _empty(self, maps: Mapping[str, ConditionMap]) -> Verdict:
        if self.settings.drop_empty:
            for name, drawn in maps.items():
                if is_one_value(drawn.pixels):
                    return Verdict(f"its {name} map is empty: all of its pixels are alike")
        return Verdict()

    def _density(self, maps: Mapping[str, ConditionMap]) -> Verdict:
        scores = Scores()
        if not self._limits_on("edge_density"):
            return Verdict()
        for name in (name for name in maps if name in EDGE_LIKE):
            value = edge_density(maps[name].pixels)
            scores[f"edge_density.{name}"] = value
            verdict = _between(
                "edge_density", value, f"an edge density of {{}} in its {name} map", self.settings
            )
            if verdict.reason is not None:
                return Verdict(verdict.reason, scores)
        return Verdict(None, scores)

    def _counts(self, maps: Mapping[str, ConditionMap]) -> Verdict:
        scores = Scores()
        for what, (condition, fact, unit) in _FACTS.items():
            if not self._limits_on(what):
                continue
            counted = maps[condition].facts.get(fact) if condition in maps else None
            if counted is None:
                raise MapError(f"the filter on {what} needs {condition!r} with its fact {fact!r}")
            scores[what] = float(counted)
            verdict = _between(what, float(counted), unit, self.settings)
            if verdict.reason is not None:
                return Verdict(verdict.reason, scores)
        return Verdict(None, scores)


_UNITS = {"chars": "{} characters", "words": "{} words"}


def _between(what: str, value: float, said: str, limits: FilterSettings) -> Verdict:
    """Whether a value lies between the two limits of its name, those that are on."""
    low = getattr(limits, f"min_{what}")
    high = getattr(limits, f"max_{what}", None)
    if low is not None and value < low:
        return Verdict(f"has {said.format(_g(value, low))}, below min_{what}={low:g}")
    if high is not None and value > high:
        return Verdict(f"has {said.format(_g(value, high))}, above max_{what}={high:g}")
    return Verdict()


def _g(value: float, limit: float) -> str:
    """As few digits as tell a value from its limit."""
    for digits in range(3, 17):
        text = f"{value:.{digits}g}"
        if float(text) != limit:
            break
    return text if "e+" not in text else f"{value:.0f}"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
