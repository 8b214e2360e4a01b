"""The usual recipes for DialogueRNN and DAG-ERC, with plain loops.

They loop over the dialogues of a batch, over their turns, and over the turns that each turn reads.
The vectors of the utterances are given, as in an epoch of ours. Here they are drawn at random,
since the time does not depend on them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from erc_bench.methods.dag_erc import DAGERC
from erc_bench.methods.dag_erc import Network as DAGNetwork
from erc_bench.methods.dialogue_rnn import DialogueRNN, Direction
from erc_bench.methods.dialogue_rnn import Network as DialogueRNNNetwork

from .recipe_sacl_lstm import Given, VectorRecipe


class GivenDialogueRNN(Given, DialogueRNN):
    """DialogueRNN on vectors drawn at random."""


class GivenDAGERC(Given, DAGERC):
    """DAG-ERC on vectors drawn at random."""


def emotion_states(network: Direction, vectors: Tensor, speakers: list[str]) -> Tensor:
    """The emotion states of one dialogue ``(T, h)`` (equations 1 to 6 of the paper), turn by turn.

    Args:
        network: the network with the weights.
        vectors: those of the turns ``(T, d)``.
        speakers: those of the turns.
    """
    g = e = vectors.new_zeros(network.global_cell.hidden_size)
    parties = {speaker: torch.zeros_like(g) for speaker in speakers}
    global_states: list[Tensor] = []
    states = []
    for vector, speaker in zip(vectors, speakers, strict=True):
        context = torch.zeros_like(g)
        if global_states:
            query = network.query.weight @ vector
            weights = torch.stack([query @ state for state in global_states]).softmax(dim=0)
            for weight, state in zip(weights, global_states, strict=True):
                context = context + weight * state
        read = torch.cat([vector, context])
        if network.party_states:
            g = network.global_cell(torch.cat([vector, parties[speaker]]), g)
            read = parties[speaker] = network.party_cell(read, parties[speaker])
        else:
            g = network.global_cell(vector, g)
        global_states.append(g)
        e = network.emotion(read[None], e[None])[0][0]
        states.append(e)
    return torch.stack(states)


def dialogue_rnn_logits(
    network: DialogueRNNNetwork, vectors: Tensor, speakers: list[str]
) -> Tensor:
    """Logits ``(T, C)`` of the turns of one dialogue; arguments as for :func:`emotion_states`."""
    states = emotion_states(network.directions[0], vectors, speakers)
    if len(network.directions) == 1:
        return network.head(states)
    back = emotion_states(network.directions[1], vectors.flip(0), speakers[::-1]).flip(0)
    both = torch.cat([states, back], dim=1)
    read = []
    for state in both:
        weights = torch.stack([network.match.weight @ state @ other for other in both]).softmax(0)
        read.append(sum(weight * other for weight, other in zip(weights, both, strict=True)))
    return network.head(torch.stack(read))


def dag_erc_logits(
    network: DAGNetwork, vectors: Tensor, speakers: list[str], omega: int = 1
) -> Tensor:
    """Logits ``(T, C)`` of the turns of one dialogue, edge by edge.

    Args:
        network: the network with the weights.
        vectors: those of the turns ``(T, d)``.
        speakers: those of the turns.
        omega: how many previous turns of the same speaker a turn reads.
    """
    below = list(network.project(vectors).relu())
    of_layers = [below]
    for layer in network.layers:
        h = len(below[0])
        states: list[Tensor] = []
        for i, speaker in enumerate(speakers):
            read, own = [], 0
            for j in reversed(range(i)):
                read.append(j)
                own += speakers[j] == speaker
                if own == omega:
                    break
            message = torch.zeros(h, dtype=vectors.dtype, device=vectors.device)
            if read:
                scores = torch.cat([layer.score(states[j]) for j in read]).softmax(dim=0)
                for weight, j in zip(scores, read, strict=True):
                    other = int(speakers[j] != speaker and network.relations)
                    value = layer.value.weight[:, other * h : (other + 1) * h]
                    message = message + weight * (value @ states[j])
            node = layer.node(below[i], message)
            states.append(node + layer.context(message, below[i]))
        below = states
        of_layers.append(states)
    return network.head(torch.cat([torch.stack(states) for states in of_layers], dim=1))


class PlainRecipe(VectorRecipe):
    """A method on vectors as a plain script: one dialogue after another."""

    def logits(self, vectors: Tensor, speakers: list[str]) -> Tensor:
        """Logits ``(T, C)`` of the turns of one dialogue."""
        raise NotImplementedError

    def read(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Logits ``(N, C)`` and labels ``(N,)`` of the labelled turns of a batch."""
        dropout = self.network.dropout
        logits = torch.cat([self.logits(dropout(v), speakers) for v, speakers, _ in batch])
        labels = torch.cat([labels for _, _, labels in batch])
        return logits[labels >= 0], labels[labels >= 0]

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(*self.read(batch))

    def predict(self, batch: Any) -> Tensor:
        return self.read(batch)[0].argmax(dim=1)


class DialogueRNNRecipe(PlainRecipe):
    """DialogueRNN, turn by turn."""

    Method = GivenDialogueRNN

    def logits(self, vectors: Tensor, speakers: list[str]) -> Tensor:
        return dialogue_rnn_logits(self.network, vectors, speakers)


class DAGERCRecipe(PlainRecipe):
    """DAG-ERC, edge by edge."""

    Method = GivenDAGERC

    def logits(self, vectors: Tensor, speakers: list[str]) -> Tensor:
        return dag_erc_logits(self.network, vectors, speakers, self.config.omega)
