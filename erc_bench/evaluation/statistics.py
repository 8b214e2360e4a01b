"""Intervals over seeds, paired comparisons, correction for several tests, and ranks.

A score is a mean over seeds on one test set. It depends on chance in two ways: on the dialogues
that happened to be in the test set, and on the seeds that happened to be used. The utterances of
one dialogue are not independent, so dialogues are resampled, not utterances.

**Dialogues** are resampled with replacement. The resamples are the same for every method and seed
(:func:`resampled_scores`). The variation that the seeds of one method share over resamples comes
from the dialogues. The rest is the noise that a finite test set adds to each single run.

**Seeds** are resampled in closed form. Literally drawing S of S seeds understates the variance of
their mean by the factor (S−1)/S, and its quantiles take that variance for known. If seeds cause
most of the variance, a 5 % test with S = 3 then rejects a true hypothesis 20 % of the time. If they
cause little of it, such a two-way bootstrap counts the noise of single runs more than once and is
too wide (Owen, The pigeonhole bootstrap, 2007). So the variance of the estimate is

    V = V_dialogues + max(0, s² − e) / S

Here s² is the variance of the per-seed estimates (n−1), and e is the part of it that is the noise
of single runs on a finite test set, which V_dialogues already holds.

Seeds of two methods mostly share a number and nothing else. They are then independent samples, and
each method adds a term of its own, with its own number of seeds. If runs with the same seed share a
part of their chance, such as the encoder that both methods read, seeds are paired: there is one
term, that of the differences by seed.

The interval and the p-value are Student's t with Satterthwaite's degrees of freedom. Those of s²
are S−1. Those of V_dialogues are the effective number of dialogues less one. The effective number
is (Σ n)² / Σ n² for dialogues of lengths n (Kish): it is small if a few dialogues are much longer
than the others.

The simulations in tests/test_statistics.py use test sets like MELD, EmoryNLP and IEMOCAP, and seeds
that range from not varying to varying far more than dialogues. In them, the 95 % interval of a
difference misses the truth, and the 5 % test rejects a true hypothesis, this often:

- with the same number of seeds, 2 to 5: 2 to 6 %
- with five seeds against three: 4 to 6 %; five against two: 3 to 7 %
- with 8 to 15 dialogues: 1 to 4 %
- with one seed on a side: 4 to 6 %, but that is about its one trained model; as a test of the
  methods it is wrong 17 to 31 % of the time if seeds vary by 2.5 points (sd)
- with two *pairs* of seeds (``paired_seeds``) that vary far more than dialogues: 9 to 12 %

The interval of one method's own mean misses the truth 4 to 9 % of the time. With 2 or 3 seeds that
vary far more than dialogues, or with 15 dialogues, it is up to 11 %.
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

# With five dialogues, the p-value of a two-sided sign-flip test is never below 5 %.
FEWEST_DIALOGUES = 6
# Scores are percentages; two that differ by less than this differ only by rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class SeedInterval:
    """Mean over seeds, standard deviation (n−1), Student-t interval; one seed has only a mean."""

    n: int
    mean: float
    sd: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class ResampledScores:
    """The scores of one method, on the test set and on resamples of its dialogues."""

    seeds: tuple[int, ...]
    values: np.ndarray
    """(S,) in percent: each seed's score on the test set, by the corpus's metric."""
    draws: np.ndarray
    """(R, S) in percent: each seed's score on each resample."""
    dialogues: int
    freedom: float
    """Degrees of freedom of a variance over dialogues: their effective number less one."""
    resampling: str
    """Digest of gold labels, dialogues and resamples; it must be equal to compare two methods."""

    @property
    def mean(self) -> float:
        """Mean over the seeds, in percent."""
        return float(self.values.mean())


@dataclass(frozen=True)
class Comparison:
    """A difference of means over seeds in points, with its interval and p-value."""

    difference: float
    interval: tuple[float, float] | None
    """None if there are fewer than ``FEWEST_DIALOGUES`` dialogues."""
    p: float
    """Two-sided; 1 if there is no interval."""
    detectable: float | None
    """The smallest true difference that this test would have found with the chosen power, at its
    standard error and before correction for several pairs. With few degrees of freedom, a power of
    80 % is not quite reached: it is 73 % with one and 78 % with three. This value says nothing
    about the difference found."""
    standard_error: float
    degrees_of_freedom: float
    covers_seeds: bool
    """False if a side has one seed, so that its variance over seeds is unknown. The interval is
    then about that one trained model on new dialogues, not about the method."""
    paired_seeds: tuple[int, ...] = ()
    """The seeds that were paired; empty if seeds are independent samples."""


