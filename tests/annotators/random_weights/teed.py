from __future__ import annotations

from pathlib import Path


def write(folder: Path) -> None:
    """`5_model.pth` and `7_model.pth` of a random network."""
    import torch

    from condkit.annotators.nets.aux_networks import network_class

    torch.manual_seed(0)
    network = network_class("teed.ted", "TED")()
    with torch.no_grad():
        # Untrained, it answers colours of 0 to 255 with hundreds; trained weights do not.
        network.block_1.conv1.weight /= 4
        network.block_1.conv1.bias += 0.1
    for name in ("5_model.pth", "7_model.pth"):
        torch.save(network.state_dict(), folder / name)
