"""BLIP: a vision transformer whose patches a BERT-like decoder attends to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condkit.captions.nets.loading import Transformer, load_tokenizer
from condkit.captions.nets.pictures import PictureInput
from condkit.pretrained import load_pretrained

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Blip(Transformer):
    """`transformers.BlipForConditionalGeneration`, its two halves apart.

    The picture is encoded once for all its captions; a prompt's rows are of one length, since its
    last token is cut off before decoding.
    """

    @property
    def longest(self) -> int:
        """The decoder's positions."""
        return int(self.model.config.text_config.max_position_embeddings)

    def tokens(self, prompt: str) -> tuple[int, ...]:
        """The decoder's own first token and the prompt, without BERT's end."""
        return (self.model.config.text_config.bos_token_id, *self.tokenizer(prompt).input_ids[1:-1])

    def encode(self, pictures: NDArray[np.uint8], prompts: torch.Tensor) -> torch.Tensor:
        """(B, patches + 1, C): what the decoder attends to."""
        seen: torch.Tensor = self.model.vision_model(self.normalised(pictures)).last_hidden_state
        return seen

    def generate(
        self, seen: torch.Tensor, prompts: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        """(R, L) int64: prompt and caption."""
        import torch

        text = self.model.config.text_config
        tokens: torch.Tensor = self.model.text_decoder.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            encoder_hidden_states=seen,
            encoder_attention_mask=prompts.new_ones(seen.shape[:2]),
            eos_token_id=text.sep_token_id,
            pad_token_id=text.pad_token_id,
            **options,
        )
        return tokens

    def texts(self, tokens: torch.Tensor, prompts: torch.Tensor, *, keep_prompt: bool) -> list[str]:
        """The captions; the tokenizer does not know the decoder's first token."""
        whole = self.decode(tokens[:, 1:])
        if keep_prompt:
            return whole
        # Cut as text: a part of a word right behind the prompt would keep BERT's "##".
        before = self.decode(prompts[:, 1:])
        return [text.removeprefix(prompt) for text, prompt in zip(whole, before, strict=True)]


def load_blip(folder: Path, device: torch.device, dtype: torch.dtype) -> Blip:
    """BLIP with the weights of a folder.

    Raises:
        WeightsError: if the folder is broken.
    """
    model = load_pretrained(
        "BlipForConditionalGeneration", folder, may_have=[r"position_ids$"], dtype=dtype
    )
    return Blip(
        model=model.to(device),
        tokenizer=load_tokenizer(folder),
        input=PictureInput.read(folder),
        device=device,
        dtype=dtype,
    )
