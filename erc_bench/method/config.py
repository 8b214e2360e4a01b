"""The settings that every method has, and checks of their values."""

from __future__ import annotations

import math
from dataclasses import MISSING, Field, dataclass, field
from typing import Any, Literal

from erc_bench.corpus.conversation import Figure
from erc_bench.encoders.fast import Speedups
from erc_bench.errors import ErcBenchError

_LATER = "added_later"
_UNHASHED = "unhashed"

SelectOn = Literal[Figure, "loss"]
"""The dev metric that selects the epoch: the corpus's own, or the loss."""


def added_later(default: Any = MISSING, *, factory: Any = MISSING) -> Any:
    """A setting that a method did not have from the beginning.

    At its default it does not change the hash of a run, so that earlier runs still count as
    finished.
    """
    return field(default=default, default_factory=factory, metadata={_LATER: True})


def is_added_later(setting: Field[Any]) -> bool:
    """Whether a setting is one of :func:`added_later`."""
    return bool(setting.metadata.get(_LATER))


def unhashed(default: Any = MISSING, *, factory: Any = MISSING) -> Any:
    """A setting that no answer depends on, such as how long to wait for a server.

    It never changes the hash of a run.
    """
    return field(default=default, default_factory=factory, metadata={_UNHASHED: True})


def is_unhashed(setting: Field[Any]) -> bool:
    """Whether a setting is :func:`unhashed`."""
    return bool(setting.metadata.get(_UNHASHED))


def default_of(setting: Field[Any]) -> Any:
    """The default of a dataclass's field."""
    made: Any = setting.default_factory
    return setting.default if made is MISSING else made()


@dataclass
class EvaluationConfig:
    """How a run is evaluated; selection is always on dev."""

    batch_size: int = 64  # examples per batch on dev and test
    oracle: bool = False  # also score test every epoch, and record the oracle gap


@dataclass
class MethodConfig:
    """The settings of every method; a method adds its own hyper-parameters."""

    encoder: str = ""  # hub id or folder; "" = none
    epochs: int = 8  # passes over the training split
    max_batches: int = 0  # most training batches per epoch; 0 = all
    batch_size: int = 64  # examples per batch
    drop_last: bool = False  # leave out an epoch's last batch if it is smaller than the others
    accumulate: int = 1  # batches per optimiser step
    gradient_clip: float = 5.0  # largest gradient norm; 0 = no clipping
    patience: int = 0  # epochs without improvement on dev before stopping; 0 = never
    # the dev metric that selects the epoch: weighted_f1 = the corpus's own metric; or loss
    select_on: SelectOn = "weighted_f1"
    # auto = bfloat16 if it is faster here
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    speedups: Speedups = added_later(factory=Speedups)  # what training may use to be faster
    # examples whose states are kept at a time: less memory, a third more time; 0 = all
    micro_batch: int = added_later(0)
    # compute the states of an encoder's layers again in the backward pass, to save memory
    checkpointing: bool = added_later(False)
    # a training batch holds examples of similar length; false = it is drawn from all of them
    group_by_length: bool = added_later(True)

    def __post_init__(self) -> None:
        self.encoder = self.encoder.rstrip("/") or self.encoder  # one folder has one name
        at_least(self, 1, "epochs", "batch_size", "accumulate")
        at_least(self, 0, "max_batches", "gradient_clip", "patience", "micro_batch")
        at_least(self.evaluation, 1, "batch_size", within="evaluation.")


def _finite(config: Any, key: str, within: str) -> None:
    value = getattr(config, key)
    if not math.isfinite(value):
        raise ErcBenchError(f"The setting {within}{key}={value} must be a finite number.")


def at_least(config: Any, bound: float, *keys: str, within: str = "") -> None:
    """Raise if a numeric setting is below a bound; the message names the setting.

    ``within`` is put before the names, such as ``"evaluation."`` for a group of settings.
    """
    for key in keys:
        _finite(config, key, within)
        if not getattr(config, key) >= bound:
            raise ErcBenchError(
                f"The setting {within}{key}={getattr(config, key)} is too small: give {bound:g} or "
                "more."
            )


def between_0_and_1(config: Any, *keys: str, within: str = "") -> None:
    """Raise if a setting is not between 0 and 1; as :func:`at_least`."""
    for key in keys:
        if not 0 <= getattr(config, key) <= 1:
            raise ErcBenchError(
                f"The setting {within}{key}={getattr(config, key)} is a share: give 0 … 1."
            )


def above(config: Any, bound: float, *keys: str, within: str = "") -> None:
    """Raise if a numeric setting does not exceed a bound; as :func:`at_least`."""
    for key in keys:
        _finite(config, key, within)
        if not getattr(config, key) > bound:
            raise ErcBenchError(
                f"The setting {within}{key}={getattr(config, key)} must be greater than {bound:g}."
            )
