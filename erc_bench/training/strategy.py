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
    """Lightning's DDP with the gradients' mean of :mod:`erc_bench.method.devices`.

    PyTorch's own wrapper averages while the backward pass is running, but allows one backward pass
    for a forward pass, through the same parameters on every device. Here a method may have several,
    through whichever parameters it likes, as in adversarial training.

    Args:
        sharded: share out the weights of encoders; see :mod:`erc_bench.training.sharding`.
    """

    def __init__(self, sharded: bool = False) -> None:
        super().__init__(cluster_environment=_Joined())
        self.sharded = sharded
        self._accumulating = False

    def setup_distributed(self) -> None:
        """The processes are joined already, and nothing is seeded again."""
        self.set_world_ranks()

    def setup(self, trainer: Trainer) -> None:
        """As of any strategy: DDP's own would send all weights again before every test."""
        Strategy.setup(self, trainer)

    def _setup_model(self, model: nn.Module) -> Any:
        """Begin a training with the same weights everywhere."""
        assert isinstance(model, LightningModule)
        if model.trainer.state.fn == TrainerFn.FITTING:
            devices.take_over_state(model)
            if self.sharded:
                shard(model)
        return model

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Let the gradients be those of this device until the last of accumulated batches."""
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
            # FSDP has averaged those of what is shared out.
            devices.average_gradients(p for p in parameters if not is_shared_out(p))

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state of an optimiser, put together."""
        return whole(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give every device its part of the optimisers' states."""
        super().load_optimizer_state_dict(checkpoint)
        for optimizer in self.optimizers:
            for p, state in optimizer.state.items():
                for name, value in state.items():
                    state[name] = part_like(value, p)


class _Joined(LightningEnvironment):
    """The processes as they are known to :mod:`erc_bench.method.devices`."""

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def local_rank(self) -> int:
        return devices.position().local_rank

    def node_rank(self) -> int:
        return devices.position().node
