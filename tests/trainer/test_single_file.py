"""Base models in one file: found out from the tensors' shapes, equal to the folder's."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import save_file

from condkit.errors import TrainingError
from condkit.trainer import ldm_shapes
from condkit.trainer.base_loading import load_base
from condkit.trainer.compute import resolve_compute
from condkit.trainer.ldm_keys import ldm_names
from condkit.trainer.ldm_shapes import Shapes
from condkit.trainer.single_file import predicts_velocity
from condkit.trainer.train import train

CPU = resolve_compute("cpu", "fp32")
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
FAMILIES = ("1", "2", "xl")


def unet_names(unet):
    """diffusers' name to the original one; the decoder's are those of LDM's output blocks."""
    names = list(unet.state_dict())
    layers = unet.config.layers_per_block
    decoder = [n for n in names if n.startswith(("up_blocks", "conv_norm_out", "conv_out"))]
    found = ldm_names([n for n in names if n not in decoder], layers_per_block=layers)
    per_level = layers + 1
    for name in decoder:
        if name.startswith("conv_"):
            found[name] = name.replace("conv_norm_out", "out.0").replace("conv_out", "out.2")
            continue
        _, level, kind, number, rest = name.split(".", 4)
        block = per_level * int(level) + int(number)
        if kind == "resnets":
            part, _, last = rest.partition(".")
            found[name] = f"output_blocks.{block}.0.{RESNET[part]}.{last}"
        elif kind == "attentions":
            found[name] = f"output_blocks.{block}.1.{rest}"
        else:
            last = per_level * int(level) + layers
            attends = any(n.startswith(f"up_blocks.{level}.attentions") for n in names)
            found[name] = f"output_blocks.{last}.{2 if attends else 1}.{rest}"
    return found


def vae_names(vae):
    top = len(vae.config.block_out_channels) - 1
    attention = {
        "group_norm": "norm",
        "to_q": "q",
        "to_k": "k",
        "to_v": "v",
        "to_out.0": "proj_out",
    }
    found = {}
    for name in vae.state_dict():
        new = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
        new = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{top - int(m[1])}.block", new)
        new = re.sub(
            r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{top - int(m[1])}.upsample", new
        )
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        if "mid_block.attentions.0" in new:
            new = new.replace("mid_block.attentions.0", "mid.attn_1")
            for theirs, ours in attention.items():
                new = new.replace(f".{theirs}.", f".{ours}.")
        found[name] = new.replace("conv_shortcut", "nin_shortcut").replace(
            "conv_norm_out", "norm_out"
        )
    return found


