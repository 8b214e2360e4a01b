"""EmoBERTa: a turn with those around it, and names in the text (Kim and Vossen 2021, 2108.12009).

The encoder reads three texts: the past turns, the target and the turns after it, as many turns as
fit. A linear layer on the first token's state predicts the emotion of the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Literal

from erc_bench.encoders.tokenising import separator
from erc_bench.method import Dialogue, Example, LabelSet
from erc_bench.method.config import added_later

from .finetune import Finetune, FinetuneConfig
from .prompts import PromptReader


@dataclass
class EmoBERTaConfig(FinetuneConfig):
    """Hyper-parameters of EmoBERTa."""

    encoder: str = "FacebookAI/roberta-large"  # hub id or folder
    batch_size: int = 16
    max_len: int = 512  # tokens of the target and the turns around it
    context: Literal["past", "both"] = "both"  # the turns before the target, or those after it too
    names: bool = True  # every turn begins with its speaker's name
    window: int = added_later(-1)  # turns on each side at most; -1 = as many as fit


class WindowReader(PromptReader):
    """The target and as many whole turns around it as fit, the nearest first.

    With ``both`` it is ``CLS past SEP target SEP future SEP``, with ``past`` ``CLS past SEP target
    SEP``. SEP is what the tokenizer puts between two texts and after the last one. A turn is
    ``name: text``.

    Args:
        encoder: name or folder of the encoder whose tokenizer reads the turns.
        max_len: largest number of tokens of an example; a longer target loses its end.
        context: which turns are read besides the target.
        names: whether a turn begins with its speaker's name.
        window: largest number of turns on each side; -1 = as many as fit.
    """

    def __init__(
        self,
        encoder: str,
        max_len: int,
        context: Literal["past", "both"],
        names: bool,
        window: int = -1,
    ) -> None:
        super().__init__(encoder, max_len, read_at="first")
        self.context = context
        self.names = names
        self.window = window
        self.separator = separator(self.tokenizer)

    def query_text(self, speaker: str, text: str) -> str:
        return f"{speaker}: {text}" if self.names else text

    def context_text(self, speaker: str, text: str) -> str:
        return f" {self.query_text(speaker, text)}"

    def examples(self, dialogue: Dialogue, *, training: bool = False) -> list[Example]:
        """``targets`` and ``input_ids`` of each labelled turn."""
        said = [(u.name, u.text) for u in dialogue.utterances]
        turns = self._bare([self.context_text(*each) for each in said])
        targets = self._bare([self.query_text(*said[i]) for i in dialogue.labelled])
        lengths = [len(turn) for turn in turns]
        before, between, after = self.texts.before, self.separator, self.texts.after
        both = self.context == "both"
        specials = len(before) + (1 + both) * len(between) + len(after)
        examples: list[Example] = []
        for i, target in zip(dialogue.labelled, targets, strict=True):
            target = target[: self.max_len - specials]
            room = self.max_len - specials - len(target)
            start, stop = turns_around(lengths, i, room, later=both, window=self.window)
            ids = [*before, *chain.from_iterable(turns[start:i]), *between, *target]
            if both:
                ids += [*between, *chain.from_iterable(turns[i + 1 : stop])]
            examples.append({"targets": [i], "input_ids": [*ids, *after]})
        return examples

    def _bare(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts without special tokens."""
        first, last = len(self.texts.before), len(self.texts.after)
        return [ids[first : len(ids) - last] for ids in self.texts.ids(texts)]


def turns_around(
    lengths: list[int], i: int, room: int, *, later: bool, window: int = -1
) -> tuple[int, int]:
    """Return ``start`` and ``stop`` (exclusive) of the turns around turn ``i`` that fit.

    They are taken alternately from before and after, the nearest first; a side ends at the first
    turn that does not fit.

    Args:
        lengths: tokens of every turn.
        i: the target; its tokens do not count.
        room: largest number of tokens of the other turns together.
        later: whether turns after the target are taken.
        window: largest number of turns on each side; -1 = as many as fit.
    """
    start, stop = i, i + 1
    earliest = max(0, i - window) if window >= 0 else 0
    end = min(len(lengths), i + 1 + window) if window >= 0 else len(lengths)
    past, future = True, later
    while past or future:
        if past := past and start > earliest and lengths[start - 1] <= room:
            start -= 1
            room -= lengths[start]
        if future := future and stop < end and lengths[stop] <= room:
            room -= lengths[stop]
            stop += 1
    return start, stop


class EmoBERTa(Finetune):
    """An encoder of a turn and those around it, and a linear layer, trained by cross-entropy."""

    Config = EmoBERTaConfig
    context: Literal["past", "full"] = "full"
    config: EmoBERTaConfig

    def __init__(self, config: EmoBERTaConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        if config.context == "past" or not config.window:
            self.context = "past"
        self.reader = WindowReader(
            config.encoder, config.max_len, config.context, config.names, config.window
        )
