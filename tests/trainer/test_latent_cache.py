"""Latents on the disk: equal to fresh ones, found by content, shared, verified."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import shutil

import numpy as np
import pytest
import torch

from condkit import imageio
from condkit.datasets.reader import open_dataset
from condkit.errors import ConfigError, TrainingError
from condkit.trainer.base_loading import load_base
from condkit.trainer.caches import cache_folder, prepare_caches
from condkit.trainer.compute import resolve_compute
from condkit.trainer.examples import ExampleMaker
from condkit.trainer.latent_cache import DiskLatents
from condkit.trainer.latents import LatentCache, LatentEncoder
from condkit.trainer.recipes import load_recipe
from condkit.trainer.tensor_store import TensorStore, hashed
from condkit.trainer.train import train
from condkit.trainer.training_data import new_loader, open_training_data

CPU = resolve_compute("cpu", "fp32")


def config_of(folder, **settings):
    usual = {
        "data.batch_size": "2",
        "data.resolution": "none",
        "data.crop": "center",
        "cache.latents": "true",
        "cache.folder": str(folder),
        "cache.shard_rows": "4",
    }
    changed = {name.replace("__", "."): value for name, value in settings.items()}
    return load_recipe("canny", {**usual, **changed})


@pytest.fixture(scope="module")
def base(epsilon_base):
    return load_base(str(epsilon_base), CPU)


def encoded_pictures(monkeypatch):
    """Counts what goes through the VAE from now on."""
    from condkit.trainer import latent_cache

    seen, original = [], latent_cache.encode

    def counted(base, pictures):
        seen.extend(pictures)
        return original(base, pictures)

    monkeypatch.setattr(latent_cache, "encode", counted)
    return seen


def first_batches(config, data, base, latents, count=6):
    return list(new_loader(data, config, base.unit, latents=latents).batches(0, count))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data__flip": "0"},
        {"data__resolution": "32", "cache__variants": "3", "data__crop": "random"},
        {"data__resolution": "32", "data__resize": "cover"},
    ],
)
def test_cached_latents_are_the_fresh_ones_within_the_rounding_of_bf16(
    changes, dataset, base, tmp_path
):
    config = config_of(tmp_path, **changes)
    data = open_training_data(config, dataset)
    prepared = prepare_caches(config, data, base)
    assert prepared.encoded > 0
    cached = first_batches(config, data, base, prepared.latents)
    fresh = first_batches(config, data, base, None)
    encoder = LatentEncoder(base, LatentCache(0))
    for one, other in zip(cached, fresh, strict=True):
        assert [(e.key, e.use, e.box, e.flipped, e.caption) for e in one] == [
            (e.key, e.use, e.box, e.flipped, e.caption) for e in other
        ]
        # Nobody decodes a picture whose latents are known.
        assert all(e.pixels is None for e in one)
        side = one[0].size_hw[0] // base.vae_stride
        draws = torch.randn(len(one), 4, side, side)
        ours, theirs = encoder(one, draws), encoder(other, draws)
        mean, deviation = torch.stack([e.moments.float() for e in one]).chunk(2, dim=1)
        scale = base.vae.config.scaling_factor
        room = scale * (mean.abs() + deviation * draws.abs()) * 2**-8 + 1e-5
        assert ((ours - theirs).abs() <= room).all()
        np.testing.assert_array_equal(
            np.stack([e.hint for e in one]), np.stack([e.hint for e in other])
        )


def test_the_next_run_encodes_nothing_and_neither_does_a_copy_of_the_dataset(
    dataset, base, tmp_path, monkeypatch
):
    config = config_of(tmp_path / "cache")
    data = open_training_data(config, dataset)
    assert prepare_caches(config, data, base).encoded == 2 * len(data.sources[0].rows)
    seen = encoded_pictures(monkeypatch)
    assert prepare_caches(config, open_training_data(config, dataset), base).encoded == 0
    # Built again with something more in its manifest: the pictures are the same.
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "note": "again"}))
    assert prepare_caches(config, open_training_data(config, copy), base).encoded == 0
    assert seen == []


def test_an_unrelated_setting_changes_nothing_and_each_that_matters_does(
    dataset, base, tmp_path, monkeypatch
):
    config = config_of(tmp_path / "cache")
    prepare_caches(config, open_training_data(config, dataset), base)
    seen = encoded_pictures(monkeypatch)
    same = {"optim__lr": "3e-4", "data__caption_dropout": "0.1", "data__batch_size": "5"}
    for name, value in same.items():
        other = config_of(tmp_path / "cache", **{name: value})
        assert prepare_caches(other, open_training_data(other, dataset), base).encoded == 0
    assert seen == []
    other = config_of(tmp_path / "cache", data__resolution="32")
    assert prepare_caches(other, open_training_data(other, dataset), base).encoded > 0


def test_a_changed_picture_is_encoded_anew_and_a_changed_vae_everything(
    dataset, base, tmp_path, epsilon_base
):
    config = config_of(tmp_path / "cache", data__flip="0")
    data = open_training_data(config, dataset)
    before = prepare_caches(config, data, base)
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    path = copy / "train" / "images" / "000003.png"
    pixels = imageio.decode(path.read_bytes()).image
    path.write_bytes(imageio.encode_png(255 - pixels))
    # Even if the row's key, the hash of the source, stays what it was.
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "note": "changed"}))
    changed = open_training_data(config, copy)
    after = prepare_caches(config, changed, base)
    assert after.encoded == 1
    row, old = changed.sources[0].rows[3], data.sources[0].rows[3]
    assert row.key == old.key
    (cut,) = ExampleMaker(data.spec, config.data, 0, base.unit).cuts(row)
    assert not torch.equal(after.latents(row, cut), before.latents(old, cut))
    other = load_base(str(epsilon_base), CPU)
    other.vae.encoder.conv_in.bias.data += 1
    assert prepare_caches(config, data, other).encoded == len(data.sources[0].rows)


def test_random_crops_need_a_number_of_variants(dataset, base, tmp_path):
    config = config_of(tmp_path, data__resolution="32", data__crop="random")
    data = open_training_data(config, dataset)
    with pytest.raises(TrainingError, match=r"larger than its crop.*set cache\.variants=4"):
        prepare_caches(config, data, base)
    # Where the pictures have the crop's size, random is no other than central.
    exact = config_of(tmp_path, data__resolution="64", data__crop="random")
    assert prepare_caches(exact, data, base).encoded == 2 * len(data.sources[0].rows)


def test_variants_take_turns(dataset, base, tmp_path):
    config = config_of(
        tmp_path, data__resolution="32", data__crop="random", cache__variants="3", data__flip="0.5"
    )
    data = open_training_data(config, dataset)
    (maker,) = (new_loader(data, config, base.unit).makers,)
    row = data.sources[0].rows[0]
    cuts = [maker[0](row, use).cut for use in range(9)]
    assert cuts[:3] == cuts[3:6] == cuts[6:]
    assert len(set(cuts[:3])) == 3
    assert set(cuts) == set(maker[0].cuts(row))


def test_streamed_data_has_no_cache(dataset, base, tmp_path):
    config = config_of(tmp_path)
    data = open_training_data(config, dataset)
    streamed = dataclasses.replace(data.sources[0], rows=None)
    with pytest.raises(ConfigError, match=r"cache\.latents.*expected false with data\.streaming"):
        prepare_caches(config, type(data)((streamed,)), base)


def test_cached_runs_repeat_and_a_resumed_one_ends_alike(
    dataset, epsilon_base, small_run, tmp_path, one_thread
):
    cache = {
        "cache__latents": "true",
        "cache__text": "true",
        "cache__folder": str(tmp_path / "cache"),
    }
    options = {"base": str(epsilon_base), "device": "cpu", "dtype": "fp32"}
    config = small_run(run__steps="4", **cache)
    train(config, dataset, tmp_path / "one", **options)
    train(config, dataset, tmp_path / "two", **options)
    train(small_run(run__steps="2", **cache), dataset, tmp_path / "half", **options)
    train(config, dataset, tmp_path / "half", resume=True, **options)
    one, two, half = (
        (tmp_path / name / "controlnet" / "diffusion_pytorch_model.safetensors").read_bytes()
        for name in ("one", "two", "half")
    )
    assert one == two == half


def test_a_damaged_shard_is_found_when_it_is_read(tmp_path):
    store = TensorStore(tmp_path)
    key, other = hashed("a"), hashed("b")
    store.add({key: torch.ones(64, dtype=torch.bfloat16), other: torch.zeros(8)})
    assert torch.equal(TensorStore(tmp_path).get(key), torch.ones(64, dtype=torch.bfloat16))
    (path,) = tmp_path.glob("shard-*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] + bytes([1]) + whole[-2:])
    store = TensorStore(tmp_path)
    with pytest.raises(TrainingError, match=r"shard-.* is damaged; remove it"):
        [store.get(name) for name in (key, other)]
    path.write_bytes(whole[:-40])
    with pytest.raises(TrainingError, match="is damaged"):
        TensorStore(tmp_path)


def test_a_store_tells_its_keys_apart_over_many_shards(tmp_path):
    store = TensorStore(tmp_path)
    for shard in range(7):
        store.add({hashed(shard, i): torch.full((3,), shard * 10.0 + i) for i in range(5)})
    other = TensorStore(tmp_path)
    assert len(store) == len(other) == 35
    for shard in range(7):
        for i in range(5):
            assert other.get(hashed(shard, i)).tolist() == [shard * 10.0 + i] * 3
    assert other.get(hashed("nothing")) is None
    assert not other.has(hashed("nothing"))


def test_a_kill_while_a_shard_is_written_leaves_no_piece_done(dataset, base, tmp_path, monkeypatch):
    config = config_of(tmp_path / "cache", data__flip="0")
    data = open_training_data(config, dataset)
    original, calls = TensorStore.add, []

    def dies(self, tensors):
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        original(self, tensors)

    monkeypatch.setattr(TensorStore, "add", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare_caches(config, data, base)
    monkeypatch.undo()
    # The first piece of four rows is there, the rest is made now.
    assert prepare_caches(config, data, base).encoded == len(data.sources[0].rows) - 4


def _fill(dataset, base_folder, folder, queue):
    config = config_of(folder)
    base = load_base(base_folder, CPU)
    queue.put(prepare_caches(config, open_training_data(config, dataset), base).encoded)


@pytest.mark.slow
def test_ranks_share_the_work_and_none_does_it_twice(dataset, epsilon_base, tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    arguments = (dataset, str(epsilon_base), tmp_path / "cache", queue)
    ranks = [context.Process(target=_fill, args=arguments) for _ in range(2)]
    for rank in ranks:
        rank.start()
    encoded = [queue.get(timeout=120) for _ in ranks]
    for rank in ranks:
        rank.join()
    assert sum(encoded) == 2 * len(open_dataset(dataset).split("train"))
    config = config_of(tmp_path / "cache")
    base = load_base(str(epsilon_base), CPU)
    data = open_training_data(config, dataset)
    assert prepare_caches(config, data, base).encoded == 0


def test_where_the_caches_lie_follows_from_the_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("CONDKIT_CACHE", str(tmp_path))
    assert cache_folder(load_recipe("canny")) == tmp_path / "training"
    assert cache_folder(config_of("~/latents")).name == "latents"
    assert "~" not in str(cache_folder(config_of("~/latents")))


def test_a_row_that_the_cache_lacks_is_encoded_as_it_comes(dataset, base, tmp_path, caplog):
    config = config_of(tmp_path)
    data = open_training_data(config, dataset)
    latents = DiskLatents(base, tmp_path)
    (batch,) = first_batches(config, data, base, latents, count=1)
    assert all(e.moments is None and e.pixels is not None for e in batch)
    assert caplog.text.count("it is encoded as it comes") == 1


def test_a_device_that_is_full_encodes_fewer_at_once_and_the_same(
    dataset, base, tmp_path, monkeypatch, caplog
):
    from condkit.budget import Budget
    from condkit.trainer import latent_cache

    config = config_of(tmp_path / "small", data__flip="0")
    data = open_training_data(config, dataset)
    original, sizes = latent_cache.encode, []

    def small(base, pictures):
        if len(pictures) > 2:
            raise MemoryError
        sizes.append(len(pictures))
        return original(base, pictures)

    monkeypatch.setattr(Budget, "on", lambda device, name: Budget(name, 10**9))
    monkeypatch.setattr(latent_cache, "encode", small)
    filled = prepare_caches(config, data, base)
    assert filled.encoded == len(data.sources[0].rows) == sum(sizes)
    assert max(sizes) == 2
    assert "the VAE: the device's memory does not hold" in caplog.text
    monkeypatch.setattr(latent_cache, "encode", original)
    other = config_of(tmp_path / "large", data__flip="0")
    large = prepare_caches(other, data, base)
    for row in data.sources[0].rows:
        (cut,) = ExampleMaker(data.spec, config.data, 0, base.unit).cuts(row)
        one, two = filled.latents(row, cut).float(), large.latents(row, cut).float()
        torch.testing.assert_close(one, two, rtol=2**-7, atol=1e-5)


def test_with_cached_latents_no_picture_is_decoded_again(base, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from condkit.cli import app
    from condkit.imageio import encode_png
    from condkit.scenes import draw_scene
    from condkit.trainer import condkit_data

    (tmp_path / "pictures").mkdir()
    for i in range(3):
        scene = draw_scene(np.random.default_rng([5, i]))
        (tmp_path / "pictures" / f"{i}.png").write_bytes(encode_png(scene.image))
    words = ["build", str(tmp_path / "pictures"), "-o", str(tmp_path / "data"), "-c", "canny"]
    words += ["--captions", "none", "--size", "64", "-q"]
    assert CliRunner().invoke(app, words).exit_code == 0
    config = config_of(tmp_path / "cache")
    data = open_training_data(config, tmp_path / "data")
    prepared = prepare_caches(config, data, base)
    assert prepared.encoded == 6
    decoded = []
    original = condkit_data.imageio.decode
    monkeypatch.setattr(
        condkit_data.imageio, "decode", lambda *a, **k: decoded.append(1) or original(*a, **k)
    )
    first_batches(config, data, base, prepared.latents, count=5)
    assert decoded == []
    first_batches(config, data, base, None, count=1)
    assert len(decoded) == 2
