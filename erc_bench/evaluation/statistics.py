"""How sure a score is: intervals over seeds, paired comparisons, correction, ranks.

A score is a mean over seeds on one test set, so it carries two kinds of chance: the dialogues that
happened to be in the test set (utterances inside one are not independent, so dialogues are what is
resampled) and the seeds that happened to be used.

**Dialogues** are resampled with replacement, the same resamples for every method and seed
(:func:`resampled_scores`). Between seeds of one method the resampled scores vary together as far
as the dialogues do; what varies apart is the noise that a finite test set adds to each single run.

**Seeds** are resampled in closed form. Literally drawing S of S seeds understates the variance of
their mean by the factor (S−1)/S, and its quantiles take that variance for known: where seeds carry
most of it, a 5 % test with S = 3 rejects a true hypothesis 20 % of the time. Where they carry
little, such a two-way bootstrap counts the noise of single runs more than once and is too wide
(Owen, The pigeonhole bootstrap, 2007). So the variance of the estimate is

    V = V_dialogues + max(0, s² − e) / S

with s² the variance of the per-seed estimates (n−1), and e the part of it that is the noise of
single runs on a finite test set, which V_dialogues already holds. Seeds of two methods mostly share
a number and nothing else. Then they are independent samples: each method adds a term of its own, of
its own number of seeds. Where a seed has a part of its chance in common, such as the encoder that
both methods read, seeds are paired: one term, of the differences by seed. Interval and p-value are
Student's t with Satterthwaite's degrees of freedom: those of s² are S−1, those of V_dialogues the
effective number of dialogues, (Σ n)² / Σ n² for lengths n (Kish), less one, since few long
dialogues carry what many short ones do not.

In simulation (tests/test_statistics.py, test sets like MELD, EmoryNLP and IEMOCAP, seeds that do
not vary to seeds that vary far more than dialogues) the 95 % interval of a difference misses the
truth, and the 5 % test rejects a true hypothesis, this often:

- the same number of seeds, 2 to 5: 2 to 6 %; five against three: 4 to 6 %
- five against two: 3 to 7 %
- with 8 to 15 dialogues 1 to 4 %
- with one seed on a side 4 to 6 %, but that is about its one trained model: as a test of the
  methods it is wrong 17 to 31 % of the time where seeds vary by 2.5 points (sd)
- with two *pairs* of seeds (``paired_seeds``) that vary far more than dialogues 9 to 12 %

The interval of one method's own mean misses 4 to 9 %, up to 11 % with 2 or 3 seeds that vary far
more than dialogues, or 15 dialogues.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from erc_bench.corpus.conversation import Metric
from erc_bench.evaluation import NO_ANSWER

# A two-sided sign-flip test over five dialogues can't fall below 5 %, whatever they hold.
FEWEST_DIALOGUES = 6
# Scores are percentages; two that differ by less than this differ by rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class SeedInterval:
    """Mean over seeds, standard deviation (n−1), and Student-t interval; None for one seed."""

    n: int
    mean: float
    sd: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class ResampledScores:
    """The corpus's figure of one method: on the test set, and on resamples of its dialogues."""

    seeds: tuple[int, ...]
    values: np.ndarray
    """(S,) in percent: each seed's figure on the test set."""
    draws: np.ndarray
    """(R, S) in percent: the same on each resample."""
    dialogues: int
    freedom: float
    """Degrees of freedom of a variance over dialogues: their effective number less one."""
    resampling: str
    """Digest of gold labels, dialogues and resamples; only equal ones can be compared."""

    @property
    def mean(self) -> float:
        """Mean over the seeds, in percent."""
        return float(self.values.mean())


@dataclass(frozen=True)
class Comparison:
    """A difference of means over seeds in points, and what chance could do to it."""

    difference: float
    interval: tuple[float, float] | None
    """None where there are fewer than ``FEWEST_DIALOGUES`` dialogues."""
    p: float
    """Two-sided; 1 where there is no interval."""
    resolvable: float | None
    """The smallest true difference that this test, at its standard error and before correction for
    several pairs, would have found with the chosen power (80 %; with few degrees of freedom about
    it: 73 % with one, 78 % with three). It is no statement about the difference found."""
    standard_error: float
    degrees_of_freedom: float
    covers_seeds: bool
    """False where a side has one seed, so that its variance over seeds is unknown: the interval is
    then about that one trained model on new dialogues, not about the method."""
    paired_seeds: tuple[int, ...] = ()
    """The seeds that were paired; empty where seeds are independent samples."""


