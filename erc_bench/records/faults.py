"""Checks of a record that its types can't express.

Each function yields one text for every fault, which names the field and what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from erc_bench.corpus.conversation import Metric
from erc_bench.errors import ErcBenchError
from erc_bench.evaluation import NO_ANSWER
from erc_bench.records.schema import (
    GoldLabels,
    Predictions,
    Record,
    Summary,
    Unscored,
    Untested,
)


def faults(record: Record | Unscored | Untested | Summary) -> Iterator[str]:
    """The faults of a record: each names the field and what is wrong with it."""
    labels = record.labels
    yield from label_faults(labels)
    yield from metric_faults(record.metric, labels)
    predicted = [] if isinstance(record, Summary) else [*record.predictions.items()]
    for split, predictions in predicted:
        where = f"$.predictions.{split}"
        yield from gold_faults(predictions, len(labels), where)
        yield from prediction_faults(
            predictions.predicted, len(predictions.gold), len(labels), where
        )
        if predictions.probabilities is not None:
            yield from _probability_faults(predictions, len(labels), where)
    if not isinstance(record, Unscored):
        yield from _metric_faults(record, [split for split, _ in predicted])


def label_faults(labels: Sequence[str]) -> Iterator[str]:
    """The faults of a label set."""
    if len(labels) < 2 or len(set(labels)) < len(labels):
        yield f"$.labels: {', '.join(map(repr, labels)) or 'none'} are not two or more different"


def metric_faults(metric: str, labels: Sequence[str]) -> Iterator[str]:
    """The faults of a corpus's metric."""
    try:
        Metric.of(metric, labels)
    except ErcBenchError as error:
        yield f"$.metric: {str(error).removesuffix('.')}"


def gold_faults(gold: GoldLabels, classes: int, where: str) -> Iterator[str]:
    """The faults of a split's gold labels and facts."""
    n = len(gold.gold)
    if not n:
        yield f"{where}.gold: it holds no utterance"
    yield from _length_fault(gold.ids, n, f"{where}.ids")
    if len(set(gold.ids)) < len(gold.ids):
        yield f"{where}.ids: {len(gold.ids) - len(set(gold.ids))} of {n} are repeated"
    yield from _class_faults(gold.gold, classes, f"{where}.gold")
    if gold.dialogue is not None:
        yield from _length_fault(gold.dialogue, n, f"{where}.dialogue")
    if gold.facts is not None:
        for name, column in gold.facts.columns().items():
            yield from _length_fault(column, n, f"{where}.facts.{name}")
        yield from _class_faults(
            gold.facts.previous_label, classes, f"{where}.facts.previous_label"
        )


def prediction_faults(
    predicted: Sequence[int], utterances: int, classes: int, where: str
) -> Iterator[str]:
    """The faults of predicted classes ``(N,)``."""
    yield from _length_fault(predicted, utterances, f"{where}.predicted")
    yield from _class_faults(predicted, classes, f"{where}.predicted")


def _probability_faults(predictions: Predictions, classes: int, where: str) -> Iterator[str]:
    rows = predictions.probabilities
    assert rows is not None
    yield from _length_fault(rows, len(predictions.gold), f"{where}.probabilities")
    for i, (row, label) in enumerate(zip(rows, predictions.predicted, strict=False)):
        if (row is None) != (label == NO_ANSWER):
            yield (
                f"{where}.probabilities[{i}]: "
                + ("null, but there is an answer" if row is None else "there is no answer to it")
            )
        elif row is not None and len(row) != classes:
            yield f"{where}.probabilities[{i}]: {len(row)} numbers for {classes} labels"


def _metric_faults(record: Record | Untested | Summary, predicted: Sequence[str]) -> Iterator[str]:
    classes = len(record.labels)
    for split in predicted:
        if split not in dict(record.metrics.items()):
            yield f"$.metrics.{split}: not there, though {split} was predicted"
    for split, metrics in record.metrics.items():
        where = f"$.metrics.{split}"
        missing = [name for name in record.labels if name not in metrics.per_class]
        if missing:
            yield f"{where}.per_class: it lacks {', '.join(map(repr, missing))}"
        if getattr(metrics, record.judged_by.name) is None:
            yield f"{where}.{record.judged_by.name}: not there, though the corpus is judged by it"
        if {len(metrics.confusion), *map(len, metrics.confusion)} != {classes}:
            yield f"{where}.confusion: not {classes} rows of {classes} counts"


def _length_fault(column: Sequence[Any], n: int, where: str) -> Iterator[str]:
    if len(column) != n:
        yield f"{where}: {len(column)} values for {n} gold labels"


def _class_faults(column: Sequence[int], classes: int, where: str) -> Iterator[str]:
    highest = max(column, default=0)
    if highest >= classes:
        yield (
            f"{where}[{column.index(highest)}]: {highest} is something else than classes "
            f"0…{classes - 1}"
        )
