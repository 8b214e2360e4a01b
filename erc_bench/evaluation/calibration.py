"""How far confidence can be believed: accuracy by confidence, as a reliability diagram shows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

BINS = 15
"""As many as the expected calibration error of a record has."""


@dataclass(frozen=True)
class ReliabilityBins:
    """The bins that hold a prediction, arrays ``(B,)``; shares from 0 to 1."""

    confidence: np.ndarray
    """Mean probability of the predicted class."""
    accuracy: np.ndarray
    """Share that is right."""
    count: np.ndarray


def reliability_bins(confidence: ArrayLike, right: ArrayLike, bins: int = BINS) -> ReliabilityBins:
    """Predictions by confidence, in bins of equal width (Guo et al. 2017, *On Calibration of Modern
    Neural Networks*, section 2).

    Args:
        confidence: probability of the predicted class ``(N,)``; one at least.
        right: whether it is the gold one ``(N,)``.
        bins: how many from 0 to 1.
    """
    sure, hit = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    # A bin holds its upper end.
    number = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(number, minlength=bins)
    there = count > 0
    sums = [np.bincount(number, weights, minlength=bins) for weights in (sure, hit)]
    means = [total[there] / count[there] for total in sums]
    return ReliabilityBins(means[0], means[1], count[there])
