"""Speaker-ID multi-task: emotion recognition with auxiliary speaker identification.

A documented reconstruction of Li et al. 2020 (arXiv 2003.01478), whose code was never published:
the card next to this file (``speaker_mtl.md``) says what is the paper's and what is ours. Two
tasks, emotion recognition (CER) and speaker identification (SI), share an encoder and a context.
Each task also has a private part on both levels. CER reads SI's states by cross-attention.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from erc_bench.corpus.conversation import Corpus
from erc_bench.corpus.overlap import LONG, words_only
from erc_bench.encoders.loading import load_encoder, load_tokenizer
from erc_bench.encoders.optimisation import adamw, linear_warmup
from erc_bench.encoders.tokenising import TextEncoder
from erc_bench.errors import ErcBenchError
from erc_bench.method import (
    Batch,
    Columns,
    Dialogue,
    ErcDataModule,
    ErcMethod,
    Example,
    LabelSet,
    MethodConfig,
    Ragged,
    Reader,
)
from erc_bench.method.config import (
    EvaluationConfig,
    above,
    added_later,
    at_least,
    between_0_and_1,
)
from erc_bench.method.ragged import Column, encoder_inputs
from erc_bench.progress import say
from erc_bench.settings.registry import corpus_source

from .speaker_mtl_network import SpeakerMTLNetwork, SpeakerNames

CHUNK = 32
"""Turns of similar length that the encoder reads at once; fewer turns need less padding."""


@dataclass
class SpeakerMTLConfig(MethodConfig):
    """Hyper-parameters of speaker-ID multi-task."""

    encoder: str = "google-bert/bert-base-uncased"  # hub id or folder
    epochs: int = 20  # passes over the training split
    batch_size: int = 8  # dialogues per batch
    gradient_clip: float = 1.0  # largest gradient norm; 0 = no clipping
    evaluation: EvaluationConfig = field(default_factory=lambda: EvaluationConfig(batch_size=16))
    max_len: int = 256  # tokens of one turn
    speaker: Literal["names", "pairs"] = "names"  # SI: which main speaker, or same speaker or not
    main_speakers: int = 6  # K most frequent training speakers that SI names; the rest are "other"
    si_weight: float = 0.5  # λ of the SI loss; 0 = the single-task model, whatever else is set
    balance: Literal["fixed", "uncertainty"] = "fixed"  # uncertainty = learnt weights, from 1 and λ
    stop_gradient: bool = False  # the bridge keeps the emotion loss from training the SI side
    causal: bool = False  # no turn sees a later one
    speaker_in_text: bool = False  # "name: text" on the emotion side; SI reads the text alone
    extra_corpus: str = ""  # corpus whose train split SI also learns from; "" = none
    extra_ratio: float = 0.5  # its dialogues per epoch, as a share of the corpus's own
    extra_overlap: Literal["refuse", "drop"] = "refuse"  # how to treat its dialogues in dev or test
    dropout: float = 0.1  # of utterance vectors, states and attention
    head_dropout: float = 0.5  # before the heads
    encoder_lr: float = 2e-5  # highest learning rate of the encoder
    lr: float = 5e-4  # highest learning rate of everything else
    warmup: float = 0.1  # share of the steps in which both rates rise; then they fall to 0
    weight_decay: float = 0.01  # not of biases and LayerNorm weights
    bridge: bool = added_later(True)  # false = CER does not read SI's states
    use_extra_corpus: bool = added_later(True)  # false = extra_corpus is not read
    # true = a batch holds dialogues of similar length; a turn's weight then depends on that length
    group_by_length: bool = added_later(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.use_extra_corpus:
            self.extra_corpus, self.use_extra_corpus = "", True  # the same settings, the same hash
        at_least(self, 8, "max_len")
        at_least(self, 1, "main_speakers")
        at_least(self, 0, "si_weight", "weight_decay")
        between_0_and_1(self, "dropout", "head_dropout", "warmup")
        above(self, 0, "encoder_lr", "lr", "extra_ratio")


def speaker_code(name: str) -> int:
    """A number that stands for a speaker, the same wherever the name occurs."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "big")


