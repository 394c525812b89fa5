from __future__ import annotations

import runpy
from pathlib import Path


def write(folder: Path) -> None:
    """SegFormer B5 and B0, small and random, as the hub lays them out."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=32,
        num_labels=150,
    )
    network = transformers.SegformerForSemanticSegmentation(config).eval()
    with torch.no_grad():
        # What a random network says differs little from class to class.
        network.decode_head.linear_fuse.weight *= 8
        network.decode_head.classifier.weight *= 8
    processor = transformers.SegformerImageProcessor(
        size={"height": 64, "width": 64},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    big = folder / "nvidia/segformer-b5-finetuned-ade-640-640"
    small = folder / "nvidia/segformer-b0-finetuned-ade-512-512"
    runpy.run_path(str(Path(__file__).with_name("pickles.py")))["save_as_pickle"](network, big)
    network.save_pretrained(small)
    for place in (big, small):
        processor.save_pretrained(place)
