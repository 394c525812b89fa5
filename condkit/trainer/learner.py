"""What learns in a run: weights, their optimizer and their average, from locked to unlocked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from condkit.trainer.base_model import BaseModel
from condkit.trainer.config import TrainConfig
from condkit.trainer.decoder import decoder_parameters
from condkit.trainer.distributed import Ranks
from condkit.trainer.ema import Ema
from condkit.trainer.optimizers import new_optimizer
from condkit.trainer.sharding import ShardedNetwork, whole_tensors

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
        ranks: The other processes; with `compute.shard` the ControlNet is shared out over them.

    Raises:
        DependencyError: if the optimizer's library is not installed.

    Attributes:
        base: The frozen model.
        network: The ControlNet that trains; shared out where `compute.shard` says so.
        control_net: The ControlNet in one piece, to save and to make pictures with. It is `network`
            itself, but where that is shared out: then it is a copy, as of the last `collect`.
        optimizer: Of everything that is trained by now.
        averages: The running averages by part; none where `ema.decay` is 0.
        is_unlocked: Whether the base's decoder is trained by now.
    """

    def __init__(
        self,
        base: BaseModel,
        control_net: Any,  # noqa: ANN401 - diffusers.ControlNetModel
        config: TrainConfig,
        ranks: Ranks | None = None,
    ) -> None:
        ranks = ranks or Ranks()
        self.base = base
        self.network = self.control_net = control_net
        self._sharded: ShardedNetwork | None = None
        if config.compute.shard and ranks.size > 1:
            self._sharded = ShardedNetwork(control_net, is_main=ranks.is_main)
            self.network, self.control_net = self._sharded.network, self._sharded.twin
        self.averages: dict[str, Ema] = {}
        self.is_unlocked = False
        self._config = config
        self._collected: dict[str, Any] = {}
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = new_optimizer(config.optim, trained)
        self._average(CONTROL, dict(self.network.named_parameters()))

    @property
    def is_sharded(self) -> bool:
        """Whether the ControlNet is shared out over the ranks."""
        return self._sharded is not None

    def collect(self) -> None:
        """Bring everything that is shared out into one piece; on all ranks at once."""
        if self._sharded is None:
            return
        keep = self._sharded.is_main
        self._sharded.fill_twin()
        self._collected = {
            "optimizer": self._sharded.optimizer_state(self.optimizer),
            "weights": {name: p.clone() for name, p in self.control_net.state_dict().items()},
            "averages": {
                part: whole_tensors(ema.tensors, keep=keep) for part, ema in self.averages.items()
            },
        }

    def optimizer_state(self) -> dict[str, Any]:
        """What the optimizer remembers, in one piece."""
        if self._sharded is None:
            return dict(self.optimizer.state_dict())
        return dict(self._collected["optimizer"])

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take over the weights of a saved ControlNet."""
        if self._sharded is None:
            self.network.load_state_dict(weights)
        else:
            self._sharded.load(weights)

    def load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        """Take over what an optimizer remembered."""
        if self._sharded is None:
            self.optimizer.load_state_dict(state)
        else:
            self._sharded.load_optimizer(self.optimizer, state)

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
        """`control_net` with the averages in place of the weights, where there are any.

        It is on the base's device meanwhile; the weights are back at the end.
        """
        with ExitStack() as stack:
            if self._sharded is not None:
                stack.enter_context(self._twin_in_use())
            else:
                for average in self.averages.values():
                    stack.enter_context(average.applied())
            yield

    @contextmanager
    def _twin_in_use(self) -> Iterator[None]:
        averages = self._collected["averages"].get(CONTROL)
        if averages is not None:
            self.control_net.load_state_dict(averages)
        self.control_net.to(self.base.compute.device)
        try:
            yield
        finally:
            self.control_net.to("cpu")
            self.control_net.load_state_dict(self._collected["weights"])

    def _average(self, part: str, parameters: dict[str, torch.nn.Parameter]) -> None:
        if self._config.ema.decay > 0:
            self.averages[part] = Ema(parameters, self._config.ema.decay)
