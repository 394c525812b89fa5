from __future__ import annotations

import runpy
from pathlib import Path


def write(folder: Path) -> None:
    """RT-DETR and the ViTPoses, small and random, as the hub lays them out."""
    import torch
    import transformers

    torch.manual_seed(0)
    _save_detector(folder / "PekingU/rtdetr_r50vd_coco_o365")
    processor = transformers.VitPoseImageProcessor(size={"height": 64, "width": 48})
    for name, experts in (
        ("base-simple", 1),
        ("plus-small", 6),
        ("plus-base", 6),
        ("plus-large", 6),
        ("plus-huge", 6),
    ):
        network = transformers.VitPoseForPoseEstimation(_pose_config(experts)).eval()
        with torch.no_grad():
            for layer in network.modules():
                if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                    fan_in = layer.weight[0].numel()
                    torch.nn.init.normal_(layer.weight, std=1.2 * fan_in**-0.5)
            network.head.conv.bias.fill_(0.3)
        place = folder / f"usyd-community/vitpose-{name}"
        network.save_pretrained(place)
        processor.save_pretrained(place)


def _pose_config(experts: int):
    import transformers

    return transformers.VitPoseConfig(
        backbone_config=transformers.VitPoseBackboneConfig(
            image_size=[64, 48],
            patch_size=[16, 16],
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            mlp_ratio=2,
            num_experts=experts,
            part_features=6 if experts > 1 else 0,
            out_indices=[2],
        ),
        num_labels=17,
        use_simple_decoder=True,
        scale_factor=4,
    )


def _save_detector(place: Path) -> None:
    import torch
    import transformers

    config = transformers.RTDetrConfig(
        backbone_config=transformers.RTDetrResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16, 16, 16],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        ),
        encoder_hidden_dim=16,
        encoder_in_channels=[16, 16, 16],
        feat_strides=[8, 16, 32],
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=12,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=1,
        decoder_attention_heads=2,
        num_labels=80,
        num_denoising=0,
    )
    network = transformers.RTDetrForObjectDetection(config).eval()
    centre = runpy.run_path(str(Path(__file__).with_name("query_heads.py")))["centre"]
    picture = torch.rand(1, 3, 320, 320).round(decimals=0)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                fan_in = layer.weight[0].numel()
                torch.nn.init.normal_(layer.weight, std=1.4 * fan_in**-0.5)
        # Sure of persons in places.
        for layer in (
            network.model.enc_score_head,
            network.model.enc_bbox_head.layers[-1],
            network.model.decoder.class_embed[0],
        ):
            centre(layer, lambda: network(picture), deviation=1)
        network.model.decoder.class_embed[0].bias -= 1
    network.save_pretrained(place)
    transformers.RTDetrImageProcessor().save_pretrained(place)
