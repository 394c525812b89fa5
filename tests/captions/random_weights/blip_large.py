from __future__ import annotations

import runpy
from pathlib import Path


def write(folder: Path) -> None:
    """A small BLIP of random weights, as safetensors like the published large model."""
    build = runpy.run_path(str(Path(__file__).with_name("blip_base.py")))["build"]
    network, target = build(folder / "Salesforce/blip-image-captioning-large")
    network.save_pretrained(target)
