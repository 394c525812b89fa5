from __future__ import annotations

from pathlib import Path


def write(folder: Path) -> None:
    """A small DPT-hybrid of random weights, as a pickle like the published one."""
    import torch
    from transformers import BitConfig, DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    torch.manual_seed(0)
    config = DPTConfig(
        is_hybrid=True,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=64,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        backbone_featmap_shape=[1, 64, 4, 4],
        neck_hidden_sizes=[16, 32, 32, 32],
        fusion_hidden_size=16,
        backbone_config=BitConfig(
            embedding_size=16,
            hidden_sizes=[16, 32, 64],
            depths=[1, 1, 1],
            num_groups=4,
            layer_type="bottleneck",
            global_padding="same",
            out_features=["stage1", "stage2", "stage3"],
            embedding_dynamic_padding=True,
        ),
    )
    network = DPTForDepthEstimation(config)
    _make_lively(network)
    target = folder / "Intel" / "dpt-hybrid-midas"
    network.config.save_pretrained(target)
    # The published file lacks what the network never runs.
    state = {
        key: value
        for key, value in network.state_dict().items()
        if not key.startswith("neck.fusion_stage.layers.0.residual_layer1.")
    }
    torch.save(state, target / "pytorch_model.bin")
    DPTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(target)


def _make_lively(network):
    """Weights at which the output depends on the image."""
    import torch

    with torch.no_grad():
        for name, values in network.named_parameters():
            if "position_embeddings" in name:
                values.normal_(std=0.2)
            elif values.ndim > 1:
                fan_in = values[0].numel()
                values.normal_(std=(1 / (3 * fan_in)) ** 0.5)
        network.head.head[-2].weight.abs_().mul_(100)
        network.head.head[-2].bias.fill_(0.5)
