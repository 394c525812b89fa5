from __future__ import annotations

from pathlib import Path


def write(folder: Path) -> None:
    """`netG.pth` of a random network, narrower than the published one, named as it is."""
    import functools

    import torch

    from condkit.annotators.nets.aux_networks import network_class

    torch.manual_seed(0)
    norm = functools.partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
    network = network_class("lineart_anime", "UnetGenerator")(3, 1, 8, 4, norm_layer=norm)
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save(state, folder / "netG.pth")
