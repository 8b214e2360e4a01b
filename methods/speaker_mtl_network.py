"""The network of speaker-ID multi-task learning: two tasks side by side, and the bridge between.

It reads a batch of dialogues as ``TurnReader.collate`` makes it: all turns in chunks of similar
length, and ``cells``, the place of each turn in the grid of dialogues and turns ``(B·T,)``. Above
the encoder everything is float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

HEADS = 8
PAIR_SIZE = 128
"""Size of a turn's vector in the comparison of two turns."""

Answers = tuple[Tensor, Tensor, Tensor]
"""Answers to the SI task: the losses, whether each is right, and the weights (0 = no answer)."""


class PrivateVector(nn.Module):
    """A task's utterance vector: shared vector ``u`` and private ``p = tanh(W u)``, gated.

    ``v = g ⊙ u + (1 − g) ⊙ p`` with ``g = σ(G [u; p])``.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.private = nn.Linear(size, size)
        self.gate = nn.Linear(2 * size, size)

    def forward(self, shared: Tensor) -> Tensor:
        """``(…, d)`` → ``(…, d)``."""
        private = torch.tanh(self.private(shared))
        gate = torch.sigmoid(self.gate(torch.cat([shared, private], dim=-1)))
        return gate * shared + (1 - gate) * private


class Context(nn.Module):
    """A GRU over the turns of each dialogue: both ways with d/2 units each, or forwards with d."""

    def __init__(self, size: int, causal: bool) -> None:
        super().__init__()
        hidden = size if causal else size // 2
        self.gru = nn.GRU(size, hidden, batch_first=True, bidirectional=not causal)

    def forward(self, turns: Tensor, counts: list[int]) -> Tensor:
        """``(B, T, d)`` of dialogues with ``counts`` turns → ``(B, T, d)``, 0 after their ends."""
        packed = pack_padded_sequence(
            turns, torch.tensor(counts), batch_first=True, enforce_sorted=False
        )
        states, _ = self.gru(packed)
        return pad_packed_sequence(states, batch_first=True, total_length=turns.shape[1])[0]


class Bridge(nn.Module):
    """Cross-attention from CER to SI in a dialogue, with a residual connection and LayerNorm."""

    def __init__(self, size: int, causal: bool, dropout: float) -> None:
        super().__init__()
        self.causal = causal
        self.attention = nn.MultiheadAttention(size, HEADS, dropout=dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(size)

    def forward(self, cer: Tensor, si: Tensor, present: Tensor) -> Tensor:
        """CER states ``(B, T, s)`` as queries, SI states as keys and values → ``(B, T, s)``."""
        turns = cer.shape[1]
        later = torch.ones(turns, turns, dtype=torch.bool, device=cer.device).triu(1)
        read, _ = self.attention(
            cer,
            si,
            si,
            key_padding_mask=~present,
            attn_mask=later if self.causal else None,
            need_weights=False,
        )
        return self.norm(cer + self.dropout(read))


class SpeakerNames(nn.Module):
    """SI as a choice between the main speakers and "other"."""

    main_speakers: Tensor

    def __init__(self, size: int, count: int, dropout: float) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(size, count + 1))
        self.register_buffer("main_speakers", torch.full((count,), -1))

    def forward(self, states: Tensor, speakers: Tensor, present: Tensor) -> Answers:
        """An answer for every turn: states ``(B, T, s)`` → three of ``(B, T)``."""
        is_main = speakers[..., None] == self.main_speakers
        other = is_main.shape[-1]
        wanted = torch.where(is_main.any(dim=-1), is_main.int().argmax(dim=-1), other)
        logits = self.head(states)
        losses = F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")
        return losses, logits.argmax(dim=-1) == wanted, present.float()


class SpeakerPairs(nn.Module):
    """SI as a question about two turns of a dialogue: the same speaker or not."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Dropout(dropout), nn.Linear(size, PAIR_SIZE), nn.Tanh())
        self.biaffine = nn.Linear(PAIR_SIZE + 1, PAIR_SIZE + 1, bias=False)

    def forward(self, states: Tensor, speakers: Tensor, present: Tensor) -> Answers:
        """An answer for every turn and every earlier one: ``(B, T, s)`` → three of ``(B, T, T)``.

        ``[x_i; 1] U [x_j; 1]``. The weights of a turn's answers add up to 1, so a dialogue counts
        by its length and not by the square of it.
        """
        turns = F.pad(self.project(states), (0, 1), value=1.0)
        logits = self.biaffine(turns) @ turns.transpose(1, 2)
        same = speakers[:, :, None] == speakers[:, None, :]
        losses = F.binary_cross_entropy_with_logits(logits, same.float(), reduction="none")
        number = torch.arange(states.shape[1], device=states.device)
        earlier = number < number[:, None]
        weights = earlier / number[:, None].clamp(min=1) * present[..., None]
        return losses, (logits > 0) == same, weights


