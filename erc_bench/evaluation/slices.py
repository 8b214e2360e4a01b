"""Scores on parts of a test set, from labels and facts about the utterances, without their text.

:func:`utterance_facts` takes these facts from a corpus; they are stored beside predictions. The
other functions work on arrays only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from erc_bench.corpus.conversation import Corpus, Dialogue, Metric
from erc_bench.evaluation import NO_ANSWER
from erc_bench.evaluation.statistics import checked_labels, score

# Upper end (inclusive) of every part but the last, which is open.
POSITIONS = (("first", 1), ("2–5", 5), ("6–10", 10), ("later", None))
LENGTHS = (("up to 3", 3), ("4–8", 8), ("9–15", 15), ("16 or more", None))
SPEAKERS = (("not in train", 0), ("1–9", 9), ("10–99", 99), ("100 or more", None))


@dataclass(frozen=True)
class UtteranceFacts:
    """The facts about each labelled utterance, arrays ``(N,)`` in corpus order."""

    position: np.ndarray
    """Number of turns before it in its dialogue, including unlabelled ones; 0 for the first."""
    words: np.ndarray
    """Number of words (by whitespace)."""
    speaker_train: np.ndarray
    """Number of labelled training utterances of its speaker."""
    previous_label: np.ndarray
    """Gold class of its speaker's previous labelled turn in this dialogue; −1 if there is none."""
    seen_in_train: np.ndarray
    """Whether a training utterance has the same text, ignoring case and spacing."""


