from __future__ import annotations

import runpy
from pathlib import Path

MODELS = {"shi-labs/oneformer_ade20k_swin_large": 150, "shi-labs/oneformer_coco_swin_large": 133}


def write(folder: Path) -> None:
    """Both models, small and random, as a pickle and with the files of the hub that are needed."""
    import torch
    import transformers

    for number, (repo, classes) in enumerate(MODELS.items()):
        torch.manual_seed(number)
        network = transformers.OneFormerForUniversalSegmentation(_config(classes)).eval()
        decoder = network.model.transformer_module.decoder
        pixels, task = torch.randn(1, 3, 64, 64), torch.zeros(1, 77)
        runpy.run_path(str(Path(__file__).with_name("query_heads.py")))["spread"](
            network,
            [
                network.model.pixel_level_module.decoder.mask_projection,
                decoder.mask_embed,
                decoder.class_embed,
            ],
            lambda network=network, pixels=pixels, task=task: network(pixels, task),
        )
        place = folder / repo
        runpy.run_path(str(Path(__file__).with_name("pickles.py")))["save_as_pickle"](
            network, place
        )
        # Without a class_info_file, which transformers looks up on the network.
        processor = transformers.OneFormerImageProcessor(
            size={"shortest_edge": 64, "longest_edge": 256},
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        )
        processor.save_pretrained(place)


def _config(classes):
    import transformers

    return transformers.OneFormerConfig(
        backbone_config=transformers.SwinConfig(
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=4,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        num_labels=classes,
        num_queries=20,
        conv_dim=32,
        mask_dim=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=1,
        decoder_layers=3,
        query_dec_layers=1,
        num_attention_heads=4,
    )
