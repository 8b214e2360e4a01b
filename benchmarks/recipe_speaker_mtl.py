"""The usual recipe for Speaker-MTL: one dialogue after another, every turn padded."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import get_linear_schedule_with_warmup

from erc_bench.corpus.conversation import Dialogue
from erc_bench.methods.speaker_mtl import SpeakerMTL, speaker_code

from .recipe import Recipe, adamw, pretrained


class Dialogues(Dataset):
    """One item for each dialogue: token ids and attention mask of its turns, speakers, labels."""

    def __init__(self, dialogues: list[Dialogue], tokenizer: Any, max_len: int) -> None:
        self.dialogues = [dialogue for dialogue in dialogues if dialogue.labelled]
        self.sizes = [len(dialogue) for dialogue in self.dialogues]
        self.tokenizer = tokenizer
        self.max_len = max_len

    def __len__(self) -> int:
        return len(self.dialogues)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, list[int], list[int | None]]:
        utterances = self.dialogues[index].utterances
        ids, mask = [], []
        for utterance in utterances:
            inputs = self.tokenizer(
                utterance.text, padding="max_length", truncation=True, max_length=self.max_len
            )
            ids.append(inputs.input_ids)
            mask.append(inputs.attention_mask)
        speakers = [speaker_code(u.speaker) for u in utterances]
        return torch.tensor(ids), torch.tensor(mask), speakers, [u.label for u in utterances]


class SpeakerMTLRecipe(Recipe):
    """Speaker-MTL, with the main speakers as classes, as a plain script."""

    Method = SpeakerMTL

    def __init__(self, method: SpeakerMTL, bfloat16: bool = False) -> None:
        super().__init__(method, bfloat16)
        self.tokenizer = method.reader.tokenizer
        self.network = copy.deepcopy(method.network)
        self.network.encoder = pretrained(self.config.encoder)
        self.network.to(self.device)
        self.main_speakers = self.network.si_head.main_speakers.tolist()
        self.optimizer = adamw(self.network, self.config)

    def dataset(self, dialogues: list[Dialogue], training: bool = False) -> Dataset:
        return Dialogues(dialogues, self.tokenizer, self.config.max_len)

    def collate(self, items: list[Any]) -> list[Any]:
        return items

    def scheduler(self, batches: int) -> Any:
        steps = batches * self.config.epochs
        warmup = round(self.config.warmup * steps)
        return get_linear_schedule_with_warmup(self.optimizer, warmup, steps)

    def read(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the emotions ``(T, C)`` and of the speakers ``(T, K + 1)`` of a dialogue."""
        net = self.network
        states = net.encoder(ids, attention_mask=mask).last_hidden_state
        vectors = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        turns = net.dropout(vectors.float())[None]
        with torch.autocast(self.device.type, enabled=False):
            shared = net.shared_context.gru(turns)[0]
            own = net.cer_context.gru(net.cer_vector(turns))[0]
            cer = net.dropout(torch.cat([shared, own], dim=-1))
            own = net.si_context.gru(net.si_vector(turns))[0]
            si = net.dropout(torch.cat([shared, own], dim=-1))
            attended = net.bridge.attention(cer, si, si)[0]
            cer = net.bridge.norm(cer + net.bridge.dropout(attended))
            return net.cer_head(cer)[0], net.si_head.head(si)[0]

    def train(self, loader: Any) -> Iterator[float]:
        """Train for an epoch; the gradients of a batch's dialogues are added one after another."""
        scheduler = self.scheduler(len(loader))
        self.network.train()
        for batch in loader:
            labelled = sum(label is not None for *_, labels in batch for label in labels)
            turns = sum(len(labels) for *_, labels in batch)
            self.optimizer.zero_grad()
            total = 0.0
            for dialogue in move_data_to_device(batch, self.device):
                with self.autocast():
                    cer, si = self.losses(*dialogue)
                    loss = cer / labelled + self.config.si_weight * si / turns
                loss.backward()
                total += loss.item()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
            self.optimizer.step()
            scheduler.step()
            yield total

    def losses(
        self, ids: Tensor, mask: Tensor, speakers: list[int], labels: list[int | None]
    ) -> tuple[Tensor, Tensor]:
        """The losses of both tasks, each summed over the turns of a dialogue."""
        of_emotions, of_speakers = self.read(ids, mask)
        numbers = [
            self.main_speakers.index(s) if s in self.main_speakers else len(self.main_speakers)
            for s in speakers
        ]
        gold = torch.tensor([-1 if y is None else y for y in labels], device=self.device)
        who = torch.tensor(numbers, device=self.device)
        cer = F.cross_entropy(of_emotions, gold, ignore_index=-1, reduction="sum")
        return cer, F.cross_entropy(of_speakers, who, reduction="sum")

    def predict(self, batch: Any) -> Tensor:
        return torch.cat([self.read(ids, mask)[0].argmax(dim=1) for ids, mask, _, _ in batch])
