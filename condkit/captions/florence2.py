"""Florence-2 (Xiao et al., 2024): short, detailed and very detailed captions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from condkit.captions.definition import NetworkDefinition
from condkit.captions.generation import Generation
from condkit.weights import hub_model

if TYPE_CHECKING:
    import torch

    from condkit.captions.nets.florence2 import Florence2

_ORIGIN = "Microsoft, trained on FLD-5B; as transformers' own class reads it"
_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)

WEIGHTS = {
    "base": hub_model(
        "florence-community/Florence-2-base",
        licence="MIT",
        commercial_use=True,
        origin=_ORIGIN,
        sha256="62f3e696da74f8869a68ddb529a9b3e14eb25b21c592cb3dea6179bf944df6a0",
        size=463178864,
        others=_FILES,
    ),
    "base-ft": hub_model(
        "florence-community/Florence-2-base-ft",
        licence="MIT",
        commercial_use=True,
        origin=f"{_ORIGIN}; tuned on many tasks, with shorter captions",
        sha256="ab06dea66b16d5e54513256d64854be2194443452fd0d84353b40a278bf87d42",
        size=463178864,
        others=_FILES,
    ),
    "large": hub_model(
        "florence-community/Florence-2-large",
        licence="MIT (of the original; not read at this place)",
        commercial_use=None,
        origin=_ORIGIN,
        others=_FILES,
    ),
}

# What the tasks are in words: <CAPTION>, <DETAILED_CAPTION> and <MORE_DETAILED_CAPTION>.
_TASKS = {
    "caption": "What does the image describe?",
    "detailed": "Describe in detail what is shown in the image.",
    "more-detailed": "Describe with a paragraph what is shown in the image.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Florence2Settings(Generation):
    """As of every network, and what is asked of it.

    Attributes:
        task: How much is said: caption, detailed or more-detailed.
        weights: Which weights: base, base-ft or large.
    """

    max_new_tokens: int = 256
    task: Literal["caption", "detailed", "more-detailed"] = "detailed"
    weights: Literal["base", "base-ft", "large"] = "base"


def _load(
    folder: Path, settings: Florence2Settings, device: torch.device, dtype: torch.dtype
) -> Florence2:
    from condkit.captions.nets.florence2 import load_florence2

    return load_florence2(folder, _TASKS[settings.task], device, dtype)


FLORENCE2 = NetworkDefinition(
    name="florence2",
    source="Xiao et al., Florence-2: Advancing a Unified Representation for a Variety of Vision "
    "Tasks, 2024",
    settings=Florence2Settings,
    weights=WEIGHTS,
    variant=lambda settings: str(settings.weights),
    load=_load,
)
