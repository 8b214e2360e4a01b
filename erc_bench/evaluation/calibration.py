"""Calibration: accuracy by confidence, as a reliability diagram shows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

BINS = 15
"""Number of bins of the expected calibration error."""


@dataclass(frozen=True)
class ReliabilityBins:
    """The B bins that hold a prediction, as arrays ``(B,)``; shares are from 0 to 1."""

    confidence: np.ndarray
    """Mean probability of the predicted class."""
    accuracy: np.ndarray
    """Share of correct predictions."""
    count: np.ndarray


def reliability_bins(confidence: ArrayLike, right: ArrayLike, bins: int = BINS) -> ReliabilityBins:
    """Put predictions into bins of equal width by confidence (Guo et al. 2017, *On Calibration of
    Modern Neural Networks*, section 2).

    The bins are those of the expected calibration error in a record, as torchmetrics makes them:
    the lower end of a bin belongs to it, and a confidence of exactly 1 has a bin of its own. So the
    mean of ``|accuracy - confidence|`` over the predictions is that error.

    Args:
        confidence: probability of the predicted class ``(N,)``; at least one.
        right: whether the predicted class is the gold one ``(N,)``.
        bins: number of bins from 0 to 1.
    """
    sure, hit = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    sure = sure.clip(0, 1)
    ends = torch.linspace(0, 1, bins + 1)
    number = torch.bucketize(torch.from_numpy(sure).float(), ends, right=True).numpy() - 1
    count = np.bincount(number)
    there = count > 0
    sums = [np.bincount(number, weights) for weights in (sure, hit)]
    means = [total[there] / count[there] for total in sums]
    return ReliabilityBins(means[0], means[1], count[there])
