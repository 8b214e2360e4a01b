"""Which examples are together in a batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

POOL = 32
"""Batches that are sorted by length together. More of them mean less padding, less shuffling."""


class Batches(Sampler[np.ndarray]):
    """Batches of example indices.

    With a ``seed``, for training, the examples are shuffled. With ``group_by_length`` they are then
    sorted by length within pools of ``POOL`` batches. They are cut into batches, and these are
    shuffled. The batches are the same in every process.

    Without a ``seed``, for evaluation, the longest examples come first, and each process takes its
    share of the batches. All processes get equally many, since a network may need all processes at
    once. So after its ``own`` batches, a process may get one more that belongs to another.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        *,
        seed: int | None = None,
        examples: np.ndarray | None = None,
        drop_last: bool = False,
        group_by_length: bool = True,
        process: tuple[int, int] = (0, 1),
    ) -> None:
        self.lengths = lengths
        self.examples = np.arange(len(lengths)) if examples is None else np.asarray(examples)
        self.batch_size = batch_size
        self.seed = seed
        self.group_by_length = group_by_length
        self.rank, self.processes = process
        self.whole = drop_last and len(self.examples) >= batch_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which changes the shuffling; Lightning calls it."""
        self.epoch = epoch

    @property
    def _batches(self) -> int:
        """The number of batches, over all processes."""
        count = len(self.examples) / self.batch_size
        return int(count) if self.whole else int(np.ceil(count))

    @property
    def own(self) -> int:
        """How many of this process's batches are its own; a further one repeats another's."""
        return len(range(self.rank, self._batches, self.processes))

    def __len__(self) -> int:
        return self._batches if self.seed is not None else -(-self._batches // self.processes)

    def __iter__(self) -> Iterator[np.ndarray]:
        size = self.batch_size
        if self.seed is None:
            order = self.examples[np.argsort(-self.lengths[self.examples], kind="stable")]
            batches = np.split(order, range(size, len(order), size))
            yield from batches[self.rank :: self.processes]
            yield from batches[-1:] * (len(self) - self.own)
            return
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(self.examples)
        if self.whole:
            order = order[: len(order) // size * size]
        if self.group_by_length:
            pool = np.arange(len(order)) // (size * POOL)
            order = order[np.lexsort((self.lengths[order], pool))]
        batches = np.split(order, range(size, len(order), size))
        for b in rng.permutation(len(batches)):
            yield batches[b]
