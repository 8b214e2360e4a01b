"""Prompts with a mask after a window of past turns, for EACL, SPCL and plain fine-tuning.

Every example is the last ``max_len`` tokens of *context + query*; nothing is padded here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from erc_bench.corpus.conversation import Dialogue
from erc_bench.encoders.fast.one_position import states_at
from erc_bench.encoders.loading import load_tokenizer
from erc_bench.encoders.tokenising import TextEncoder
from erc_bench.method.ragged import Columns, Ragged, encoder_inputs
from erc_bench.method.reader import Batch, Example, Reader

MOST_TURNS = 8
"""The largest number of past turns in a window."""

FIRST_LOOKBACK = 4
"""The first turn (counted from 0) whose window is also asked about an earlier turn."""


def window_starts(lengths: list[int], max_len: int, window: int = MOST_TURNS) -> list[int]:
    """First turn ``l`` of each turn's window.

    For turn ``i`` it is the first of ``i - window … i - 1`` with ``sum(lengths[l..i]) + 8 +
    lengths[i] <= max_len``, or ``i - 1`` if there is none. For the first turn it is 0.

    Args:
        lengths: tokens of every turn.
        max_len: largest number of tokens of an example.
        window: largest number of past turns; 0 = ``l`` is the turn itself, -1 = any number.
    """
    ends = list(accumulate(lengths, initial=0))
    starts = []
    for i, length in enumerate(lengths):
        room = max_len - 8 - length
        earliest = max(0, i - window) if window >= 0 else 0
        fitting = (first for first in range(earliest, i) if ends[i + 1] - ends[first] <= room)
        starts.append(next(fitting, max(earliest, i - 1)))
    return starts


class PromptReader(Reader):
    """The base of the readers of prompts: the tokenizer, and batches of token ids.

    Args:
        encoder: name or folder of the encoder whose tokenizer reads the prompts.
        max_len: largest number of tokens of an example.
        read_at: the token whose state represents the utterance: the mask or the first one.
    """

    def __init__(
        self, encoder: str, max_len: int, read_at: Literal["mask", "first"] = "mask"
    ) -> None:
        self.tokenizer = load_tokenizer(encoder)
        self.texts = TextEncoder(self.tokenizer)
        self.mask = self.tokenizer.mask_token
        self.max_len = max_len
        self.read_at = read_at

    def context_text(self, speaker: str, text: str) -> str:
        """A turn of the context."""
        raise NotImplementedError

    def query_text(self, speaker: str, text: str) -> str:
        """The query about a turn; in a prompt with a mask it ends with the mask."""
        raise NotImplementedError

    def preload(self, dialogues: Sequence[Dialogue]) -> None:
        """Tokenise all turns and queries at once."""
        turns = [u for dialogue in dialogues for u in dialogue.utterances]
        self.texts.add([self.context_text(u.name, u.text) for u in turns])
        self.texts.add([self.query_text(u.name, u.text) for u in turns if u.label is not None])

    def collate(self, columns: Columns) -> Batch:
        """``input_ids``, ``attention_mask`` ``(B, L)`` and ``positions`` ``(B,)``: where to read.

        The last mask is read: one in the text of an utterance comes before that of the query.
        """
        batch: Batch = dict(encoder_inputs(columns["input_ids"], self.tokenizer.pad_token_id))
        ids = batch["input_ids"]
        if self.read_at == "first":
            return {**batch, "positions": torch.zeros(len(ids), dtype=torch.long)}
        from_the_end = (ids.flip(1) == self.tokenizer.mask_token_id).int().argmax(dim=1)
        return {**batch, "positions": ids.shape[1] - 1 - from_the_end}


class AnchorReader(PromptReader):
    """Prompts in EACL's form (Yu et al. 2024, section 3.1), one for each labelled turn.

    ``CLS`` + past turns as ``"{speaker} says: {text}"`` + ``"For utterance: {text} {speaker} feels
    <mask> "``. No future turn is ever seen.

    Args:
        encoder: name or folder of the encoder whose tokenizer reads the prompts.
        max_len: largest number of tokens of an example.
        read_at: the token whose state represents the utterance: the mask or the first one.
        window: largest number of past turns; -1 = as many as fit.
    """

    def __init__(
        self,
        encoder: str,
        max_len: int,
        read_at: Literal["mask", "first"] = "mask",
        window: int = MOST_TURNS,
    ) -> None:
        super().__init__(encoder, max_len, read_at)
        self.window = window

    def context_text(self, speaker: str, text: str) -> str:
        return f"{speaker} says: {text}"

    def query_text(self, speaker: str, text: str) -> str:
        return f"For utterance: {text} {speaker} feels {self.mask} "

    def examples(self, dialogue: Dialogue, *, training: bool = False) -> list[Example]:
        """``targets`` and ``input_ids`` of each labelled turn."""
        turns = self.texts.continued(
            [self.context_text(u.name, u.text) for u in dialogue.utterances]
        )
        asked = [dialogue.utterances[i] for i in dialogue.labelled]
        queries = self.texts.continued([self.query_text(u.name, u.text) for u in asked])
        starts = window_starts([len(turn) for turn in turns], self.max_len, self.window)
        examples: list[Example] = []
        for i, query in zip(dialogue.labelled, queries, strict=True):
            context = chain.from_iterable(turns[starts[i] : i])
            ids = [*self.texts.before, *context, *query]
            examples.append({"targets": [i], "input_ids": ids[-self.max_len :]})
        return examples


class PrototypeReader(PromptReader):
    """Prompts in SPCL's form (Song et al. 2022, section 3.2).

    ``CLS`` + past turns and the turn itself as ``"{speaker}:{text}"`` + ``"For utterance:"`` + the
    turn again + ``"{speaker} feels <mask>"``.

    In training there are also the examples that augmentation may draw. They have the same context,
    but query a labelled earlier turn of the window. So they see turns after their target:
    ``target < turn``, which holds for no other example.
    """

    def __init__(self, encoder: str, max_len: int) -> None:
        super().__init__(encoder, max_len)
        introduction = "For utterance:"
        self.introduction = self.tokenizer(introduction, add_special_tokens=False).input_ids

    def context_text(self, speaker: str, text: str) -> str:
        return f"{speaker}:{text}"

    def query_text(self, speaker: str, text: str) -> str:
        return f"{speaker} feels {self.mask}"

    def examples(self, dialogue: Dialogue, *, training: bool = False) -> list[Example]:
        """``targets``, ``input_ids``, and the last and the first turn: ``turn`` and ``window``."""
        utterances = dialogue.utterances
        turns = self.texts.continued([self.context_text(u.name, u.text) for u in utterances])
        ends = self.texts.continued([self.query_text(u.name, u.text) for u in utterances])
        starts = window_starts([len(turn) for turn in turns], self.max_len)
        examples: list[Example] = []
        for i in dialogue.labelled:
            context = list(chain.from_iterable(turns[starts[i] : i + 1]))
            earlier = range(starts[i], i) if training and i >= FIRST_LOOKBACK else ()
            for j in (*(j for j in earlier if utterances[j].label is not None), i):
                ids = [*self.texts.before, *context, *self.introduction, *turns[j], *ends[j]]
                window = {"targets": [j], "turn": i, "window": starts[i]}
                examples.append({"input_ids": ids[-self.max_len :], **window})
        return examples

    def collate(self, columns: Columns) -> Batch:
        """The entries of :class:`PromptReader`, and ``lookback`` ``(B,)``: :func:`is_lookback`."""
        return {**super().collate(columns), "lookback": torch.from_numpy(is_lookback(columns))}


def is_lookback(columns: Columns) -> np.ndarray:
    """Whether each example ``(B,)`` is of SPCL's augmentation: it sees turns after its target."""
    targets = columns["targets"]
    assert isinstance(targets, Ragged)
    return np.asarray(targets.values < np.asarray(columns["turn"]))


def prompt_states(encoder: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """The encoder's last hidden state at ``positions`` of a collated batch ``(B, d)``."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return states_at(encoder, batch["positions"], **inputs)
