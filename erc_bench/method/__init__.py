"""What a method is: its settings, what it reads, and how examples become batches.

Everything that a new method needs can be imported from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from erc_bench.corpus.conversation import Dialogue, LabelSet, Utterance
    from erc_bench.method.config import (
        EvaluationConfig,
        MethodConfig,
        above,
        at_least,
        between_0_and_1,
    )
    from erc_bench.method.contract import ErcMethod
    from erc_bench.method.data import ErcDataModule
    from erc_bench.method.ragged import Columns, Ragged
    from erc_bench.method.reader import Batch, Example, Reader

__all__ = [
    "Batch",
    "Columns",
    "Dialogue",
    "ErcDataModule",
    "ErcMethod",
    "EvaluationConfig",
    "Example",
    "LabelSet",
    "MethodConfig",
    "Ragged",
    "Reader",
    "Utterance",
    "above",
    "at_least",
    "between_0_and_1",
]

_ROOMS = {
    "corpus.conversation": ("Dialogue", "LabelSet", "Utterance"),
    "method.config": ("EvaluationConfig", "MethodConfig", "above", "at_least", "between_0_and_1"),
    "method.contract": ("ErcMethod",),
    "method.data": ("ErcDataModule",),
    "method.ragged": ("Columns", "Ragged"),
    "method.reader": ("Batch", "Example", "Reader"),
}


def __getattr__(name: str) -> Any:
    """Import a name's module on first use, so that settings are read without PyTorch."""
    from importlib import import_module

    for module, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(f"erc_bench.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
