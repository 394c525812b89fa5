from __future__ import annotations

import runpy
from pathlib import Path

HERE = Path(__file__)


def write(folder: Path) -> None:
    """A small Florence-2 of random weights, in the layout of transformers' own class."""
    import torch
    from transformers import (
        BartConfig,
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
    )

    torch.manual_seed(0)
    target = folder / "florence-community/Florence-2-base"
    specials = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4, "<image>": 5}
    size = runpy.run_path(str(HERE.with_name("byte_level.py")))["save_tokenizer"](
        target,
        specials,
        before="<s>",
        after="</s>",
        config={
            "tokenizer_class": "BartTokenizer",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
            "extra_special_tokens": {"image_token": "<image>"},
        },
    )
    text = BartConfig(
        vocab_size=size,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=128,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
    )
    vision = {
        "embed_dim": [8, 16, 16, 32],
        "num_heads": [1, 2, 2, 4],
        "num_groups": [1, 2, 2, 4],
        "depths": [1, 1, 1, 1],
        "window_size": 4,
        "projection_dim": 32,
    }
    config = Florence2Config(
        text_config=text.to_dict(), vision_config=vision, image_token_id=specials["<image>"]
    )
    network = Florence2ForConditionalGeneration(config)
    runpy.run_path(str(HERE.with_name("blip_base.py")))["make_lively"](network)
    network.generation_config.update(
        num_beams=3, early_stopping=True, no_repeat_ngram_size=3, forced_bos_token_id=0
    )
    network.save_pretrained(target)
    processor = CLIPImageProcessor(
        size={"height": 64, "width": 64},
        crop_size={"height": 64, "width": 64},
        do_center_crop=False,
        image_seq_length=5,
    )
    processor.save_pretrained(target)