def open_clip(state, prefix, *, more_layers=0):
    """transformers' CLIP under OpenCLIP's names."""
    own = {k.removeprefix("text_model."): t for k, t in state.items()}
    found = {
        "token_embedding.weight": own["embeddings.token_embedding.weight"],
        "positional_embedding": own["embeddings.position_embedding.weight"],
        "ln_final.weight": own["final_layer_norm.weight"],
        "ln_final.bias": own["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
    }
    if "text_projection.weight" in own:
        found["text_projection"] = own["text_projection.weight"].T
    layers = 1 + max(int(k.split(".")[2]) for k in own if k.startswith("encoder.layers."))
    parts = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc"}
    parts |= {"mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}
    for layer in range(layers + more_layers):
        source = f"encoder.layers.{min(layer, layers - 1)}."
        target = f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            joint = [own[f"{source}self_attn.{p}_proj.{kind}"] for p in "qkv"]
            found[f"{target}attn.in_proj_{kind}"] = torch.cat(joint)
            for ours, theirs in parts.items():
                found[f"{target}{theirs}.{kind}"] = own[f"{source}{ours}.{kind}"]
    return {prefix + name: tensor for name, tensor in found.items()}


def one_file(base, family):
    """All tensors of a base under the original release's names."""
    state = {
        f"model.diffusion_model.{new}": base.unet.state_dict()[old]
        for old, new in unet_names(base.unet).items()
    }
    for old, new in vae_names(base.vae).items():
        tensor = base.vae.state_dict()[old]
        attends = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", new)
        state[f"first_stage_model.{new}"] = tensor[:, :, None, None] if attends else tensor
    text = base.text_encoder.state_dict()
    if family == "2":
        # The last layer is in the file, and not read.
        state |= open_clip(text, "cond_stage_model.model.", more_layers=1)
    else:
        prefix = "cond_stage_model" if family == "1" else "conditioner.embedders.0"
        prefix += ".transformer.text_model."
        state |= {prefix + k.removeprefix("text_model."): t for k, t in text.items()}
        state[f"{prefix}embeddings.position_ids"] = torch.arange(77)[None]
    if family == "xl":
        state |= open_clip(base.text_encoder_2.state_dict(), "conditioner.embedders.1.model.")
    return {name: tensor.contiguous().clone() for name, tensor in state.items()}


def small_base(folder, family):
    """A random Stable Diffusion whose sizes leave heads and norms as in the published ones."""
    import diffusers
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

    torch.manual_seed(5)
    linear, xl = family != "1", family == "xl"
    width = 128 if xl else 64
    kinds = ("", "CrossAttn") if xl else ("CrossAttn", "")
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(64, 128),
        layers_per_block=2,
        cross_attention_dim=width,
        attention_head_dim=(1, 2) if linear else 8,
        use_linear_projection=linear,
        transformer_layers_per_block=(1, 2) if xl else 1,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        addition_embed_type="text_time" if xl else None,
        addition_time_embed_dim=8 if xl else None,
        projection_class_embeddings_input_dim=32 + 48 if xl else None,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=2,
        scaling_factor=0.13025 if xl else 0.18215,
    )
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["!", *letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
    padded = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77, pad_token="!")

    def clip(cls, act, layers):
        return cls(
            CLIPTextConfig(
                vocab_size=len(tokens),
                hidden_size=64,
                intermediate_size=128,
                projection_dim=32,
                num_hidden_layers=layers,
                num_attention_heads=1,
                hidden_act=act,
            )
        )

    act = "gelu" if family == "2" else "quick_gelu"
    parts = {
        "unet": unet,
        "vae": vae,
        "text_encoder": clip(CLIPTextModel, act, 2),
        "tokenizer": padded if family == "2" else tokenizer,
        "scheduler": diffusers.DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            steps_offset=1,
        ),
    }
    if xl:
        parts |= {
            "text_encoder_2": clip(CLIPTextModelWithProjection, "gelu", 2),
            "tokenizer_2": padded,
            "add_watermarker": False,
        }
        kind = diffusers.StableDiffusionXLPipeline
    else:
        parts |= {
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }
        kind = diffusers.StableDiffusionPipeline
    kind(**parts).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    """A family, its folder, and the same model as one file with a vocabulary beside it."""
    root = tmp_path_factory.mktemp("base")
    folder = small_base(root / "folder", request.param)
    base = load_base(str(folder), CPU)
    (root / "one").mkdir()
    (folder / "tokenizer").rename(root / "one" / "tokenizer")
    file = root / "one" / "model.safetensors"
    save_file(one_file(base, request.param), file)
    return request.param, base, file


def test_a_file_computes_what_its_folder_computes(pair):
    family, folder, file = pair
    prediction = None if family != "2" else "epsilon"
    base = load_base(str(file), CPU, offline=True, prediction=prediction)
    assert base.is_xl == (family == "xl")
    assert base.prediction_type == "epsilon"
    assert (base.vae_stride, base.unit) == (folder.vae_stride, folder.unit) == (4, 8)
    assert base.vae.config.scaling_factor == folder.vae.config.scaling_factor
    captions = ["a red circle", ""]
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    pixels = torch.rand(2, 3, 32, 32, generator=generator)
    with torch.no_grad():
        states = [b.read_text(captions) for b in (base, folder)]
        assert torch.equal(states[0].hidden, states[1].hidden)
        if family == "xl":
            assert torch.equal(states[0].pooled, states[1].pooled)
        sizes = torch.tensor([[64, 64, 0, 0, 64, 64]] * 2)
        added = {"text_embeds": states[0].pooled, "time_ids": sizes} if base.is_xl else None
        noise = [
            b.unet(
                latents,
                torch.tensor([3, 700]),
                encoder_hidden_states=states[0].hidden,
                added_cond_kwargs=added,
            ).sample
            for b in (base, folder)
        ]
        encoded = [b.vae.encode(pixels).latent_dist.mean for b in (base, folder)]
        decoded = [b.vae.decode(latents).sample for b in (base, folder)]
    for one, other in (noise, encoded, decoded):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert torch.equal(base.scheduler.alphas_cumprod, folder.scheduler.alphas_cumprod)
    assert base.vae_fingerprint == folder.vae_fingerprint
    for module in base.modules.values():
        assert {p.dtype for p in module.parameters()} == {torch.float32}
        assert not any(p.requires_grad for p in module.parameters())


def test_half_precision_files_are_read_as_well(pair, tmp_path):
    family, folder, file = pair
    halved = {
        k: t.half() if t.is_floating_point() else t for k, t in one_file(folder, family).items()
    }
    save_file(halved, file.parent / "half.safetensors")
    base = load_base(str(file.parent / "half.safetensors"), CPU, offline=True)
    assert {p.dtype for p in base.unet.parameters()} == {torch.float32}


