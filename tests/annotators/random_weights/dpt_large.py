from __future__ import annotations

from pathlib import Path


def write(folder: Path) -> None:
    """A small DPT on a plain vision transformer, of random weights."""
    import torch
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=64,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 16, 32, 32],
        fusion_hidden_size=16,
    )
    network = DPTForDepthEstimation(config)
    with torch.no_grad():
        for name, values in network.named_parameters():
            if "position_embeddings" in name:
                values.normal_(std=0.2)
            elif values.ndim > 1:
                values.normal_(std=(1 / (3 * values[0].numel())) ** 0.5)
        network.head.head[-2].weight.abs_().mul_(1000)
        network.head.head[-2].bias.fill_(0.5)
    target = folder / "Intel" / "dpt-large"
    network.save_pretrained(target)
    DPTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(target)
