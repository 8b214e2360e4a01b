"""DialogueRNN: a state for each party of a dialogue (Majumder et al., AAAI 2019, 1811.00405).

Every utterance is a vector (``erc_bench.vectors``). A global GRU follows the dialogue, a party GRU
each speaker, an emotion GRU the emotions of the turns. The one loop is over time: the dialogues of
a batch are packed, and what needs no earlier state is computed for all turns at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from erc_bench.method import Batch, LabelSet

from .dialogues import DialogueConfig, DialogueMethod, DialogueReader, Turns, gru


@dataclass
class DialogueRNNConfig(DialogueConfig):
    """Hyper-parameters of DialogueRNN."""

    batch_size: int = 32  # dialogues per batch
    weight_decay: float = 1e-5  # L2 penalty of Adam
    # read the dialogue backwards too, and attend over the emotion states of all its turns
    bidirectional: bool = True
    party_states: bool = True  # a state for each party; false = the emotion GRU reads [u_t; c_t]


class BothWaysReader(DialogueReader):
    """Whole dialogues, and the way back through each."""

    def further(self, turns: Turns) -> Batch:
        """``backwards`` ``(T,)``: the turns, packed, of each dialogue read from its end.

        They are places in the packed order; as indices they reverse the order and restore it.
        """
        numbers = np.arange(len(turns.steps))
        mirrored = numbers + turns.lengths[turns.dialogues] - 1 - 2 * turns.steps
        return {"backwards": turns.packed(turns.places[mirrored])}


class EmotionStates(nn.Module):
    """One direction of DialogueRNN: the emotion states of the turns (section 3.3 of the paper).

    Args:
        size: length d of an utterance's vector.
        hidden_size: h, of every state.
        party_states: keep a state for each party.
    """

    def __init__(self, size: int, hidden_size: int, party_states: bool = True) -> None:
        super().__init__()
        self.party_states = party_states
        self.global_cell = nn.GRUCell(size + hidden_size * party_states, hidden_size)
        self.query = nn.Linear(size, hidden_size, bias=False)  # W_α
        if party_states:
            self.party_cell = nn.GRUCell(size + hidden_size, hidden_size)
        self.emotion = nn.GRU(hidden_size if party_states else size + hidden_size, hidden_size)

    def forward(self, vectors: Tensor, batch_sizes: Tensor, parties: Tensor) -> Tensor:
        """Emotion states ``e`` ``(T, h)`` of packed turns.

        Args:
            vectors: of the turns ``(T, d)``.
            batch_sizes: how many turns each time step has, on the CPU.
            parties: the number of each turn's party ``(T,)``.
        """
        read = self.read_by_parties if self.party_states else self.read_by_context
        states = read(vectors, batch_sizes.tolist(), parties)
        # PyTorch has no GRU in bfloat16 for every CPU.
        with torch.autocast(states.device.type, enabled=False):
            return self.emotion(PackedSequence(states, batch_sizes))[0].data

    def read_by_parties(self, vectors: Tensor, sizes: list[int], parties: Tensor) -> Tensor:
        """The state of each turn's speaker after it ``q`` ``(T, h)``."""
        size, h = vectors.shape[1], self.global_cell.hidden_size
        overall, party = self.global_cell, self.party_cell
        # Of an input [vector; state] the vector's part is known for all turns.
        of_global = F.linear(vectors, overall.weight_ih[:, :size], overall.bias_ih).split(sizes)
        of_party = F.linear(vectors, party.weight_ih[:, :size], party.bias_ih).split(sizes)
        of_own = torch.cat([overall.weight_ih[:, size:], party.weight_hh])
        own_bias = torch.cat([torch.zeros_like(party.bias_hh), party.bias_hh])
        queries = self.query(vectors).split(sizes)
        everyone = vectors.new_zeros(int(parties.max()) + 1, h)
        speakers = parties.split(sizes)
        earlier = vectors.new_zeros(sizes[0], 0, h)  # global states of the turns so far
        g = vectors.new_zeros(sizes[0], h)
        states = []
        for t, n in enumerate(sizes):
            g, earlier = g[:n], earlier[:n]
            own = everyone[speakers[t]]
            of_g, of_q = F.linear(own, of_own, own_bias).split(3 * h, dim=1)
            context = attended(queries[t], earlier)
            of_context = F.linear(context, party.weight_ih[:, size:])
            g = gru(of_global[t] + of_g, F.linear(g, overall.weight_hh, overall.bias_hh), g)
            own = gru(of_party[t] + of_context, of_q, own)
            everyone = everyone.index_copy(0, speakers[t], own)
            earlier = torch.cat([earlier, g[:, None]], dim=1)
            states.append(own)
        return torch.cat(states)

    def read_by_context(self, vectors: Tensor, sizes: list[int], parties: Tensor) -> Tensor:
        """Without parties: the vector and the context of each turn ``[u; c]`` ``(T, d + h)``."""
        overall = self.global_cell
        of_global = F.linear(vectors, overall.weight_ih, overall.bias_ih).split(sizes)
        queries = self.query(vectors).split(sizes)
        earlier = vectors.new_zeros(sizes[0], 0, overall.hidden_size)
        g = vectors.new_zeros(sizes[0], overall.hidden_size)
        contexts = []
        for t, n in enumerate(sizes):
            g, earlier = g[:n], earlier[:n]
            contexts.append(attended(queries[t], earlier).to(vectors.dtype))
            g = gru(of_global[t], F.linear(g, overall.weight_hh, overall.bias_hh), g)
            earlier = torch.cat([earlier, g[:, None]], dim=1)
        return torch.cat([vectors, torch.cat(contexts)], dim=1)


