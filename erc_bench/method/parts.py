"""A training batch in parts: the share of each of several devices, and micro-batches.

Micro-batches are for a batch that is too large for a device's memory: the states of only one of
them are kept at a time. The network runs over all micro-batches, and the loss is computed of the
whole batch. In the backward pass the network runs over each micro-batch again, with the same
dropout (GradCache, Gao et al. 2021). Accumulating gradients instead would change a loss that
compares examples.
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
"""The key of a batch's :class:`Parts`; absent if the batch is not in parts."""

TOLERANCE = 0.05
"""How far a batch's output may be from that of its parts, as a share of the largest value. In
bfloat16, rounding depends on the shapes."""


class Parts(NamedTuple):
    """The parts of a training batch that this device computes."""

    batches: list[Batch]
    """Its micro-batches; at least one."""
    empty: bool
    """Whether its share has no example. The network still runs, so that all devices do the same,
    but its output does not count."""


def parts_of(examples: np.ndarray, micro_batch: int) -> tuple[list[np.ndarray], bool] | None:
    """The examples of this device's :class:`Parts`; None if the batch is not split.

    All devices that have examples have the same number of micro-batches, because devices that share
    out an encoder's weights gather them together for each.

    Args:
        examples: numbers of the batch's examples.
        micro_batch: the most examples in a micro-batch; 0 = any number. With 1, a device whose
            share has one example more than another's has two of them in a micro-batch.
    """
    here = devices.position()
    if here.count == 1 and not 0 < micro_batch < len(examples):
        return None
    share = np.array_split(examples, here.count)[here.rank]
    if not len(share):
        return [examples[:1]], True
    fewest, most = len(examples) // here.count, -(-len(examples) // here.count)
    pieces = min(-(-most // micro_batch), max(fewest, 1)) if micro_batch else 1
    return np.array_split(share, pieces), False


def output_in_parts(forward: Callable[..., Any], parts: Parts, *further: Any) -> Any:
    """``forward(batch, *further)`` for the whole batch; only this device's parts run here."""
    with devices.own_draws():
        *earlier, last = parts.batches
        pieces = [checkpoint(forward, part, *further, use_reentrant=False) for part in earlier]
        # The backward pass of the last part comes first, so its states are kept.
        pieces.append(forward(last, *further))
    return _together(pieces, parts)


def _together(pieces: list[Any], parts: Parts) -> Any:
    output = devices.side_by_side(pieces)
    if parts.empty:
        output = tree_map_only(Tensor, lambda rows: rows[:0], output)
    return devices.gathered(output)


@torch.no_grad()
def check_parts(method: nn.Module, batch: Batch) -> None:
    """Raise if the joined output of a batch's parts is not that of the whole batch.

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
            f"{type(method).__name__} can't compute a batch in parts with these settings: its "
            "network's output for an example depends on the other examples of the batch, or does "
            "not have one row for each example or target. Leave out --devices and micro_batch."
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
