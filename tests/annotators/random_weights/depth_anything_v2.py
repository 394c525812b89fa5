from __future__ import annotations

from pathlib import Path

SIZES = {"Small": 24, "Base": 32, "Large": 40}


def write(folder: Path) -> None:
    """Three small Depth Anythings of random weights."""
    for name, width in SIZES.items():
        _write_one(folder / "depth-anything" / f"Depth-Anything-V2-{name}-hf", width)


def _write_one(target: Path, width: int) -> None:
    import torch
    from transformers import (
        DepthAnythingConfig,
        DepthAnythingForDepthEstimation,
        Dinov2Config,
        DPTImageProcessor,
    )

    torch.manual_seed(0)
    config = DepthAnythingConfig(
        backbone_config=Dinov2Config(
            image_size=70,
            patch_size=14,
            hidden_size=width,
            num_hidden_layers=4,
            num_attention_heads=2,
            mlp_ratio=2,
            out_indices=[1, 2, 3, 4],
            reshape_hidden_states=False,
        ),
        reassemble_hidden_size=width,
        neck_hidden_sizes=[8, 16, 16, 24],
        fusion_hidden_size=16,
        head_hidden_size=8,
    )
    network = DepthAnythingForDepthEstimation(config)
    with torch.no_grad():
        for name, values in network.named_parameters():
            if "position_embeddings" in name:
                values.normal_(std=0.2)
            elif values.ndim > 1 and "mask_token" not in name and "cls_token" not in name:
                values.normal_(std=(1 / (3 * values[0].numel())) ** 0.5)
        network.head.conv3.weight.abs_().mul_(1000)
        network.head.conv3.bias.fill_(0.5)
    network.save_pretrained(target)
    DPTImageProcessor(
        size={"height": 70, "width": 70},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(target)
