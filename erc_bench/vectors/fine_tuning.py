"""An encoder fine-tuned to classify single utterances, without their context."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import seed_everything
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn import functional as F

from erc_bench.corpus.conversation import Corpus, Dialogue, LabelSet
from erc_bench.encoders.fast.one_position import states_at
from erc_bench.encoders.loading import in_float32, load_encoder, load_tokenizer
from erc_bench.encoders.optimisation import adamw, linear_warmup
from erc_bench.encoders.tokenising import TextEncoder
from erc_bench.errors import ErcBenchError
from erc_bench.method import devices
from erc_bench.method.config import MethodConfig
from erc_bench.method.contract import ErcMethod
from erc_bench.method.data import ErcDataModule
from erc_bench.method.ragged import Columns, encoder_inputs
from erc_bench.method.reader import Batch, Example, Reader
from erc_bench.progress import say
from erc_bench.records.place import LAST
from erc_bench.training.checkpoints import read_checkpoint
from erc_bench.training.environment import is_large, small_hint
from erc_bench.training.train import train
from erc_bench.vectors.config import FeatureConfig

UNFINISHED = "unfinished"
"""The folder beside a fine-tuned encoder's that holds the checkpoints of its training."""

FINE_TUNING = "fine_tuning.json"
"""The file beside a fine-tuned encoder's weights: where they were trained, and for how long."""


@dataclass
class UtteranceConfig(MethodConfig):
    """:class:`FeatureConfig` as the settings of a method, whose ``gradient_clip`` stays at 5."""

    max_len: int = 128
    dropout: float = 0.1
    lr: float = 1e-5
    warmup: float = 0.06
    weight_decay: float = 0.01


class UtteranceReader(Reader):
    """Each labelled utterance alone, without its speaker."""

    def __init__(self, encoder: str, max_len: int) -> None:
        self.tokenizer = load_tokenizer(encoder)
        self.texts = TextEncoder(self.tokenizer)
        self.max_len = max_len

    def preload(self, dialogues: Sequence[Dialogue]) -> None:
        """Tokenise all turns at once."""
        self.texts.add(u.text for dialogue in dialogues for u in dialogue.utterances)

    def examples(self, dialogue: Dialogue, *, training: bool = False) -> list[Example]:
        """One example per labelled turn: ``input_ids`` of its text."""
        texts = [dialogue.utterances[i].text for i in dialogue.labelled]
        ids = self.texts.ids(texts, self.max_len)
        return [
            {"targets": [i], "input_ids": r} for i, r in zip(dialogue.labelled, ids, strict=True)
        ]

    def collate(self, columns: Columns) -> Batch:
        """``input_ids`` and ``attention_mask`` ``(B, L)``."""
        return dict(encoder_inputs(columns["input_ids"], self.tokenizer.pad_token_id))


class UtteranceClassifier(ErcMethod):
    """The encoder and a classifier of the CLS state, on each utterance alone."""

    Config = UtteranceConfig
    context = "past"
    config: UtteranceConfig
    reader: UtteranceReader

    def __init__(self, config: UtteranceConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        self.reader = UtteranceReader(config.encoder, config.max_len)
        self.encoder = load_encoder(config.encoder, config.max_len)
        size = self.encoder.config.hidden_size
        self.head = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(size, size),
            nn.Tanh(),
            nn.Dropout(config.dropout),
            nn.Linear(size, len(labels)),
        )

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``(B, C)``, in float32 also under autocast."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        return in_float32(self.head, cls_states(self.encoder, ids, mask))

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {"loss": F.cross_entropy(output, batch["labels"])}

    def configure_optimizers(self) -> Any:
        """AdamW; the learning rate rises linearly, then falls to 0."""
        optimizer = adamw(self, self.encoder, self.config.lr)
        return [optimizer], [linear_warmup(self, optimizer, self.config.warmup)]


def cls_states(encoder: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """State of the first token at the last layer ``(B, d)``."""
    first = torch.zeros(len(input_ids), dtype=torch.long, device=input_ids.device)
    return states_at(encoder, first, input_ids=input_ids, attention_mask=attention_mask)


def fine_tuning_of(encoder: Path) -> dict[str, Any]:
    """What a fine-tuned encoder's folder says about its training; empty if nothing."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((encoder / FINE_TUNING).read_text())
    return {}


def fine_tune(corpus: Corpus, encoder: str, config: FeatureConfig, folder: Path) -> None:
    """Fine-tune an encoder on a corpus's single utterances, and keep the epoch that is best on dev.

    An interrupted fine-tuning is resumed after its last finished epoch and gives the same encoder.
    The caller's random numbers are not affected.

    Args:
        corpus: with train and dev.
        encoder: the pre-trained encoder.
        config: the settings.
        folder: where the encoder and its tokenizer are put once they are complete. The name of its
            parent must depend on everything that determines the encoder.
    """
    shared = {k: v for k, v in config.of_fine_tuning().items() if k != "seed"}
    settings = UtteranceConfig(encoder=encoder, select_on=corpus.metric.name, **shared)
    part = folder.with_name(UNFINISHED)
    leads = devices.position().rank == 0
    resumed = devices.first(leads and _can_be_resumed(part))
    with isolate_rng():
        seed_everything(config.seed, verbose=False)
        method = UtteranceClassifier(settings, corpus.labels)
        if resumed:
            say(f"Resuming the fine-tuning of {encoder} on {corpus.name}.")
        else:
            hint = small_hint() if is_large(method) and not torch.cuda.is_available() else ""
            say(
                f"Fine-tuning {encoder} on the single utterances of {corpus.name} with seed "
                f"{config.seed}{hint}. All runs with these settings and this seed read its vectors."
            )
        data = ErcDataModule(corpus, method, seed=config.seed)
        try:
            trained = train(method, data, part)
        finally:
            if leads and not (part / LAST).exists():  # nothing that could be resumed
                shutil.rmtree(part, ignore_errors=True)
        if not leads:
            return
        method.encoder.save_pretrained(part / "encoder")
        method.reader.tokenizer.save_pretrained(part / "encoder")
        history = {**trained.log.environment, "seconds": round(trained.log.seconds, 1)}
        (part / "encoder" / FINE_TUNING).write_text(json.dumps(history, indent=1))
        (part / "encoder").replace(folder)


def _can_be_resumed(part: Path) -> bool:
    """Whether there is a checkpoint to resume from; damaged ones are removed, with a notice."""
    last = part / LAST
    if last.exists():
        try:
            for checkpoint in (last, *part.glob("best-*.ckpt")):
                read_checkpoint(checkpoint)
            return True
        except ErcBenchError:
            say(
                f"The checkpoints in {part} are damaged, so the fine-tuning starts from the "
                "beginning."
            )
    shutil.rmtree(part, ignore_errors=True)
    return False
