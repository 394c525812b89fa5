from __future__ import annotations

import runpy
from pathlib import Path

MODELS = {
    "facebook/mask2former-swin-large-ade-semantic": 150,
    "facebook/mask2former-swin-large-coco-panoptic": 133,
}


def write(folder: Path) -> None:
    """Both models, small and random, as the hub lays them out."""
    import torch
    import transformers

    for number, (repo, classes) in enumerate(MODELS.items()):
        torch.manual_seed(number)
        network = transformers.Mask2FormerForUniversalSegmentation(_config(classes)).eval()
        module = network.model
        pixels = torch.randn(1, 3, 64, 64)
        runpy.run_path(str(Path(__file__).with_name("query_heads.py")))["spread"](
            network,
            [
                module.pixel_level_module.decoder.mask_projection,
                module.transformer_module.decoder.mask_predictor.mask_embedder,
                network.class_predictor,
            ],
            lambda network=network, pixels=pixels: network(pixels),
        )
        network.save_pretrained(folder / repo)
        processor = transformers.Mask2FormerImageProcessor(
            size={"height": 384, "width": 384},
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        )
        processor.save_pretrained(folder / repo)


def _config(classes):
    import transformers

    return transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=4,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        num_labels=classes,
        num_queries=20,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=1,
        decoder_layers=3,
        num_attention_heads=4,
    )