def seed_interval(values: ArrayLike, confidence: float = 0.95) -> SeedInterval:
    """Mean, standard deviation (n−1) and Student-t interval of one figure a seed, ``(S,)``.

    The interval is about the mean over seeds on this very test set; it says nothing about other
    dialogues. For that see :func:`compare_with_figure`.

    Raises:
        ValueError: no values, or one that is not a finite number.
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or not x.size or not np.isfinite(x).all():
        raise ValueError(f"one finite figure a seed is needed, got {values!r}")
    mean = float(x.mean())
    if x.size == 1:
        return SeedInterval(1, mean, None, None)
    sd = float(x.std(ddof=1))
    half = float(stdtrit(x.size - 1, (1 + confidence) / 2)) * sd / math.sqrt(x.size)
    return SeedInterval(x.size, mean, sd, (mean - half, mean + half))


def spread(mean: float, interval: Sequence[float] | None) -> str:
    """``66.12 ± 0.45``: what ``±`` means wherever it stands in this suite, the half-width of the
    95 % interval over seeds; the mean alone where there is one seed."""
    return f"{mean:.2f}" + (f" ± {interval[1] - mean:.2f}" if interval else "")


def weighted_f1(confusion: ArrayLike) -> np.ndarray:
    """Weighted-F1 in percent; :func:`score` by another name."""
    return score(confusion, Metric())


def score(confusion: ArrayLike, metric: Metric, labels: Sequence[str] = ()) -> np.ndarray:
    """A corpus's figure in percent of confusion counts ``(..., C, C)``, rows gold, columns
    predicted.

    Equals scikit-learn's with ``zero_division=0``, whose micro-F1 is over all ``labels`` but the
    one left out; weighted-F1 is NaN where nothing was counted. A last column C + 1,
    ``(..., C, C + 1)``, holds the utterances without an answer.
    """
    m = np.asarray(confusion, dtype=float)
    predicted = m.sum(-2)[..., : m.shape[-2]]
    left_out = metric.left_out(labels)
    hits = np.diagonal(m, axis1=-2, axis2=-1)
    return _figure(hits, predicted, m.sum(-1), metric.name, left_out, -1)


def dialogue_counts(
    gold: ArrayLike, predictions: ArrayLike, dialogues: ArrayLike, classes: int
) -> np.ndarray:
    """True positives, false positives and false negatives ``(D, S, C, 3)`` of every dialogue.

    ``gold`` ``(N,)`` and ``predictions`` ``(S, N)`` are class indices of the labelled utterances,
    a prediction may be −1 (no answer), ``dialogues`` ``(N,)`` says which dialogue each belongs to
    (anything that sorts). These counts are all that a figure of any set of dialogues needs.

    Raises:
        ValueError: shapes that do not fit, no utterance, or a class outside 0…C−1.
    """
    y, p = checked_labels(gold, predictions, classes)
    names, d = np.unique(np.asarray(dialogues), return_inverse=True)
    if d.shape != y.shape:
        raise ValueError(f"dialogues {d.shape} and gold {y.shape} do not fit")
    shape = (len(names), p.shape[0], classes)
    run = np.arange(p.shape[0])[:, None]

    def count(chosen: np.ndarray, labels: np.ndarray) -> np.ndarray:
        index = tuple(each[chosen] for each in np.broadcast_arrays(d, run, labels))
        cell = np.ravel_multi_index(index, shape)
        return np.bincount(cell, minlength=math.prod(shape)).reshape(shape)

    hit = p == y
    wrong_class = ~hit & (p != NO_ANSWER)
    return np.stack([count(hit, p), count(wrong_class, p), count(~hit, y)], axis=-1)


def checked_labels(
    gold: ArrayLike, predictions: ArrayLike, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """``gold`` ``(N,)`` and ``predictions`` ``(S, N)`` as arrays of classes 0…C−1; a prediction may
    be −1, no answer.

    Raises:
        ValueError: shapes that do not fit, no utterance or no run, or another class.
    """
    y, p = np.asarray(gold), np.asarray(predictions)
    if y.ndim != 1 or not y.size or p.ndim != 2 or p.shape[1:] != y.shape or not len(p):
        raise ValueError(f"gold (N,) and predictions (S, N) do not fit: {y.shape}, {p.shape}")
    for name, labels, least in (("gold", y, 0), ("predictions", p, NO_ANSWER)):
        if labels.dtype.kind not in "iu" or labels.min() < least or labels.max() >= classes:
            raise ValueError(f"{name} holds something else than classes 0…{classes - 1}")
    return y, p


def resampled_scores(
    gold: ArrayLike,
    predictions: ArrayLike,
    dialogues: ArrayLike,
    classes: int,
    seeds: Sequence[int] | None = None,
    resamples: int = 10_000,
    random_seed: int = 0,
    metric: Metric = Metric(),
    labels: Sequence[str] = (),
) -> ResampledScores:
    """A corpus's figure of every run on ``resamples`` resamples of the test set's dialogues.

    Arguments are those of :func:`dialogue_counts`; ``seeds`` names the rows of ``predictions``
    (0…S−1 if not given), ``labels`` the classes where the metric leaves one out. Compute it once a
    method: any two methods' can then be compared, since equal test sets are resampled equally.

    Raises:
        ValueError: as :func:`dialogue_counts`; seeds that are not one a row, or stand twice.
    """
    counts = dialogue_counts(gold, predictions, dialogues, classes)
    d, s = counts.shape[:2]
    names = tuple(range(s)) if seeds is None else tuple(seeds)
    if len(names) != s or len(set(names)) != s:
        raise ValueError(f"{s} runs need as many different seeds, got {names}")
    hits, predicted = counts[..., 0], counts[..., :2].sum(-1)
    support = counts[:, :1, :, ::2].sum(-1)  # the gold labels': every run's
    # Counts are whole numbers far below 2^24, so single precision is exact and twice as fast.
    columns = np.concatenate([hits, predicted, support], axis=1).T.astype(np.float32)
    sums = (columns.reshape(-1, d) @ _multiplicities(d, resamples, random_seed).T).astype(float)
    drawn = np.split(sums.reshape(classes, 2 * s + 1, -1), [s, 2 * s], axis=1)
    left_out = metric.left_out(labels)
    draws = _figure(drawn[0], drawn[1], drawn[2], metric.name, left_out, 0).T
    digest = hashlib.sha256(f"{classes} {resamples} {random_seed} {metric}".encode())
    which = np.unique(np.asarray(dialogues), return_inverse=True)[1]
    for key in (gold, which):
        digest.update(np.asarray(key, dtype=np.int64).tobytes())
    values = _figure(hits.sum(0), predicted.sum(0), support.sum(0), metric.name, left_out, -1)
    lengths = np.bincount(which)
    freedom = max(1.0, float(lengths.sum() ** 2 / (lengths**2).sum()) - 1)
    return ResampledScores(names, values, draws, d, freedom, digest.hexdigest())


def compare(
    a: ResampledScores,
    b: ResampledScores,
    *,
    paired_seeds: bool = False,
    confidence: float = 0.95,
    power: float = 0.8,
) -> Comparison:
    """Difference a − b of the means over all seeds, for new dialogues and new seeds.

    Dialogues are paired: both methods are scored on the same resamples. Seeds are independent
    samples, however they are numbered, and their numbers may differ. If a side has one seed, the
    interval is about that one trained model (``covers_seeds`` is False).

    ``paired_seeds=True`` is for two sides whose runs with the same seed have a part of their chance
    in common: initial weights and the order of the data, or the fine-tuned encoder that they read.
    Then only the seeds that both have count, each as one difference.

    Raises:
        ValueError: the two were not resampled from the same gold labels and dialogues, or seeds
            are to be paired and none is common.
    """
    if a.resampling != b.resampling:
        raise ValueError("the two methods were not scored on the same gold labels and dialogues")
    if not paired_seeds:
        terms = [_seed_variance(x.values, x.draws, x.freedom) for x in (a, b)]
        resampled = a.draws.mean(1) - b.draws.mean(1)
        covers = min(len(a.seeds), len(b.seeds)) > 1
        return _inference(a.mean - b.mean, resampled, terms, a, confidence, power, covers)
    common = tuple(seed for seed in a.seeds if seed in b.seeds)
    if not common:
        raise ValueError("seeds can't be paired: the two have none in common")
    i, j = ([x.seeds.index(seed) for seed in common] for x in (a, b))
    values, draws = a.values[i] - b.values[j], a.draws[:, i] - b.draws[:, j]
    terms = [_seed_variance(values, draws, a.freedom)]
    found = _inference(
        float(values.mean()), draws.mean(1), terms, a, confidence, power, len(common) > 1
    )
    return replace(found, paired_seeds=common)


def compare_with_figure(
    scores: ResampledScores,
    figure: float,
    figure_seeds: int | None = None,
    confidence: float = 0.95,
    power: float = 0.8,
) -> Comparison:
    """Difference of our mean from a figure known without predictions, in percent.

    The interval is ours for new dialogues and new seeds, less the figure. The figure is taken as a
    constant; if ``figure_seeds`` says that it is a mean over so many seeds, their variance is added
    as if it were ours. A published figure was measured on the same dialogues, which can't be
    paired without its predictions: while the two methods' scores rise and fall together over
    dialogues (correlation 0.5 or more), the interval errs on the side of caution. With figure 0
    it is the interval of our own mean.
    """
    terms = [_seed_variance(scores.values, scores.draws, scores.freedom)]
    if figure_seeds is not None:
        if figure_seeds < 1:
            raise ValueError(f"a figure of {figure_seeds} seeds")
        ours, freedom, extra = terms[0]
        its = ours * len(scores.seeds) / figure_seeds
        terms[0] = (ours + its, freedom, extra + its)
    estimate, resampled = scores.mean - figure, scores.draws.mean(1)
    covers = len(scores.seeds) > 1
    return _inference(estimate, resampled, terms, scores, confidence, power, covers)


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down adjusted p-values ``(M,)``, in the order given (Holm 1979).

    Rejecting where the adjusted value is at most 0.05 keeps the chance of even one false rejection
    at 5 %, however the tests depend on each other.

    Raises:
        ValueError: something that is not in 0…1.
    """
    p = np.asarray(p_values, dtype=float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values lie in 0…1, got {p_values!r}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)), 1)
    return adjusted


