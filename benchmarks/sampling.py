"""A sample of the batches of an epoch, and the time that they take."""

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
"""Batches of ours for one of the recipe: ours differ in length and are faster."""
EVALUATION_ROUNDS = 2
"""Measured rounds of an evaluation, and of a pass over train."""

Laps = dict[str, list[np.ndarray]]
"""For each part of an epoch the seconds ``(2,)`` of every batch: on the clock, of the processor.

The parts are ``train``, ``evaluate`` and ``survey``, which is a pass over train before an epoch.
"""

Choice = Callable[[Sequence[np.ndarray], np.ndarray, int, int], list[np.ndarray]]
"""Chooses the batches that are run, from an epoch's batches.

Its arguments are the batches, the sizes of the items, the number of rounds, and the number of
batches in a round.
"""


@dataclass(frozen=True)
class Epoch:
    """The time that an epoch of one side takes."""

    batches: dict[str, int]
    """The number of batches in each part of the epoch."""
    laps: Laps
    """The times of the measured batches."""
    steps: int
    """The number of measured rounds of training."""

    def seconds(self, kind: int = 0) -> float:
        """Seconds of the epoch: the mean of the measured batches × the number of batches.

        ``kind`` is 0 for time on the clock and 1 for processor time.
        """
        return sum(n * self.step(part)[kind] for part, n in self.batches.items())

    def step(self, part: str) -> np.ndarray:
        """The mean seconds ``(2,)`` of a batch of a part."""
        return np.mean(self.laps[part], axis=0)

    def rounds(self) -> np.ndarray:
        """Seconds of the epoch on the clock, if all training batches were as in one round.

        One figure for each round.
        """
        of_round = np.reshape([lap[0] for lap in self.laps["train"]], (self.steps, -1)).mean(axis=1)
        return self.seconds() + self.batches["train"] * (of_round - of_round.mean())


def now() -> np.ndarray:
    """Seconds ``(2,)`` on the clock and of processor time; a busy machine slows only the first."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


def sample(
    batches: Sequence[np.ndarray], sizes: np.ndarray, rounds: int, per_round: int
) -> list[np.ndarray]:
    """Choose batches for ``rounds`` rounds, and before them a round to warm up.

    The batches are sorted by size and taken at even distances, so that their mean is that of all
    batches. The sorted batches are divided into ``per_round`` parts, and every round has one batch
    of each part. The round to warm up has other batches if there are enough, also at even
    distances.
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
    """Choose the two longest batches."""
    return sorted(batches, key=lambda batch: -sizes[batch].sum())[:2]


class SampledDataModule(ErcDataModule):
    """Our datamodule with only some of the batches, and their times.

    Attributes:
        batches: the number of batches in each part of an epoch.
        laps: seconds of the batches that were run.
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
        """Choose the batches of a part that are run."""
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
        """Pass over some of the batches.

        The results for the other batches are copies of these, so that everything that follows has
        its full size.
        """
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
        """Measure the time spent inside, and count it as this number of batches."""
        start = now()
        yield
        self.laps[part].append((now() - start) / batches)


class InOrder(SampledDataModule):
    """The first ``steps`` training batches in the order of the corpus; all other parts in full."""

    def __init__(self, corpus: Corpus, method: ErcMethod, steps: int) -> None:
        super().__init__(corpus, method, 1, lambda batches, *_: list(batches))
        self.steps = steps

    def train_dataloader(self) -> DataLoader:
        loader = super().train_dataloader()
        columns: Any = self.columns["train"]
        own = np.arange(len(columns["dialogue"]))
        if "turn" in columns:  # without the examples that augmentation may add
            own = np.flatnonzero(columns["turn"] == columns["targets"].values)
        size = self.method.config.batch_size
        batches = np.split(own, range(size, len(own), size))[: self.steps]
        return DataLoader(loader.dataset, sampler=batches, batch_size=None)
