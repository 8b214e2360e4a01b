"""The usual recipe for SACL-LSTM: loops over dialogues and speakers, a matrix of all pairs.

The vectors of the utterances are given, as in an epoch of ours. Here they are drawn at random,
since the time does not depend on them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence
from torch.utils.data import Dataset
from transformers import AutoConfig

from erc_bench.corpus.conversation import Dialogue
from erc_bench.encoders.locating import find_encoder
from erc_bench.method.data import ErcDataModule
from erc_bench.methods.sacl_lstm import SACLLSTM
from erc_bench.vectors import VectorMethod

from .recipe import Recipe


class Given(VectorMethod):
    """A method on vectors drawn at random."""

    def prepare(self, data: ErcDataModule) -> None:
        """Draw the vectors of all turns; they are the same in every call."""
        generator = torch.Generator().manual_seed(0)
        self.features = torch.randn(len(data.ids), self.config.features.size, generator=generator)
        self.present = torch.ones(len(data.ids), dtype=torch.bool)
        self.of_utterance = dict(zip(data.ids, self.features, strict=True))
        self.reader.has_vector = self.present.numpy()  # type: ignore[attr-defined]


class GivenSACLLSTM(Given, SACLLSTM):
    """SACL-LSTM on vectors drawn at random."""


if TYPE_CHECKING:
    Item = tuple[Tensor, list[str], Tensor]


class Dialogues(Dataset):
    """One item for each dialogue: vectors ``(T, d)``, speakers, labels ``(T,)`` (−1 = none)."""

    def __init__(self, dialogues: list[Dialogue], vectors: dict[str, Tensor]) -> None:
        self.dialogues = [dialogue for dialogue in dialogues if dialogue.labelled]
        self.sizes = [len(dialogue) for dialogue in self.dialogues]
        self.vectors = vectors

    def __len__(self) -> int:
        return len(self.dialogues)

    def __getitem__(self, index: int) -> Item:
        utterances = self.dialogues[index].utterances
        labels = torch.tensor([-1 if u.label is None else u.label for u in utterances])
        vectors = torch.stack([self.vectors[u.id] for u in utterances])
        return vectors, [u.speaker for u in utterances], labels


class VectorRecipe(Recipe):
    """A plain script for a method on vectors; it uses a copy of the method's network."""

    @staticmethod
    def overrides(config: Any) -> list[str]:
        size = AutoConfig.from_pretrained(find_encoder(config.encoder).folder).hidden_size
        return ["features.path=drawn at random", f"features.size={size}"]

    def __init__(self, method: Any, bfloat16: bool = False) -> None:
        super().__init__(method, bfloat16)
        self.vectors = method.of_utterance
        self.network = copy.deepcopy(method.network).to(self.device)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay
        )

    def dataset(self, dialogues: list[Dialogue], training: bool = False) -> Dataset:
        return Dialogues(dialogues, self.vectors)

    def collate(self, items: list[Any]) -> list[Any]:
        return items


class SACLRecipe(VectorRecipe):
    """SACL-LSTM as a plain script."""

    Method = GivenSACLLSTM

    def read(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``(N, C)`` and labels ``(N,)`` of the labelled turns of a batch."""
        situations = states_of(self.network.situation, [vectors for vectors, _, _ in batch])
        speakers = [torch.zeros_like(situation) for situation in situations]
        # The first speaker of every dialogue, then the second of every dialogue, …
        names = [list(dict.fromkeys(who)) for _, who, _ in batch]
        for slot in range(max(map(len, names))):
            turns = {}
            for number, (_, who, _) in enumerate(batch):
                if slot < len(names[number]):
                    own = [i for i, name in enumerate(who) if name == names[number][slot]]
                    if len(own) > 1:
                        turns[number] = own
            if turns:
                own_vectors = [batch[number][0][own] for number, own in turns.items()]
                states = states_of(self.network.speaker, own_vectors)
                for (number, own), rows in zip(turns.items(), states, strict=True):
                    speakers[number][own] = rows
        hidden = torch.cat([torch.cat(situations), torch.cat(speakers)], dim=1)
        labels = torch.cat([labels for _, _, labels in batch])
        logits = self.network.head(hidden)
        return F.log_softmax(logits, dim=1)[labels >= 0], labels[labels >= 0]

    def loss_of(self, log_probs: Tensor, labels: Tensor, weight: float) -> Tensor:
        """Focal loss, and the contrastive loss on the log-probabilities."""
        right = log_probs[torch.arange(len(labels)), labels]
        focal = -((1 - right.detach().exp()) ** self.config.gamma * right).sum()
        contrast = nt_xent(log_probs, labels, self.config.temperature)
        return focal + weight * len(labels) * contrast

    def train(self, loader: Any) -> Iterator[float]:
        """Train for an epoch, with contextual adversarial training of both LSTMs in every step."""
        self.network.train()
        for number, batch in enumerate(loader, 1):
            batch = [(v.to(self.device), who, y.to(self.device)) for v, who, y in batch]
            loss = self.loss_of(*self.read(batch), self.config.contrastive_weight)
            loss.backward()
            backup = {}
            for name, parameter in self.network.named_parameters():
                if "ih_l0" in name and parameter.grad is not None:
                    norm = parameter.grad.norm()
                    backup[name] = parameter.data.clone(), parameter.grad.clone()
                    if norm != 0:
                        parameter.data.add_(self.config.epsilon * parameter.grad / norm)
            weight = self.config.adversarial_contrastive_weight
            self.loss_of(*self.read(batch), weight).backward()
            for name, parameter in self.network.named_parameters():
                if name in backup:
                    value, parameter.grad = backup[name]
                    parameter.data.copy_(value)
            if number % self.config.accumulate == 0 or number == len(loader):
                self.optimizer.step()
                self.optimizer.zero_grad()
            yield loss.item() / sum(int((labels >= 0).sum()) for _, _, labels in batch)

    def evaluate(self, loader: Any) -> Iterator[None]:
        """Pass over dev or test; the loss is computed too, since it selects the epoch."""
        self.network.eval()
        predicted, losses = [], []
        for batch in loader:
            batch = [(v.to(self.device), who, y.to(self.device)) for v, who, y in batch]
            with torch.no_grad():
                log_probs, labels = self.read(batch)
                loss = self.loss_of(log_probs, labels, self.config.contrastive_weight)
                losses.append(loss.item())
                predicted += log_probs.argmax(dim=1).tolist()
            yield


def states_of(lstm: torch.nn.LSTM, sequences: list[Tensor]) -> list[Tensor]:
    """The states ``(T, 2d)`` of every sequence ``(T, d)``, computed in one call."""
    states, _ = lstm(pack_sequence(sequences, enforce_sorted=False))
    rows, lengths = pad_packed_sequence(states, batch_first=True)
    return [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]


def nt_xent(x: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """NT-Xent over a matrix of positive pairs × negative pairs."""
    unit = F.normalize(x, dim=1)
    scores = unit @ unit.T / temperature
    same = labels[:, None] == labels
    own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    first, second = torch.where(same & ~own)
    anchor, other = torch.where(~same)
    if not len(first) or not len(anchor):
        return scores.sum() * 0
    positive = scores[first, second][:, None]
    negative = torch.where(first[:, None] == anchor, scores[anchor, other], -torch.inf)
    highest = torch.maximum(positive, negative.max(dim=1, keepdim=True).values).detach()
    numerator = torch.exp(positive - highest).squeeze(1)
    denominator = torch.exp(negative - highest).sum(dim=1) + numerator
    return -torch.log(numerator / denominator).mean()
