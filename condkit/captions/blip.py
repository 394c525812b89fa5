"""BLIP (Li et al., 2022), the captioner of the ControlNet paper's data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from condkit.captions.definition import NetworkDefinition
from condkit.captions.generation import PromptedGeneration
from condkit.weights import ModelSpec, hub_model

if TYPE_CHECKING:
    import torch

    from condkit.captions.nets.blip import Blip

_SOURCE = "Li et al., BLIP: Bootstrapping Language-Image Pre-training, 2022"
_FILES = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")

_BASE = hub_model(
    "Salesforce/blip-image-captioning-base",
    revision="82a37760796d32b1411fe092ab5d4e227313294b",
    licence="BSD-3-Clause",
    commercial_use=True,
    origin="Salesforce, trained on 129 M image-text pairs, tuned on COCO captions",
    weights="pytorch_model.bin",
    sha256="d6638651a5526cc2ede56f2b5104d6851b0755816d220e5e046870430180c767",
    size=989820849,
    others=_FILES,
)
_LARGE = hub_model(
    "Salesforce/blip-image-captioning-large",
    licence="BSD-3-Clause",
    commercial_use=True,
    origin="Salesforce, trained on 129 M image-text pairs, tuned on COCO captions",
    others=_FILES,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlipSettings(PromptedGeneration):
    """As of every network with a prompt; COCO's captions are short."""

    min_new_tokens: int = 5


def _load(folder: Path, settings: BlipSettings, device: torch.device, dtype: torch.dtype) -> Blip:
    from condkit.captions.nets.blip import load_blip

    return load_blip(folder, device, dtype)


def _definition(name: str, variant: str, model: ModelSpec) -> NetworkDefinition:
    return NetworkDefinition(
        name=name,
        source=_SOURCE,
        settings=BlipSettings,
        weights={variant: model},
        variant=lambda settings: variant,
        load=_load,
    )


BLIP_BASE = _definition("blip-base", "coco", _BASE)
BLIP_LARGE = _definition("blip-large", "coco", _LARGE)
