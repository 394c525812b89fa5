"""BLIP-2 (Li et al., 2023) with OPT-2.7B."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from condkit.captions.definition import NetworkDefinition
from condkit.captions.generation import PromptedGeneration
from condkit.weights import hub_model

if TYPE_CHECKING:
    import torch

    from condkit.captions.nets.blip2 import Blip2

_OPT = hub_model(
    "Salesforce/blip2-opt-2.7b",
    licence="MIT; the language model inside: OPT licence (research only)",
    commercial_use=False,
    origin="Salesforce, Q-Former trained on 129 M image-text pairs, around Meta's OPT-2.7B",
    weights="model-00001-of-00002.safetensors",
    others=(
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blip2Settings(PromptedGeneration):
    """As of every network with a prompt."""


def _load(folder: Path, settings: Blip2Settings, device: torch.device, dtype: torch.dtype) -> Blip2:
    from condkit.captions.nets.blip2 import load_blip2

    return load_blip2(folder, device, dtype)


BLIP2 = NetworkDefinition(
    name="blip2",
    source="Li et al., BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image "
    "Encoders and Large Language Models, 2023",
    settings=Blip2Settings,
    weights={"opt-2.7b": _OPT},
    variant=lambda settings: "opt-2.7b",
    load=_load,
)
