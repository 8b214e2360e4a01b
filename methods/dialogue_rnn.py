"""DialogueRNN: a state for each party of a dialogue (Majumder et al., AAAI 2019, 1811.00405).

Every utterance is a vector (``erc_bench.vectors``). A global GRU follows the dialogue, a party GRU
follows each speaker, and an emotion GRU follows the emotions of the turns. The only loop is over
time. The dialogues of a batch are packed, and everything that does not need an earlier state is
computed for all turns at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from erc_bench.method import Batch, LabelSet

from .dialogues import (
    DialogueClassifier,
    DialogueConfig,
    DialogueNetwork,
    DialogueReader,
    Turns,
    gru,
)


@dataclass
class DialogueRNNConfig(DialogueConfig):
    """Hyper-parameters of DialogueRNN."""

    batch_size: int = 32  # dialogues per batch
    weight_decay: float = 1e-5  # L2 penalty of Adam
    # read the dialogue backwards too, and attend over the emotion states of all its turns
    bidirectional: bool = True
    party_states: bool = True  # a state for each party; false = the emotion GRU reads [u_t; c_t]


class BothWaysReader(DialogueReader):
    """Whole dialogues, and the reversed order of the turns of each."""

    def further(self, turns: Turns) -> Batch:
        """``backwards`` ``(T,)``: the packed turns, with each dialogue read from its end.

        They are places in the packed order. Used as indices they reverse the turns of every
        dialogue; used again they restore the order.
        """
        numbers = np.arange(len(turns.steps))
        mirrored = numbers + turns.lengths[turns.dialogues] - 1 - 2 * turns.steps
        return {"backwards": turns.packed(turns.places[mirrored])}


class Direction(nn.Module):
    """The layers that read a dialogue one way (section 3.3 of the paper).

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


def emotion_states(
    directions: Sequence[Direction], vectors: Tensor, batch_sizes: Tensor, parties: Tensor
) -> list[Tensor]:
    """The emotion states ``e`` ``(T, h)`` of packed turns, for each of D directions.

    All directions share one loop over time, as if they were further dialogues; each has its own
    weights.

    Args:
        directions: the layers of each direction.
        vectors: the vectors of the turns, in the order in which each direction reads them
            ``(D, T, d)``.
        batch_sizes: number of turns at each time step, on the CPU; the same in all directions.
        parties: the number of each turn's party ``(D, T)``.
    """
    read = _party_states if directions[0].party_states else _contexts
    states = read(directions, vectors, batch_sizes.tolist(), parties)
    # PyTorch has no GRU in bfloat16 for every CPU.
    with torch.autocast(states.device.type, enabled=False):
        return [
            direction.emotion(PackedSequence(own, batch_sizes))[0].data
            for direction, own in zip(directions, states, strict=True)
        ]


def _party_states(
    directions: Sequence[Direction], vectors: Tensor, sizes: list[int], parties: Tensor
) -> Tensor:
    """The state ``q`` ``(D, T, h)`` of each turn's speaker after the turn."""
    size, h = vectors.shape[2], directions[0].global_cell.hidden_size
    overall = [direction.global_cell for direction in directions]
    party = [direction.party_cell for direction in directions]
    global_input, global_state, *global_biases = _stacked(overall)
    party_input, party_state, party_bias, own_bias = _stacked(party)
    # In an input [vector; state] all vectors are known: their products are computed at once.
    of_global = _products(vectors, global_input[..., :size], global_biases[0]).split(sizes, dim=1)
    of_party = _products(vectors, party_input[..., :size], party_bias).split(sizes, dim=1)
    own_weight = torch.cat([global_input[..., size:], party_state], dim=1)
    own_bias = torch.cat([torch.zeros_like(own_bias), own_bias], dim=1)
    context_weight = party_input[..., size:].transpose(1, 2)
    queries = vectors @ torch.stack([d.query.weight for d in directions]).transpose(1, 2)
    count = int(parties.max()) + 1
    everyone = vectors.new_zeros(len(directions) * count, h)
    first = count * torch.arange(len(directions), device=parties.device)
    speakers = (parties + first[:, None]).split(sizes, dim=1)
    g = vectors.new_zeros(len(directions), sizes[0], h)
    earlier = g[:, :, None, :][:, :, :0]  # global states of the turns so far
    states = []
    for t, (n, query) in enumerate(zip(sizes, queries.split(sizes, dim=1), strict=True)):
        g, earlier = g[:, :n], earlier[:, :n]
        who = speakers[t].flatten()
        own = everyone[who].view(g.shape)
        of_g, of_q = _products(own, own_weight, own_bias).split(3 * h, dim=2)
        of_context = attended(query, earlier) @ context_weight
        g = gru(of_global[t] + of_g, _products(g, global_state, global_biases[1]), g)
        own = gru(of_party[t] + of_context, of_q, own)
        everyone = everyone.index_copy(0, who, own.flatten(0, 1))
        earlier = torch.cat([earlier, g[:, :, None]], dim=2)
        states.append(own)
    return torch.cat(states, dim=1)


