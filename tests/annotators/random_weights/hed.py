from __future__ import annotations

from pathlib import Path


def write(folder: Path) -> None:
    """`ControlNetHED.pth` of a random network."""
    import torch

    from condkit.annotators.nets.aux_networks import hed_network

    torch.manual_seed(0)
    network = hed_network()
    with torch.no_grad():
        network.norm += 120
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (3, 3):
                torch.nn.init.kaiming_normal_(layer.weight)
            elif isinstance(layer, torch.nn.Conv2d):
                layer.weight *= 0.1
    # The published file is stored in fp16 too.
    state = {key: value.half() for key, value in network.state_dict().items()}
    torch.save(state, folder / "ControlNetHED.pth")
