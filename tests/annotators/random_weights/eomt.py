from __future__ import annotations

import runpy
from pathlib import Path

# (hub id, classes, side of the window, seen in windows)
MODELS = (
    ("tue-mps/ade20k_semantic_eomt_large_512", 150, 64, True),
    ("tue-mps/coco_panoptic_eomt_large_640", 133, 96, False),
)


def write(folder: Path) -> None:
    """Both models, small and random, as the hub lays them out."""
    import torch
    import transformers

    for number, (repo, classes, side, windows) in enumerate(MODELS):
        torch.manual_seed(number)
        config = transformers.EomtConfig(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=side,
            patch_size=16,
            num_queries=20,
            num_blocks=1,
            num_register_tokens=1,
            num_labels=classes,
        )
        network = transformers.EomtForUniversalSegmentation(config).eval()
        network.attn_mask_probs.zero_()  # as training leaves it
        pixels = torch.randn(1, 3, side, side)
        runpy.run_path(str(Path(__file__).with_name("query_heads.py")))["spread"](
            network,
            [network.mask_head, network.class_predictor],
            lambda network=network, pixels=pixels: network(pixels),
        )
        network.save_pretrained(folder / repo)
        processor = transformers.EomtImageProcessor(
            size={"shortest_edge": side, "longest_edge": None if windows else side},
            do_split_image=windows,
            do_pad=not windows,
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        )
        processor.save_pretrained(folder / repo)