def rank_groups(better: ArrayLike) -> np.ndarray:
    """Rank of every row ``(M,)``: 1 + the number of rows resolved to be better than it.

    ``better`` ``(M, M)``: true at ``[i, j]`` where row i is resolved to be better than row j. Rows
    that no pair tells apart share a rank.
    "Not resolved" is not transitive: with A > B > C and only A–C resolved the ranks are 1, 1, 2, so
    B shares A's rank and not C's although it can be told from neither; and a row with few seeds may
    rank above one of a higher mean. A rank is thus a statement about rows that are certainly
    better, not about the rows beside.

    Raises:
        ValueError: not square, or two rows that are each better than the other.
    """
    wins = np.asarray(better, dtype=bool)
    if wins.ndim != 2 or wins.shape[0] != wins.shape[1] or (wins & wins.T).any():
        raise ValueError(f"a square matrix without a pair that is better both ways: {wins.shape}")
    return 1 + wins.sum(0)


def _figure(
    hits: np.ndarray,
    predicted: np.ndarray,
    support: np.ndarray,
    name: str,
    left_out: int | None,
    axis: int,
) -> np.ndarray:
    """A figure in percent over the classes along ``axis``, quickest the first. Of each class:
    the utterances of it that are predicted so, all that are predicted so, and all of it."""
    if name == "weighted_f1":
        f1 = hits * support / np.maximum(predicted + support, 1)
        with np.errstate(invalid="ignore"):
            return 200 * f1.sum(axis) / support.sum(axis)
    if name == "accuracy":
        return 100 * hits.sum(axis) / np.maximum(support.sum(axis), 1)
    if name == "macro_f1":
        both = predicted + support
        return 200 * (hits / np.maximum(both, 1)).sum(axis) / np.maximum((both > 0).sum(axis), 1)
    assert left_out is not None
    hits, predicted, support = (np.delete(a, left_out, axis) for a in (hits, predicted, support))
    return 200 * hits.sum(axis) / np.maximum(predicted.sum(axis) + support.sum(axis), 1)


