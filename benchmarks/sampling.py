"""The batches that stand for an epoch, and the clock of what is done with them."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from erc_bench.corpus.conversation import Corpus
from erc_bench.method.contract import ErcMethod
from erc_bench.method.data import ErcDataModule
from erc_bench.method.reader import Batch

PER_ROUND = 4
"""Batches of ours for one of the recipe: ours differ in length, and are quicker."""
EVALUATION_ROUNDS = 2
"""Rounds of an evaluation, and of a pass over train, that are measured."""

Laps = dict[str, list[np.ndarray]]
"""For training, evaluation and survey the seconds of every batch: on the clock, of processor."""

Choice = Callable[[Sequence[np.ndarray], np.ndarray, int, int], list[np.ndarray]]
"""Of an epoch's batches of items ``sizes`` those that are done, in rounds of some batches each."""


@dataclass(frozen=True)
class Epoch:
    """What an epoch of one side takes."""

    batches: dict[str, int]
    """How many there are of training, evaluation and survey."""
    laps: Laps
    """Those measured."""
    steps: int
    """Rounds of training that were measured."""

    def seconds(self, kind: int = 0) -> float:
        """Mean of the measured batches × their number; of the clock (0) or the processor (1)."""
        return sum(n * self.step(part)[kind] for part, n in self.batches.items())

    def step(self, part: str) -> np.ndarray:
        """Mean seconds ``(2,)`` of a batch."""
        return np.mean(self.laps[part], axis=0)

    def rounds(self) -> np.ndarray:
        """Seconds on the clock of the epoch, had all training batches been as in each round."""
        of_round = np.reshape([lap[0] for lap in self.laps["train"]], (self.steps, -1)).mean(axis=1)
        return self.seconds() + self.batches["train"] * (of_round - of_round.mean())


def now() -> np.ndarray:
    """Seconds on the clock, and of this process on the processors: a busy machine slows only the
    first."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


def sample(
    batches: Sequence[np.ndarray], sizes: np.ndarray, rounds: int, per_round: int
) -> list[np.ndarray]:
    """Batches for ``rounds`` rounds, and before them a round to warm up.

    The batches are sorted by size and taken at even distances, so that their mean is that of all;
    every round has one of every ``per_round``-th of them. What warms up are others, as long as
    there are some, at even distances too.
    """
    order = sorted(batches, key=lambda batch: sizes[batch].sum())
    wanted = rounds * per_round
    places = ((np.arange(wanted) + 0.5) * len(order) / wanted).astype(int)
    rng = np.random.default_rng(0)
    chosen = np.stack([rng.permutation(part) for part in places.reshape(per_round, rounds)], axis=1)
    others = np.setdiff1d(np.arange(len(order)), places)
    others = others if len(others) >= per_round else np.arange(len(order))
    warming = others[(np.arange(per_round) + 1) * len(others) // per_round - 1]
    return [order[i] for i in (*warming, *chosen.ravel())]


def longest(
    batches: Sequence[np.ndarray], sizes: np.ndarray, rounds: int, per_round: int
) -> list[np.ndarray]:
    """The two longest batches."""
    return sorted(batches, key=lambda batch: -sizes[batch].sum())[:2]


class SampledDataModule(ErcDataModule):
    """Our data, of which only some batches are used; and the clock of what is done with them.

    Attributes:
        batches: how many of each part an epoch has.
        laps: seconds of the batches that were done.
    """

    def __init__(
        self, corpus: Corpus, method: ErcMethod, rounds: int, choose: Choice = sample
    ) -> None:
        super().__init__(corpus, method)
        self.rounds = rounds
        self.choose = choose
        self.batches: dict[str, int] = {}
        self.laps: Laps = defaultdict(list)

    def sample(self, part: str, batches: list[np.ndarray], split: str) -> list[np.ndarray]:
        """Those batches that are done."""
        self.batches[part] = len(batches)
        rounds = self.rounds if part == "train" else EVALUATION_ROUNDS
        return self.choose(batches, self.lengths(split), rounds, PER_ROUND)

    def _sampled(self, part: str, loader: DataLoader, split: str) -> DataLoader:
        chosen = self.sample(part, list(loader.sampler), split)
        pin = loader.pin_memory
        return DataLoader(loader.dataset, sampler=chosen, batch_size=None, pin_memory=pin)

    def train_dataloader(self) -> DataLoader:
        return self._sampled("train", super().train_dataloader(), "train")

    def val_dataloader(self) -> list[DataLoader]:
        return [self._sampled("evaluate", super().val_dataloader()[0], "dev")]

    def encode(
        self, split: str, function: Callable[[Batch], Tensor], examples: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor]:
        """A pass over some of the batches; what it would have read of the others are copies, so
        that all that follows has its whole size."""
        loader = self.evaluation_loader(split, examples)
        batches = list(loader.sampler)
        every = np.sort(np.concatenate(batches)) if examples is None else examples
        some = every[np.isin(every, np.concatenate(self.sample("survey", batches, split)))]
        with self.lap("survey", len(some) / self.method.config.evaluation.batch_size):
            values, labels = super().encode(split, function, some)
        copies = np.resize(np.arange(len(some)), len(every))
        return values[copies], labels[copies]

    @contextlib.contextmanager
    def lap(self, part: str, batches: float = 1) -> Iterator[None]:
        """Measure what is done inside as so many batches."""
        start = now()
        yield
        self.laps[part].append((now() - start) / batches)


class InOrder(SampledDataModule):
    """The first ``steps`` training batches in the order of the corpus; all else is done whole."""

    def __init__(self, corpus: Corpus, method: ErcMethod, steps: int) -> None:
        super().__init__(corpus, method, 1, lambda batches, *_: list(batches))
        self.steps = steps

    def train_dataloader(self) -> DataLoader:
        loader = super().train_dataloader()
        columns: Any = self.columns["train"]
        own = np.arange(len(columns["dialogue"]))
        if "turn" in columns:  # without what augmentation may add
            own = np.flatnonzero(columns["turn"] == columns["targets"].values)
        size = self.method.config.batch_size
        batches = np.split(own, range(size, len(own), size))[: self.steps]
        return DataLoader(loader.dataset, sampler=batches, batch_size=None)
