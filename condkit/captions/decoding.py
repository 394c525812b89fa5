"""From pictures at the network's size to their captions: beams, and draws of each image's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from condkit.captions.base import one_line
from condkit.captions.definition import CaptionNetwork
from condkit.captions.generation import Generation, PromptedGeneration
from condkit.draws import generator
from condkit.errors import MapError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Item:
    """One image on its way through a network.

    Attributes:
        picture: (H, W, 3) uint8, at the network's size.
        prompt: Its tokens.
        key: Of the image's own pixels, from `condkit.draws.image_key`.
    """

    picture: NDArray[np.uint8]
    prompt: tuple[int, ...]
    key: int


def say(
    network: CaptionNetwork, settings: Generation, name: str, items: Sequence[Item]
) -> list[tuple[str, ...]]:
    """The captions of some images.

    Args:
        network: On its device.
        settings: How many, and how they are generated.
        name: The captioner's, which the draws depend on.
        items: Their prompts are of one length.

    Returns:
        `settings.count` captions for each, in order.

    Raises:
        MapError: if the network gives no numbers.
    """
    import numpy as np
    import torch

    found: list[list[str]] = [[] for _ in items]
    with torch.inference_mode():
        prompts = network.on_device(np.array([item.prompt for item in items], dtype=np.int64))
        seen = network.encode(np.stack([item.picture for item in items]), prompts)
        if not bool(torch.isfinite(seen).all()):
            raise MapError(f"{name}: the network gave no finite numbers; use --dtype bf16 or fp32")
        if not settings.sample:
            options = {**_options(settings), "num_beams": settings.num_beams}
            tokens = network.generate(seen, prompts, options)
            _share(found, _texts(network, settings, tokens, prompts))
        if settings.drawn:
            options = {
                **_options(settings),
                "num_beams": 1,
                "logits_processor": [_sampler(network, settings, name, items)],
            }
            rows = prompts.repeat_interleave(settings.drawn, dim=0)
            seen = seen.repeat_interleave(settings.drawn, dim=0)
            tokens = network.generate(seen, rows, options)
            _share(found, _texts(network, settings, tokens, rows))
    return [tuple(texts) for texts in found]


def _options(settings: Generation) -> dict[str, Any]:
    return {
        "do_sample": False,
        "max_new_tokens": settings.max_new_tokens,
        "min_new_tokens": settings.min_new_tokens,
        "repetition_penalty": settings.repetition_penalty,
    }


def _sampler(
    network: CaptionNetwork, settings: Generation, name: str, items: Sequence[Item]
) -> Any:  # noqa: ANN401 - a logits processor
    """Draws for every row with random numbers of that image and caption alone."""
    import numpy as np

    from condkit.captions.nets.sampling import NucleusSampler

    first = settings.count - settings.drawn
    numbers = [
        generator(settings.seed, f"{name}/{number}", item.key).random(settings.max_new_tokens)
        for item in items
        for number in range(first, settings.count)
    ]
    return NucleusSampler(
        network.on_device(np.array(numbers, dtype=np.float32)),
        top_p=settings.top_p,
        temperature=settings.temperature,
    )


def _texts(
    network: CaptionNetwork, settings: Generation, tokens: torch.Tensor, prompts: torch.Tensor
) -> list[str]:
    keep = isinstance(settings, PromptedGeneration) and settings.keep_prompt
    return [one_line(text) for text in network.texts(tokens, prompts, keep_prompt=keep)]


def _share(found: list[list[str]], texts: Sequence[str]) -> None:
    """Give each image its part of the rows, which lie in the images' order."""
    each = len(texts) // len(found)
    for place, texts_of_image in enumerate(found):
        texts_of_image.extend(texts[place * each : (place + 1) * each])
