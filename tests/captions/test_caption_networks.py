"""Captioners with networks: as transformers' own code says it, and one image at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from condkit.budget import Budget
from condkit.captions import make_captioner
from condkit.captions.base import one_line
from condkit.captions.nets.pictures import PictureInput
from condkit.captions.nets.sampling import NucleusSampler
from condkit.captions.registry import get_network, network_captioners
from condkit.errors import ConfigError, DeviceMemoryError, MapError, WeightsError
from condkit.runtime import Runtime
from condkit.types import Rejection, SourceFile
from condkit.weights import WeightStore

PROMPTED = ("blip-base", "blip2")
# One network of each kind: blip-large is blip-base with other weights.
NETWORKS = ("blip-base", "blip2", "florence2")
WAYS = {
    "greedy": {"num_beams": 1},
    "nucleus": {"sample": True, "top_p": 0.8, "temperature": 0.7, "repetition_penalty": 1.3},
    "beams, then draws": {"num_beams": 3, "count": 2, "min_new_tokens": 4},
}
LENGTH = 7


def _picture(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


IMAGES = [
    _picture(0, 40, 50),
    np.full((33, 20, 3), (200, 30, 30), np.uint8),
    _picture(1, 1, 90),
    np.repeat(_picture(3, 31, 31)[:, :, :1], 3, axis=2),
]
SOURCES = [
    SourceFile(Path(f"/none/{name}.jpg"), f"{name}.jpg")
    for name in ("a", "long name of cat", "b", "another long name of dog")
]


def _texts(captioner, images=IMAGES, sources=SOURCES):
    return [found.texts for found in captioner(images, sources)]


@pytest.fixture
def roomy(monkeypatch):
    """A CPU that takes whole batches, as accelerators do."""
    monkeypatch.setattr("condkit.budget._PIXELS", {"cpu": 10**9})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_equals_its_images_one_by_one(name, way, make, roomy):
    captioner = make(name, settings={**WAYS[way], "max_new_tokens": LENGTH})
    together = _texts(captioner)
    alone = [_texts(captioner, [i], [s])[0] for i, s in zip(IMAGES, SOURCES, strict=True)]
    assert together == alone
    assert _texts(captioner, IMAGES[::-1], SOURCES[::-1]) == alone[::-1]
    # Otherwise the test would not see a mix-up.
    assert len(set(alone)) > 2


@pytest.mark.parametrize("name", PROMPTED)
def test_prompts_of_different_lengths_do_not_change_each_other(name, make, roomy):
    captioner = make(name, settings={"prompt": "a photo of {stem}", "max_new_tokens": LENGTH})
    together = _texts(captioner)
    assert together == [
        _texts(captioner, [i], [s])[0] for i, s in zip(IMAGES, SOURCES, strict=True)
    ]
    assert all(text.startswith("a photo of") for (text,) in together)
    bare = make(
        name,
        settings={"prompt": "a photo of {stem}", "max_new_tokens": LENGTH, "keep_prompt": False},
    )
    for (whole,), (rest,) in zip(together, _texts(bare), strict=True):
        assert whole.replace(" ", "").endswith(rest.replace(" ", ""))
        assert len(rest) < len(whole)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_again_is_the_same_and_another_seed_is_another(name, make):
    drawn = {"sample": True, "max_new_tokens": LENGTH, "temperature": 1.5, "top_p": 1}
    first = _texts(make(name, settings=drawn))
    assert first == _texts(make(name, settings=drawn))
    assert first != _texts(make(name, settings={**drawn, "seed": 1}))


@pytest.mark.parametrize("name", NETWORKS)
def test_images_stay_as_they_are(name, make):
    before = [image.copy() for image in IMAGES]
    make(name, settings={"max_new_tokens": 3, "min_new_tokens": 0})(IMAGES, SOURCES)
    assert all(np.array_equal(a, b) for a, b in zip(before, IMAGES, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_an_image_gets_as_many_captions_as_asked_for(name, make):
    settings = {"max_new_tokens": 6, "min_new_tokens": 2}
    for sample in (False, True):
        captioner = make(name, settings={**settings, "count": 3, "sample": sample})
        assert captioner.many
        assert {len(texts) for texts in _texts(captioner)} == {3}
    one = make(name, settings=settings)
    assert not one.many
    three = make(name, settings={**settings, "count": 3})
    # What is drawn besides does not change what the beams say.
    assert [texts[:1] for texts in _texts(three)] == _texts(one)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_pixel_decides_what_is_drawn_not_the_name(name, make):
    captioner = make(name, settings={"sample": True, "max_new_tokens": LENGTH, "top_p": 1})
    first, again = _texts(captioner, [IMAGES[0], IMAGES[0].copy()], SOURCES[:2])
    assert first == again


# --- transformers' own code on the same weights


def _folder(name, random_store):
    store = random_store(name)
    return store.folder(next(iter(get_network(name).weights.values())))


PEER_WAYS = {
    "greedy": {"num_beams": 1, "repetition_penalty": 1.7, "min_new_tokens": 4},
    "beam": {"num_beams": 3},
}


def _peer(name, folder):
    import transformers
    from transformers import AutoImageProcessor, AutoTokenizer

    pictures = AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model_class, processor_class, options = {
        "blip2": ("Blip2ForConditionalGeneration", "Blip2Processor", {"num_query_tokens": 4}),
        "florence2": ("Florence2ForConditionalGeneration", "Florence2Processor", {}),
    }.get(name, ("BlipForConditionalGeneration", "BlipProcessor", {}))
    model = getattr(transformers, model_class).from_pretrained(folder, dtype=torch.float32).eval()
    return model, getattr(transformers, processor_class)(pictures, tokenizer, **options)


@pytest.mark.parametrize("way", PEER_WAYS)
@pytest.mark.parametrize(
    ("name", "prompt"),
    [(name, "") for name in NETWORKS] + [(name, "a photo of") for name in PROMPTED],
)
def test_captions_are_those_of_transformers(name, prompt, way, make, random_store):
    options = {"min_new_tokens": 0, **PEER_WAYS[way], "max_new_tokens": LENGTH}
    settings = options if name == "florence2" else {**options, "prompt": prompt}
    ours = _texts(make(name, settings=settings))
    model, processor = _peer(name, _folder(name, random_store))
    for image, (text,) in zip(IMAGES, ours, strict=True):
        task = "<DETAILED_CAPTION>" if name == "florence2" else prompt or None
        inputs = processor(images=Image.fromarray(image), text=task, return_tensors="pt")
        tokens = model.generate(**inputs, do_sample=False, **options)
        if name.startswith("blip-"):
            # The tokenizer has no token for the decoder's first one.
            tokens = tokens[:, 1:]
        (expected,) = processor.batch_decode(tokens, skip_special_tokens=True)
        assert text == one_line(expected)


@pytest.mark.parametrize("name", network_captioners())
def test_pictures_come_in_as_the_published_processor_brings_them(name, random_store):
    from transformers import AutoImageProcessor

    folder = _folder(name, random_store)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    prepared = PictureInput.read(folder)
    for image in IMAGES:
        ours = prepared.to_device(
            np.stack([prepared.resize(image)]), torch.device("cpu"), torch.float32
        )
        theirs = processor(Image.fromarray(image), return_tensors="pt")
        assert torch.allclose(ours, theirs.pixel_values, atol=1e-5)


def test_the_nucleus_is_that_of_transformers():
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    scores = torch.randn(40, 50, generator=torch.Generator().manual_seed(0)) * 2
    for top_p in (0.01, 0.3, 0.9, 1.0):
        warped = TemperatureLogitsWarper(0.7)(None, scores)
        allowed = TopPLogitsWarper(top_p)(None, warped) > float("-inf")
        seen = torch.zeros_like(allowed)
        for number in torch.linspace(0, 1 - 1e-6, 400):
            numbers = torch.full((40, 1), float(number))
            drawn = NucleusSampler(numbers, top_p=top_p, temperature=0.7)(None, scores)
            seen |= drawn == 0
        assert not bool((seen & ~allowed).any())
        # Every token is drawn whose share is larger than the step between two numbers.
        shares = torch.where(allowed, warped.softmax(-1), 0)
        shares /= shares.sum(-1, keepdim=True)
        assert bool(seen[shares > 1 / 350].all())


def test_tokens_are_drawn_as_often_as_they_are_probable():
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).repeat(20000, 1)
    numbers = torch.from_numpy(np.random.default_rng(0).random((20000, 1), dtype=np.float32))
    drawn = NucleusSampler(numbers, top_p=1.0, temperature=1.0)(None, scores) == 0
    expected = scores[0].softmax(-1)
    assert torch.allclose(drawn.float().mean(0), expected, atol=0.015)


# --- settings, memory, errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, r"captions\.count: expected at least 1, got 0"),
        ({"top_p": 0}, r"captions\.top_p: expected above 0 and at most 1"),
        ({"temperature": 0}, r"captions\.temperature"),
        ({"min_new_tokens": 9, "max_new_tokens": 5}, r"captions\.min_new_tokens"),
        ({"seed": -1}, r"captions\.seed"),
        ({"num_beam": 1}, "did you mean 'num_beams'"),
        ({"prompt": "{stm}"}, r"captions\.prompt: unknown part"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_loaded(settings, message):
    with pytest.raises(ValueError, match=message):
        make_captioner("blip-base", settings=settings)


@pytest.mark.parametrize("name", network_captioners())
def test_captions_longer_than_the_network_can_be_are_refused(name, make):
    captioner = make(name, settings={"max_new_tokens": 2000, "min_new_tokens": 0})
    with pytest.raises(ConfigError, match=r"captions\.max_new_tokens: expected less than"):
        _texts(captioner)


def test_a_prompt_that_is_too_long_rejects_its_image_alone(make):
    captioner = make("blip-base", settings={"prompt": "{stem}", "max_new_tokens": 20})
    long = SourceFile(Path("/none/x.jpg"), "a cat " * 40 + ".jpg")
    good, bad = captioner(IMAGES[:2], [SOURCES[0], long])
    assert not isinstance(good, Rejection)
    assert isinstance(bad, Rejection)
    assert bad.stage == "caption"
    assert "max_new_tokens" in bad.reason


def test_a_column_that_a_prompt_lacks_rejects_its_image_alone(make):
    settings = {"prompt": "a {fields[kind]}", "max_new_tokens": LENGTH}
    captioner = make("blip-base", settings=settings)
    good = SourceFile(Path("/none/x.jpg"), "x.jpg", fields={"kind": "cat"})
    found, missing = captioner(IMAGES[:2], [good, SOURCES[0]])
    assert found.texts[0].startswith("a cat")
    assert isinstance(missing, Rejection)
    assert "column 'kind'" in missing.reason


def test_memory_that_runs_out_halves_the_batch(make, roomy, monkeypatch):
    captioner = make("blip-base", settings={"max_new_tokens": LENGTH})
    expected = _texts(captioner)
    network = captioner._loaded[0]
    sizes = []
    encode = type(network).encode

    def tight(self, pictures, prompts):
        sizes.append(len(pictures))
        if len(pictures) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(self, pictures, prompts)

    monkeypatch.setattr(type(network), "encode", tight)
    assert _texts(captioner) == expected
    assert sizes[0] == len(IMAGES)
    assert max(sizes[1:]) <= 2
    monkeypatch.setattr(
        type(network), "encode", lambda *a: (_ for _ in ()).throw(torch.OutOfMemoryError("full"))
    )
    with pytest.raises(DeviceMemoryError, match=r"blip-base.*use fewer beams"):
        _texts(captioner)


def test_numbers_that_are_none_are_an_error_not_a_caption(make, monkeypatch):
    captioner = make("blip-base", settings={"max_new_tokens": LENGTH})
    _texts(captioner)
    network = captioner._loaded[0]
    monkeypatch.setattr(
        type(network), "encode", lambda self, pictures, prompts: torch.full((1, 2, 3), torch.nan)
    )
    with pytest.raises(MapError, match="no finite numbers; use --dtype"):
        _texts(captioner)


def test_the_network_is_loaded_at_the_first_call_and_let_go(make):
    captioner = make("blip-base", settings={"max_new_tokens": 6})
    assert captioner._loaded is None
    first = _texts(captioner)
    captioner.close()
    assert captioner._loaded is None
    assert _texts(captioner) == first


def test_without_weights_every_place_that_was_tried_is_told(tmp_path):
    store = WeightStore(overrides=(tmp_path,), cache=tmp_path / "cache", offline=True)
    captioner = make_captioner(
        "blip-base", existing="replace", runtime=Runtime(device="cpu", store=store)
    )
    with pytest.raises(WeightsError, match="Salesforce/blip-image-captioning-base "):
        _texts(captioner)


@pytest.mark.parametrize("name", network_captioners())
def test_foreign_weights_are_refused(name, random_store, tmp_path):
    """Half-filled networks still say something."""
    import shutil

    from safetensors.torch import load_file, save_file

    definition = get_network(name)
    folder = tmp_path / "model"
    shutil.copytree(_folder(name, random_store), folder)
    file = next(f for f in sorted(folder.iterdir()) if f.suffix in (".safetensors", ".bin"))
    pickled = file.suffix == ".bin"
    state = torch.load(file, weights_only=True) if pickled else load_file(file)
    lost = next(key for key in state if "attn" in key or "attention" in key or "conv" in key)
    kept = {key: value for key, value in state.items() if key != lost}
    torch.save(kept, file) if pickled else save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"missing|cannot be loaded"):
        definition.load(folder, definition.settings(), torch.device("cpu"), torch.float32)


def test_blip_loads_as_it_was_published(make, random_store, tmp_path):
    """Older files hold position numbers, and each tied tensor once."""
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(_folder("blip-base", random_store), folder)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    for tied in ("weight", "bias"):
        del state[f"text_decoder.cls.predictions.decoder.{tied}"]
    state["text_decoder.bert.embeddings.position_ids"] = torch.arange(64)[None]
    torch.save(state, folder / "pytorch_model.bin")
    definition = get_network("blip-base")
    settings = definition.settings(max_new_tokens=LENGTH)
    network = definition.load(folder, settings, torch.device("cpu"), torch.float32)
    captioner = make("blip-base", settings={"max_new_tokens": LENGTH})
    expected = _texts(captioner)
    captioner._loaded = (network, captioner._loaded[1])
    assert _texts(captioner) == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision_captions_are_captions(name, make, random_store):
    captioner = make_captioner(
        name,
        existing="replace",
        settings={"max_new_tokens": LENGTH, "num_beams": 1},
        runtime=Runtime(device="cpu", dtype="bf16", store=random_store(name)),
    )
    assert all(len(texts) == 1 for texts in _texts(captioner))
    model = captioner._loaded[0].model
    assert torch.bfloat16 in {p.dtype for p in model.parameters()}


@pytest.mark.parametrize("name", network_captioners())
def test_hashes_of_the_weights_stand_in_the_description(name):
    values = make_captioner(name).as_dict()
    model = next(iter(get_network(name).weights.values()))
    assert [entry["file"] for entry in values["weights"]] == [file.name for file in model.files]
    assert make_captioner(name, settings={"seed": 3}).as_dict() != values


def test_a_budget_counts_beams_and_samples(make):
    narrow = make("blip-base", settings={"num_beams": 1, "max_new_tokens": 6})
    wide = make("blip-base", settings={"num_beams": 4, "max_new_tokens": 6})
    for captioner in (narrow, wide):
        _texts(captioner, IMAGES[:1], SOURCES[:1])
    assert isinstance(narrow._loaded[1], Budget)
    assert wide._loaded[1].pixels <= narrow._loaded[1].pixels


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_gpu_captions_whole_batches(name, dtype, random_store):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    captioner = make_captioner(
        name,
        existing="replace",
        settings={"max_new_tokens": LENGTH, "count": 2},
        runtime=Runtime(device="cuda", dtype=dtype, store=random_store(name)),
    )
    assert {len(texts) for texts in _texts(captioner)} == {2}
    assert {p.device.type for p in captioner._loaded[0].model.parameters()} == {"cuda"}
