"""The base of recurrent methods on utterance vectors: batches of whole dialogues, and a GRU step.

The dialogues of a batch are sorted by length, the longest first, and packed: first the first turn
of each, then the second of each that has one, and so on, as in
:class:`~torch.nn.utils.rnn.PackedSequence`. Nothing is padded, so the results for a turn do not
depend on the other dialogues of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from erc_bench.errors import ErcBenchError
from erc_bench.method import Batch, Columns, Dialogue, ErcDataModule, Example, Ragged, Reader
from erc_bench.method.config import above, added_later, at_least, between_0_and_1
from erc_bench.vectors import VectorMethod, VectorMethodConfig


@dataclass
class DialogueConfig(VectorMethodConfig):
    """Hyper-parameters that the recurrent methods on utterance vectors share."""

    encoder: str = "FacebookAI/roberta-large"  # hub id or folder
    epochs: int = 60  # passes over the training split
    batch_size: int = 16  # dialogues per batch
    # of the layers above the vectors; auto = float32
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    hidden_size: int = 300  # of every state
    dropout: float = 0.2  # on the vectors and before the classifier
    lr: float = 1e-4  # learning rate of Adam
    weight_decay: float = 0.0  # L2 penalty of Adam
    # true = a batch holds dialogues of similar length; a turn's weight then depends on that length
    group_by_length: bool = added_later(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "hidden_size")
        at_least(self, 0, "weight_decay")
        between_0_and_1(self, "dropout")
        above(self, 0, "lr")
        if self.precision == "auto":  # the networks are so small that a lower one gains nothing
            self.precision = "float32"
        if self.precision == "float16":
            raise ErcBenchError(
                "Recurrent networks are trained in float32 or bfloat16 here; leave "
                "precision=float16 out."
            )


@dataclass(frozen=True)
class Turns:
    """The turns of a batch that have a vector, dialogue after dialogue ``(T,)``.

    Attributes:
        rows: the row of each turn in the corpus.
        dialogues: the number of each turn's dialogue in the batch, in rising order.
        steps: the position of each turn among the turns of its dialogue.
        lengths: the number of turns of each dialogue ``(B,)``.
        parties: the speaker of each turn; every speaker of every dialogue has its own number.
        order: the numbers of the turns in packed order.
    """

    rows: np.ndarray
    dialogues: np.ndarray
    steps: np.ndarray
    lengths: np.ndarray
    parties: np.ndarray
    order: np.ndarray

    def packed(self, values: np.ndarray) -> Tensor:
        """Return the values of all turns ``(T,)`` in packed order."""
        return torch.from_numpy(np.ascontiguousarray(values[self.order]))

    @property
    def places(self) -> np.ndarray:
        """The place of each turn in the packed order."""
        return np.argsort(self.order)


class DialogueReader(Reader):
    """Whole dialogues: the rows and speakers of their turns; the vectors are looked up later."""

    def __init__(self) -> None:
        self.has_vector = np.empty(0, dtype=bool)
        """Which rows of the corpus have a vector ``(rows,)``; set when the vectors are known."""

    def examples(self, dialogue: Dialogue, *, training: bool = False) -> list[Example]:
        """One example per dialogue: ``speakers``, numbered in order of appearance."""
        if not dialogue.labelled:
            return []
        numbers: dict[str, int] = {}
        speakers = [numbers.setdefault(u.speaker, len(numbers)) for u in dialogue.utterances]
        return [{"targets": list(dialogue.labelled), "speakers": speakers}]

    def turns(self, columns: Columns) -> Turns:
        """Return the turns of some examples, without those that have no vector."""
        speakers = columns["speakers"]
        assert isinstance(speakers, Ragged)
        rows = np.asarray(columns["first_row"])[speakers.row_of_value] + speakers.position_in_row
        there = self.has_vector[rows]
        dialogues = speakers.row_of_value[there]
        lengths = np.bincount(dialogues, minlength=len(speakers))
        steps = np.arange(len(dialogues)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        who = np.asarray(speakers.values)[there]
        _, parties = np.unique(dialogues * (who.max(initial=0) + 1) + who, return_inverse=True)
        order = np.lexsort((dialogues, -lengths[dialogues], steps))
        return Turns(rows[there], dialogues, steps, lengths, parties, order)

    def collate(self, columns: Columns) -> Batch:
        """Rows ``turns`` and speakers ``parties`` of the packed turns, and places of ``targets``.

        ``turns`` and ``parties`` are ``(T,)``; a speaker is a number in the batch. ``targets``
        ``(N,)`` are places among the packed turns.
        """
        turns = self.turns(columns)
        targets = columns["targets"]
        assert isinstance(targets, Ragged)
        rows = np.asarray(columns["first_row"])[targets.row_of_value] + targets.values
        # Rows rise with the turns of a dialogue, but not from one dialogue to the next.
        by_row = np.argsort(turns.rows)
        asked = by_row[np.searchsorted(turns.rows, rows, sorter=by_row)]
        batch_sizes = torch.from_numpy(np.bincount(turns.steps))
        return {
            "turns": PackedSequence(turns.packed(turns.rows), batch_sizes),
            "parties": turns.packed(turns.parties),
            "targets": torch.from_numpy(turns.places[asked]),
            **self.further(turns),
        }

    def further(self, turns: Turns) -> Batch:
        """Further entries of a batch that a method's network reads."""
        return {}


