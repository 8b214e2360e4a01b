"""How Lightning trains on several devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer

from erc_bench.method import devices
from erc_bench.training.sharding import is_shared_out, part_like, shard, whole


class GatheredDDP(DDPStrategy):
    """Lightning's DDP, with gradients averaged by :mod:`erc_bench.method.devices`.

    PyTorch's own wrapper averages gradients during the backward pass. It allows only one backward
    pass for a forward pass, through the same parameters on every device. Here a method may have
    several backward passes, through any parameters, as in adversarial training.

    Args:
        sharded: shard the weights of encoders; see :mod:`erc_bench.training.sharding`.
    """

    def __init__(self, sharded: bool = False) -> None:
        super().__init__(cluster_environment=_Joined())
        self.sharded = sharded
        self._accumulating = False

    def setup_distributed(self) -> None:
        """Set the ranks only: the processes are joined already, and nothing is seeded again."""
        self.set_world_ranks()

    def setup(self, trainer: Trainer) -> None:
        """Set up as any strategy does: DDP's own would send all weights again before every test."""
        Strategy.setup(self, trainer)

    def _setup_model(self, model: nn.Module) -> Any:
        """Begin a training with the same weights on every device."""
        assert isinstance(model, LightningModule)
        if model.trainer.state.fn == TrainerFn.FITTING:
            devices.take_over_state(model)
            if self.sharded:
                shard(model)
        return model

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Keep the gradients of this device alone until the last of the accumulated batches."""
        self._accumulating = True
        try:
            yield
        finally:
            self._accumulating = False

    def post_backward(self, closure_loss: Tensor) -> None:
        """Average the gradients; also after each backward pass of manual optimisation."""
        if not self._accumulating:
            assert self.lightning_module is not None
            parameters = self.lightning_module.parameters()
            # FSDP has averaged the gradients of sharded parameters.
            devices.average_gradients(p for p in parameters if not is_shared_out(p))

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state of an optimiser, gathered from all devices."""
        return whole(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give every device its part of the optimisers' states."""
        super().load_optimizer_state_dict(checkpoint)
        for optimizer in self.optimizers:
            for p, state in optimizer.state.items():
                for name, value in state.items():
                    state[name] = part_like(value, p)


class _Joined(LightningEnvironment):
    """Tells Lightning which processes :mod:`erc_bench.method.devices` has joined."""

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def local_rank(self) -> int:
        return devices.position().local_rank

    def node_rank(self) -> int:
        return devices.position().node
