"""Predictions → metrics: one protocol, the same code for every method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)
from torchmetrics.utilities.data import dim_zero_cat


class Predictions(Metric):
    """Scores by row (a number for each utterance of the corpus), each row exactly once.

    Rows that several devices saw, or that padding repeated, count once.
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


def weighted_f1(predicted: Tensor, gold: Tensor, classes: int) -> float:
    """Weighted-F1 in percent over ``(N,)`` labels; equals scikit-learn's."""
    return 100 * multiclass_f1_score(predicted, gold, classes, average="weighted").item()


def evaluate(
    predicted: Tensor, gold: Tensor, labels: Sequence[str], probabilities: Tensor | None = None
) -> dict[str, Any]:
    """All figures of the protocol, in percent where they are shares.

    Args:
        predicted: predicted classes ``(N,)``.
        gold: gold classes ``(N,)``.
        labels: names of the C classes.
        probabilities: ``(N, C)``; with them the expected calibration error (15 bins) is given.

    Macro-F1 is the mean over the classes that occur in gold or in predictions, as scikit-learn's.
    """
    classes = len(labels)
    each = {
        "precision": multiclass_precision(predicted, gold, classes, average="none"),
        "recall": multiclass_recall(predicted, gold, classes, average="none"),
        "f1": multiclass_f1_score(predicted, gold, classes, average="none"),
    }
    confusion = multiclass_confusion_matrix(predicted, gold, classes)
    support = confusion.sum(dim=1)
    figures: dict[str, Any] = {
        "weighted_f1": weighted_f1(predicted, gold, classes),
        "accuracy": 100 * multiclass_accuracy(predicted, gold, classes, average="micro").item(),
        "macro_f1": 100 * multiclass_f1_score(predicted, gold, classes, average="macro").item(),
        "per_class": {
            name: {
                **{figure: 100 * values[c].item() for figure, values in each.items()},
                "support": int(support[c]),
            }
            for c, name in enumerate(labels)
        },
        "confusion": confusion.tolist(),
        "utterances": len(gold),
    }
    if probabilities is not None:
        figures["calibration_error"] = (
            100 * multiclass_calibration_error(probabilities, gold, classes).item()
        )
    return figures
