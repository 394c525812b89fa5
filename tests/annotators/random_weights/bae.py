from __future__ import annotations

from pathlib import Path


def write(folder: Path) -> None:
    """`scannet.pt` of a random network; its class has one size, 72 million parameters."""
    import torch

    from condkit.annotators.nets.bae import bae_network

    with torch.device("meta"):
        network = bae_network()
    network.to_empty(device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for name, values in network.state_dict().items():
            if not values.is_floating_point():
                values.zero_()
            elif values.ndim > 1:
                values.normal_(std=(1.4 / values[0].numel()) ** 0.5)
            else:
                values.fill_(1 if name.endswith(("weight", "running_var")) else 0)
        last = network.decoder.out_conv_res1[-1]
        last.weight.mul_(2)
        last.bias[2] = 1
    # Half the size is enough for random numbers. The published file nests and prefixes likewise.
    state = {
        f"module.{key}": value.half() if value.is_floating_point() else value
        for key, value in network.state_dict().items()
    }
    torch.save({"model": state}, folder / "scannet.pt")