class SpeakerMTLNetwork(nn.Module):
    """Shared encoder; private utterance vectors; shared and private contexts; bridge; heads.

    Args:
        encoder: a Hugging Face encoder with states of size d (a multiple of 4).
        classes: C, number of emotions.
        main_speakers: K of the SI form ``names``; None for the form ``pairs``.
        causal: whether no turn may see a later one.
        stop_gradient: whether the bridge keeps CER's gradient from the SI side.
        with_bridge: False = CER does not read SI's states; all initial weights are the same.
        dropout: of utterance vectors, states and attention; ``head_dropout``: before the heads.
    """

    def __init__(
        self,
        encoder: Any,
        classes: int,
        *,
        main_speakers: int | None,
        causal: bool,
        stop_gradient: bool,
        dropout: float,
        head_dropout: float,
        with_bridge: bool = True,
    ) -> None:
        super().__init__()
        size = encoder.config.hidden_size
        self.encoder = encoder
        self.stop_gradient = stop_gradient
        self.cer_vector, self.si_vector = PrivateVector(size), PrivateVector(size)
        self.shared_context = Context(size, causal)
        self.cer_context, self.si_context = Context(size, causal), Context(size, causal)
        # Always built, so that the parts after it start with the same weights in either case.
        bridge = Bridge(2 * size, causal, dropout)
        self.bridge = bridge if with_bridge else None
        self.dropout = nn.Dropout(dropout)
        self.cer_head = nn.Sequential(nn.Dropout(head_dropout), nn.Linear(2 * size, classes))
        # Built and used last, so that everything else draws the same random numbers without it.
        self.si_head = (
            SpeakerPairs(2 * size, head_dropout)
            if main_speakers is None
            else SpeakerNames(2 * size, main_speakers, head_dropout)
        )

    def turn_vectors(self, turns: dict[str, Any], grid: tuple[int, int]) -> Tensor:
        """Mean state over the tokens of each turn, in the grid of turns ``(B, T, d)``."""
        chunks = []
        for inputs in turns["chunks"]:
            states = self.encoder(**inputs)
            mask = inputs["attention_mask"][..., None]
            total = (states.last_hidden_state.float() * mask).sum(dim=1)
            chunks.append(total / mask.sum(dim=1))
        vectors = torch.cat(chunks)
        empty = vectors.new_zeros(grid[0] * grid[1], vectors.shape[1])
        return empty.index_copy(0, turns["cells"], vectors).view(*grid, -1)

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """States of CER after the bridge, and of SI: each ``(B, T, 2d)``.

        If the texts of ``turns`` name the speakers, SI reads ``nameless_turns``.
        """
        present, counts = batch["present"], batch["counts"]
        shape = tuple(present.shape)
        for_cer = self.turn_vectors(batch["turns"], shape)
        named = "nameless_turns" in batch
        for_si = self.turn_vectors(batch["nameless_turns"], shape) if named else for_cer
        with torch.autocast(present.device.type, enabled=False):
            for_cer = self.dropout(for_cer)
            for_si = self.dropout(for_si) if named else for_cer
            shared = self.shared_context(for_cer, counts)
            si_shared = self.shared_context(for_si, counts) if named else shared
            cer = torch.cat([shared, self.cer_context(self.cer_vector(for_cer), counts)], dim=-1)
            si = torch.cat([si_shared, self.si_context(self.si_vector(for_si), counts)], dim=-1)
            cer, si = self.dropout(cer), self.dropout(si)
            if self.bridge is not None:
                cer = self.bridge(cer, si.detach() if self.stop_gradient else si, present)
            return cer, si

    def emotions(self, cer: Tensor, targets: Tensor) -> Tensor:
        """Logits ``(N, C)`` of the cells ``targets`` ``(N,)`` from CER's states ``(B, T, 2d)``."""
        with torch.autocast(cer.device.type, enabled=False):
            return self.cer_head(cer.flatten(0, 1)[targets])

    def speakers(self, si: Tensor, batch: dict[str, Any]) -> Answers:
        """The answers to the SI task from its states ``(B, T, 2d)``."""
        with torch.autocast(si.device.type, enabled=False):
            return self.si_head(si, batch["speakers"], batch["present"])
