"""Compute the metrics of predictions, with the same code for every method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric as TorchMetric
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
    multiclass_stat_scores,
)
from torchmetrics.utilities.data import dim_zero_cat

from erc_bench.corpus.conversation import Metric
from erc_bench.evaluation import NO_ANSWER
from erc_bench.evaluation.calibration import BINS


class Predictions(TorchMetric):
    """Collect scores by row, the number of an utterance in the corpus.

    A row that several devices saw, or that padding repeated, counts once.
    """

    full_state_update = False
    rows: list[Tensor]
    scores: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", default=[], dist_reduce_fx="cat")
        self.add_state("scores", default=[], dist_reduce_fx="cat")

    def update(self, rows: Tensor, scores: Tensor) -> None:
        """Add scores ``(N, C)`` of the utterances ``rows`` ``(N,)``."""
        self.rows.append(rows.detach())
        self.scores.append(scores.detach().float())

    def compute(self) -> tuple[Tensor, Tensor]:
        """Rows in corpus order ``(N,)`` and their scores ``(N, C)``, on the CPU."""
        rows, scores = dim_zero_cat(self.rows).cpu(), dim_zero_cat(self.scores).cpu()
        order = torch.argsort(rows, stable=True)
        first = torch.ones_like(order, dtype=torch.bool)
        first[1:] = rows[order][1:] != rows[order][:-1]
        return rows[order][first], scores[order][first]


def predicted_classes(scores: Tensor) -> Tensor:
    """The class ``(N,)`` with the highest score ``(N, C)``; −1 (no answer) for a row with NaN."""
    return torch.where(scores.isnan().any(dim=1), NO_ANSWER, scores.argmax(dim=1))


def weighted_f1(predicted: Tensor, gold: Tensor, classes: int) -> float:
    """Weighted-F1 in percent of ``(N,)`` labels, equal to scikit-learn's; −1 is no answer."""
    predicted, columns = _with_unanswered(predicted, classes)
    return 100 * multiclass_f1_score(predicted, gold, columns, average="weighted").item()


def score(predicted: Tensor, gold: Tensor, labels: Sequence[str], metric: Metric) -> float:
    """The score by a corpus's metric in percent, of ``(N,)`` labels; −1 is no answer.

    It equals scikit-learn's. Micro-F1 is over all labels except the one left out; it is 0 if no
    other label occurs.
    """
    if metric.name == "weighted_f1":
        return weighted_f1(predicted, gold, len(labels))
    columns_of, columns = _with_unanswered(predicted, len(labels))
    counts = multiclass_stat_scores(columns_of, gold, columns, average="none")[: len(labels)]
    hits, wrong, _, missed, _ = counts.double().T
    if metric.name == "accuracy":
        return 100 * (hits.sum() / len(gold)).item()
    f1 = 2 * hits / (2 * hits + wrong + missed).clamp(min=1)
    if metric.name == "macro_f1":
        return 100 * f1[hits + wrong + missed > 0].mean().item()
    counted = torch.arange(len(labels)) != metric.left_out(labels)
    hits, wrong, missed = (each.cpu()[counted].sum() for each in (hits, wrong, missed))
    return 100 * (2 * hits / (2 * hits + wrong + missed).clamp(min=1)).item()


def evaluate(
    predicted: Tensor,
    gold: Tensor,
    labels: Sequence[str],
    probabilities: Tensor | None = None,
    metric: Metric = Metric(),
) -> dict[str, Any]:
    """Compute all figures of the protocol; shares are in percent.

    Args:
        predicted: predicted classes ``(N,)``; −1 is no answer. It is wrong in every figure: a false
            negative of the gold class, and not a false positive of any class.
        gold: gold classes ``(N,)``.
        labels: names of the C classes.
        probabilities: ``(N, C)``. If given, the figures include the expected calibration error of
            the predicted classes (:mod:`erc_bench.evaluation.calibration`) over the utterances with
            an answer, unless there are none.
        metric: the corpus's metric. If it leaves out a label, the figures include its micro-F1.

    Macro-F1 is the mean over the classes that occur in gold labels or predictions, as in
    scikit-learn. The confusion matrix is ``(C, C)`` and leaves out utterances without an answer.
    ``no_answer`` is their share; it is absent if there are none.
    """
    classes, answered = len(labels), predicted != NO_ANSWER
    columns_of, columns = _with_unanswered(predicted, classes)
    each = {
        "precision": multiclass_precision(columns_of, gold, columns, average="none"),
        "recall": multiclass_recall(columns_of, gold, columns, average="none"),
        "f1": multiclass_f1_score(columns_of, gold, columns, average="none"),
    }
    confusion = multiclass_confusion_matrix(columns_of, gold, columns)
    support = confusion.sum(dim=1)
    occurs = (confusion.sum(dim=0) + support)[:classes] > 0
    figures: dict[str, Any] = {
        "weighted_f1": weighted_f1(predicted, gold, classes),
        "accuracy": 100 * multiclass_accuracy(columns_of, gold, columns, average="micro").item(),
        "macro_f1": 100 * (each["f1"][:classes] * occurs / occurs.sum()).sum().item(),
        "per_class": {
            name: {
                **{figure: 100 * values[c].item() for figure, values in each.items()},
                "support": int(support[c]),
            }
            for c, name in enumerate(labels)
        },
        "confusion": confusion[:classes, :classes].tolist(),
        "utterances": len(gold),
    }
    if metric.without:
        figures["micro_f1"] = score(predicted, gold, labels, metric)
    if not answered.all():
        figures["no_answer"] = 100 * (~answered).double().mean().item()
    if probabilities is not None and answered.any():
        # Rounded shares may exceed 1, and torchmetrics would take all of them for logits.
        confidence = probabilities[answered].amax(dim=1).clamp(0, 1)
        right = (predicted == gold)[answered].long()
        error = binary_calibration_error(confidence, right, n_bins=BINS)
        figures["calibration_error"] = 100 * error.item()
    return figures


def _with_unanswered(predicted: Tensor, classes: int) -> tuple[Tensor, int]:
    """Predictions with "no answer" as an extra class, and the number of classes including it.

    The gold labels never have this class. If every utterance has an answer, nothing changes.
    """
    unanswered = predicted == NO_ANSWER
    return torch.where(unanswered, classes, predicted), classes + int(unanswered.any())
