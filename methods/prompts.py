"""Mask prompts over a window of past turns: the input of EACL, SPCL and plain fine-tuning.

Every example is the last ``max_len`` tokens of *context + query*; nothing is padded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from erc_bench.corpus.conversation import Dialogue
from erc_bench.encoders.fast.one_position import states_at
from erc_bench.method.ragged import Column, Columns, Ragged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from erc_bench.method.contract import Example

MOST_TURNS = 8
"""Past turns in a window at most."""

FIRST_LOOKBACK = 4
"""The first turn (counted from 0) whose window is also asked about an earlier turn."""


def tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str], start: int = 0) -> list[list[int]]:
    """Token ids of each text with its special tokens, from token ``start`` on (1 = without CLS)."""
    return [ids[start:] for ids in tokenizer(texts).input_ids] if texts else []


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


def prototype_prompts(
    tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue, max_len: int, lookbacks: bool = False
) -> list[dict[str, Any]]:
    """Examples of each labelled turn in SPCL's form (Song et al. 2022, section 3.2).

    ``CLS`` + past turns and the turn itself as ``"{speaker}:{text}"`` + ``"For utterance:"`` + the
    turn again + ``"{speaker} feels <mask>"``. Beside ``input_ids`` an example holds ``targets``
    (the queried turn), ``turn`` (the last turn of its context) and ``window`` (the first).

    With ``lookbacks`` (for training alone) there are also the examples that augmentation may draw:
    the same context with each labelled earlier turn of the window queried. They see turns after
    their target: ``target < turn``, which no other example has.
    """
    utterances = dialogue.utterances
    turns = tokens(tokenizer, [f"{u.name}:{u.text}" for u in utterances], 1)
    ends = tokens(tokenizer, [f"{u.name} feels {tokenizer.mask_token}" for u in utterances], 1)
    introduction = tokenizer("For utterance:", add_special_tokens=False).input_ids
    starts = window_starts([len(turn) for turn in turns], max_len)
    examples = []
    for i in dialogue.labelled:
        context = [t for turn in turns[starts[i] : i + 1] for t in turn]
        earlier = range(starts[i], i) if lookbacks and i >= FIRST_LOOKBACK else ()
        for j in (*(j for j in earlier if utterances[j].label is not None), i):
            ids = [tokenizer.cls_token_id, *context, *introduction, *turns[j], *ends[j]]
            place = {"targets": [j], "turn": i, "window": starts[i]}
            examples.append({"input_ids": ids[-max_len:], **place})
    return examples


def anchor_examples(
    tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue, max_len: int
) -> list[Example]:
    """One example per labelled turn, of its :func:`anchor_prompts`: ``targets``, ``input_ids``."""
    prompts = anchor_prompts(tokenizer, dialogue, max_len)
    return [
        {"targets": [i], "input_ids": ids}
        for i, ids in zip(dialogue.labelled, prompts, strict=True)
    ]


def padded(rows: Column, pad: int) -> dict[str, torch.Tensor]:
    """What an encoder reads of rows of token ids: ``input_ids``, ``attention_mask`` ``(B, L)``."""
    assert isinstance(rows, Ragged)
    ids = torch.from_numpy(rows.pad(pad))
    mask = torch.arange(ids.shape[1]) < torch.from_numpy(rows.lengths)[:, None]
    return {"input_ids": ids, "attention_mask": mask.long()}


def collate_prompts(
    examples: Columns, tokenizer: PreTrainedTokenizerBase
) -> dict[str, torch.Tensor]:
    """``input_ids``, ``attention_mask`` ``(B, L)`` and ``positions`` ``(B,)``, of the mask token.

    A mask token in the utterance's own text comes before the query's and is not taken.
    """
    batch = padded(examples["input_ids"], tokenizer.pad_token_id)
    ids = batch["input_ids"]
    from_the_end = (ids.flip(1) == tokenizer.mask_token_id).int().argmax(dim=1)
    return {**batch, "positions": ids.shape[1] - 1 - from_the_end}


def mask_states(encoder: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The encoder's last hidden state at ``positions`` of a collated batch ``(B, d)``."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return states_at(encoder, batch["positions"], **inputs)
