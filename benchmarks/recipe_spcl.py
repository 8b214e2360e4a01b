"""The usual recipe for SPCL-CL: queues as lists of vectors, two passes over train each epoch."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import get_cosine_schedule_with_warmup

from erc_bench.corpus.conversation import Dialogue
from erc_bench.methods.spcl import SPCL

from .recipe import Prompts, Recipe, adamw, contrastive_loss, padded, pretrained, window


class SPCLPrompts(Prompts):
    """One item for each labelled turn; in training sometimes another for an earlier turn."""

    def __init__(
        self, dialogues: list[Dialogue], tokenizer: Any, max_len: int, augmentation: float
    ) -> None:
        turns = []
        for dialogue in dialogues:
            for i in dialogue.labelled:
                turns.append((dialogue, i, i))
                if i > 3 and random.random() < augmentation:
                    j = random.randrange(max(0, i - 8), i)
                    if dialogue.utterances[j].label is not None:
                        turns.append((dialogue, i, j))
        super().__init__(turns, tokenizer, max_len)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        dialogue, i, j = self.turns[index]
        queried = dialogue.utterances[j]
        texts = [f"{u.name}:{u.text}" for u in dialogue.utterances[max(0, i - 8) : i + 1]]
        ids = [self.tokenizer.cls_token_id]
        for turn in window(self.tokenizer, texts, self.max_len):
            ids += turn
        ids += self.tokenizer("For utterance:", add_special_tokens=False).input_ids
        ids += self.tokenizer(f"{queried.name}:{queried.text}").input_ids[1:]
        ids += self.tokenizer(f"{queried.name} feels {self.tokenizer.mask_token}").input_ids[1:]
        return *padded(ids, self.tokenizer, self.max_len), queried.label


class SPCLRecipe(Recipe):
    """SPCL-CL as a plain script."""

    Method = SPCL
    passes = 2

    def __init__(self, method: SPCL, bfloat16: bool = False) -> None:
        super().__init__(method, bfloat16)
        self.tokenizer = method.reader.tokenizer
        self.network = nn.ModuleDict(
            {"encoder": pretrained(self.config.encoder), "head": copy.deepcopy(method.head)}
        ).to(self.device)
        self.optimizer = adamw(self.network, self.config)

    def dataset(self, dialogues: list[Dialogue], training: bool = False) -> Dataset:
        augmentation = self.config.augmentation if training else 0.0
        return SPCLPrompts(dialogues, self.tokenizer, self.config.max_len, augmentation)

    def epoch_size(self, items: int) -> int:
        return items // 2  # the curriculum keeps about half

    def scheduler(self, batches: int) -> Any:
        return get_cosine_schedule_with_warmup(self.optimizer, self.config.warmup_steps, batches)

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The state of the mask token ``(B, d)``."""
        states = self.network["encoder"](ids, attention_mask=mask).last_hidden_state
        return states[ids == self.tokenizer.mask_token_id]

    def survey(self, loader: Any) -> Iterator[None]:
        """Compute the class centres in one pass, and the difficulty of each item in another."""
        self.network.eval()
        vectors: dict[int, list[Tensor]] = {c: [] for c in range(len(self.labels))}
        for h, labels in self.encoded(loader):
            for vector, label in zip(h, labels.tolist(), strict=True):
                vectors[label].append(vector)
            yield
        self.centers = {c: torch.stack(v).mean(dim=0) for c, v in vectors.items() if v}
        self.queues = {c: [center] for c, center in self.centers.items()}
        self.difficulties = []
        for h, labels in self.encoded(loader):
            for vector, label in zip(h, labels.tolist(), strict=True):
                distances = {}
                for c, center in self.centers.items():
                    distances[c] = (1 - F.cosine_similarity(vector, center, dim=0)) / 2 + 1e-8
                self.difficulties.append((distances[label] / sum(distances.values())).item())
            yield

    def encoded(self, loader: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Vectors and labels of every batch."""
        for batch in loader:
            ids, mask, labels = move_data_to_device(batch, self.device)
            with torch.no_grad(), self.autocast():
                yield self.states(ids, mask).float(), labels

    def prototypes(self) -> tuple[Tensor, Tensor]:
        """The mean of vectors drawn from each queue, and the class of each mean."""
        means = []
        for c, queue in self.queues.items():
            if len(queue) >= self.config.support_size:
                drawn = random.sample(queue, self.config.support_size)
                means.append(torch.stack(drawn).mean(dim=0))
            else:
                means.append(self.centers[c])
        return torch.stack(means), torch.tensor(list(self.queues), device=self.device)

    def push(self, h: Tensor, labels: Tensor) -> None:
        """Add vectors to the queues, then shuffle the queues and cut them."""
        for vector, label in zip(h.detach().float(), labels.tolist(), strict=True):
            if label in self.queues:
                self.queues[label].append(vector)
        for c, queue in self.queues.items():
            random.shuffle(queue)
            self.queues[c] = queue[: self.config.pool_size]

    def loss(self, batch: Any) -> Tensor:
        ids, mask, labels = batch
        h = self.states(ids, mask)
        prototypes, classes = self.prototypes()
        self.push(h, labels)
        columns, column_labels = torch.cat([h, prototypes]), torch.cat([labels, classes])
        contrastive = contrastive_loss(
            h, columns, labels, column_labels, self.config.temperature, 0.3
        )
        return contrastive + F.cross_entropy(self.network["head"](h.detach()), labels)

    def predict(self, batch: Any) -> Tensor:
        ids, mask, _ = batch
        h = self.states(ids, mask).float()
        predicted = []
        for vector in h:
            scores = {c: F.cosine_similarity(vector, m, dim=0) for c, m in self.centers.items()}
            predicted.append(max(scores, key=lambda c: scores[c].item()))
        return torch.tensor(predicted)
