from __future__ import annotations

import pytest
import torch

from condkit.errors import TrainingError
from condkit.trainer.ldm_keys import PREFIX, from_ldm, ldm_names, to_ldm

SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD21 = {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
SDXL = {
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
# Counts that public converters were checked with.
PUBLISHED = [
    pytest.param(SD15, 340, 361_279_120, id="SD 1.5"),
    pytest.param(SD21, 340, 364_228_240, id="SD 2.1"),
    pytest.param(SDXL, 844, 1_251_014_160, id="SDXL"),
]


def control_net(config):
    from diffusers import ControlNetModel

    with torch.device("meta"):
        return ControlNetModel(**config)


@pytest.mark.parametrize(("config", "tensors", "parameters"), PUBLISHED)
def test_every_tensor_has_exactly_one_original_name(config, tensors, parameters):
    state = control_net(config).state_dict()
    names = ldm_names(state, layers_per_block=2)
    assert len(state) == tensors
    assert sum(tensor.numel() for tensor in state.values()) == parameters
    assert len(set(names.values())) == tensors
    assert from_ldm(to_ldm(state, layers_per_block=2), state, layers_per_block=2) == state


def test_the_names_are_those_of_the_published_checkpoints():
    names = ldm_names(control_net(SD15).state_dict(), layers_per_block=2)
    for ours, theirs in {
        "conv_in.weight": "input_blocks.0.0.weight",
        "time_embedding.linear_2.bias": "time_embed.2.bias",
        "controlnet_cond_embedding.conv_in.weight": "input_hint_block.0.weight",
        "controlnet_cond_embedding.blocks.5.bias": "input_hint_block.12.bias",
        "controlnet_cond_embedding.conv_out.weight": "input_hint_block.14.weight",
        "controlnet_down_blocks.11.weight": "zero_convs.11.0.weight",
        "controlnet_mid_block.bias": "middle_block_out.0.bias",
        "down_blocks.0.downsamplers.0.conv.weight": "input_blocks.3.0.op.weight",
        "down_blocks.1.resnets.0.conv_shortcut.weight": "input_blocks.4.0.skip_connection.weight",
        "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_k.weight": (
            "input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight"
        ),
        "down_blocks.3.resnets.1.time_emb_proj.bias": "input_blocks.11.0.emb_layers.1.bias",
        "mid_block.resnets.1.norm2.weight": "middle_block.2.out_layers.0.weight",
        "mid_block.attentions.0.proj_in.weight": "middle_block.1.proj_in.weight",
    }.items():
        assert names[ours] == theirs


def test_prefixed_names_of_a_whole_model_are_read_and_the_rest_is_left():
    state = control_net(SD15).state_dict()
    whole = {PREFIX + name: value for name, value in to_ldm(state, layers_per_block=2).items()}
    whole["model.diffusion_model.out.2.bias"] = torch.zeros(4)
    assert from_ldm(whole, state, layers_per_block=2) == state
    assert from_ldm(state, state, layers_per_block=2) == state


def test_a_missing_or_foreign_tensor_is_an_error_that_names_it():
    state = to_ldm(control_net(SD15).state_dict(), layers_per_block=2)
    expected = control_net(SD15).state_dict()
    del state["zero_convs.3.0.weight"]
    with pytest.raises(TrainingError, match=r"1 missing \(zero_convs\.3\.0\.weight\)"):
        from_ldm(state, expected, layers_per_block=2)
    state["zero_convs.3.0.weight"] = state["lora.up"] = torch.zeros(1)
    with pytest.raises(TrainingError, match=r"1 left over \(lora\.up\)"):
        from_ldm(state, expected, layers_per_block=2)
    with pytest.raises(TrainingError, match=r"no tensor 'up_blocks\.0\.x'"):
        ldm_names(["up_blocks.0.x"], layers_per_block=2)


@pytest.mark.parametrize(("config", "tensors", "parameters"), PUBLISHED[:2])
def test_diffusers_own_importer_gives_the_tensors_back(config, tensors, parameters):
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    model = control_net(config)
    state = model.state_dict()
    converted = convert_controlnet_checkpoint(to_ldm(state, layers_per_block=2), dict(model.config))
    assert converted.keys() == state.keys()
    assert all(converted[name] is state[name] for name in state)
