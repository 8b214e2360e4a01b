"""Attention on a CPU in the precision of autocast.

On a CPU, attention with dropout is computed step by step. By default, PyTorch does so in float32
even if the inputs are of lower precision.

Gain: on a processor with instructions for bfloat16 (``docs/notes/speed.md``), a step without this
took 1.41 times the time in bfloat16, and the same time in float32. On a processor without them (AMD
EPYC, Zen 3; MiniLM, 4 rows of 60 to 99 tokens, forward and backward, one thread, processor time) a
step with this is 0.93 times as fast, and ``precision=auto`` takes float32 there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def low_precision_attention(on: bool = True) -> Iterator[None]:
    """Let attention stay in the precision of its inputs, or not, until the context is left.

    With a GPU nothing changes, since its kernels do so anyway.
    """
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(
        before if torch.cuda.is_available() else on
    )
    try:
        yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)
