"""Dropout masks on the CPU, four from every number drawn.

PyTorch draws a 64-bit number for every element of a mask and, but for Intel's processors, in one
thread: a quarter of the time of a training step. Here each of its four quarters decides an element,
so a probability holds to 1/65536.
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

import torch
from torch import Generator, Tensor


def bernoulli_(self: Tensor, p: float = 0.5, *, generator: Generator | None = None) -> Tensor:
    """Fill a tensor with ones of probability ``p`` and zeros, in place."""
    numbers = torch.empty((self.numel() + 3) // 4, dtype=torch.int64)
    quarters = numbers.random_(-(2**63), None, generator=generator).view(torch.int16)
    bound = round(p * 2**16) - 2**15
    if bound == 2**15:  # beyond the quarters' range
        return self.fill_(1)
    return self.copy_(quarters[: self.numel()].view(self.shape) < bound)


@cache
def draw_masks_fast() -> torch.library.Library | None:
    """Use :func:`bernoulli_` for all dropout on this CPU from now on, where it is faster."""
    cpu = Path("/proc/cpuinfo")
    if cpu.exists() and "GenuineIntel" in cpu.read_text(errors="replace"):
        return None
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the kernel replaces another is the point
        library.impl("bernoulli_.float", bernoulli_, "CPU")
    return library