@lru_cache(maxsize=4)
def _multiplicities(dialogues: int, resamples: int, random_seed: int) -> np.ndarray:
    """How often each dialogue stands in each resample, ``(R, D)``; rows sum to D."""
    rng = np.random.default_rng(random_seed)
    picks = rng.integers(dialogues, size=(resamples, dialogues))
    picks += dialogues * np.arange(resamples)[:, None]
    times = np.bincount(picks.ravel(), minlength=resamples * dialogues)
    weights = times.reshape(resamples, dialogues).astype(np.float32)
    weights.flags.writeable = False  # shared by all who ask for it again
    return weights


def _seed_variance(
    values: np.ndarray, draws: np.ndarray, freedom: float
) -> tuple[float, float, float]:
    """What seeds add to the variance of a mean over S of them.

    ``values`` ``(S,)``, ``draws`` ``(R, S)``. Returns s²/S, its degrees of freedom, and the part
    of it that is not already in the dialogues' variance. (0, 1, 0) for one seed: unknown.

    With the covariance K ``(S, S)`` of the draws, a single run's noise e is what the diagonal has
    over the rest; where chance puts e/S above the mean of K, which is all that V_dialogues holds,
    no more than that is subtracted.
    """
    s = len(values)
    if s == 1:
        return 0.0, 1.0, 0.0
    covariance = np.cov(draws, rowvar=False) * (freedom + 1) / freedom
    mean, diagonal = float(covariance.mean()), float(np.trace(covariance)) / s
    noise = min((diagonal - mean) * s / (s - 1), mean * s)
    observed = float(values.var(ddof=1))
    return observed / s, s - 1.0, max(0.0, observed - noise) / s


