"""Captions by networks: loaded at the first call, batched by the length of their prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from condkit.budget import Budget
from condkit.captions.base import Captions, reject
from condkit.captions.decoding import Item, say
from condkit.captions.definition import CaptionNetwork, NetworkDefinition
from condkit.captions.generation import Generation, PromptedGeneration
from condkit.captions.template import Template
from condkit.captions.texts import UnusableTextError
from condkit.device import free_memory
from condkit.draws import image_key
from condkit.errors import ConfigError
from condkit.runtime import Runtime
from condkit.settings import as_mapping
from condkit.types import Rejection, RgbImage, SourceFile
from condkit.weights import AnyWeights


class NetworkCaptions:
    """A captioner that looks at the picture.

    In float32 an image's captions depend on nothing but its pixels, the settings and its prompt:
    not on the other images of its batch.
    """

    def __init__(
        self, definition: NetworkDefinition, settings: Generation, runtime: Runtime
    ) -> None:
        self._definition = definition
        self._settings = settings
        self._runtime = runtime
        self._model = definition.weights[definition.variant(settings)]
        self._loaded: tuple[CaptionNetwork, Budget] | None = None

    @property
    def name(self) -> str:
        """The definition's."""
        return self._definition.name

    @property
    def many(self) -> bool:
        """With a count above 1."""
        return self._settings.count > 1

    @property
    def weights(self) -> tuple[AnyWeights, ...]:
        """The model that the settings choose."""
        return (self._model,)

    def as_dict(self) -> dict[str, Any]:
        """Name, settings and the published hashes of the weights."""
        files = [{"file": file.name, "sha256": file.sha256} for file in self._model.files]
        return {"captioner": self.name, **as_mapping(self._settings), "weights": files}

    def reads(self, source: SourceFile) -> tuple[Path, ...]:
        """Nothing but the picture."""
        return ()

    def __call__(
        self, images: Sequence[RgbImage], sources: Sequence[SourceFile]
    ) -> list[Captions | Rejection]:
        """Caption a batch; see `Captioner`.

        Raises:
            WeightsError: if the weights cannot be had.
            ConfigError: if captions may be longer than the network's memory of words.
            MapError: if the network gives no numbers.
            DeviceMemoryError: if the device does not hold even one image.
        """
        if not images:
            return []
        network, budget = self._network()
        results: dict[int, Captions | Rejection] = {}
        buckets: dict[int, list[tuple[int, Item]]] = defaultdict(list)
        for place, (image, source) in enumerate(zip(images, sources, strict=True)):
            item = self._item(network, image, source)
            if isinstance(item, Rejection):
                results[place] = item
            else:
                buckets[len(item.prompt)].append((place, item))
        forward = partial(say, network, self._settings, self.name)
        for bucket in buckets.values():
            said = budget.run([item for _, item in bucket], network.pixels, forward)
            for (place, _), texts in zip(bucket, said, strict=True):
                results[place] = Captions(texts, self.name)
        return [results[place] for place in range(len(images))]

    def close(self) -> None:
        """Let the network and the device's memory go."""
        if self._loaded is not None:
            self._loaded = None
            free_memory()

    def _network(self) -> tuple[CaptionNetwork, Budget]:
        if self._loaded is None:
            device, dtype = self._runtime.resolve()
            folder = self._runtime.store.folder(self._model)
            network = self._definition.load(folder, self._settings, device, dtype)
            if self._settings.max_new_tokens >= network.longest:
                raise ConfigError(
                    f"captions.max_new_tokens: expected less than {network.longest} for "
                    f"{self.name}, got {self._settings.max_new_tokens}"
                )
            rows = max(self._settings.num_beams, self._settings.count)
            budget = Budget.on(device, self.name, scale=1 / rows)
            budget.advice = "use fewer beams or captions, --dtype bf16, or --device cpu"
            self._loaded = network, budget
        return self._loaded

    def _item(
        self, network: CaptionNetwork, image: RgbImage, source: SourceFile
    ) -> Item | Rejection:
        prompt = ""
        if isinstance(self._settings, PromptedGeneration):
            try:
                prompt = Template(self._settings.prompt, "captions.prompt").fill(source)
            except UnusableTextError as error:
                return reject(source, str(error))
        tokens = network.tokens(prompt)
        if len(tokens) + self._settings.max_new_tokens > network.longest:
            return reject(
                source,
                f"its prompt has {len(tokens)} tokens; with max_new_tokens "
                f"{self._settings.max_new_tokens} that is more than the {network.longest} that "
                f"{self.name} takes",
            )
        return Item(network.resize(image), tokens, image_key(image))
