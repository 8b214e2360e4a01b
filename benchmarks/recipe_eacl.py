"""The usual recipe for EACL (stage 1)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from erc_bench.corpus.conversation import Dialogue
from erc_bench.methods.eacl import EACL

from .recipe import (
    Prompts,
    Recipe,
    adamw,
    contrastive_loss,
    padded,
    pretrained,
    similarity,
    window,
)


class EACLPrompts(Prompts):
    """One item for each labelled turn: token ids, attention mask, label."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        dialogue, i = self.turns[index]
        utterance = dialogue.utterances[i]
        texts = [f"{u.name} says: {u.text}" for u in dialogue.utterances[max(0, i - 8) : i + 1]]
        context = window(self.tokenizer, texts, self.max_len)[:-1]
        mask = self.tokenizer.mask_token
        query = f"For utterance: {utterance.text} {utterance.name} feels {mask} "
        ids = [self.tokenizer.cls_token_id]
        for turn in context:
            ids += turn
        ids += self.tokenizer(query).input_ids[1:]
        return *padded(ids, self.tokenizer, self.max_len), utterance.label


class EACLRecipe(Recipe):
    """EACL as a plain script."""

    Method = EACL

    @staticmethod
    def overrides(config: Any) -> list[str]:
        return ["stage2_epochs=0"]

    def __init__(self, method: EACL, bfloat16: bool = False) -> None:
        super().__init__(method, bfloat16)
        self.tokenizer = method.reader.tokenizer
        self.network = nn.ModuleDict(
            {
                "encoder": pretrained(self.config.encoder),
                "project": copy.deepcopy(method.network.project),
                "head": copy.deepcopy(method.network.head),
            }
        ).to(self.device)
        self.anchors = torch.stack([self.anchor(name) for name in self.labels.names])
        self.optimizer = adamw(self.network, self.config)

    @torch.no_grad()
    def anchor(self, word: str) -> Tensor:
        """The mean state of a label's word."""
        inputs = self.tokenizer(word, return_tensors="pt").to(self.device)
        encoder = self.network["encoder"].eval()
        return encoder(inputs.input_ids, inputs.attention_mask).last_hidden_state[0].mean(dim=0)

    def dataset(self, dialogues: list[Dialogue], training: bool = False) -> Dataset:
        turns = [(dialogue, i) for dialogue in dialogues for i in dialogue.labelled]
        return EACLPrompts(turns, self.tokenizer, self.config.max_len)

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The state of the mask token ``(B, d)``."""
        states = self.network["encoder"](ids, attention_mask=mask).last_hidden_state
        return states[ids == self.tokenizer.mask_token_id]

    def loss(self, batch: Any) -> Tensor:
        ids, mask, labels = batch
        h = self.states(ids, mask)
        anchors = self.network["project"](self.anchors)
        rows = torch.cat([self.network["project"](h), anchors])
        row_labels = torch.cat([labels, torch.arange(len(anchors), device=labels.device)])
        contrastive = contrastive_loss(
            rows, rows, row_labels, row_labels, self.config.temperature, 0.0
        )
        ce = F.cross_entropy(self.network["head"](h), labels)
        rest = contrastive + self.config.angle_weight * self.angle_loss(anchors)
        return self.config.ce_weight * ce + (1 - self.config.ce_weight) * rest

    def angle_loss(self, anchors: Tensor) -> Tensor:
        """The negative mean angle between each anchor and its nearest anchor."""
        anchors = anchors - anchors.mean(dim=0)
        cosines = F.cosine_similarity(anchors[:, None], anchors[None], dim=-1)
        nearest = (cosines - 2 * torch.eye(len(anchors), device=anchors.device)).max(dim=1).values
        return -torch.acos(nearest.clamp(-0.99999, 0.99999)).mean()

    def predict(self, batch: Any) -> Tensor:
        ids, mask, _ = batch
        z = self.network["project"](self.states(ids, mask))
        return similarity(z, self.network["project"](self.anchors)).argmax(dim=1)
