from __future__ import annotations

import runpy
from pathlib import Path

HERE = Path(__file__)


def write(folder: Path) -> None:
    """A small BLIP-2 of random weights in two shards, as published."""
    import torch
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        BlipImageProcessor,
        OPTConfig,
    )

    torch.manual_seed(0)
    target = folder / "Salesforce/blip2-opt-2.7b"
    size = runpy.run_path(str(HERE.with_name("byte_level.py")))["save_tokenizer"](
        target,
        {"<pad>": 0, "<s>": 1, "</s>": 2, "<image>": 3},
        before="</s>",
        after=None,
        config={
            "tokenizer_class": "GPT2Tokenizer",
            "bos_token": "</s>",
            "eos_token": "</s>",
            "unk_token": "</s>",
            "pad_token": "<pad>",
            "add_bos_token": True,
        },
    )
    text = OPTConfig(
        vocab_size=size,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=96,
        bos_token_id=2,
        # As published: a line end closes the caption.
        eos_token_id=5,
        pad_token_id=1,
    )
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    qformer = {
        "hidden_size": 32,
        "encoder_hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 16,
    }
    config = Blip2Config(
        text_config=text.to_dict(),
        vision_config=vision,
        qformer_config=qformer,
        num_query_tokens=4,
        image_token_index=3,
    )
    network = Blip2ForConditionalGeneration(config)
    runpy.run_path(str(HERE.with_name("blip_base.py")))["make_lively"](network)
    network.save_pretrained(target, max_shard_size="230KB")
    BlipImageProcessor(size={"height": 28, "width": 28}).save_pretrained(target)
