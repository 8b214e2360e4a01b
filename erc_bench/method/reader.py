"""What a model reads: dialogues → examples → batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from erc_bench.corpus.conversation import Dialogue
from erc_bench.method.ragged import Columns

Example = Mapping[str, Any]
"""What a model reads at once: ``targets``, the positions of the labelled turns that it is about,
and numbers, lists of numbers, or lists of lists of numbers, under keys that all examples have."""

Batch = dict[str, Any]
"""What :meth:`Reader.collate` made, with ``rows`` and ``labels`` ``(N,)`` added by the framework:
one entry for every target, in the order of the examples and of the targets inside an example; and
``parts``, where the network computes a training batch in several."""


class Reader(ABC):
    """What a model reads of a dialogue, and how several examples become tensors.

    It has no weights and can be pickled, so that batches can be made in other processes.
    """

    def preload(self, dialogues: Sequence[Dialogue]) -> None:  # noqa: B027  may do nothing
        """Called before the examples of these dialogues are made: what is faster done for all of
        them at once (tokenising, say)."""

    @abstractmethod
    def examples(self, dialogue: Dialogue, *, training: bool = False) -> list[Example]:
        """The model's inputs for the labelled turns of one dialogue.

        Args:
            dialogue: labels of its turns must not decide what is read of them.
            training: also give the examples that only the training split has (augmentation).
        """

    @abstractmethod
    def collate(self, columns: Columns) -> Batch:
        """Examples as columns → tensors, padded to the longest row of this batch.

        A column of numbers is an array ``(B,)``; a column of lists is a
        :class:`~erc_bench.method.ragged.Ragged`, which has ``pad``. Beside the examples' keys there
        are ``dialogue``, its number in the split (−1: a further training dialogue), and
        ``first_row``, the row of its first turn in the corpus ``(B,)``.
        """
