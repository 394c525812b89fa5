from __future__ import annotations

from pathlib import Path


def write(folder: Path) -> None:
    """A small ZoeDepth-NK (two metric heads) of random weights."""
    import torch
    from transformers import (
        BeitConfig,
        ZoeDepthConfig,
        ZoeDepthForDepthEstimation,
        ZoeDepthImageProcessor,
    )

    torch.manual_seed(0)
    config = ZoeDepthConfig(
        backbone_config=BeitConfig(
            image_size=64,
            patch_size=16,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=48,
            use_relative_position_bias=True,
            reshape_hidden_states=False,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        neck_hidden_sizes=[8, 16, 16, 32],
        fusion_hidden_size=16,
        bottleneck_features=16,
        num_relative_features=8,
        num_attractors=[4, 2, 2, 1],
        bin_embedding_dim=16,
        bin_configurations=[
            {"name": "nyu", "n_bins": 16, "min_depth": 0.001, "max_depth": 10.0},
            {"name": "kitti", "n_bins": 16, "min_depth": 0.001, "max_depth": 80.0},
        ],
        num_patch_transformer_layers=4,
        patch_transformer_hidden_size=128,
        patch_transformer_intermediate_size=32,
        patch_transformer_num_attention_heads=2,
    )
    network = ZoeDepthForDepthEstimation(config)
    with torch.no_grad():
        for name, values in network.named_parameters():
            if values.ndim > 1 and "token" not in name:
                values.normal_(std=(1 / values[0].numel()) ** 0.5)
        for head in network.metric_head.seed_bin_regressors.values():
            head.conv2.weight.mul_(8)
    target = folder / "Intel" / "zoedepth-nyu-kitti"
    network.save_pretrained(target)
    ZoeDepthImageProcessor(size={"height": 64, "width": 64}, ensure_multiple_of=32).save_pretrained(
        target
    )
