"""BLIP-2: a vision transformer, a Q-Former that sums it up, and OPT that speaks."""

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
class Blip2(Transformer):
    """`transformers.Blip2ForConditionalGeneration`, its parts apart.

    The picture is encoded once for all its captions. Its queries stand before the prompt.
    """

    @property
    def longest(self) -> int:
        """The language model's positions, without those of the queries."""
        config = self.model.config
        return int(config.text_config.max_position_embeddings - config.num_query_tokens)

    def tokens(self, prompt: str) -> tuple[int, ...]:
        """The prompt with the language model's first token."""
        first = self.model.config.text_config.bos_token_id
        return tuple(self.tokenizer(prompt).input_ids) if prompt else (first,)

    def encode(self, pictures: NDArray[np.uint8], prompts: torch.Tensor) -> torch.Tensor:
        """(B, queries, C) in the language model's space."""
        model = self.model
        patches = model.vision_model(self.normalised(pictures)).last_hidden_state
        queries = model.qformer(
            query_embeds=model.query_tokens.expand(len(patches), -1, -1),
            encoder_hidden_states=patches,
            encoder_attention_mask=prompts.new_ones(patches.shape[:2]),
        ).last_hidden_state
        # transformers keeps the Q-Former in float32 where the rest is in float16.
        seen: torch.Tensor = model.language_projection(queries.to(patches.dtype))
        return seen

    def generate(
        self, seen: torch.Tensor, prompts: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        """(R, L) int64: the queries' places, prompt and caption."""
        import torch

        words = self.model.get_input_embeddings()(prompts)
        places = prompts.new_full(seen.shape[:2], self._place)
        ids = torch.cat([places, prompts], dim=1)
        tokens: torch.Tensor = self.model.language_model.generate(
            input_ids=ids,
            inputs_embeds=torch.cat([seen.to(words.dtype), words], dim=1),
            attention_mask=torch.ones_like(ids),
            **options,
        )
        return tokens

    @property
    def _place(self) -> int:
        """The token that stands where a query is."""
        config = self.model.config
        known = getattr(config, "image_token_id", None)
        return int(config.text_config.pad_token_id if known is None else known)

    def texts(self, tokens: torch.Tensor, prompts: torch.Tensor, *, keep_prompt: bool) -> list[str]:
        """The captions."""
        before = self.model.config.num_query_tokens + (0 if keep_prompt else prompts.shape[1])
        return self.decode(tokens[:, before:])


def load_blip2(folder: Path, device: torch.device, dtype: torch.dtype) -> Blip2:
    """BLIP-2 with the weights of a folder.

    Raises:
        WeightsError: if the folder is broken.
    """
    model = load_pretrained(
        "Blip2ForConditionalGeneration", folder, may_have=[r"position_ids$"], dtype=dtype
    )
    return Blip2(
        model=model.to(device),
        tokenizer=load_tokenizer(folder),
        input=PictureInput.read(folder),
        device=device,
        dtype=dtype,
    )
