from __future__ import annotations

import runpy
from pathlib import Path


def write(folder: Path) -> None:
    """UPerNet with ConvNeXt, small and random, under both hub ids."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.UperNetConfig(
        backbone_config=transformers.ConvNextConfig(
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        hidden_size=16,
        auxiliary_in_channels=16,
        auxiliary_channels=8,
        num_labels=150,
    )
    network = transformers.UperNetForSemanticSegmentation(config).eval()
    with torch.no_grad():
        # What a random network says differs little from class to class.
        for layer in network.modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                fan_in = layer.weight[0].numel()
                torch.nn.init.normal_(layer.weight, std=1.5 * fan_in**-0.5)
    processor = transformers.SegformerImageProcessor(
        size={"height": 64, "width": 64},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    for size in ("small", "large"):
        place = folder / f"openmmlab/upernet-convnext-{size}"
        runpy.run_path(str(Path(__file__).with_name("pickles.py")))["save_as_pickle"](
            network, place
        )
        processor.save_pretrained(place)
