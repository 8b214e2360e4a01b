"""Training one model on several devices, with one process each.

Every device holds the whole batch, and computes the network's output for its share of the examples.
The outputs are gathered, and every device computes the same loss of the whole batch. So N devices
train what one would.

The gradient of the loss has two parts. One flows through the output; a device has only the part of
its own share. The other flows to parameters that the loss itself uses; every device has all of it.
The mean over N devices is exact for both if the first part is multiplied by N, which the backward
pass of :func:`gathered` does.

With one device, or outside :func:`joined`, all of this does nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_unflatten

Value = TypeVar("Value")

BUCKET = 2**24
"""How many elements of gradients are averaged at once."""

PATIENCE = timedelta(hours=12)
"""How long a process waits for the others, one of which may be busy for long."""


@dataclass(frozen=True)
class Position:
    """The place of this process among all."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    """Its number on its machine, and that of its GPU."""
    nodes: int = 1
    """The number of machines; each has equally many processes."""
    sharded: bool = False
    """Whether each device keeps only its part of the weights and of the optimiser's state."""

    @property
    def node(self) -> int:
        """The number of its machine."""
        return self.rank // (self.count // self.nodes)


_position = Position()
_entered = (0, 0)
"""The seed with which :func:`own_draws` was entered last, and how often."""
_control: Any = None
"""The process group for messages between processes; it needs no GPU."""


def position() -> Position:
    """The place of this process among all."""
    return _position


def count() -> int:
    """The number of devices."""
    return _position.count


@contextlib.contextmanager
def joined(here: Position, address: str, port: int) -> Iterator[None]:
    """Be one of several processes until the context is left.

    Args:
        here: the place of this process among them.
        address: the address of the first process.
        port: a free port there.
    """
    global _position, _control
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(here.local_rank)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=f"tcp://{address}:{port}",
        rank=here.rank,
        world_size=here.count,
        timeout=PATIENCE,
    )
    try:
        _control = dist.new_group(backend="gloo", timeout=PATIENCE)
        _position = here
        yield
    finally:
        _position, _control = Position(), None
        # At the interpreter's end, the group's threads may be gone before the group.
        dist.destroy_process_group()


# --- messages between processes


def every(value: Value) -> list[Value]:
    """The values of all processes, in the order of their ranks."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value, group=_control)
    return values


def first(value: Value) -> Value:
    """The value of the first process."""
    if count() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, 0, group=_control)
    return values[0]


# --- a batch of several devices


class _Gather(torch.autograd.Function):
    """The rows of every device ``(n_r, …)`` as ``(Σ n_r, …)``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        here = _position
        ctx.begin, ctx.size, ctx.count = sum(sizes[: here.rank]), len(rows), here.count
        own = rows.new_zeros(max(sizes), *rows.shape[1:])
        own[: len(rows)] = rows
        # As bytes, since not every backend can send every type of number.
        sent = own.reshape(-1).view(torch.uint8)
        received = [torch.empty_like(sent) for _ in sizes]
        dist.all_gather(received, sent)
        pieces = (r.view(rows.dtype).view(own.shape) for r in received)
        return torch.cat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return ctx.count * gradient.narrow(0, ctx.begin, ctx.size), None


def side_by_side(pieces: Sequence[Any]) -> Any:
    """Join the outputs of parts of a batch to the output of the batch.

    Tensors are joined along their first dimension. If another dimension differs in size, the
    smaller tensors are filled up with 0. Everything else is taken from the first output.
    """
    flat = [tree_flatten(piece) for piece in pieces]
    form = flat[0][1]
    together = []
    for leaves in zip(*(leaves for leaves, _ in flat), strict=True):
        if isinstance(leaves[0], Tensor):
            shape = _common([tuple(leaf.shape) for leaf in leaves])
            together.append(torch.cat([_filled_up(leaf, shape) for leaf in leaves]))
        else:
            together.append(leaves[0])
    return tree_unflatten(together, form)


