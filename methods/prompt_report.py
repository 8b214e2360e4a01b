"""What the record of a prompted run says about its answers: scores, spread and cost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import mean, stdev
from typing import Any

import torch

from erc_bench.evaluation import NO_ANSWER
from erc_bench.evaluation.metrics import evaluate
from erc_bench.method import ErcDataModule

from .answers import Answer


@dataclass(frozen=True)
class Asked:
    """A way in which a run asks about every turn."""

    prompt: int
    """The number of the prompt in the settings."""
    masked: bool
    """Whether the speakers' names are masked."""


@dataclass(frozen=True)
class Answered:
    """The answers to one way of asking about the N turns of some splits."""

    way: Asked
    answers: Sequence[Answer]
    classes: Sequence[int]
    """The class that each answer names; −1 if it names none."""


def parts(data: ErcDataModule, splits: Sequence[str]) -> dict[str, slice]:
    """The places of each split among the turns of all ``splits``."""
    ends = list(accumulate((len(data.rows(split)) for split in splits), initial=0))
    return {split: slice(*ends[n : n + 2]) for n, split in enumerate(splits)}


def scores_of(data: ErcDataModule, split: str, place: slice, answered: Answered) -> dict[str, Any]:
    """The figures of a split: the corpus's metric, and the share without an answer."""
    figures = evaluate(
        torch.tensor(answered.classes[place]),
        data.gold[data.rows(split)],
        data.corpus.labels.names,
        metric=data.corpus.metric,
    )
    names = dict.fromkeys((data.corpus.metric.name, "weighted_f1", "accuracy", "macro_f1"))
    return {
        **{name: round(figures[name], 4) for name in names},
        "no_answer": round(figures.get("no_answer", 0.0), 4),
    }


def answer_lines(
    data: ErcDataModule,
    split: str,
    place: slice,
    answered: Answered,
    prompt: str,
    shown: Sequence[Sequence[str]] | None,
) -> Iterator[str]:
    """Yield every answer of a split as it came, as a line of JSON.

    Args:
        data: the turns.
        split: the split.
        place: the places of its turns among all.
        answered: the answers.
        prompt: the name of the prompt.
        shown: the ids of the examples that each turn was shown; None if all saw the same.
    """
    rows = data.rows(split).tolist()
    turns = range(*place.indices(len(answered.answers)))
    for row, turn in zip(rows, turns, strict=True):
        answer, label = answered.answers[turn], answered.classes[turn]
        line = {
            "split": split,
            "id": data.ids[row],
            "prompt": prompt,
            "masked": answered.way.masked,
            "label": None if label == NO_ANSWER else data.corpus.labels.names[label],
            "answer": answer.text,
            "finish": answer.finish,
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "seconds": answer.seconds,
            "likelihoods": answer.likelihoods,
        }
        if shown is not None:
            line["examples"] = list(shown[turn])
        yield json.dumps(line, ensure_ascii=False) + "\n"


def spread(scores: Sequence[Mapping[str, float]], figure: str) -> dict[str, float]:
    """Mean, standard deviation and range of a figure over the paraphrases."""
    values = [score[figure] for score in scores]
    figures = {
        "mean": mean(values),
        "std": stdev(values),
        "lowest": min(values),
        "highest": max(values),
    }
    return {name: round(value, 4) for name, value in figures.items()}


def cost(
    headline: Sequence[Answer], every: Sequence[Answer], price_in: float, price_out: float
) -> dict[str, Any]:
    """Tokens and seconds of 1,000 utterances with the first prompt; tokens and cost in all.

    Args:
        headline: the answers to the first prompt.
        every: all answers.
        price_in: price of a million tokens of prompts; 0 if it is not known.
        price_out: price of a million tokens of answers.
    """
    thousand = 1000 / len(headline)

    def total(answers: Sequence[Answer], name: str) -> float:
        return sum(getattr(answer, name) for answer in answers)

    prompt, completion = (total(every, f"{name}_tokens") for name in ("prompt", "completion"))
    price = price_in * prompt + price_out * completion
    return {
        "per_1000": {
            name: round(thousand * total(headline, name), 2)
            for name in ("prompt_tokens", "completion_tokens", "seconds")
        },
        "answers": len(every),
        "prompt_tokens": int(prompt),
        "completion_tokens": int(completion),
        **({"cost": round(price / 1e6, 6)} if price else {}),
    }
