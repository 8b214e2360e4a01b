"""DAG-ERC: a dialogue as a directed acyclic graph (Shen et al., ACL 2021, 2105.12907).

Every utterance is a vector (``erc_bench.vectors``). A turn reads all turns back to the ω-th
previous one of its own speaker. There are two relations: the same speaker, and another. In each
layer a turn attends to the states that these turns have in the same layer, so a layer is a pass
over time. The dialogues of a batch are packed. Everything that does not need states of the same
layer is computed for all turns at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from erc_bench.method import Batch, LabelSet
from erc_bench.method.config import at_least

from .dialogues import (
    DialogueClassifier,
    DialogueConfig,
    DialogueNetwork,
    DialogueReader,
    Turns,
    gru,
)


@dataclass
class DAGERCConfig(DialogueConfig):
    """Hyper-parameters of DAG-ERC."""

    omega: int = 1  # ω: how many previous turns of the same speaker a turn reads
    layers: int = 2  # L, passes over the dialogue
    relations: bool = True  # tell turns of the same speaker from others; false = one relation

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "omega", "layers")


class GraphReader(DialogueReader):
    """Whole dialogues, and how far back each turn reads.

    Args:
        omega: how many previous turns of the same speaker a turn reads.
    """

    def __init__(self, omega: int) -> None:
        super().__init__()
        self.omega = omega

    def further(self, turns: Turns) -> Batch:
        """``first`` ``(T,)``: the time step of the earliest turn that each turn reads.

        It is the ω-th previous turn of the same speaker, or the first turn if there is none.
        """
        by_party = np.argsort(turns.parties, kind="stable")
        party, earlier = turns.parties[by_party], by_party[: -self.omega]
        there = party[self.omega :] == party[: -self.omega]
        first = np.zeros_like(turns.steps)
        first[by_party[self.omega :][there]] = turns.steps[earlier[there]]
        return {"first": turns.packed(first)}


@dataclass(frozen=True)
class Graph:
    """The edges of a batch's dialogues, for every turn at once.

    Attributes:
        edges: whether turn i of a dialogue reads turn j ``(B, S, S)``; S is the length of
            the longest dialogue.
        relations: 1 if turn j has the relation to turn i, else 0, for k relations
            ``(B, S, k, S)``.
    """

    edges: Tensor
    relations: Tensor

    @classmethod
    def of(cls, batch: Batch, relations: bool, dtype: torch.dtype) -> Graph:
        """Return the graph of a batch, with two relations or one."""
        sizes = batch["turns"].batch_sizes

        def by_dialogue(values: Tensor) -> Tensor:
            return pad_packed_sequence(PackedSequence(values, sizes), batch_first=True)[0]

        first, parties = by_dialogue(batch["first"]), by_dialogue(batch["parties"])
        steps = torch.arange(first.shape[1], device=first.device)
        edges = (steps >= first[:, :, None]) & (steps < steps[:, None])
        same = parties[:, None] == parties[:, :, None]
        of_each = [same, ~same] if relations else [torch.ones_like(same)]
        return cls(edges, torch.stack(of_each, dim=2).to(dtype))


class Layer(nn.Module):
    """One pass over the dialogue (equations 2 to 7 of the paper).

    Args:
        size: h, of the states.
        relations: k, the number of relations.
    """

    def __init__(self, size: int, relations: int) -> None:
        super().__init__()
        self.score = nn.Linear(size, 1, bias=False)  # W_α, the part that reads the earlier turn
        self.value = nn.Linear(relations * size, size, bias=False)  # W_r of all relations
        self.node = nn.GRUCell(size, size)
        self.context = nn.GRUCell(size, size)

    def forward(self, below: Tensor, sizes: list[int], graph: Graph) -> Tensor:
        """States ``H^l`` ``(T, h)`` of packed turns from those of the layer below ``(T, h)``."""
        node, context, h = self.node, self.context, below.shape[1]
        inputs = F.linear(below, node.weight_ih, node.bias_ih).split(sizes)
        hidden = F.linear(below, context.weight_hh, context.bias_hh).split(sizes)
        of_message = torch.cat([node.weight_hh, context.weight_ih])
        bias = torch.cat([node.bias_hh, context.bias_ih])
        earlier = below.new_zeros(sizes[0], 0, h)  # states of the turns so far
        scores = below.new_zeros(sizes[0], 0)
        states = []
        for t, (n, lower) in enumerate(zip(sizes, below.split(sizes), strict=True)):
            earlier, scores = earlier[:n], scores[:n]
            closed = ~graph.edges[:n, t, :t]
            weights = scores.masked_fill(closed, -torch.inf).softmax(dim=1)
            read = (weights[:, None] * graph.relations[:n, t, :, :t]) @ earlier  # (n, k, h)
            message = self.value(read.flatten(1)).to(below.dtype)
            of_node, of_context = F.linear(message, of_message, bias).split(3 * h, dim=1)
            state = gru(inputs[t], of_node, message) + gru(of_context, hidden[t], lower)
            earlier = torch.cat([earlier, state[:, None]], dim=1)
            scores = torch.cat([scores, self.score(state).to(below.dtype)], dim=1)
            states.append(state)
        return torch.cat(states)


class Network(DialogueNetwork):
    """DAG-ERC: layers over the projected vectors, and a classifier of all layers' states.

    Args:
        size: length d of an utterance's vector.
        classes: C.
        hidden_size: h, of the states.
        layers: L.
        relations: tell turns of the same speaker from others.
        dropout: on the vectors and before the classifier.
    """

    def __init__(
        self,
        size: int,
        classes: int,
        hidden_size: int,
        layers: int,
        *,
        relations: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.relations = relations
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(size, hidden_size)
        self.layers = nn.ModuleList(Layer(hidden_size, 1 + relations) for _ in range(layers))
        self.head = nn.Sequential(
            nn.Linear((layers + 1) * hidden_size, hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, classes),
        )

    def states(self, vectors: Tensor, batch: Batch) -> Tensor:
        """States of packed turns in all layers ``(T, (L + 1)h)``, from their vectors ``(T, d)``."""
        graph = Graph.of(batch, self.relations, vectors.dtype)
        sizes = batch["turns"].batch_sizes.tolist()
        states = [self.project(self.dropout(vectors)).relu().to(vectors.dtype)]
        for layer in self.layers:
            states.append(layer(states[-1], sizes, graph))
        return torch.cat(states, dim=1)

    def forward(self, vectors: Tensor, batch: Batch) -> Tensor:
        """Logits ``(T, C)`` of packed turns from their vectors ``(T, d)``."""
        states = self.states(vectors, batch)
        with torch.autocast(vectors.device.type, enabled=False):
            return self.head(self.dropout(states))


class DAGERC(DialogueClassifier):
    """DAG-ERC on utterance vectors."""

    Config = DAGERCConfig
    context = "past"
    config: DAGERCConfig

    def __init__(self, config: DAGERCConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        self.reader = GraphReader(config.omega)
        self.network = Network(
            self.vector_size,
            len(labels),
            config.hidden_size,
            config.layers,
            relations=config.relations,
            dropout=config.dropout,
        )
