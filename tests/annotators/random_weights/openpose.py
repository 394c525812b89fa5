from __future__ import annotations

from pathlib import Path

FILES = {
    "body_pose_model.pth": ("open_pose.model", "bodypose_model"),
    "hand_pose_model.pth": ("open_pose.model", "handpose_model"),
    "facenet.pth": ("open_pose.face", "FaceNet"),
}


def write(folder: Path) -> None:
    """The three published files with random numbers in them, in fp16 to be written fast."""
    import torch

    for name in FILES:
        state = random_network(name).state_dict()
        # The body's and the hand's files leave out the block that a layer is in.
        short = {
            key if name == "facenet.pth" else key.partition(".")[2]: value.half()
            for key, value in state.items()
        }
        torch.save(short, folder / name)


def random_network(name: str):
    """A network of controlnet_aux whose maps are neither constant nor huge."""
    import torch

    from condkit.annotators.nets.aux_networks import network_class

    torch.manual_seed(0)
    network = network_class(*FILES[name])()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):
                fan = layer.weight[0].numel()
                layer.weight.normal_(0, (2 / fan) ** 0.5)
                layer.bias.normal_(0, 0.02)
                if layer.out_channels in (19, 22, 38, 71):
                    layer.weight *= 0.2
    return network
