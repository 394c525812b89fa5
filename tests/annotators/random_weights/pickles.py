from __future__ import annotations

from pathlib import Path


def save_as_pickle(network, place: Path) -> None:
    """A model as `config.json` and `pytorch_model.bin`, its tensors named as in published files."""
    import torch
    from safetensors.torch import load_file

    network.save_pretrained(place)  # which gives the tensors their published names
    tensors = place / "model.safetensors"
    torch.save(load_file(tensors), place / "pytorch_model.bin")
    tensors.unlink()