@dataclass(frozen=True)
class Slice:
    """Scores on one part of a test set in percent, means over runs; None if the part is empty."""

    kind: str
    name: str
    support: int
    score: float | None
    """The score by the corpus's metric."""
    accuracy: float | None


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class in percent, means over runs; recall is None if it is never gold."""

    name: str
    support: int
    precision: float
    recall: float | None
    f1: float


@dataclass(frozen=True)
class PairConfusion:
    """How often two emotions are confused with each other, in percent, means over runs.

    ``first_as_second`` is the share of gold ``first`` that is predicted as ``second``. ``mutual``
    is the share of both emotions' utterances that are predicted as the other. A share is None if
    there are no such utterances.
    """

    first: str
    second: str
    support: tuple[int, int]
    first_as_second: float | None
    second_as_first: float | None
    mutual: float | None


def utterance_facts(dialogues: Iterable[Dialogue], training: Iterable[Dialogue]) -> UtteranceFacts:
    """The facts of every labelled utterance of ``dialogues``, given the training split."""
    speakers: Counter[str] = Counter()
    texts: set[str] = set()
    for dialogue in training:
        texts.update(_words(u.text) for u in dialogue.utterances)
        speakers.update(dialogue.utterances[i].speaker for i in dialogue.labelled)
    rows = []
    for dialogue in dialogues:
        last: dict[str, int] = {}
        for i, u in enumerate(dialogue.utterances):
            if u.label is not None:
                previous, seen = last.get(u.speaker, -1), _words(u.text) in texts
                rows.append((i, len(u.text.split()), speakers[u.speaker], previous, seen))
                last[u.speaker] = u.label
    position, words, train, before, seen_in_train = np.array(rows, dtype=np.int64).reshape(-1, 5).T
    return UtteranceFacts(position, words, train, before, seen_in_train.astype(bool))


def recorded_facts(corpus: Corpus, split: str) -> dict[str, Any]:
    """The dialogue numbers and facts that a record stores beside the predictions on a split."""
    dialogues = corpus.dialogues(split)
    facts = utterance_facts(dialogues, corpus.contents.get("train", ()))
    return {
        "dialogue": [d for d, dialogue in enumerate(dialogues) for _ in dialogue.labelled],
        "facts": {f.name: getattr(facts, f.name).astype(int).tolist() for f in fields(facts)},
    }


def facts_of(recorded: Mapping[str, Any]) -> UtteranceFacts:
    """The facts that a record stores, as arrays."""
    columns = {name: np.array(column) for name, column in recorded.items()}
    columns["seen_in_train"] = columns["seen_in_train"].astype(bool)
    return UtteranceFacts(**columns)


def slices(
    gold: ArrayLike,
    predictions: ArrayLike,
    facts: UtteranceFacts,
    classes: int,
    metric: Metric = Metric(),
    labels: Sequence[str] = (),
) -> list[Slice]:
    """Score, accuracy and support of every part of a test set; the score is by the corpus's metric.

    ``gold`` ``(N,)`` and ``predictions`` ``(S, N)`` are class indices, with one row of predictions
    for each run. A prediction of −1 (no answer) counts as wrong. The kinds of parts are:

    - ``emotion``: *shift* if the label differs from the speaker's previous one in the dialogue,
      *hold* if it is the same; a speaker's first labelled utterance is in neither
    - ``position`` in the dialogue, ``length`` in words, and ``speaker`` by number of training
      utterances; the parts are :data:`POSITIONS`, :data:`LENGTHS` and :data:`SPEAKERS`
    - ``text``: *seen in train* or *new*

    Raises:
        ValueError: the arrays do not fit, or a class is outside 0…C−1.
    """
    y, p = checked_labels(gold, predictions, classes)
    for field in fields(facts):
        if getattr(facts, field.name).shape != y.shape:
            raise ValueError(f"{field.name} and gold {y.shape} do not fit")
    shift, known = facts.previous_label != y, facts.previous_label >= 0
    parts = [("emotion", "shift", shift & known), ("emotion", "hold", ~shift & known)]
    for kind, values, bins in (
        ("position", facts.position + 1, POSITIONS),
        ("length", facts.words, LENGTHS),
        ("speaker", facts.speaker_train, SPEAKERS),
    ):
        part = np.searchsorted([end for _, end in bins if end is not None], values)
        parts += [(kind, name, part == i) for i, (name, _) in enumerate(bins)]
    seen = facts.seen_in_train
    parts += [("text", "seen in train", seen), ("text", "new", ~seen)]
    report = []
    for kind, name, mask in parts:
        support = int(mask.sum())
        m = confusions(y[mask], p[:, mask], classes)
        right = np.trace(m, axis1=1, axis2=2).mean()
        figure = score(m, metric, labels)
        report.append(
            Slice(kind, name, support, float(figure.mean()), float(100 * right / support))
            if support
            else Slice(kind, name, 0, None, None)
        )
    return report


def class_scores(
    gold: ArrayLike, predictions: ArrayLike, labels: Sequence[str]
) -> list[ClassScore]:
    """Support, precision, recall and F1 of every class; arguments as for :func:`slices`.

    Precision is 0 in a run that never predicts the class, as with scikit-learn's zero_division=0.
    """
    m = confusions(*checked_labels(gold, predictions, len(labels)), len(labels))
    hits = np.diagonal(m, axis1=1, axis2=2).astype(float)
    predicted, support = m.sum(1)[:, :-1], m.sum(2)
    precision = 100 * (hits / np.maximum(predicted, 1)).mean(0)
    recall = 100 * (hits / np.maximum(support, 1)).mean(0)
    f1 = 100 * (2 * hits / np.maximum(predicted + support, 1)).mean(0)
    return [
        ClassScore(name, n, float(precision[c]), float(recall[c]) if n else None, float(f1[c]))
        for c, (name, n) in enumerate(zip(labels, support[0].tolist(), strict=True))
    ]


def pair_confusions(
    gold: ArrayLike,
    predictions: ArrayLike,
    labels: Sequence[str],
    pairs: Iterable[tuple[str, str]],
) -> list[PairConfusion]:
    """Mutual confusion of every pair whose two labels are in the label set."""
    m = confusions(*checked_labels(gold, predictions, len(labels)), len(labels)).mean(0)
    report = []
    for first, second in pairs:
        if first in labels and second in labels:
            i, j = labels.index(first), labels.index(second)
            n_i, n_j = round(m[i].sum()), round(m[j].sum())
            report.append(
                PairConfusion(
                    first,
                    second,
                    (n_i, n_j),
                    _percent(m[i, j], n_i),
                    _percent(m[j, i], n_j),
                    _percent(m[i, j] + m[j, i], n_i + n_j),
                )
            )
    return report


def confusions(gold: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Confusion counts ``(S, C, C + 1)``, rows gold, of gold ``(N,)`` and predictions ``(S, N)``.

    The last column counts the utterances without an answer (prediction −1).
    """
    column = np.where(predictions == NO_ANSWER, classes, predictions)
    runs = np.arange(len(predictions))[:, None]
    cell = (runs * classes + gold) * (classes + 1) + column
    counts = np.bincount(cell.ravel(), minlength=len(predictions) * classes * (classes + 1))
    return counts.reshape(-1, classes, classes + 1)


def _percent(part: float, whole: int) -> float | None:
    return float(100 * part / whole) if whole else None


def _words(text: str) -> str:
    """A text with its case and spacing normalised, for comparison with other texts."""
    return " ".join(text.casefold().split())
