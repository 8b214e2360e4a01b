"""Optional speedups of training, with a switch for each.

A training runs inside :func:`enabled`; afterwards everything is as it was before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Speedups:
    """The speedups that a training may use. Each has a module of its own here, which says how much
    it gains."""

    one_position: bool = True
    """The last layer of an encoder is computed only at the position that is read."""
    dropout_masks: bool = True
    """On a CPU, every random number gives four elements of a dropout mask.
    The masks differ from those without it."""
    low_precision_attention: bool = True
    """Attention on a CPU stays in the precision of autocast."""


_current = Speedups(one_position=True, dropout_masks=False, low_precision_attention=False)


def current() -> Speedups:
    """The current switches. Outside :func:`enabled`, nothing in PyTorch is replaced."""
    return _current


@contextlib.contextmanager
def enabled(speedups: Speedups) -> Iterator[None]:
    """Switch the given speedups on, and the others off, until the context is left.

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