def most_frequent(codes: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` most frequent of ``codes`` ``(N,)``, most frequent first, filled up with −1."""
    found, counts = np.unique(codes, return_counts=True)
    chosen = found[np.argsort(-counts, kind="stable")][:count]
    return np.pad(chosen, (0, count - len(chosen)), constant_values=-1)


def overlapping(dialogues: list[Dialogue], scored: list[Dialogue]) -> np.ndarray:
    """Whether each dialogue overlaps with one of the ``scored`` dialogues ``(dialogues,)``.

    Two dialogues overlap if they share an utterance of more than ``LONG`` words or three turns in a
    row, or if all their turns are the same. Case and punctuation do not matter. Single short
    utterances do not count, because they recur by chance.
    """

    def told_by(dialogue: Dialogue) -> set[tuple[str, ...]]:
        """All turns of a dialogue as one item, and every three turns in a row."""
        turns = tuple(words_only(u.text) for u in dialogue.utterances)
        threes = (turns[i : i + 3] for i in range(len(turns) - 2))
        return {turns, *(three for three in threes if all(three))}

    said = (u.text for dialogue in scored for u in dialogue.utterances)
    long = {words_only(text) for text in said if len(text.split()) > LONG} - {""}
    known = set().union(*map(told_by, scored))
    return np.array(
        [
            not known.isdisjoint(told_by(d))
            or any(words_only(u.text) in long for u in d.utterances)
            for d in dialogues
        ]
    )


def speakers_of(columns: Columns) -> np.ndarray:
    """The speaker's code of every turn of all dialogues, one after another ``(turns,)``."""
    speakers = columns["speakers"]
    assert isinstance(speakers, Ragged)
    return np.asarray(speakers.values)


def is_extra(columns: Columns) -> np.ndarray:
    """Whether each example is a dialogue of the extra SI corpus ``(B,)``: these have no number."""
    return np.asarray(columns["dialogue"]) < 0


def mean_answer(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of SI's losses over a batch; 0 if no answer is asked for."""
    return (values * weights).sum() / weights.sum().clamp(min=1e-8)


class TurnReader(Reader):
    """Whole dialogues, each turn by itself: token ids and speaker of every turn.

    Args:
        encoder: name or folder of the encoder.
        max_len: tokens of a turn at most.
        speaker_in_text: the emotion side reads ``"name: text"``, the SI side the text alone.
    """

    def __init__(self, encoder: str, max_len: int, speaker_in_text: bool) -> None:
        self.tokenizer = load_tokenizer(encoder)
        self.texts = TextEncoder(self.tokenizer)
        self.max_len = max_len
        self.speaker_in_text = speaker_in_text

    def examples(self, dialogue: Dialogue, *, training: bool = False) -> list[Example]:
        """One example per dialogue: ``input_ids`` and ``speakers`` (:func:`speaker_code`) by turn.

        ``nameless_ids`` are added if ``input_ids`` name the speaker. In training a dialogue without
        labels is an example too, because SI learns from it.
        """
        if not dialogue.labelled and not training:
            return []
        nameless, texts = self._texts(dialogue)
        example: dict[str, Any] = {
            "targets": list(dialogue.labelled),
            "speakers": [speaker_code(u.speaker) for u in dialogue.utterances],
        }
        if self.speaker_in_text:
            example["nameless_ids"] = self.texts.ids(nameless, self.max_len)
        return [{**example, "input_ids": self.texts.ids(texts, self.max_len)}]

    def preload(self, dialogues: Sequence[Dialogue]) -> None:
        """Tokenise all turns at once."""
        for dialogue_texts in zip(*map(self._texts, dialogues), strict=True):
            self.texts.add(text for texts in dialogue_texts for text in texts)

    def _texts(self, dialogue: Dialogue) -> tuple[list[str], list[str]]:
        """The texts of all turns without names, and with them if ``speaker_in_text`` is set."""
        nameless = [u.text for u in dialogue.utterances]
        if not self.speaker_in_text:
            return nameless, nameless
        return nameless, [f"{u.name}: {u.text}" for u in dialogue.utterances]

    def collate(self, columns: Columns) -> Batch:
        """Dialogues as rows of a grid ``(B, T)``, and their turns in chunks of similar length.

        ``turns`` (and ``nameless_turns``) hold ``chunks`` of token ids and masks, and the ``cells``
        of the grid that they belong to. ``targets`` ``(N,)`` are the cells that are scored.
        ``speakers`` and ``present`` are ``(B, T)``; ``counts`` are the turns of each dialogue.
        """
        targets, speakers = columns["targets"], columns["speakers"]
        assert isinstance(targets, Ragged)
        assert isinstance(speakers, Ragged)
        counts = speakers.lengths
        most = int(counts.max())
        cells = speakers.row_of_value * most + speakers.position_in_row
        batch = {
            "turns": self._chunks(columns["input_ids"], cells),
            "targets": torch.from_numpy(targets.row_of_value * most + targets.values),
            "speakers": torch.from_numpy(speakers.pad(-1)),
            "present": torch.from_numpy(np.arange(most) < counts[:, None]),
            "counts": counts.tolist(),
        }
        if "nameless_ids" in columns:
            batch["nameless_turns"] = self._chunks(columns["nameless_ids"], cells)
        return batch

    def _chunks(self, dialogues: Column, cells: np.ndarray) -> dict[str, Any]:
        assert isinstance(dialogues, Ragged)
        turns = dialogues.values
        assert isinstance(turns, Ragged)
        order = np.argsort(turns.lengths, kind="stable")
        chunks = [
            encoder_inputs(turns.take(rows), self.tokenizer.pad_token_id)
            for rows in np.array_split(order, math.ceil(len(order) / CHUNK))
        ]
        return {"chunks": chunks, "cells": torch.from_numpy(cells[order])}


States = tuple[Tensor, Tensor]
"""States of CER and of SI, each ``(B, T, 2d)``."""


class SpeakerMTL(ErcMethod):
    """Emotion recognition and speaker identification, learnt together."""

    Config = SpeakerMTLConfig
    context: Literal["past", "full"] = "full"
    shards_encoder = False  # devices call it as often as the turns of their share need
    config: SpeakerMTLConfig

    def __init__(self, config: SpeakerMTLConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        self.context = "past" if config.causal else "full"
        self.reader = TurnReader(config.encoder, config.max_len, config.speaker_in_text)
        self.network = SpeakerMTLNetwork(
            load_encoder(config.encoder, config.max_len),
            len(labels),
            main_speakers=config.main_speakers if config.speaker == "names" else None,
            causal=config.causal,
            stop_gradient=config.stop_gradient,
            dropout=config.dropout,
            head_dropout=config.head_dropout,
            with_bridge=config.bridge,
        )
        self.log_variances: nn.Parameter | None = None
        if config.si_weight and config.balance == "uncertainty":
            self.log_variances = nn.Parameter(torch.tensor([0.0, -math.log(config.si_weight)]))

    def forward(self, batch: Batch) -> States:
        """States of CER and of SI."""
        return self.network(batch)

    def loss(self, output: States, batch: Batch) -> dict[str, Tensor]:
        """``L_cer + λ·L_si``, or with learnt weights ``Σ exp(−s)·L + s/2`` (Kendall et al. 2018).

        A batch with only extra dialogues has no emotion to learn. If λ = 0, nothing of SI is
        computed, so that no random number is drawn for it.
        """
        logits = self.scores(output, batch)
        cer = F.cross_entropy(logits, batch["labels"]) if len(logits) else logits.sum()
        if not self.config.si_weight:
            return {"loss": cer, "cer": cer}
        losses, _, weights = self.network.speakers(output[1], batch)
        si = mean_answer(losses, weights)
        parts = {"cer": cer, "si": si}
        if self.log_variances is None:
            return {"loss": cer + self.config.si_weight * si, **parts}
        learnt = (-self.log_variances).exp()
        asked = torch.stack([weights.new_tensor(len(logits)), weights.sum()]) > 0
        loss = learnt @ torch.stack([cer, si]) + self.log_variances @ asked.float() / 2
        return {"loss": loss, **parts, "cer_weight": learnt[0], "si_weight": learnt[1]}

    def scores(self, output: States, batch: Batch) -> Tensor:
        """Logits of the emotions ``(N, C)``."""
        return self.network.emotions(output[0], batch["targets"])

    def states(self, batch: Batch) -> Tensor:
        """States of CER after the bridge ``(N, 2d)``."""
        return self(batch)[0].flatten(0, 1)[batch["targets"]]

    def extra_metrics(self, output: States, batch: Batch) -> dict[str, Tensor]:
        """``speaker_accuracy``: the share of right answers to the SI task."""
        if not self.config.si_weight:
            return {}
        _, right, weights = self.network.speakers(output[1], batch)
        asked = weights > 0
        return {"speaker_accuracy": torch.stack([(right & asked).sum(), asked.sum()])}

    def configure_optimizers(self) -> Any:
        """AdamW; both learning rates rise linearly, then fall linearly to 0."""
        optimizer = adamw(self, self.network.encoder, self.config.encoder_lr)
        return [optimizer], [linear_warmup(self, optimizer, self.config.warmup)]

    # --- the main speakers and the extra SI corpus

    def prepare(self, data: ErcDataModule) -> None:
        """Find the main speakers, unless loaded weights have theirs."""
        head = self.network.si_head
        if (
            "train" in data.splits
            and isinstance(head, SpeakerNames)
            and (head.main_speakers < 0).all()
        ):
            speakers = speakers_of(data.columns["train"])
            chosen = most_frequent(speakers, self.config.main_speakers)
            head.main_speakers.copy_(torch.from_numpy(chosen))

    @classmethod
    def further_corpora(cls, config: MethodConfig) -> tuple[str, ...]:
        """The extra corpus, if SI learns from one."""
        assert isinstance(config, SpeakerMTLConfig)
        return (config.extra_corpus,) if config.extra_corpus and config.si_weight else ()

    def further_dialogues(self, data: ErcDataModule) -> Sequence[Dialogue]:
        """The training dialogues of the extra corpus that share nothing with dev and test.

        Raises:
            ErcBenchError: there are none; some overlap with dev or test and may not be dropped, or
                all do; or SI names speakers and none of the main speakers speaks in them.
        """
        if not (self.config.extra_corpus and self.config.si_weight):
            return ()
        name, own = self.config.extra_corpus, data.corpus
        corpus = corpus_source(name).load(data.data_dir)
        if "train" not in corpus.contents:
            raise ErcBenchError(
                f"extra_corpus={name}: it has no train split, and SI learns from train alone. "
                "Split it (`erc-bench data split`), or leave the setting out."
            )
        dialogues = corpus.dialogues("train")
        apart = self._apart(corpus, own)
        further = [dialogues[i] for i in np.flatnonzero(apart)]
        head = self.network.si_head
        if isinstance(head, SpeakerNames):
            codes = {speaker_code(u.speaker) for d in further for u in d.utterances}
            if codes.isdisjoint(head.main_speakers.tolist()):
                raise ErcBenchError(
                    f"extra_corpus={name}: none of the {self.config.main_speakers} main speakers "
                    f"of {own.name} speaks there by the same name, so nothing could be learnt from "
                    "it. Set speaker=pairs, which asks for no names."
                )
        say(f"SI learns from {len(further)} dialogues of {name} as well.")
        return further

    def epoch_examples(self, data: ErcDataModule, epoch: int) -> np.ndarray | None:
        """The corpus's own dialogues, and a part of the extra corpus, another one every epoch."""
        extra = is_extra(data.columns["train"])
        if not extra.any():
            return None
        wanted = round(self.config.extra_ratio * np.count_nonzero(~extra))
        rng = np.random.default_rng((data.seed, epoch, 1))  # the seed of the shuffle has no 1
        # Drawn without replacement; if the extra corpus is too small, its dialogues are repeated.
        drawn = np.resize(rng.permutation(np.flatnonzero(extra)), wanted)
        return np.concatenate([np.flatnonzero(~extra), drawn])

    def _apart(self, corpus: Corpus, own: Corpus) -> np.ndarray:
        """Whether each train dialogue of ``corpus`` shares nothing with dev and test of ``own``."""
        scored = [
            d for split in ("dev", "test") if split in own.contents for d in own.dialogues(split)
        ]
        met = overlapping(corpus.dialogues("train"), scored)
        if not met.any():
            return ~met
        count = f"{met.sum()} of the {len(met)} training dialogues of {corpus.name}"
        if self.config.extra_overlap == "drop" and not met.all():
            say(f"{count} are in dev or test of {own.name} and are left out.")
            return ~met
        raise ErcBenchError(
            f"extra_corpus={corpus.name}: {count} are in part or whole in dev or test of "
            f"{own.name} (the same utterance of more than {LONG} words, three turns in a row, or "
            "all turns), so its scores would not be held-out. Leave those out with "
            "extra_overlap=drop, or take another corpus."
        )