def attended(queries: Tensor, earlier: Tensor) -> Tensor:
    """``c = Σ_j softmax_j(query · g_j) g_j`` ``(n, h)``; 0 where nothing is earlier.

    Args:
        queries: ``(n, h)``.
        earlier: the global states of the turns before ``(n, t, h)``.
    """
    weights = (earlier @ queries[:, :, None]).softmax(dim=1)
    return (weights.transpose(1, 2) @ earlier)[:, 0]


class Network(nn.Module):
    """DialogueRNN: one direction, or two with attention over the emotion states of all turns.

    Args:
        size: length d of an utterance's vector.
        classes: C.
        hidden_size: h, of every state.
        bidirectional: two directions and the attention.
        party_states: keep a state for each party.
        dropout: on the vectors, the emotion states and before the classifier.
    """

    def __init__(
        self,
        size: int,
        classes: int,
        hidden_size: int,
        *,
        bidirectional: bool = True,
        party_states: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.forwards = EmotionStates(size, hidden_size, party_states)
        width = hidden_size
        self.backwards: EmotionStates | None = None
        if bidirectional:
            self.backwards = EmotionStates(size, hidden_size, party_states)
            width = 2 * hidden_size
            self.match = nn.Linear(width, width, bias=False)  # W_β
        self.head = nn.Sequential(
            nn.Linear(width, hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, classes),
        )

    def forward(self, vectors: Tensor, batch: Batch) -> Tensor:
        """Logits ``(T, C)`` of packed turns from their vectors ``(T, d)``."""
        batch_sizes, parties = batch["turns"].batch_sizes, batch["parties"]
        vectors = self.dropout(vectors)
        states = self.forwards(vectors, batch_sizes, parties)
        with torch.autocast(vectors.device.type, enabled=False):
            if self.backwards is not None:
                back = batch["backwards"]
                other = self.backwards(vectors[back], batch_sizes, parties[back])[back]
                states = self.dropout(torch.cat([states, other], dim=1))
                return self.head(self.over_the_dialogue(states, batch_sizes))
            return self.head(self.dropout(states))

    def over_the_dialogue(self, states: Tensor, batch_sizes: Tensor) -> Tensor:
        """``Σ_j softmax_j(e_tᵀ W_β e_j) e_j`` over the turns of the dialogue ``(T, 2h)``."""
        each, lengths = pad_packed_sequence(PackedSequence(states, batch_sizes), batch_first=True)
        beyond = torch.arange(each.shape[1]) >= lengths[:, None]
        scores = self.match(each) @ each.transpose(1, 2)
        scores = scores.masked_fill(beyond[:, None].to(scores.device), -torch.inf)
        return pack_padded_sequence(scores.softmax(dim=2) @ each, lengths, batch_first=True).data


class DialogueRNN(DialogueMethod):
    """DialogueRNN on utterance vectors."""

    Config = DialogueRNNConfig
    context: Literal["past", "full"] = "full"
    config: DialogueRNNConfig

    def __init__(self, config: DialogueRNNConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        if not config.bidirectional:
            self.context = "past"
        self.reader = BothWaysReader()
        self.network = Network(
            self.vector_size,
            len(labels),
            config.hidden_size,
            bidirectional=config.bidirectional,
            party_states=config.party_states,
            dropout=config.dropout,
        )
