from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from condkit.errors import ConfigError, UnknownNameError
from condkit.settings import as_mapping, choose, from_mapping, merge, parse_assignments, suggest


@dataclass(frozen=True, slots=True, kw_only=True)
class Optim:
    lr: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be above 0, got {self.lr}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    name: str
    steps: int = 10
    fast: bool = False
    mode: Literal["mean", "sum"] = "mean"
    limit: int | None = None
    tags: tuple[str, ...] = ()
    optim: Optim = field(default_factory=Optim)


def test_text_is_converted_by_the_annotation() -> None:
    values = merge(
        {"name": "a", "optim": {"lr": 1e-3}},
        parse_assignments(
            ["steps=20", "fast=yes", "mode=sum", "limit=none", "tags=a, b", "optim.lr=2e-5"]
        ),
    )
    run = from_mapping(Run, values)
    assert run == Run(
        name="a", steps=20, fast=True, mode="sum", tags=("a", "b"), optim=Optim(lr=2e-5)
    )


@given(
    st.builds(
        Run,
        name=st.text(),
        steps=st.integers(),
        fast=st.booleans(),
        mode=st.sampled_from(["mean", "sum"]),
        limit=st.none() | st.integers(),
        tags=st.lists(st.text()).map(tuple),
        optim=st.builds(Optim, lr=st.floats(1e-9, 1)),
    )
)
def test_a_mapping_round_trip_changes_nothing(run: Run) -> None:
    assert from_mapping(Run, as_mapping(run)) == run


@given(st.integers(), st.floats(1e-9, 1), st.booleans())
@example(2**53 + 1, 1.0, False)
def test_text_and_value_mean_the_same(steps: int, lr: float, fast: bool) -> None:
    text = {"name": "a", "steps": str(steps), "fast": str(fast), "optim": {"lr": repr(lr)}}
    value = {"name": "a", "steps": steps, "fast": fast, "optim": {"lr": lr}}
    assert from_mapping(Run, text) == from_mapping(Run, value)


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"name": "a", "stepz": 1}, UnknownNameError, "'run.stepz'; did you mean 'steps'?"),
        ({"name": "a", "optim": {"lrr": 1}}, UnknownNameError, "'run.optim.lrr'; did you mean"),
        ({"name": "a", "steps": "many"}, ConfigError, "run.steps: expected a whole number"),
        ({"name": "a", "steps": 1.5}, ConfigError, "run.steps: expected a whole number"),
        ({"name": "a", "steps": float("inf")}, ConfigError, "run.steps: expected a whole number"),
        ({"name": "a", "steps": True}, ConfigError, "run.steps: expected a whole number"),
        ({"name": "a", "fast": "maybe"}, ConfigError, "run.fast: expected true or false"),
        ({"name": "a", "mode": "men"}, ConfigError, "did you mean 'mean'?"),
        ({"name": "a", "optim": 3}, ConfigError, "run.optim: expected a table"),
        ({"name": "a", "optim": {"lr": "-1"}}, ConfigError, "run.optim: lr must be above 0"),
        ({"name": "a", "optim": {"betas": "0.9"}}, ConfigError, "run.optim.betas: expected 2"),
        ({"name": 3}, ConfigError, "run.name: expected text"),
        ({}, ConfigError, "run.name: a value is needed"),
    ],
)
def test_a_mistake_is_named_with_its_dotted_name(
    values: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        from_mapping(Run, values, where="run")
    assert words in str(caught.value)


@pytest.mark.parametrize("pair", ["canny.low", "=50", " =1"])
def test_an_assignment_without_name_or_value_is_refused(pair: str) -> None:
    with pytest.raises(ConfigError, match="expected NAME=VALUE"):
        parse_assignments([pair])


def test_merging_leaves_the_original_alone() -> None:
    values = {"optim": {"lr": 1.0}}
    merge(values, {"optim.lr": "2"})
    assert values == {"optim": {"lr": 1.0}}


def test_a_value_is_no_table() -> None:
    with pytest.raises(ConfigError, match=r"optim\.lr\.x: 'lr' is a value"):
        merge({"optim": {"lr": 1.0}}, {"optim.lr.x": "2"})


def test_choosing_lists_what_there_is() -> None:
    assert choose("canny", ["canny", "depth"], what="condition") == "canny"
    with pytest.raises(UnknownNameError, match=r"'cany'; did you mean 'canny'\? \(known: canny, d"):
        choose("cany", ["canny", "depth"], what="condition")
    assert suggest("zzz", ["canny"]) == ""
