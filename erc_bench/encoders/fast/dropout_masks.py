"""Dropout masks on the CPU, with four elements from every random number.

PyTorch draws a 64-bit number for every element of a mask and, except on Intel processors, in one
thread. Here each of the four quarters of a number decides one element, so a probability is exact to
1/65536.

Gain: 1.00 to 1.06 times as fast, forward and backward in float32, in processor time: MiniLM of 6
layers, 32 rows of 60 to 99 tokens, one thread of an AMD EPYC (Zen 3). The faster a processor
multiplies, the larger the share of the masks in its time.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from torch import Generator, Tensor

_library: torch.library.Library | None = None
"""The replacement of PyTorch's kernel, while it is in use."""


def bernoulli_(self: Tensor, p: float = 0.5, *, generator: Generator | None = None) -> Tensor:
    """Fill a tensor with ones of probability ``p`` and zeros, in place."""
    numbers = torch.empty((self.numel() + 3) // 4, dtype=torch.int64)
    quarters = numbers.random_(-(2**63), None, generator=generator).view(torch.int16)
    bound = round(p * 2**16) - 2**15
    if bound == 2**15:  # beyond the quarters' range
        return self.fill_(1)
    return self.copy_(quarters[: self.numel()].view(self.shape) < bound)


@contextlib.contextmanager
def fast_dropout_masks(on: bool = True) -> Iterator[None]:
    """Use :func:`bernoulli_` for all dropout on this CPU, or not, until the context is left.

    On Intel processors PyTorch's own kernel is fast, and always used.
    """
    before = _library is not None
    _replace(on and not _is_intel())
    try:
        yield
    finally:
        _replace(before)


def _replace(on: bool) -> None:
    global _library
    if on and _library is None:
        _library = torch.library.Library("aten", "IMPL")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the kernel replaces another is the point
            _library.impl("bernoulli_.float", bernoulli_, "CPU")
    elif not on and _library is not None:
        _library._destroy()
        _library = None


@cache
def _is_intel() -> bool:
    cpu = Path("/proc/cpuinfo")
    return cpu.exists() and "GenuineIntel" in cpu.read_text(errors="replace")
