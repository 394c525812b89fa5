"""Florence-2: DaViT's features and a task in words go into BART."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condkit.captions.nets.loading import Transformer, load_tokenizer
from condkit.captions.nets.pictures import PictureInput
from condkit.errors import DependencyError
from condkit.pretrained import load_pretrained

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Florence2(Transformer):
    """`transformers.Florence2ForConditionalGeneration`, encoder and decoder apart.

    Attributes:
        task: What is asked of it, in words.
    """

    task: str

    @property
    def longest(self) -> int:
        """The decoder's positions; those of the encoder are enough for every task."""
        return int(self.model.config.text_config.max_position_embeddings)

    def tokens(self, prompt: str) -> tuple[int, ...]:
        """None: the decoder begins anew, and the task is the same for all."""
        return ()

    def encode(self, pictures: NDArray[np.uint8], prompts: torch.Tensor) -> torch.Tensor:
        """(B, features + task, C): the encoder's output."""
        import torch

        core = self.model.model
        features = core.get_image_features(self.normalised(pictures)).pooler_output
        task = torch.tensor([self._task_tokens], device=self.device)
        words = core.get_input_embeddings()(task).expand(len(features), -1, -1)
        both = torch.cat([features.to(words.dtype), words], dim=1)
        mask = torch.ones(both.shape[:2], dtype=torch.long, device=self.device)
        encoded = core.language_model.encoder(inputs_embeds=both, attention_mask=mask)
        seen: torch.Tensor = encoded.last_hidden_state
        return seen

    @property
    def _task_tokens(self) -> list[int]:
        text = f"{self.tokenizer.bos_token}{self.task}{self.tokenizer.eos_token}"
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def generate(
        self, seen: torch.Tensor, prompts: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        """(R, L) int64: the caption behind the decoder's first token."""
        import torch
        from transformers.modeling_outputs import BaseModelOutput

        mask = torch.ones(seen.shape[:2], dtype=torch.long, device=self.device)
        tokens: torch.Tensor = self.model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=seen), attention_mask=mask, **options
        )
        return tokens

    def texts(self, tokens: torch.Tensor, prompts: torch.Tensor, *, keep_prompt: bool) -> list[str]:
        """The captions."""
        return self.decode(tokens)


def load_florence2(folder: Path, task: str, device: torch.device, dtype: torch.dtype) -> Florence2:
    """Florence-2 with the weights of a folder.

    Raises:
        DependencyError: if the transformers that is installed does not have it.
        WeightsError: if the folder is broken.
    """
    import transformers

    if not hasattr(transformers, "Florence2ForConditionalGeneration"):
        raise DependencyError(
            f"florence2 needs transformers 4.56 or newer, found {transformers.__version__}; "
            "pip install -U transformers"
        )
    model = load_pretrained("Florence2ForConditionalGeneration", folder, dtype=dtype)
    return Florence2(
        model=model.to(device),
        tokenizer=load_tokenizer(folder),
        input=PictureInput.read(folder),
        device=device,
        dtype=dtype,
        task=task,
    )
