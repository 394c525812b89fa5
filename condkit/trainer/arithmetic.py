"""How much arithmetic a training step is, counted on the networks themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from condkit.trainer.meta import Hw, MetaNetworks, meta_networks

if TYPE_CHECKING:
    import torch

_BF16_TFLOPS = (
    # Dense bf16 with fp32 sums, 10^12 operations per second, by the makers' data sheets; the first
    # name that a device's name contains counts.
    ("B200", 2250.0),
    ("GH200", 989.0),
    ("H200", 989.0),
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("H800", 989.0),
    ("A100", 312.0),
    ("A800", 312.0),
    ("L40S", 362.0),
    ("L40", 181.0),
    ("L4", 121.0),
    ("A10G", 70.0),
    ("A10", 125.0),
    ("A40", 150.0),
    ("RTX 6000 Ada", 364.0),
    ("RTX A6000", 155.0),
    ("RTX 5090", 209.5),
    ("RTX 4090", 165.2),
    ("RTX 3090", 71.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """Floating point operations for one sample; a multiplication with an addition counts as two.

    Convolutions, linear layers and attention are counted; activations computed a second time
    (gradient checkpointing, flash attention) are not.

    Attributes:
        control_forward: The ControlNet's forward pass.
        base_forward: The frozen UNet's.
        base_backward: From the loss through the decoder to the ControlNet's outputs.
        control_backward: The ControlNet's backward pass.
    """

    control_forward: int
    base_forward: int
    base_backward: int
    control_backward: int

    @property
    def total(self) -> int:
        """Of the whole step."""
        return self.control_forward + self.base_forward + self.base_backward + self.control_backward


def step_arithmetic(networks: MetaNetworks, latent_hw: Hw) -> Arithmetic:
    """Count the operations of one sample, with its latent and caption at hand.

    Args:
        networks: The networks, on the meta device.
        latent_hw: Height and width of the latents.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    inputs = networks.inputs(1, latent_hw)
    noisy, conditions = (inputs["sample"], inputs["timestep"]), inputs["conditions"]
    counter = FlopCounterMode(display=False)
    marks = [0]

    def mark() -> int:
        marks.append(int(counter.get_total_flops()))
        return marks[-1] - marks[-2]

    with counter:
        down, middle = networks.control_net(*noisy, controlnet_cond=inputs["hint"], **conditions)
        control_forward = mark()
        # Only the middle may be trained; then the encoder's outputs still have gradients.
        outputs = [*down, middle]
        predicted = networks.unet(
            *noisy,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            **conditions,
        )[0]
        base_forward = mark()
        decoder = [p for p in networks.unet.parameters() if p.requires_grad]
        loss = predicted.square().mean()
        grads = torch.autograd.grad(loss, [*outputs, *decoder])
        base_backward = mark()
        torch.autograd.backward(outputs, grads[: len(outputs)])
        control_backward = mark()
    return Arithmetic(
        control_forward=control_forward,
        base_forward=base_forward,
        base_backward=base_backward,
        control_backward=control_backward,
    )


def peak_of(device: torch.device, dtype: torch.dtype) -> float | None:
    """What a device can do at best, operations per second; None where it is not known.

    Source: NVIDIA's data sheets, dense bf16 on tensor cores.
    """
    import torch

    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    return peak_of_name(torch.cuda.get_device_name(device))


def peak_of_name(name: str) -> float | None:
    """As `peak_of`, by the name that CUDA gives the device."""
    found = [tflops for known, tflops in _BF16_TFLOPS if known.lower() in name.lower()]
    return found[0] * 1e12 if found else None


@dataclass(slots=True)
class Meter:
    """Speed of a run, and how much of the devices' best it is.

    Attributes:
        unet: diffusers.UNet2DConditionModel.
        control_net: diffusers.ControlNetModel in training.
        peak: Operations per second that one device can do at best; None measures no share.
    """

    unet: Any
    control_net: Any
    peak: float | None
    _counted: dict[tuple[Hw, bool], int] = field(default_factory=dict)
    _samples: int = 0
    _operations: int = 0

    def add(self, sizes: tuple[Hw, ...], *, unlocked: bool) -> None:
        """Count the samples of a step.

        Args:
            sizes: Height and width of each latent.
            unlocked: Whether the base's decoder is trained too.
        """
        self._samples += len(sizes)
        if self.peak is not None:
            self._operations += sum(self._of(size, unlocked) for size in sizes)

    def read(self, seconds: float) -> tuple[float, float | None]:
        """Samples per second, and share of the peak from 0 to 1, since the last call."""
        seconds = max(seconds, 1e-9)
        speed, operations = self._samples / seconds, self._operations / seconds
        self._samples = self._operations = 0
        return speed, None if self.peak is None else operations / self.peak

    def _of(self, size: Hw, unlocked: bool) -> int:
        key = (size, unlocked)
        if key not in self._counted:
            networks = meta_networks(self.unet, self.control_net, unlocked=unlocked)
            self._counted[key] = step_arithmetic(networks, size).total
        return self._counted[key]
