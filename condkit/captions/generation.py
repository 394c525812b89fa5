"""How networks generate text: the settings that all of them share."""

from __future__ import annotations

from dataclasses import dataclass

from condkit.captions.template import Template
from condkit.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """Beams, or samples whose random numbers depend on the seed and the image's pixels alone.

    With `sample`, all captions of an image are drawn by nucleus sampling (Holtzman et al., The
    Curious Case of Neural Text Degeneration, 2020); without, the first is the beam search's, and
    the others are drawn.

    Attributes:
        count: Captions per image.
        num_beams: Width of the beam search; 1 is greedy. Samples do not use it.
        sample: Draw the first caption, too.
        top_p: Share of the probability, in (0, 1], from whose most probable tokens is drawn.
        temperature: Above 0; below 1 draws the probable more often, above 1 less often.
        max_new_tokens: Most tokens of a caption, without those of a prompt.
        min_new_tokens: Fewest tokens of a caption.
        repetition_penalty: Above 1, what was said already becomes less probable.
        seed: Other seeds draw other captions.
    """

    count: int = 1
    num_beams: int = 3
    sample: bool = False
    top_p: float = 0.9
    temperature: float = 1.0
    max_new_tokens: int = 40
    min_new_tokens: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("count", "num_beams", "max_new_tokens"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        _require(0 < self.top_p <= 1, "top_p", "above 0 and at most 1", self.top_p)
        _require(self.temperature > 0, "temperature", "above 0", self.temperature)
        allowed = 0 <= self.min_new_tokens <= self.max_new_tokens
        most = f"0 to max_new_tokens ({self.max_new_tokens})"
        _require(allowed, "min_new_tokens", most, self.min_new_tokens)
        _require(
            self.repetition_penalty > 0, "repetition_penalty", "above 0", self.repetition_penalty
        )
        _require(self.seed >= 0, "seed", "at least 0", self.seed)

    @property
    def drawn(self) -> int:
        """How many of the captions are drawn."""
        return self.count if self.sample else self.count - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptedGeneration(Generation):
    """Of a network that goes on where a prompt ends.

    Attributes:
        prompt: How each caption begins, such as "a photography of"; a template as of the captioner
            `template`, so that it may be another for each image.
        keep_prompt: Whether the prompt is part of the caption.
    """

    prompt: str = ""
    keep_prompt: bool = True

    def __post_init__(self) -> None:
        # `super()` without arguments does not work in a dataclass with slots.
        Generation.__post_init__(self)
        Template(self.prompt, "captions.prompt")


def _require(condition: bool, name: str, expected: str, value: object) -> None:
    if not condition:
        raise ConfigError(f"captions.{name}: expected {expected}, got {value}")
