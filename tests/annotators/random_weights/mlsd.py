from __future__ import annotations

from pathlib import Path


def write(folder: Path) -> None:
    """Both published files, of random networks."""
    import torch

    from condkit.annotators.nets.aux_networks import network_class

    for size in ("large", "tiny"):
        torch.manual_seed(0)
        network = network_class(f"mlsd.models.mbv2_mlsd_{size}", f"MobileV2_MLSD_{size.title()}")()
        torch.save(network.state_dict(), folder / f"mlsd_{size}_512_fp32.pth")
