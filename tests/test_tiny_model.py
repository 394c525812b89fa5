"""The built-in base model: it loads with plain diffusers, is small, and does what captions say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline
from transformers import CLIPTokenizer

import condkit
from condkit.scenes import COLOURS, KINDS, SIZE, Shape, caption_of, read_scene

MODEL = Path(condkit.__file__).parent / "assets" / "tiny"
MOST_BYTES = 16_000_000


@pytest.fixture(scope="module")
def pipeline() -> Any:
    loaded = StableDiffusionPipeline.from_pretrained(MODEL, safety_checker=None)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(MODEL, subfolder="tokenizer")


def sample(pipeline: Any, captions: list[str], steps: int = 25) -> list[np.ndarray]:
    seeds = [torch.Generator().manual_seed(number) for number in range(len(captions))]
    images = pipeline(
        captions,
        num_inference_steps=steps,
        guidance_scale=3.0,
        generator=seeds,
        output_type="np",
    ).images
    return list((images * 255).round().astype(np.uint8))


def test_the_model_is_small() -> None:
    size = sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file())
    assert size <= MOST_BYTES


def test_every_folder_of_the_layout_is_there() -> None:
    assert (MODEL / "model_index.json").is_file()
    for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler"):
        assert (MODEL / name).is_dir(), name
    assert not list(MODEL.rglob("*.bin"))


def test_the_model_card_states_licence_and_figures() -> None:
    card = (MODEL / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "dB" in card
    assert "{" not in card


def test_all_parts_load_in_one_type(pipeline: Any) -> None:
    types = {part.dtype for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet)}
    assert types == {torch.float32}


def test_the_parts_fit_together(pipeline: Any) -> None:
    assert pipeline.vae_scale_factor == 4
    assert pipeline.unet.config.sample_size * 4 == SIZE
    assert pipeline.unet.config.cross_attention_dim == pipeline.text_encoder.config.hidden_size
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


def test_special_tokens_agree(pipeline: Any) -> None:
    config, tokens = pipeline.text_encoder.config, pipeline.tokenizer
    assert config.vocab_size == len(tokens)
    assert config.bos_token_id == tokens.bos_token_id
    assert config.eos_token_id == tokens.eos_token_id
    assert config.pad_token_id == tokens.pad_token_id
    assert config.max_position_embeddings == tokens.model_max_length


def test_every_caption_word_is_one_token(tokenizer: CLIPTokenizer) -> None:
    for word in (*COLOURS, *KINDS, "a", "an", "and", "on", "background"):
        assert tokenizer.tokenize(word) == [f"{word}</w>"]
        assert tokenizer.tokenize(word.upper()) == [f"{word}</w>"]


@pytest.mark.parametrize("text", ["a Zebra's stripes, 42%", "naïve façade", "東京 🙂", "_~`\\"])
def test_any_text_can_be_tokenized(tokenizer: CLIPTokenizer, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids
    assert tokenizer.unk_token_id not in ids


def test_an_empty_caption_is_two_special_tokens(tokenizer: CLIPTokenizer) -> None:
    assert tokenizer("").input_ids == [tokenizer.bos_token_id, tokenizer.eos_token_id]


def test_the_pooled_output_is_that_of_the_first_end_token(pipeline: Any) -> None:
    ids = pipeline.tokenizer(["a red cross", ""], padding="max_length", return_tensors="pt")
    with torch.no_grad():
        output = pipeline.text_encoder(ids.input_ids)
    expected = torch.stack([output.last_hidden_state[0, 4], output.last_hidden_state[1, 1]])
    assert torch.equal(output.pooler_output, expected)


def test_a_fresh_controlnet_changes_nothing(pipeline: Any) -> None:
    controlnet = ControlNetModel.from_unet(
        pipeline.unet, conditioning_embedding_out_channels=(16, 32, 64)
    )
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, 4, 16, 16, generator=generator)
    states = torch.randn(2, 32, pipeline.unet.config.cross_attention_dim, generator=generator)
    times = torch.tensor([10, 999])
    hint = torch.rand(2, 3, SIZE, SIZE, generator=generator)
    with torch.no_grad():
        down, middle = controlnet(noisy, times, states, hint, return_dict=False)
        plain = pipeline.unet(noisy, times, states).sample
        controlled = pipeline.unet(
            noisy,
            times,
            states,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
    assert torch.equal(plain, controlled)


def test_sampling_is_repeatable(pipeline: Any) -> None:
    first, second = (sample(pipeline, ["a blue cross on a white background"], 2) for _ in range(2))
    assert first[0].shape == (SIZE, SIZE, 3)
    assert np.array_equal(first[0], second[0])


@pytest.mark.slow
def test_pictures_show_what_captions_say(pipeline: Any) -> None:
    wanted = [
        ("circle", "red", "yellow"),
        ("square", "blue", "white"),
        ("triangle", "green", "pink"),
        ("cross", "white", "purple"),
        ("circle", "cyan", "black"),
        ("square", "orange", "gray"),
        ("triangle", "black", "orange"),
        ("cross", "yellow", "blue"),
        ("circle", "pink", "brown"),
        ("square", "purple", "green"),
    ]
    captions = [
        caption_of([Shape(kind, colour, 32, 32, 12)], back) for kind, colour, back in wanted
    ]
    readings = [read_scene(picture) for picture in sample(pipeline, captions)]
    right = [
        (reading.kind, reading.colour, reading.background) == expected
        for reading, expected in zip(readings, wanted, strict=True)
    ]
    assert sum(right) >= 8, readings