def seed_interval(values: ArrayLike, confidence: float = 0.95) -> SeedInterval:
    """Mean, standard deviation (n−1) and Student-t interval of the scores ``(S,)`` of seeds.

    The interval is about the mean over seeds on this one test set; it says nothing about other
    dialogues. For those see :func:`compare_with_figure`.

    Raises:
        ValueError: there are no values, or one is not a finite number.
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
    """A mean and the half-width of its 95 % interval over seeds, ``66.12 ± 0.45``.

    With one seed it is only the mean. ``±`` has this meaning everywhere in this suite.
    """
    return f"{mean:.2f}" + (f" ± {interval[1] - mean:.2f}" if interval else "")


def score(
    confusion: ArrayLike, metric: Metric = Metric(), labels: Sequence[str] = ()
) -> np.ndarray:
    """The score by a corpus's metric, in percent, of confusion counts ``(..., C, C)``.

    Rows are gold, columns predicted. A last column C + 1, ``(..., C, C + 1)``, holds the utterances
    without an answer. The score equals scikit-learn's with ``zero_division=0``. Micro-F1 is over
    all ``labels`` except the one left out. Weighted-F1 is NaN if nothing was counted.
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

    ``gold`` ``(N,)`` and ``predictions`` ``(S, N)`` are class indices of the labelled utterances; a
    prediction may be −1 (no answer). ``dialogues`` ``(N,)`` says which dialogue each utterance
    belongs to (anything that sorts). The score of any set of dialogues can be computed from these
    counts.

    Raises:
        ValueError: shapes do not fit, there is no utterance, or a class is outside 0…C−1.
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
    """Return ``gold`` ``(N,)`` and ``predictions`` ``(S, N)`` as arrays of checked classes.

    Classes are 0…C−1; a prediction may be −1 (no answer).

    Raises:
        ValueError: shapes do not fit, there is no utterance or no run, or a class is another.
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
    """Score every run on ``resamples`` resamples of the test set's dialogues.

    The first arguments are those of :func:`dialogue_counts`. ``seeds`` names the rows of
    ``predictions`` (0…S−1 if not given). ``metric`` is the corpus's, and ``labels`` names the
    classes if it leaves one out. Compute the scores once for each method: any two methods can then
    be compared, since equal test sets are resampled equally.

    Raises:
        ValueError: as :func:`dialogue_counts`; or there is not one seed for each row, or a seed is
            given twice.
    """
    counts = dialogue_counts(gold, predictions, dialogues, classes)
    d, s = counts.shape[:2]
    names = tuple(range(s)) if seeds is None else tuple(seeds)
    if len(names) != s or len(set(names)) != s:
        raise ValueError(f"{s} runs need as many different seeds, got {names}")
    hits, predicted = counts[..., 0], counts[..., :2].sum(-1)
    support = counts[:, :1, :, ::2].sum(-1)  # of the gold labels, so the same for every run
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
    """Compare two methods: the difference a − b of their means over all seeds.

    The interval is about new dialogues and new seeds. Dialogues are paired: both methods are scored
    on the same resamples. Seeds are independent samples, even if they have the same numbers, and
    one side may have more than the other. If a side has one seed, the interval is about that one
    trained model (``covers_seeds`` is False).

    ``paired_seeds=True`` is for two sides whose runs with the same seed share a part of their
    chance: initial weights and the order of the data, or the fine-tuned encoder that they read.
    Then only the seeds that both sides have count, each as one difference.

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
    """Compare our mean with a figure in percent whose predictions are not known.

    The interval is that of our mean for new dialogues and new seeds, less the figure. The figure is
    taken as a constant. If ``figure_seeds`` is given, the figure is a mean over so many seeds, and
    their variance is added, as if each of them varied as much as ours.

    A published figure was measured on the same dialogues, but they can't be paired without its
    predictions. If the two methods' scores are correlated over dialogues (0.5 or more), the
    interval is too wide rather than too narrow. With figure 0 it is the interval of our own mean.
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

    If hypotheses with an adjusted value of at most 0.05 are rejected, the chance of even one false
    rejection is at most 5 %, however the tests depend on each other.

    Raises:
        ValueError: a value is not in 0…1.
    """
    p = np.asarray(p_values, dtype=float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values lie in 0…1, got {p_values!r}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)), 1)
    return adjusted


