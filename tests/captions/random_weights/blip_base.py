from __future__ import annotations

from pathlib import Path

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# fmt: off
WORDS = [
    "a", "the", "of", "in", "on", "and", "with", "photo", "picture", "cat", "dog", "red", "blue",
    "green", "man", "woman", "hat", "car", "tree", "house", "street", "sky", "small", "large",
    "two", "three", "sitting", "standing", "running", "##s", "##ing", "##ed", ",", ".", "-", "'",
]
# fmt: on


def write(folder: Path, *, name: str = "Salesforce/blip-image-captioning-base") -> None:
    """A small BLIP of random weights, as a pickle like the published base model."""
    import torch

    network, target = build(folder / name)
    torch.save(network.state_dict(), target / "pytorch_model.bin")


def build(target: Path):
    """Everything but the weights' file; the network and its folder."""
    import torch
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
    )

    torch.manual_seed(0)
    words = [*SPECIAL, *WORDS]
    text = {
        "vocab_size": len(words) + 2,
        "hidden_size": 32,
        "encoder_hidden_size": 32,
        "intermediate_size": 48,
        "projection_dim": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": len(words),
        "eos_token_id": 2,
        "sep_token_id": 3,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "projection_dim": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    network = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision))
    make_lively(network)
    network.config.save_pretrained(target)
    vocabulary = {word: place for place, word in enumerate(words)}
    BertTokenizer(vocab=vocabulary).save_pretrained(target)
    BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(target)
    return network, target


def make_lively(network):
    """Weights at which the captions depend on the image."""
    import torch

    with torch.no_grad():
        for name, values in network.named_parameters():
            if "norm" in name.lower() or values.ndim < 2:
                continue
            if "embed" in name or "query_tokens" in name:
                values.normal_(std=0.5)
            else:
                values.normal_(std=1.5 * values[0].numel() ** -0.5)
    network.eval()
