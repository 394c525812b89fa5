"""The settings of detectors that find persons first and look at each of them then."""

from __future__ import annotations

from typing import Protocol

from condkit.annotators.base import require

MOST_PERSONS = 256


class PersonSettings(Protocol):
    """Which persons are looked at."""

    @property
    def person_threshold(self) -> float:
        """The least score of a person, 0 to 1."""
        ...

    @property
    def max_persons(self) -> int:
        """The most persons of one image."""
        ...


def require_possible_persons(params: PersonSettings, detector: str) -> None:
    """Refuse impossible settings; for `__post_init__`.

    Raises:
        ConfigError: naming the setting.
    """
    require(
        0 < params.person_threshold < 1,
        f"{detector}.person_threshold: expected a score between 0 and 1, got "
        f"{params.person_threshold}",
    )
    require(
        1 <= params.max_persons <= MOST_PERSONS,
        f"{detector}.max_persons: expected 1 to {MOST_PERSONS}, got {params.max_persons}",
    )
