"""Splits, shards, duplicates and changes: decided by content alone, before the work begins."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condkit.datasets.drafting import Draft
from condkit.datasets.fingerprints import Fingerprinter
from condkit.datasets.plan_store import PlanStore
from condkit.datasets.planning import PlannedInput, ShardLayout, split_of
from condkit.datasets.sources.base import SourceEntry, SourceSample
from condkit.errors import ConfigError, DatasetError
from condkit.types import Rejection, SourceFile

hashes = st.binary(min_size=1, max_size=8).map(lambda b: hashlib.sha256(b).hexdigest())
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
contents = st.dictionaries(names, st.sampled_from([b"1", b"2", b"3", b"4"]), min_size=1)


@dataclass
class Memory:
    """A source of pictures in memory, given out in some order, that counts what is read."""

    pictures: dict[str, bytes]
    stamps: dict[str, str] = field(default_factory=dict)
    fields: dict[str, dict[str, str]] = field(default_factory=dict)
    spoilt: tuple[Rejection, ...] = ()
    twice: tuple[str, ...] = ()
    reads: list[str] = field(default_factory=list)
    kind = "memory"
    given = ()
    left_out = {"hidden": 2}  # noqa: RUF012 - as the protocol has it

    def as_dict(self) -> dict[str, str]:
        return {}

    def scan(self) -> Iterator[SourceEntry | Rejection]:
        order = [*self.pictures, *self.twice]
        random.Random(len(order)).shuffle(order)
        for name in order:
            yield SourceEntry(relative=name, stamp=self.stamps.get(name, "0"), where=name[::-1])
        yield from self.spoilt

    def file(self, entry: SourceEntry) -> SourceFile:
        return SourceFile(Path(), entry.relative, fields=self.fields.get(entry.relative, {}))

    def read(self, entry: SourceEntry) -> SourceSample:
        assert entry.where == entry.relative[::-1]
        self.reads.append(entry.relative)
        if self.pictures[entry.relative] == b"unreadable":
            raise OSError(5, "Input/output error")
        return SourceSample(image=self.pictures[entry.relative], file=self.file(entry))


def nothing_beside(source: SourceFile) -> tuple[Path, ...]:
    return ()


def plan(source: Memory, path: Path | None = None, *, workers: int = 2, beside=nothing_beside):
    """The store of a source's plan."""
    store = PlanStore(path, new=path is not None)
    with closing(Draft(source, None)) as draft:
        draft.look(Fingerprinter(source, beside), workers)
        draft.save(store)
    return store


def changes(source: Memory, begun: PlanStore, beside=nothing_beside) -> list[str]:
    with closing(Draft(source, begun)) as draft:
        return draft.changes(Fingerprinter(source, beside), 2, most=10)


def kept(store: PlanStore) -> list[PlannedInput]:
    return list(store.span(0, 10**6))


@given(hashes, st.integers(0, 9), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_validation_share_only_adds_rows_to_it(sha256, seed, one, other):
    small, large = sorted((one, other))
    if split_of(sha256, validation=small, seed=seed) == "validation":
        assert split_of(sha256, validation=large, seed=seed) == "validation"


@given(hashes, st.integers(0, 9))
def test_no_share_means_no_validation(sha256, seed):
    assert split_of(sha256, validation=0.0, seed=seed) == "train"
    assert split_of(sha256, validation=1.0, seed=seed) == "validation"


def test_the_share_is_met_and_the_seed_draws_other_rows():
    rows = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(4000)]
    draws = [
        {row for row in rows if split_of(row, validation=0.2, seed=seed) == "validation"}
        for seed in (0, 1)
    ]
    for drawn in draws:
        assert abs(len(drawn) / len(rows) - 0.2) < 0.03
    assert draws[0] != draws[1]


@given(st.integers(0, 40), st.integers(1, 12))
def test_every_input_is_in_exactly_one_shard_in_order(count, shard_size):
    layout = ShardLayout(inputs=count, shard_size=shard_size)
    shards = [list(range(*layout.span(index))) for index in range(layout.shards)]
    assert [index for shard in shards for index in shard] == list(range(count))
    assert all(0 < len(shard) <= shard_size for shard in shards)
    assert all(layout.shard_of(index) == i for i, shard in enumerate(shards) for index in shard)
    assert [i for i in range(count) if layout.ends_shard(i)] == [shard[-1] for shard in shards]


