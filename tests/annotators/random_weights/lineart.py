from __future__ import annotations

from pathlib import Path


def write(folder: Path) -> None:
    """`sk_model.pth` and `sk_model2.pth` of two random networks."""
    import torch

    from condkit.annotators.nets.aux_networks import network_class

    for seed, name in enumerate(("sk_model.pth", "sk_model2.pth")):
        torch.manual_seed(seed)
        network = network_class("lineart", "Generator")(3, 1, 3)
        torch.save(network.state_dict(), folder / name)
