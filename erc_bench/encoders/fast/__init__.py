"""What makes training fast and could be left out: a switch for each, with what it gains.

A training runs inside :func:`enabled`; when it is left, everything is as it was before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Speedups:
    """What a training may use to be faster. Each has a module of its own here, which says what
    it gains."""

    one_position: bool = True
    """The last layer of an encoder is computed only at the position that is read."""
    dropout_masks: bool = True
    """Dropout masks on a CPU take four elements from every number drawn.
    Other masks are drawn than without it."""
    low_precision_attention: bool = True
    """Attention on a CPU stays in the precision of autocast."""


_current = Speedups(one_position=True, dropout_masks=False, low_precision_attention=False)


def current() -> Speedups:
    """What is switched on. Outside :func:`enabled` nothing of PyTorch's is replaced."""
    return _current


@contextlib.contextmanager
def enabled(speedups: Speedups) -> Iterator[None]:
    """Switch on what is asked for, and off what is not, until the context is left.

    Contexts may be nested; they hold for all threads of the process.
    """
    global _current
    from erc_bench.encoders.fast.attention import low_precision_attention
    from erc_bench.encoders.fast.dropout_masks import fast_dropout_masks

    before = _current
    with (
        fast_dropout_masks(speedups.dropout_masks),
        low_precision_attention(speedups.low_precision_attention),
    ):
        _current = speedups
        try:
            yield
        finally:
            _current = before
