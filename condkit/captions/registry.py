"""The captioners by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, cast

from condkit.captions.base import Captioner
from condkit.settings import choose, from_mapping

# Module and class, imported on demand: a captioner may need a network library.
_CAPTIONERS = {
    "sidecar": ("condkit.captions.sidecar", "SidecarCaptions"),
    "template": ("condkit.captions.template", "TemplateCaptions"),
    "none": ("condkit.captions.none", "NoCaptions"),
}


def available_captioners() -> tuple[str, ...]:
    """The names that `make_captioner` knows."""
    return tuple(_CAPTIONERS)


def make_captioner(
    name: str, *, template: str | None = None, settings: Mapping[str, Any] | None = None
) -> Captioner:
    """The captioner called `name`.

    Args:
        name: One of `available_captioners()`.
        template: The text of the captioner "template"; the others do not look at it.
        settings: Further parameters by field name; text is converted as in `--set`.

    Raises:
        UnknownNameError: if there is no such captioner or parameter.
        ConfigError: if a parameter has an impossible value.
    """
    module, cls = _CAPTIONERS[choose(name, _CAPTIONERS, what="captioner")]
    values = dict(settings or {})
    if name == "template" and template is not None:
        values["text"] = template
    kind = getattr(importlib.import_module(module), cls)
    return cast(Captioner, from_mapping(kind, values, where="captions"))