def _contexts(
    directions: Sequence[Direction], vectors: Tensor, sizes: list[int], parties: Tensor
) -> Tensor:
    """Without parties: vector and context ``[u; c]`` of each turn ``(D, T, d + h)``."""
    of_input, of_state, bias, state_bias = _stacked([d.global_cell for d in directions])
    of_global = _products(vectors, of_input, bias).split(sizes, dim=1)
    queries = vectors @ torch.stack([d.query.weight for d in directions]).transpose(1, 2)
    g = vectors.new_zeros(len(directions), sizes[0], directions[0].global_cell.hidden_size)
    earlier = g[:, :, None, :][:, :, :0]
    contexts = []
    for t, (n, query) in enumerate(zip(sizes, queries.split(sizes, dim=1), strict=True)):
        g, earlier = g[:, :n], earlier[:, :n]
        contexts.append(attended(query, earlier).to(vectors.dtype))
        g = gru(of_global[t], _products(g, of_state, state_bias), g)
        earlier = torch.cat([earlier, g[:, :, None]], dim=2)
    return torch.cat([vectors, torch.cat(contexts, dim=1)], dim=2)


def _stacked(cells: Sequence[nn.GRUCell]) -> list[Tensor]:
    """Weights of the input and of the state of several cells ``(D, …)``, then the two biases."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return [torch.stack([getattr(cell, name) for cell in cells]) for name in names]


def _products(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``W x + b`` ``(D, n, out)`` of ``x`` ``(D, n, in)``, for each of D directions."""
    return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))


def attended(queries: Tensor, earlier: Tensor) -> Tensor:
    """``c = Σ_j softmax_j(query · g_j) g_j`` ``(D, n, h)``; 0 if there is no earlier turn.

    Args:
        queries: ``(D, n, h)``.
        earlier: the global states of the earlier turns ``(D, n, t, h)``.
    """
    weights = (earlier @ queries[..., None]).softmax(dim=2)
    return (weights.transpose(2, 3) @ earlier)[:, :, 0]


class Network(DialogueNetwork):
    """DialogueRNN: one direction, or two with attention over the emotion states of all turns.

    Args:
        size: length d of an utterance's vector.
        classes: C.
        hidden_size: h, of every state.
        bidirectional: read both directions, and use the attention.
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
        self.directions = nn.ModuleList(
            Direction(size, hidden_size, party_states) for _ in range(1 + bidirectional)
        )
        width = len(self.directions) * hidden_size
        if bidirectional:
            self.match = nn.Linear(width, width, bias=False)  # W_β
        self.head = nn.Sequential(
            nn.Linear(width, hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, classes),
        )

    def states(self, vectors: Tensor, batch: Batch) -> Tensor:
        """Emotion states ``(T, h)`` of packed turns, from their vectors ``(T, d)``.

        With two directions they are ``(T, 2h)``, after the attention over the dialogue.
        """
        batch_sizes, parties = batch["turns"].batch_sizes, batch["parties"]
        vectors = self.dropout(vectors)
        both = len(self.directions) > 1
        if both:
            back = batch["backwards"]
            vectors = torch.stack([vectors, vectors[back]])
            parties = torch.stack([parties, parties[back]])
        else:
            vectors, parties = vectors[None], parties[None]
        layers = cast("list[Direction]", list(self.directions))
        states = emotion_states(layers, vectors, batch_sizes, parties)
        if not both:
            return states[0]
        with torch.autocast(vectors.device.type, enabled=False):
            each = self.dropout(torch.cat([states[0], states[1][back]], dim=1))
            return self.over_the_dialogue(each, batch_sizes)

    def forward(self, vectors: Tensor, batch: Batch) -> Tensor:
        """Logits ``(T, C)`` of packed turns from their vectors ``(T, d)``."""
        states = self.states(vectors, batch)
        with torch.autocast(vectors.device.type, enabled=False):
            if len(self.directions) == 1:  # with two, it was applied before the attention
                states = self.dropout(states)
            return self.head(states)

    def over_the_dialogue(self, states: Tensor, batch_sizes: Tensor) -> Tensor:
        """``Σ_j softmax_j(e_tᵀ W_β e_j) e_j`` over the turns of the dialogue ``(T, 2h)``."""
        each, lengths = pad_packed_sequence(PackedSequence(states, batch_sizes), batch_first=True)
        beyond = torch.arange(each.shape[1]) >= lengths[:, None]
        scores = self.match(each) @ each.transpose(1, 2)
        scores = scores.masked_fill(beyond[:, None].to(scores.device), -torch.inf)
        return pack_padded_sequence(scores.softmax(dim=2) @ each, lengths, batch_first=True).data


class DialogueRNN(DialogueClassifier):
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
