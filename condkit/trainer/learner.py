"""What learns in a run: weights, their optimizer and their average, from locked to unlocked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from condkit.trainer.base_model import BaseModel
from condkit.trainer.config import TrainConfig
from condkit.trainer.decoder import decoder_parameters
from condkit.trainer.ema import Ema
from condkit.trainer.optimizers import new_optimizer

if TYPE_CHECKING:
    import torch

CONTROL = "control"
DECODER = "decoder"


class Learner:
    """The ControlNet, later perhaps the base's decoder too, and all that changes with them.

    Args:
        base: The frozen model.
        control_net: diffusers.ControlNetModel, on the base's device.
        config: The run's settings.

    Raises:
        DependencyError: if the optimizer's library is not installed.

    Attributes:
        base: The frozen model.
        control_net: diffusers.ControlNetModel in training.
        optimizer: Of everything that is trained by now.
        averages: The running averages by part; none where `ema.decay` is 0.
        is_unlocked: Whether the base's decoder is trained by now.
    """

    def __init__(self, base: BaseModel, control_net: Any, config: TrainConfig) -> None:  # noqa: ANN401
        self.base = base
        self.control_net = control_net
        self.averages: dict[str, Ema] = {}
        self.is_unlocked = False
        self._config = config
        trained = [p for p in control_net.parameters() if p.requires_grad]
        self.optimizer = new_optimizer(config.optim, trained)
        self._average(CONTROL, dict(control_net.named_parameters()))

    def is_due(self, done: int) -> bool:
        """Whether the decoder has to be trained when `done` optimizer steps are through."""
        after = self._config.control.unlock_decoder
        return after is not None and done >= after

    def unlock(self) -> None:
        """Train the base's decoder from now on, at `control.decoder_lr`."""
        if self.is_unlocked:
            return
        decoder = decoder_parameters(self.base.unet)
        for parameter in decoder.values():
            parameter.requires_grad_(True)
        scale = self._config.control.decoder_lr / self._config.optim.lr
        self.optimizer.add_param_group({"params": list(decoder.values()), "lr_scale": scale})
        self._average(DECODER, decoder)
        self.is_unlocked = True

    def parameters(self) -> list[torch.nn.Parameter]:
        """Everything that is trained by now, in the optimizer's order."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def update_averages(self) -> None:
        """Let the weights of a finished step into the averages."""
        for average in self.averages.values():
            average.update()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averages in place of the weights, where there are any; restored at the end."""
        with ExitStack() as stack:
            for average in self.averages.values():
                stack.enter_context(average.applied())
            yield

    def _average(self, part: str, parameters: dict[str, torch.nn.Parameter]) -> None:
        if self._config.ema.decay > 0:
            self.averages[part] = Ema(parameters, self._config.ema.decay)
