from __future__ import annotations

import runpy
from pathlib import Path

SIDE = 64


def write(folder: Path) -> None:
    """SAM 2.1 in its four sizes, all the same, small and random, as the hub lays them out.

    The published files are those of the video model, with a memory that pictures do not need.
    """
    import torch
    import transformers

    torch.manual_seed(3)
    network = transformers.Sam2Model(_config()).eval()
    with torch.no_grad():
        _make_decided(network)
    video = transformers.Sam2VideoModel(_video_config(network.config.to_dict()))
    assert not video.load_state_dict(network.state_dict(), strict=False).unexpected_keys
    processor = transformers.Sam2ImageProcessor(
        size={"height": SIDE, "width": SIDE},
        mask_size={"height": SIDE // 4, "width": SIDE // 4},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    for size in ("tiny", "small", "base-plus", "large"):
        place = folder / f"facebook/sam2.1-hiera-{size}"
        video.save_pretrained(place)
        processor.save_pretrained(place)


PROMPTS = {"hidden_size": 64, "image_size": SIDE, "mask_input_channels": 8}
DECODER = {"hidden_size": 64, "mlp_dim": 32, "num_attention_heads": 4, "iou_head_hidden_dim": 16}


def _config():
    import transformers

    cells = SIDE // 4
    return transformers.Sam2Config(
        vision_config=transformers.Sam2VisionConfig(
            backbone_config=transformers.Sam2HieraDetConfig(
                hidden_size=8,
                image_size=[SIDE, SIDE],
                blocks_per_stage=[1, 1, 2, 1],
                embed_dim_per_stage=[8, 16, 32, 64],
                num_attention_heads_per_stage=[1, 1, 2, 2],
                window_size_per_stage=[8, 4, 4, 4],
                global_attention_blocks=[3],
            ).to_dict(),
            backbone_channel_list=[64, 32, 16, 8],
            backbone_feature_sizes=[[cells, cells], [cells // 2] * 2, [cells // 4] * 2],
            fpn_hidden_size=64,
        ).to_dict(),
        prompt_encoder_config=PROMPTS,
        mask_decoder_config=DECODER,
    )


def _video_config(picture):
    import transformers

    return transformers.Sam2VideoConfig(
        vision_config=picture["vision_config"],
        prompt_encoder_config=PROMPTS,
        mask_decoder_config=DECODER,
        image_size=SIDE,
        memory_attention_hidden_size=64,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=[SIDE // 16, SIDE // 16],
        memory_encoder_hidden_size=64,
        memory_encoder_output_channels=16,
        mask_downsampler_embed_dim=64,
        memory_fuser_embed_dim=64,
        memory_fuser_intermediate_dim=32,
    )


def _make_decided(network) -> None:
    """Masks that depend on the picture and the point, some of them good enough to count."""
    import torch

    for layer in network.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            fan_in = layer.weight[0].numel()
            torch.nn.init.normal_(layer.weight, std=1.5 * fan_in**-0.5)
    decoder = network.mask_decoder
    along = torch.linspace(4, SIDE - 4, 8)
    points = torch.cartesian_prod(along, along)[None, :, None]
    pixels = torch.randn(1, 3, SIDE, SIDE)
    centre = runpy.run_path(str(Path(__file__).with_name("query_heads.py")))["centre"]
    for mlp in decoder.output_hypernetworks_mlps:
        centre(mlp.proj_out, lambda: network(pixels, input_points=points), deviation=8)
    quality = decoder.iou_prediction_head.proj_out
    centre(quality, lambda: network(pixels, input_points=points))
    quality.bias += 2
