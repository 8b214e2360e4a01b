"""The expected best score of a search for settings, by its number of trials."""

from __future__ import annotations

from collections.abc import Sequence


def expected_best(scores: Sequence[float]) -> list[float]:
    """The expected best score on dev of n trials, for n = 1 … B, from the scores of B trials.

    This is the U-statistic of Tang et al. (2020, *Showing Your Work Doesn't Always Work*, eq. 6):
    take the best score of each subset of n of the B trials, and average over all subsets. With the
    scores in rising order, v₁ ≤ … ≤ v_B,

        E[best of n] = Σ_{i=n}^{B} C(i−1, n−1) / C(B, n) · v_i

    since v_i is the best score of C(i−1, n−1) subsets: those whose other n − 1 scores are among the
    i − 1 below it. The statistic is unbiased if the trials are independent draws; the estimator of
    Dodge et al. (2019) is not. Trial 0, the preset, is not a draw, but it is counted as one.

    Args:
        scores: the scores of all trials; a failed trial has the lowest possible score.
    """
    rising, size = sorted(scores), len(scores)
    expected = []
    for n in range(1, size + 1):
        share, best = n / size, 0.0  # of v_B; the binomials themselves exceed every float
        for i in range(size, n - 1, -1):
            best += share * rising[i - 1]
            share *= (i - n) / max(i - 1, 1)
        expected.append(best)
    return expected