@settings(max_examples=40, deadline=None)
@given(contents)
def test_inputs_are_numbered_by_name_and_of_equal_ones_the_first_is_kept(pictures):
    with closing(plan(Memory(pictures))) as store:
        first = {}
        for name in sorted(pictures):
            first.setdefault(pictures[name], name)
        items = kept(store)
        assert [item.relative for item in items] == sorted(first.values())
        assert [item.index for item in items] == list(range(len(items)))
        assert [item.sha256 for item in items] == [
            hashlib.sha256(pictures[item.relative]).hexdigest() for item in items
        ]
        assert [(r.source, r.stage, r.reason) for r in store.rejections()] == [
            (name, "filter", f"same bytes as {first[pictures[name]]}")
            for name in sorted(pictures)
            if name != first[pictures[name]]
        ]


@settings(max_examples=20, deadline=None)
@given(pictures=contents, workers=st.integers(1, 4))
def test_a_plan_has_the_same_bytes_in_any_order(pictures, workers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    backwards = dict(reversed(pictures.items()))
    plan(Memory(pictures), folder / "one", workers=1).close()
    plan(Memory(backwards), folder / "other", workers=workers).close()
    assert (folder / "one").read_bytes() == (folder / "other").read_bytes()


def test_an_input_that_cannot_be_read_and_one_refused_by_its_source_are_rejected():
    source = Memory({"a": b"1", "b": b"unreadable"}, spoilt=(Rejection("c", "decode", "bad name"),))
    with closing(plan(source)) as store:
        assert [item.relative for item in kept(store)] == ["a"]
        assert [r.as_dict() for r in store.rejections()] == [
            {"source": "b", "stage": "decode", "reason": "cannot be read: Input/output error"},
            {"source": "c", "stage": "decode", "reason": "bad name"},
        ]
        assert store.counts() == (1, 2)


def test_two_inputs_of_one_name_are_an_error_that_names_it():
    with pytest.raises(ConfigError, match="called 'b'"):
        plan(Memory({"a": b"1", "b": b"2"}, twice=("b",)))


def test_a_source_without_pictures_tells_what_it_left_out():
    with pytest.raises(ConfigError, match=r"no images in the source.*2 hidden"):
        plan(Memory({}))


def test_what_is_as_it_was_is_not_read_again(tmp_path):
    pictures = {f"{n:03d}": str(n).encode() for n in range(300)}
    with closing(plan(Memory(pictures), tmp_path / "plan")):
        pass
    with closing(PlanStore(tmp_path / "plan")) as begun:
        again = Memory(pictures)
        assert changes(again, begun) == []
        assert again.reads == []
        touched = Memory(pictures, stamps={"007": "9"})
        assert changes(touched, begun) == []
        assert touched.reads == ["007"]


def test_every_kind_of_change_is_named(tmp_path):
    pictures = {"a": b"1", "b": b"2", "c": b"3", "d": b"4", "copy": b"4"}
    plan(Memory(pictures), tmp_path / "plan").close()
    with closing(PlanStore(tmp_path / "plan")) as begun:
        now = {"a": b"1", "b": b"22", "d": b"4", "e": b"5", "copy": b"4"}
        source = Memory(now, stamps={"b": "1"})
        assert changes(source, begun) == ["b has other content", "c is gone", "e is new"]
        told = Memory(pictures, stamps={"a": "1"}, fields={"a": {"text": "other"}})
        (change,) = changes(told, begun)
        assert change.startswith("what lies beside a ")
        spoilt = Memory(
            {k: v for k, v in pictures.items() if k != "a"},
            spoilt=(Rejection("a", "decode", "bad"),),
        )
        assert changes(spoilt, begun) == ["a has other content"]


def test_the_files_beside_an_input_belong_to_the_source(tmp_path):
    text = tmp_path / "a.txt"
    found = []
    for content in ("one", "two", "one"):
        text.write_text(content)
        with closing(plan(Memory({"a": b"1"}), beside=lambda s: (text,))) as store:
            (item,) = kept(store)
            found.append((item.beside, store.source_sha256()))
    assert found[0] == found[2]
    assert found[0][0] != found[1][0]
    assert found[0][1] != found[1][1]


def test_a_broken_plan_says_so(tmp_path):
    (tmp_path / "plan").write_bytes(b"no database" * 1000)
    with pytest.raises(DatasetError, match="cannot be read"):
        PlanStore(tmp_path / "plan").facts()


def test_facts_are_kept(tmp_path):
    store = plan(Memory({"a": b"1"}), tmp_path / "plan")
    store.save_facts(parameters={"a": [1, None, "ü"]}, version=2)
    store.close()
    with closing(PlanStore(tmp_path / "plan")) as again:
        assert again.facts() == {"parameters": {"a": [1, None, "ü"]}, "version": 2}
