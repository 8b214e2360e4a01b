"""Train on several devices, each a process with gloo, and on one device for comparison.

Everything is computed in float64, so that rounding can't explain a difference. If the code asks
for float32 in these processes, it gets float64.
"""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fitting import fitted
from lightning import Callback
from torch import Tensor
from torch.multiprocessing import start_processes

from erc_bench.corpus.conversation import Corpus
from erc_bench.method.contract import ErcMethod
from erc_bench.method.devices import Position, joined
from erc_bench.settings.registry import own_modules
from erc_bench.training import train as training
from erc_bench.training.sharding import whole


@dataclass(frozen=True)
class Task:
    """A training to be done on different numbers of devices."""

    name: str
    kind: type[ErcMethod]
    config: Any
    corpus: Corpus


class Course(Callback):
    """Records what must be the same in a training on any number of devices."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients: list[dict[str, Tensor]] = []
        self.drawn: list[list[int]] = []
        self.buffers: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.drawn.append(batch["rows"].tolist())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))
        self.buffers.append({n: b.clone() for n, b in pl_module.named_buffers()})

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        having = [(n, p.grad) for n, p in pl_module.named_parameters() if p.grad is not None]
        self.gradients.append({name: whole(gradient).clone() for name, gradient in having})


def course(task: Task, folder: Path) -> dict[str, Any]:
    """Train in float64; returns the course of the training and its results."""
    seen = Course()
    trained = fitted(task.kind, task.config, task.corpus, folder, seen)
    test, dev = trained.predict("test"), trained.predict("dev")
    return {
        "losses": seen.losses,
        "gradients": seen.gradients,
        "drawn": seen.drawn,
        "buffers": seen.buffers,
        "curves": trained.log.curves,
        "state": {n: v.clone() for n, v in trained.method.state_dict().items()},
        "rows": test.rows,
        "probabilities": torch.cat([test.probabilities, dev.probabilities]),
        "extra": test.extra,
        "devices": trained.log.environment["devices"],
    }


def in_float64() -> None:
    """Make this process compute in float64 even if the code asks for float32."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    prepare = training._prepare

    def in_double(method: ErcMethod, data: Any) -> None:
        prepare(method, data)
        method.double()
        for name, value in vars(method).items():  # tensors that are not buffers
            if isinstance(value, Tensor) and value.is_floating_point():
                setattr(method, name, value.double())

    training._prepare = in_double


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _process(
    rank: int,
    tasks: Sequence[Task],
    counts: Sequence[int],
    ports: Any,
    folder: Path,
    sharded: bool = False,
) -> None:
    torch.set_num_threads(1)
    in_float64()
    for task in tasks:
        for count in counts:
            if rank >= count:
                continue
            here = Position(rank, count, rank, sharded=sharded)
            own = folder / task.name / str(count)
            group = joined(here, "127.0.0.1", ports[task.name, count]) if count > 1 else None
            with group or nullcontext():
                done = course(task, own)
            torch.save(done, own / f"course-{rank}.pt")
            if rank == 0:  # no test reads the checkpoints
                for checkpoint in own.rglob("*.ckpt"):
                    checkpoint.unlink()


def courses(
    tasks: Sequence[Task], counts: Sequence[int], folder: Path, *, sharded: bool = False
) -> None:
    """Run every training on each number of devices; :func:`read` returns the results."""
    ports = {(task.name, count): free_port() for task in tasks for count in counts}
    arguments = tasks, counts, ports, folder, sharded
    # Fork from a process that has already done the slow imports.
    multiprocessing.set_forkserver_preload(["device_runs", "datasets", *own_modules()])
    start_processes(_process, arguments, nprocs=max(counts), start_method="forkserver")


def read(task: str, count: int, rank: int, folder: Path) -> dict[str, Any]:
    """Return the course of a training as one of its devices recorded it."""
    return torch.load(folder / task / str(count) / f"course-{rank}.pt", weights_only=False)
