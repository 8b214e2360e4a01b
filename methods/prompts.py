"""Mask prompts over a window of past turns: the input of EACL, SPCL and plain fine-tuning.

Every example is the last ``max_len`` tokens of *context + query*; nothing is padded here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from erc_bench.conversation import Dialogue
from erc_bench.ragged import Columns, Ragged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_TURNS = 8
"""Past turns in a window at most."""


def tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str], start: int = 0) -> list[list[int]]:
    """Token ids of each text with its special tokens, from token ``start`` on (1 = without CLS)."""
    return [ids[start:] for ids in tokenizer(texts).input_ids]


def window_starts(lengths: list[int], max_len: int) -> list[int]:
    """First turn ``l`` of each turn's window.

    For turn ``i`` it is the first of ``i - 8 … i - 1`` with ``sum(lengths[l..i]) + 8 + lengths[i]
    <= max_len``, or ``i - 1`` if there is none; for the first turn 0.
    """
    ends = np.concatenate([[0], np.cumsum(lengths)])
    starts = []
    for i, length in enumerate(lengths):
        first = max(0, i - MOST_TURNS)
        fits = ends[i + 1] - ends[first:i] + 8 + length <= max_len
        starts.append(first + int(fits.argmax()) if fits.any() else max(0, i - 1))
    return starts


def anchor_prompts(
    tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue, max_len: int
) -> list[list[int]]:
    """Token ids of each labelled turn in EACL's form (Yu et al. 2024, section 3.1).

    ``CLS`` + past turns as ``"{speaker} says: {text}"`` + ``"For utterance: {text} {speaker} feels
    <mask> "``. No future turn is ever seen.
    """
    turns = tokens(tokenizer, [f"{u.name} says: {u.text}" for u in dialogue.utterances], 1)
    queried = [dialogue.utterances[i] for i in dialogue.labelled]
    mask = tokenizer.mask_token
    queries = tokens(
        tokenizer, [f"For utterance: {u.text} {u.name} feels {mask} " for u in queried], 1
    )
    starts = window_starts([len(turn) for turn in turns], max_len)
    examples = []
    for i, query in zip(dialogue.labelled, queries, strict=True):
        context = [t for turn in turns[starts[i] : i] for t in turn]
        examples.append([tokenizer.cls_token_id, *context, *query][-max_len:])
    return examples


def collate_prompts(
    examples: Columns, tokenizer: PreTrainedTokenizerBase
) -> dict[str, torch.Tensor]:
    """``input_ids``, ``attention_mask`` ``(B, L)`` and ``positions`` ``(B,)``, of the mask token.

    A mask token in the utterance's own text comes before the query's and is not taken.
    """
    rows = examples["input_ids"]
    assert isinstance(rows, Ragged)
    ids = rows.pad(tokenizer.pad_token_id)
    from_the_end = (ids[:, ::-1] == tokenizer.mask_token_id).argmax(axis=1)
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(
            (np.arange(ids.shape[1]) < rows.lengths[:, None]).astype(np.int64)
        ),
        "positions": torch.from_numpy(ids.shape[1] - 1 - from_the_end),
    }