def test_a_file_that_lacks_tensors_names_them(pair, tmp_path):
    family, folder, file = pair
    whole = one_file(folder, family)
    for gone, message in (
        ("first_stage_model.quant_conv.weight", "no tensor 'first_stage_model.quant_conv.weight'"),
        ("model.diffusion_model.out.0.weight", r"its UNet are not those .*conv_norm_out\.weight"),
    ):
        save_file({k: t for k, t in whole.items() if k != gone}, file.parent / "cut.safetensors")
        with pytest.raises(TrainingError, match=message):
            load_base(str(file.parent / "cut.safetensors"), CPU, offline=True)


def test_other_files_are_refused_with_what_they_are(tmp_path):
    lora = tmp_path / "lora.safetensors"
    save_file({"lora_unet_down.weight": torch.zeros(2, 2)}, lora)
    with pytest.raises(TrainingError, match=r"found no text encoder .* LoRA"):
        load_base(str(lora), CPU)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"half a file")
    with pytest.raises(TrainingError, match="cannot read the file"):
        load_base(str(broken), CPU)
    pickled = tmp_path / "model.ckpt"
    pickled.write_bytes(b"pickle")
    with pytest.raises(TrainingError, match=r"expected a \.safetensors file"):
        load_base(str(pickled), CPU)
    with pytest.raises(TrainingError, match="cannot read the file"):
        load_base(str(tmp_path / "absent.safetensors"), CPU)


def test_without_a_vocabulary_it_says_where_one_goes(pair, tmp_path):
    _, _, file = pair
    alone = tmp_path / "alone.safetensors"
    alone.hardlink_to(file)
    with pytest.raises(TrainingError, match=r"no vocabulary.*folder 'tokenizer'.*beside the file"):
        load_base(str(alone), CPU, offline=True)


def test_what_a_base_predicts_is_seen_from_what_it_says_of_noise():
    base = load_base("condkit/tiny", CPU)
    assert base.prediction_type == "v_prediction"
    text = base.read_text([""]).hidden
    assert predicts_velocity(base.unet, text, 1000)
    alpha = base.scheduler.alphas_cumprod[999]

    class Noise(torch.nn.Module):
        """The same model, saying the same as noise."""

        config = base.unet.config

        def forward(self, noisy, timestep, encoder_hidden_states):
            said = base.unet(noisy, timestep, encoder_hidden_states=encoder_hidden_states)
            said.sample = alpha.sqrt() * said.sample + (1 - alpha).sqrt() * noisy
            return said

    assert not predicts_velocity(Noise(), text, 1000)


def test_the_setting_overrides_what_was_found(pair):
    family, _, file = pair
    found = load_base(str(file), CPU, offline=True)
    # Random weights give no noise back, so a second-generation file counts as velocity.
    assert found.prediction_type == ("v_prediction" if family == "2" else "epsilon")
    assert found.scheduler.config.prediction_type == found.prediction_type
    for asked in ("epsilon", "v_prediction"):
        base = load_base(str(file), CPU, offline=True, prediction=asked)
        assert base.prediction_type == base.scheduler.config.prediction_type == asked


def test_an_xl_file_says_by_empty_tensors_that_it_predicts_velocity(pair):
    family, folder, file = pair
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    save_file(one_file(folder, family) | marks, file.parent / "marked.safetensors")
    base = load_base(str(file.parent / "marked.safetensors"), CPU, offline=True)
    assert base.prediction_type == "v_prediction"
    assert base.scheduler.alphas_cumprod[-1] < 1e-6


@pytest.mark.parametrize("pair", ["2"], indirect=True)
def test_a_run_on_a_file_trains_and_samples(pair, dataset, small_run, tmp_path):
    from condkit.trainer.sample import sample

    _, _, file = pair
    run = tmp_path / "run"
    config = small_run(run__steps="1", prediction="v_prediction")
    train(config, dataset, run, base=str(file), device="cpu", dtype="fp32", offline=True)
    hint = torch.zeros(64, 64, dtype=torch.uint8).numpy()
    (made,) = sample(run, hint, "a circle", steps=1, device="cpu", dtype="fp32", offline=True)
    assert made.shape == (64, 64, 3)
    from condkit.trainer.run_folder import read_record

    assert read_record(run).prediction == "v_prediction"


PUBLISHED = {
    "1": {
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "2": {
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "xl": {
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "transformer_layers_per_block": [1, 2, 10],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_published_unets_are_known_by_their_shapes(family):
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**PUBLISHED[family])
    state = unet.state_dict()
    shapes = {
        f"model.diffusion_model.{new}": tuple(state[old].shape)
        for old, new in unet_names(unet).items()
    }
    found = ldm_shapes.unet_config(Shapes(shapes, "file"), family, pooled=1280)
    with torch.device("meta"):
        again = UNet2DConditionModel(**found)
    assert {k: t.shape for k, t in again.state_dict().items()} == {
        k: t.shape for k, t in state.items()
    }
    for name, value in PUBLISHED[family].items():
        assert found[name] == value, name
