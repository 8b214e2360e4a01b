"""Calibration: accuracy by confidence, as a reliability diagram shows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

BINS = 15
"""Number of bins, the same as for the expected calibration error in a record."""


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

    Args:
        confidence: probability of the predicted class ``(N,)``; at least one.
        right: whether the predicted class is the gold one ``(N,)``.
        bins: number of bins from 0 to 1.
    """
    sure, hit = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    # The upper end of a bin belongs to it.
    number = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(number, minlength=bins)
    there = count > 0
    sums = [np.bincount(number, weights, minlength=bins) for weights in (sure, hit)]
    means = [total[there] / count[there] for total in sums]
    return ReliabilityBins(means[0], means[1], count[there])
