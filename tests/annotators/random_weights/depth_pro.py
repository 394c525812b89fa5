from __future__ import annotations

from pathlib import Path


def write(folder: Path) -> None:
    """A small Depth Pro of random weights: squares of 192 instead of 1536 pixels."""
    import torch
    from transformers import (
        DepthProConfig,
        DepthProForDepthEstimation,
        DepthProImageProcessor,
        Dinov2Config,
    )

    torch.manual_seed(0)

    def encoder() -> Dinov2Config:
        return Dinov2Config(
            image_size=48,
            patch_size=16,
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            mlp_ratio=2,
            use_mask_token=False,
        )

    config = DepthProConfig(
        patch_size=48,
        fusion_hidden_size=16,
        intermediate_hook_ids=[2, 0],
        intermediate_feature_dims=[16, 16],
        scaled_images_feature_dims=[16, 16, 16],
        merge_padding_value=1,
        num_fov_head_layers=2,
        use_fov_model=True,
        image_model_config=encoder(),
        patch_model_config=encoder(),
        fov_model_config=encoder(),
    )
    network = DepthProForDepthEstimation(config)
    with torch.no_grad():
        for name, values in network.named_parameters():
            if values.ndim > 1 and "token" not in name:
                values.normal_(std=(1 / (3 * values[0].numel())) ** 0.5)
        network.head.layers[-2].weight.abs_().mul_(100)
        network.head.layers[-2].bias.fill_(0.1)
        network.fov_model.head.layers[-1].bias.fill_(55.0)
    target = folder / "apple" / "DepthPro-hf"
    network.save_pretrained(target)
    DepthProImageProcessor(size={"height": 192, "width": 192}).save_pretrained(target)
