"""Captions on the disk: equal to fresh ones, and dropped as often as without."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from condkit.trainer.base_loading import load_base
from condkit.trainer.caches import prepare_caches
from condkit.trainer.compute import resolve_compute
from condkit.trainer.recipes import load_recipe
from condkit.trainer.text_cache import DiskText
from condkit.trainer.training_data import new_loader, open_training_data

CPU = resolve_compute("cpu", "fp32")


def config_of(folder, **settings):
    usual = {
        "data.resolution": "none",
        "data.crop": "center",
        "cache.text": "true",
        "cache.folder": str(folder),
        "cache.shard_rows": "4",
    }
    changed = {name.replace("__", "."): value for name, value in settings.items()}
    return load_recipe("canny", {**usual, **changed})


def test_cached_captions_are_the_fresh_ones_within_the_rounding_of_bf16(base, dataset, tmp_path):
    config = config_of(tmp_path)
    data = open_training_data(config, dataset)
    prepared = prepare_caches(config, data, base)
    captions = [row.text for row in data.sources[0].rows[:3]] + ["", ""]
    with torch.no_grad():
        fresh, kept = base.encode_text(captions), prepared.base.encode_text(captions)
    for name in ("hidden", "pooled"):
        ours, theirs = getattr(kept, name), getattr(fresh, name)
        assert (ours is None) == (theirs is None) == (name == "pooled" and not base.is_xl)
        if ours is not None:
            assert ours.shape == theirs.shape
            assert ours.dtype == torch.float32
            assert ((ours - theirs).abs() <= theirs.abs() * 2**-8 + 1e-6).all()


def test_the_text_encoders_rest_and_unknown_captions_wake_them(
    epsilon_base, dataset, tmp_path, monkeypatch
):
    base = load_base(str(epsilon_base), CPU)
    config = config_of(tmp_path)
    data = open_training_data(config, dataset)
    prepared = prepare_caches(config, data, base)
    # Equal captions are kept once, the empty one among them.
    unique = {row.text for row in data.sources[0].rows} | {""}
    assert prepared.encoded == len(unique) == len(prepared.base.text_memory.store)
    calls = []
    original = type(base.text_encoder).forward

    def counted(self, *arguments, **options):
        calls.append(arguments)
        return original(self, *arguments, **options)

    monkeypatch.setattr(type(base.text_encoder), "forward", counted)
    known = [row.text for row in data.sources[0].rows[:2]]
    prepared.base.encode_text([*known, ""])
    assert calls == []
    with torch.no_grad():
        new = prepared.base.encode_text(["a caption of nobody", *known])
    assert len(calls) == 1
    assert new.hidden.shape[0] == 3
    assert prepare_caches(config, data, base).encoded == 0


def test_dropout_stays_alive_with_everything_cached(epsilon_base, dataset, tmp_path):
    base = load_base(str(epsilon_base), CPU)
    config = config_of(
        tmp_path, cache__latents="true", data__batch_size="10", data__caption_dropout="0.5"
    )
    data = open_training_data(config, dataset)
    prepared = prepare_caches(config, data, base)
    loader = new_loader(data, config, base.unit, latents=prepared.latents)
    epochs = 300
    batches = list(loader.batches(0, epochs))
    assert all(e.pixels is None for batch in batches for e in batch)
    empty = np.array([[e.caption == "" for e in sorted(b, key=lambda e: e.key)] for b in batches])
    assert empty.shape == (epochs, 10)
    assert abs(empty.mean() - 0.5) <= 0.02
    # No row is always dropped or always kept, as when a cache froze the draw.
    assert empty.mean(axis=0).min() > 0.35
    assert empty.mean(axis=0).max() < 0.65
    # What the step gets for an empty caption is the empty caption's state.
    nothing = prepared.base.encode_text([""]).hidden
    dropped = next(e for batch in batches for e in batch if e.caption == "")
    assert torch.equal(prepared.base.encode_text([dropped.caption]).hidden, nothing)
    assert not torch.equal(
        prepared.base.encode_text([data.sources[0].rows[0].text]).hidden, nothing
    )


def test_other_encoders_have_captions_of_their_own(epsilon_base, dataset, tmp_path):
    base = load_base(str(epsilon_base), CPU)
    config = config_of(tmp_path)
    data = open_training_data(config, dataset)
    first = prepare_caches(config, data, base).encoded
    other = load_base(str(epsilon_base), CPU)
    next(other.text_encoder.parameters()).data[0] += 1
    assert prepare_caches(config, data, other).encoded == first > 0


def test_a_caption_takes_two_bytes_a_number(epsilon_base, tmp_path):
    base = load_base(str(epsilon_base), CPU)
    text = DiskText(base, tmp_path)
    text._encode_missing(["a", "b"])
    states = text(["a"])
    size = states.hidden.numel() * 2
    (path,) = text.store.folder.glob("shard-*")
    assert path.stat().st_size < 2 * size + 4096
    assert text(["a", "c"]) is None


@pytest.mark.parametrize("text", ["true", "false"])
def test_the_base_is_as_it_was(epsilon_base, dataset, tmp_path, text):
    base = load_base(str(epsilon_base), CPU)
    config = config_of(tmp_path, cache__text=text)
    prepared = prepare_caches(config, open_training_data(config, dataset), base)
    assert base.text_memory is None
    assert (prepared.base.text_memory is None) == (text == "false")
    assert dataclasses.replace(prepared.base, text_memory=None).fingerprint == base.fingerprint
