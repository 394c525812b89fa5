"""How much memory a training step needs, found by doing it with tensors that have no numbers.

Both networks run forward and backward on the meta device. Every tensor that comes and goes is
counted, in the types that autocast would give it, with attention as the fused kernels keep it. What
is not seen: the workspaces of convolution kernels, gaps between tensors, and the device's own
context (some hundred MB); `torch.compile` needs less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from condkit.trainer.base_model import BaseModel
from condkit.trainer.config import TrainConfig
from condkit.trainer.decoder import DECODER_PARTS, decoder_parameters
from condkit.trainer.meta import Hw, MetaNetworks, meta_networks
from condkit.trainer.optimizers import STATE_BYTES
from condkit.trainer.precision import hold_in

if TYPE_CHECKING:
    import torch

_CUDA_BLOCK = 512
"""CUDA memory is given out in multiples of this many bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """The memory of a training step on one device, bytes.

    Attributes:
        weights: The base and the ControlNet.
        gradients: Of everything trained.
        optimizer: What the optimizer remembers.
        averages: The running averages.
        peak: The most that is held at once, all of it included.
    """

    weights: int
    gradients: int
    optimizer: int
    averages: int
    peak: int

    @property
    def activations(self) -> int:
        """What the peak has beside the rest: activations and gradients on their way."""
        return self.peak - self.weights - self.gradients - self.optimizer - self.averages


def peak_memory(device: torch.device) -> int | None:
    """The most bytes that this process has used so far; None where it is not known.

    Of a CUDA device, what tensors took (nothing is waited for); otherwise of main memory.
    """
    import sys

    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        # Windows has no such figure.
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def predict_memory(
    base: BaseModel,
    control_net: Any,  # noqa: ANN401 - diffusers.ControlNetModel
    config: TrainConfig,
    latent_hw: Hw,
    *,
    device_type: str | None = None,
    devices: int = 1,
) -> StepMemory:
    """Predict the peak of a training step with cached latents, on one device.

    Args:
        base: The frozen model, as `condkit.trainer.precision.hold_base` leaves it.
        control_net: The ControlNet in training.
        config: Batch, accumulation, optimizer, decoder, averages, checkpointing.
        latent_hw: Height and width of the latents.
        device_type: "cuda", "cpu" ...; None is the base's own.
        devices: How many share out the ControlNet where `compute.shard` says so.
    """
    kind = device_type or base.compute.device.type
    unlocked = config.control.unlock_decoder is not None
    trained = [p for p in control_net.parameters() if p.requires_grad]
    averaged = list(control_net.parameters()) if config.ema.decay > 0 else []
    if unlocked:
        decoder = list(decoder_parameters(base.unet).values())
        trained += decoder
        averaged += decoder if averaged else []
    count = sum(p.numel() for p in trained)
    share = devices if config.compute.shard else 1
    frozen = sum(_bytes(module.parameters()) for module in base.modules.values())
    gathered = 2 * _largest_block(control_net) if share > 1 else 0
    fixed = {
        "weights": frozen + _bytes(control_net.parameters()) // share + gathered,
        "optimizer": int(count * STATE_BYTES[config.optim.name]) // share,
        "averages": _bytes(averaged) // share,
    }
    gradients = count * 4 // share
    networks = meta_networks(base.unet, control_net, unlocked=unlocked)
    hold_in(networks.unet, base.compute.dtype, but=DECODER_PARTS if unlocked else ())
    if config.compute.gradient_checkpointing:
        _checkpoint(networks, base.compute.dtype, kind)
    moving = _peak_of_passes(
        networks,
        config.data.batch_size,
        latent_hw,
        dtype=base.compute.dtype,
        device_type=kind,
        passes=min(2, config.optim.accumulation),
    )
    # The passes were run with whole gradients.
    moving -= count * 4 - gradients
    return StepMemory(gradients=gradients, peak=sum(fixed.values()) + moving, **fixed)


def _largest_block(control_net: Any) -> int:  # noqa: ANN401 - diffusers.ControlNetModel
    """What FSDP gathers at once; the next block comes while one is computed."""
    blocks = (*control_net.down_blocks, control_net.mid_block)
    return max(_bytes(block.parameters()) for block in blocks)


def _checkpoint(networks: MetaNetworks, dtype: torch.dtype, device_type: str) -> None:
    """Recompute in the backward pass, under autocast's rules as torch does it."""
    from torch.utils.checkpoint import checkpoint

    from condkit.trainer.live_memory import MetaAutocast

    def again(module: Any, *args: Any) -> Any:  # noqa: ANN401
        def run(*inner: Any) -> Any:  # noqa: ANN401
            with MetaAutocast(dtype, device_type):
                return module(*inner)

        return checkpoint(run, *args, use_reentrant=False)

    for network in (networks.unet, networks.control_net):
        network.enable_gradient_checkpointing(gradient_checkpointing_func=again)


def _peak_of_passes(
    networks: MetaNetworks,
    batch: int,
    latent_hw: Hw,
    *,
    dtype: torch.dtype,
    device_type: str,
    passes: int,
) -> int:
    """The most bytes that activations and gradients take; with several passes the last counts."""
    from condkit.trainer.live_memory import LiveBytes, MetaAutocast

    live = LiveBytes(_CUDA_BLOCK if device_type == "cuda" else 1)
    with live:
        for _ in range(passes):
            with MetaAutocast(dtype, device_type):
                loss = _forward(networks, batch, latent_hw)
            loss.backward()  # type: ignore[no-untyped-call]
            del loss
    return live.peak


def _forward(networks: MetaNetworks, batch: int, latent_hw: Hw) -> torch.Tensor:
    inputs = networks.inputs(batch, latent_hw)
    noisy, conditions = (inputs["sample"], inputs["timestep"]), inputs["conditions"]
    down, middle = networks.control_net(*noisy, controlnet_cond=inputs["hint"], **conditions)
    predicted = networks.unet(
        *noisy,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
        **conditions,
    )[0]
    loss: torch.Tensor = predicted.float().square().mean()
    return loss


def _bytes(tensors: Any) -> int:  # noqa: ANN401 - an iterable of tensors
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
