"""A training batch in parts: the share of each of several devices, and micro-batches.

Of a batch that is too large for a device's memory, the states of one micro-batch are kept at a
time: the network runs over all of them, the loss is computed of the whole batch, and in the
backward pass the network runs over each micro-batch again, with the same dropout (GradCache, Gao et
al. 2021). Accumulating gradients instead would change a loss that compares examples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.checkpoint import checkpoint

from erc_bench.errors import ErcBenchError
from erc_bench.method import devices
from erc_bench.method.reader import Batch

PARTS = "parts"
"""The key of a batch under which its :class:`Parts` are; where there is none, it is in one."""

TOLERANCE = 0.05
"""How far a batch's output may be from that of its parts, as a share of the largest value: in
bfloat16 other shapes are rounded otherwise."""


class Parts(NamedTuple):
    """What this device computes of a training batch."""

    batches: list[Batch]
    """Its micro-batches; at least one."""
    empty: bool
    """Its share has no example: the network runs, so that all devices do the same, but nothing of
    it counts."""


def parts_of(examples: np.ndarray, micro_batch: int) -> tuple[list[np.ndarray], bool] | None:
    """The examples of this device's :class:`Parts`; None where a batch stays in one.

    Args:
        examples: numbers of the batch's examples.
        micro_batch: the most of a micro-batch; 0 = any number.
    """
    here = devices.position()
    if here.count == 1 and not 0 < micro_batch < len(examples):
        return None
    share = np.array_split(examples, here.count)[here.rank]
    if not len(share):
        return [examples[:1]], True
    pieces = -(-len(share) // micro_batch) if micro_batch else 1
    return np.array_split(share, pieces), False


def output_in_parts(forward: Callable[..., Any], parts: Parts, *further: Any) -> Any:
    """``forward(batch, *further)`` for the whole batch, this device's parts computed here."""
    with devices.own_draws():
        *earlier, last = parts.batches
        pieces = [checkpoint(forward, part, *further, use_reentrant=False) for part in earlier]
        # Its backward pass comes first, so its states are kept.
        pieces.append(forward(last, *further))
    return _together(pieces, parts)


def _together(pieces: list[Any], parts: Parts) -> Any:
    output = devices.side_by_side(pieces)
    if parts.empty:
        output = tree_map_only(Tensor, lambda rows: rows[:0], output)
    return devices.gathered(output)


@torch.no_grad()
def check_parts(method: nn.Module, batch: Batch) -> None:
    """Raise if a batch's parts do not give together what the batch gives as a whole.

    Raises:
        ErcBenchError: the network mixes the examples of a batch.
    """
    modes = {module: module.training for module in method.modules()}
    mixes = any(isinstance(module, _BatchNorm) for module in modes)
    try:
        method.eval()
        parts = batch[PARTS]
        whole = tree_leaves(method(batch))
        together = tree_leaves(_together([method(part) for part in parts.batches], parts))
    finally:
        for module, training in modes.items():
            module.training = training
    pairs = list(zip(whole, together, strict=False))
    same = len(whole) == len(together) and all(_same(a, b) for a, b in pairs)
    if mixes or not same:
        raise ErcBenchError(
            f"{type(method).__name__} as it is set can't compute a batch in parts: what its "
            "network makes of an example depends on the others of the batch, or its output has not "
            "one row for each example or target. Leave out --devices and micro_batch."
        )


def _same(whole: Any, together: Any) -> bool:
    if not isinstance(whole, Tensor):
        return True
    if whole.shape != together.shape:
        return False
    if not whole.is_floating_point() or not whole.numel():
        return True
    filled_up = together == 0
    distance = (whole - together).abs().masked_fill(filled_up, 0)
    return bool(distance.max() <= TOLERANCE * whole.abs().max())
