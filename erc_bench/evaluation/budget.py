"""What a search for settings is worth by the number of its trials."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb


def expected_best(scores: Sequence[float]) -> list[float]:
    """The expected best score on dev of n trials, for n = 1 … B, from the scores of B trials.

    The U-statistic of Tang et al. (2020, *Showing Your Work Doesn't Always Work*, eq. 6): the mean
    over all subsets of n of the B trials of the best score in each. With the scores in rising
    order, v₁ ≤ … ≤ v_B,

        E[best of n] = Σ_{i=n}^{B} C(i−1, n−1) / C(B, n) · v_i

    since v_i is the best of the C(i−1, n−1) subsets that take their other n − 1 from the i − 1
    below it. It is unbiased where the trials are independent draws, which the estimator of Dodge
    et al. (2019) is not. Trial 0, the preset, is no draw: it is counted as one.

    Args:
        scores: of all trials, those that failed with the lowest score there is.
    """
    rising, size = sorted(scores), len(scores)
    return [
        sum(comb(i - 1, n - 1) * rising[i - 1] for i in range(n, size + 1)) / comb(size, n)
        for n in range(1, size + 1)
    ]