class DialogueNetwork(nn.Module):
    """A network over the turns of whole dialogues."""

    def states(self, vectors: Tensor, batch: Batch) -> Tensor:
        """The states ``(T, h)`` of packed turns that are classified, from vectors ``(T, d)``."""
        raise NotImplementedError


class DialogueMethod(VectorMethod):
    """A recurrent network over the vectors of whole dialogues.

    Attributes:
        network: everything that is trained.
    """

    Config = DialogueConfig
    config: DialogueConfig
    reader: DialogueReader
    network: nn.Module

    def prepare(self, data: ErcDataModule) -> None:
        """Get the vectors of all turns, and tell the reader which turns have one."""
        super().prepare(data)
        self.reader.has_vector = self.present.numpy()

    def configure_optimizers(self) -> Any:
        """Adam with an L2 penalty."""
        config = self.config
        return torch.optim.Adam(
            self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )


class DialogueClassifier(DialogueMethod):
    """A :class:`DialogueMethod` that is trained by cross-entropy.

    Attributes:
        network: computes logits ``(T, C)`` of a batch's turns from their vectors ``(T, d)`` and the
            batch; its ``states`` computes the states ``(T, h)`` that are classified.
    """

    network: DialogueNetwork

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``(N, C)`` of the targets."""
        vectors = self.features[batch["turns"].data]
        return self.network(vectors, batch)[batch["targets"]]

    def states(self, batch: Batch) -> Tensor:
        """States ``(N, h)`` of the targets."""
        vectors = self.features[batch["turns"].data]
        return self.network.states(vectors, batch)[batch["targets"]]

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {"loss": F.cross_entropy(output, batch["labels"])}


def gru(of_input: Tensor, of_state: Tensor, state: Tensor) -> Tensor:
    """The next state ``(…, h)`` of a GRU, from matrix products that are already computed.

    Args:
        of_input: ``W_ih x + b_ih`` ``(…, 3h)``, in the order of :class:`torch.nn.GRUCell`.
        of_state: ``W_hh h + b_hh`` ``(…, 3h)``.
        state: h ``(…, h)``.
    """
    size = state.shape[-1]
    gates = (of_input[..., : 2 * size] + of_state[..., : 2 * size]).sigmoid()
    reset, update = gates.chunk(2, dim=-1)
    new = (of_input[..., 2 * size :] + reset * of_state[..., 2 * size :]).tanh()
    return new + update * (state - new)
