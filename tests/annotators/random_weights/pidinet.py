from __future__ import annotations

from pathlib import Path


def write(folder: Path) -> None:
    """`table5_pidinet.pth` of a random network, named and nested as the published file is."""
    import torch

    from condkit.annotators.nets.aux_networks import network_class

    torch.manual_seed(0)
    network = network_class("pidi.model", "pidinet")()
    with torch.no_grad():
        for name, value in network.named_parameters():
            # Untrained sides cancel each other out; these see something.
            if name.endswith("conv_reduces.0.conv.weight"):
                value *= 20
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"epoch": 19, "state_dict": state}, folder / "table5_pidinet.pth")