def _inference(
    estimate: float,
    resampled: np.ndarray,
    terms: list[tuple[float, float, float]],
    test_set: ResampledScores,
    confidence: float,
    power: float,
    covers_seeds: bool,
) -> Comparison:
    """Student-t interval and test of an estimate with resampled values ``(R,)``.

    ``terms`` are the seeds' variances as :func:`_seed_variance` gives them; ``test_set`` is any
    scores on it.
    """
    if abs(estimate) < _ROUNDING:
        estimate = 0.0
    dialogues, freedom = test_set.dialogues, test_set.freedom
    if dialogues < FEWEST_DIALOGUES:
        return Comparison(estimate, None, 1.0, None, math.nan, math.nan, covers_seeds)
    # A resample of D dialogues varies as (D−1)/D of what D new ones would.
    of_dialogues = float(resampled.var(ddof=1)) * (freedom + 1) / freedom
    variance = of_dialogues + sum(extra for _, _, extra in terms)
    # The seeds' degrees of freedom belong to all of s², also to the part that is subtracted.
    uncertainty = of_dialogues**2 / freedom + sum(of_mean**2 / n for of_mean, n, _ in terms)
    error = math.sqrt(variance)
    df = variance**2 / uncertainty if uncertainty > 0 else freedom
    if error < _ROUNDING:
        error, df = 0.0, freedom
    critical = float(stdtrit(df, (1 + confidence) / 2))
    # D exchangeable dialogues can show no less than all of them pointing the same way.
    least = 2.0 ** (1 - dialogues)
    if estimate == 0:
        p = 1.0
    else:
        p = max(least, 2 * float(stdtr(df, -abs(estimate) / error)) if error else 0.0)
    return Comparison(
        difference=estimate,
        interval=(estimate - critical * error, estimate + critical * error),
        p=p,
        resolvable=(critical + float(stdtrit(df, power))) * error,
        standard_error=error,
        degrees_of_freedom=df,
        covers_seeds=covers_seeds,
    )