def gathered(output: Any) -> Any:
    """Join the outputs of all devices for their shares to the output for the whole batch.

    Tensors are joined as by :func:`side_by_side`, and every device gets the whole output. In the
    backward pass, the gradient of a device's own share is multiplied by N: see the module.
    """
    if count() == 1:
        return output
    leaves, form = tree_flatten(output)
    own: list[Any] = [tuple(x.shape) if isinstance(x, Tensor) else None for x in leaves]
    shapes = every(own)
    if len({len(each) for each in shapes}) > 1:
        raise RuntimeError("The network's output has another form on other devices.")
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            of_all = [each[i] for each in shapes]
            full = _filled_up(leaf, _common(of_all))
            sizes = [shape[0] for shape in of_all]
            leaves[i] = _Gather.apply(full, sizes)  # type: ignore[no-untyped-call]
    return tree_unflatten(leaves, form)


def gathered_rows(rows: Sequence[Tensor], device: torch.device) -> Tensor:
    """Tensors of all devices joined along their first dimension; a device may have none."""
    own = torch.cat(list(rows)) if rows else None
    kinds = every(None if own is None else (tuple(own.shape[1:]), own.dtype))
    shape, dtype = next(kind for kind in kinds if kind is not None)
    return gathered(torch.empty(0, *shape, dtype=dtype, device=device) if own is None else own)


def _common(shapes: Sequence[Any]) -> tuple[int, ...]:
    """The largest size of each dimension except the first."""
    if not all(shapes) or len({len(shape) for shape in shapes}) > 1:
        raise RuntimeError(
            "A method's forward gives a tensor whose first dimension is not that of the examples "
            "or their targets, so its outputs for parts of a batch can't be put together."
        )
    return tuple(map(max, zip(*(shape[1:] for shape in shapes), strict=True)))


def _filled_up(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Rows ``(n, …)`` filled up with zeros at the end to ``(n, *shape)``."""
    if tuple(rows.shape[1:]) == shape:
        return rows
    more = [wanted - there for wanted, there in zip(shape, rows.shape[1:], strict=True)]
    return F.pad(rows, [n for size in reversed(more) for n in (0, size)])


@contextlib.contextmanager
def own_draws() -> Iterator[None]:
    """Let this device draw random numbers of its own, for dropout in its share of a batch.

    Outside this context, every device draws the same numbers, which are those that a single device
    would draw without dropout. Inside it, the numbers depend on the seed that was set last, on how
    often the context was entered since, and on the device.
    """
    global _entered
    if count() == 1:
        yield
        return
    seed = torch.initial_seed()
    _entered = (seed, _entered[1] + 1 if _entered[0] == seed else 0)
    drawn = np.random.SeedSequence((*_entered, _position.rank)).generate_state(1, np.uint64)
    gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(gpus):
        torch.manual_seed(int(drawn[0]))
        yield


# --- weights and gradients


@torch.no_grad()
def take_over_state(module: torch.nn.Module) -> None:
    """Give every device the weights and buffers of the first."""
    for tensor in (*module.parameters(), *module.buffers()):
        sent = tensor.data.contiguous()
        dist.broadcast(sent, 0)
        tensor.data.copy_(sent)


def mean(values: Tensor) -> Tensor:
    """The mean over the devices, such as that of gradients that a method computes itself."""
    if count() > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= count()
    return values


@torch.no_grad()
def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace the gradients of parameters by their mean over the devices.

    A device without a gradient, whose share did not go through a layer, counts as zeros. If no
    device has a gradient, it stays None.
    """
    wanted = [p for p in parameters if p.requires_grad]
    having = torch.tensor([p.grad is not None for p in wanted], dtype=torch.int32)
    dist.all_reduce(having, group=_control)
    gradients: list[Tensor] = []
    for p, devices in zip(wanted, having.tolist(), strict=True):
        if devices:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            gradients.append(p.grad)
    for bucket in _buckets(gradients):
        flat = torch.cat([g.reshape(-1) for g in bucket])
        dist.all_reduce(flat)
        flat /= count()
        for g, average in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            g.copy_(average.view_as(g))


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield lists of gradients of one type, of about :data:`BUCKET` elements each."""
    for _, alike in groupby(gradients, lambda g: g.dtype):
        bucket: list[Tensor] = []
        for gradient in alike:
            bucket.append(gradient)
            if sum(g.numel() for g in bucket) >= BUCKET:
                yield bucket
                bucket = []
        if bucket:
            yield bucket
