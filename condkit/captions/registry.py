"""The captioners by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, cast

from condkit.captions.base import Captioner
from condkit.captions.definition import NetworkDefinition
from condkit.captions.existing import Existing, KeptCaptions
from condkit.captions.network import NetworkCaptions
from condkit.captions.wording import WordedCaptions, Wording
from condkit.runtime import Runtime
from condkit.settings import choose, from_mapping
from condkit.weights import AnyWeights

# Module and name of the class, imported on demand.
_READERS = {
    "sidecar": ("condkit.captions.sidecar", "SidecarCaptions"),
    "metadata": ("condkit.captions.metadata", "MetadataCaptions"),
    "template": ("condkit.captions.template", "TemplateCaptions"),
    "none": ("condkit.captions.none", "NoCaptions"),
}
# Module and name of the definition.
_NETWORKS = {
    "blip-base": ("condkit.captions.blip", "BLIP_BASE"),
    "blip-large": ("condkit.captions.blip", "BLIP_LARGE"),
    "blip2": ("condkit.captions.blip2", "BLIP2"),
    "florence2": ("condkit.captions.florence2", "FLORENCE2"),
}
_EXISTING: tuple[Existing, ...] = ("keep", "replace")


def available_captioners() -> tuple[str, ...]:
    """The names that `make_captioner` knows: first those that read, then the networks."""
    return (*_READERS, *_NETWORKS)


def network_captioners() -> tuple[str, ...]:
    """The names of those captioners that look at the pictures."""
    return tuple(_NETWORKS)


def captioner_weights() -> dict[str, dict[str, AnyWeights]]:
    """All weights of all captioners: captioner to the weights' name to what they are."""
    return {name: dict(get_network(name).weights) for name in _NETWORKS}


def make_captioner(
    name: str,
    *,
    template: str | None = None,
    settings: Mapping[str, Any] | None = None,
    prefix: str = "",
    suffix: str = "",
    trigger: str = "",
    existing: str = "keep",
    runtime: Runtime | None = None,
) -> Captioner:
    """The captioner called `name`; networks are loaded at its first call.

    Args:
        name: One of `available_captioners()`.
        template: The text of the captioner "template"; the others do not look at it.
        settings: Further parameters by field name; text is converted as in `--set`.
        prefix: Before every caption, with a space between.
        suffix: Behind every caption, with a space between unless it begins with punctuation.
        trigger: First of all, with a comma; left out where a caption has the word already.
        existing: What a network does with captions that the source has: "keep" them and make only
            those that are missing, or "replace" them. The captioners that read do not look at it.
        runtime: Where networks run; None takes the defaults.

    Raises:
        UnknownNameError: if there is no such captioner or parameter.
        ConfigError: if a parameter has an impossible value.
    """
    choose(name, available_captioners(), what="captioner")
    choose(existing, _EXISTING, what="value of existing")
    wording = Wording(prefix=prefix, suffix=suffix, trigger=trigger)
    values = dict(settings or {})
    if name in _NETWORKS:
        captioner = _network(name, values, runtime or Runtime())
        if existing == "keep":
            captioner = KeptCaptions(captioner)
    else:
        captioner = _reader(name, values, template)
    return WordedCaptions(captioner, wording) if wording else captioner


def _reader(name: str, values: dict[str, Any], template: str | None) -> Captioner:
    module, cls = _READERS[name]
    if name == "template" and template is not None:
        values["text"] = template
    kind = getattr(importlib.import_module(module), cls)
    return cast(Captioner, from_mapping(kind, values, where="captions"))


def _network(name: str, values: dict[str, Any], runtime: Runtime) -> Captioner:
    definition = get_network(name)
    settings = from_mapping(definition.settings, values, where="captions")
    return NetworkCaptions(definition, settings, runtime)


def get_network(name: str) -> NetworkDefinition:
    """The definition of a captioner with a network."""
    module, constant = _NETWORKS[name]
    return cast(NetworkDefinition, getattr(importlib.import_module(module), constant))
