"""What a model reads: dialogues → examples → batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from erc_bench.corpus.conversation import Dialogue
from erc_bench.method.ragged import Columns

Example = Mapping[str, Any]
"""What a model reads at once. ``targets`` are the positions of the labelled turns that it is about.
All other values are numbers, lists of numbers, or lists of lists of numbers; all examples have the
same keys."""

Batch = dict[str, Any]
"""What :meth:`Reader.collate` made, to which the framework adds ``rows`` and ``labels`` ``(N,)``.
These have one entry for every target, in the order of the examples and of the targets inside an
example. It also adds ``parts`` if the network computes a training batch in parts."""


class Reader(ABC):
    """What a model reads of a dialogue, and how several examples become tensors.

    It has no weights and can be pickled, so that batches can be made in other processes.
    """

    def preload(self, dialogues: Sequence[Dialogue]) -> None:  # noqa: B027  may do nothing
        """Do what is faster for all dialogues at once, such as tokenising.

        Called before the examples of these dialogues are made.
        """

    @abstractmethod
    def examples(self, dialogue: Dialogue, *, training: bool = False) -> list[Example]:
        """The model's inputs for the labelled turns of one dialogue.

        Args:
            dialogue: the dialogue. The labels of its turns must not affect what is read of them.
            training: also give the examples that only the training split has (augmentation).
        """

    @abstractmethod
    def collate(self, columns: Columns) -> Batch:
        """Turn examples, given as columns, into tensors padded to the longest row of this batch.

        A column of numbers is an array ``(B,)``; a column of lists is a
        :class:`~erc_bench.method.ragged.Ragged`, which has ``pad``. Besides the examples' keys
        there are two columns ``(B,)``: ``dialogue``, the dialogue's number in the split (−1: a
        further training dialogue), and ``first_row``, the row of its first turn in the corpus.
        """