def rank_groups(better: ArrayLike) -> np.ndarray:
    """Rank of every row ``(M,)``: 1 + the number of rows shown to be better than it.

    ``better`` ``(M, M)`` is true at ``[i, j]`` if row i is shown to be better than row j. Rows
    that no pair tells apart share a rank.

    "Can't be told apart" is not transitive. With A > B > C and only A–C shown, the ranks are 1, 1
    and 2: B shares A's rank and not C's, although it can't be told from either. A row with few
    seeds may also rank above one with a higher mean. So a rank says how many rows are certainly
    better; it does not compare a row with its neighbours.

    Raises:
        ValueError: the matrix is not square, or two rows are each better than the other.
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
    """The score by the metric ``name``, in percent, over the classes along ``axis``.

    For each class, ``hits`` counts its utterances that are predicted as it, ``predicted`` all that
    are predicted as it, and ``support`` all its utterances. Axis 0 is the fastest.
    """
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
    """How often each dialogue occurs in each resample, ``(R, D)``; rows sum to D."""
    rng = np.random.default_rng(random_seed)
    picks = rng.integers(dialogues, size=(resamples, dialogues))
    picks += dialogues * np.arange(resamples)[:, None]
    times = np.bincount(picks.ravel(), minlength=resamples * dialogues)
    weights = times.reshape(resamples, dialogues).astype(np.float32)
    weights.flags.writeable = False  # the cached array is shared by all callers
    return weights


def _seed_variance(
    values: np.ndarray, draws: np.ndarray, freedom: float
) -> tuple[float, float, float]:
    """The variance that seeds add to a mean over S of them.

    ``values`` is ``(S,)``, ``draws`` is ``(R, S)``. Returns s²/S, its degrees of freedom, and the
    part of s²/S that is not already in the dialogues' variance. For one seed the variance is
    unknown, and the result is (0, 1, 0).

    Let K ``(S, S)`` be the covariance of the draws. The noise e of a single run is the mean of K's
    diagonal minus the mean of its other entries. V_dialogues is the mean of all entries. If by
    chance e/S is larger than that, only that mean is subtracted.
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

    ``terms`` are results of :func:`_seed_variance`. ``test_set`` is any method's scores; only the
    number of its dialogues and their degrees of freedom are read.
    """
    if abs(estimate) < _ROUNDING:
        estimate = 0.0
    dialogues, freedom = test_set.dialogues, test_set.freedom
    if dialogues < FEWEST_DIALOGUES:
        return Comparison(estimate, None, 1.0, None, math.nan, math.nan, covers_seeds)
    # Resamples of D dialogues vary (D−1)/D times as much as D new dialogues would.
    of_dialogues = float(resampled.var(ddof=1)) * (freedom + 1) / freedom
    variance = of_dialogues + sum(extra for _, _, extra in terms)
    # The seeds' degrees of freedom belong to all of s², also to the part that is subtracted.
    uncertainty = of_dialogues**2 / freedom + sum(of_mean**2 / n for of_mean, n, _ in terms)
    error = math.sqrt(variance)
    df = variance**2 / uncertainty if uncertainty > 0 else freedom
    if error < _ROUNDING:
        error, df = 0.0, freedom
    critical = float(stdtrit(df, (1 + confidence) / 2))
    # The lowest p-value that D exchangeable dialogues can give: all of them point the same way.
    least = 2.0 ** (1 - dialogues)
    if estimate == 0:
        p = 1.0
    else:
        p = max(least, 2 * float(stdtr(df, -abs(estimate) / error)) if error else 0.0)
    return Comparison(
        difference=estimate,
        interval=(estimate - critical * error, estimate + critical * error),
        p=p,
        detectable=(critical + float(stdtrit(df, power))) * error,
        standard_error=error,
        degrees_of_freedom=df,
        covers_seeds=covers_seeds,
    )
