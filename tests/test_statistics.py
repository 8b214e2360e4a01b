import itertools
import math
import time
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtr
from sklearn.metrics import confusion_matrix, f1_score

from erc_bench.evaluation import NO_ANSWER
from erc_bench.evaluation.statistics import (
    FEWEST_DIALOGUES,
    compare,
    compare_with_figure,
    dialogue_counts,
    holm,
    rank_groups,
    resampled_scores,
    score,
    seed_interval,
)


def some_runs(rng, n=60, d=12, s=3, classes=4, right=0.6):
    """Gold labels, predictions and dialogues without any structure."""
    gold = rng.integers(classes, size=n)
    noise = rng.integers(classes, size=(s, n))
    dialogues = np.sort(np.concatenate([np.arange(d), rng.integers(d, size=n - d)]))
    return gold, np.where(rng.random((s, n)) < right, gold, noise), dialogues


def sklearns(gold, predicted):
    """scikit-learn's weighted-F1 over the gold labels' classes; a prediction may be −1."""
    labels = np.unique(gold)
    return f1_score(gold, predicted, labels=labels, average="weighted", zero_division=0)


# --- intervals over seeds


def test_the_seed_interval_is_students_t_interval():
    x = [65.1, 66.0, 64.2, 65.5, 66.3]
    result = seed_interval(x)
    assert (result.n, result.mean, result.sd) == (5, np.mean(x), np.std(x, ddof=1))
    assert result.interval == pytest.approx(stats.t.interval(0.95, 4, np.mean(x), stats.sem(x)))
    narrow, wide = seed_interval(x, confidence=0.5).interval, result.interval
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_one_seed_has_no_interval():
    result = seed_interval([65.1])
    assert (result.n, result.mean, result.sd, result.interval) == (1, 65.1, None, None)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0, 2.0]]])
def test_the_seed_interval_needs_one_finite_figure_per_seed(values):
    with pytest.raises(ValueError, match="one finite figure a seed"):
        seed_interval(values)


# --- weighted-F1


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_weighted_f1_equals_scikit_learn_whatever_class_is_absent(pairs):
    gold, predicted = np.array(pairs).T
    ours = score(confusion_matrix(gold, predicted, labels=range(6)))
    theirs = f1_score(gold, predicted, average="weighted", zero_division=0)
    assert ours == pytest.approx(100 * theirs, abs=1e-9)


def test_weighted_f1_of_many_confusions_at_once():
    m = np.random.default_rng(0).integers(0, 9, (2, 3, 4, 4))
    assert score(m).shape == (2, 3)
    assert score(m)[1, 2] == score(m[1, 2])
    assert np.isnan(score(np.zeros((4, 4))))


# --- counts and resamples


def test_dialogue_counts_add_up_to_the_test_set():
    gold, predictions, dialogues = some_runs(np.random.default_rng(0), classes=5)
    counts = dialogue_counts(gold, predictions, dialogues, 5)
    assert counts.shape == (12, 3, 5, 3)
    for s, p in enumerate(predictions):
        m = confusion_matrix(gold, p, labels=range(5))
        hits = m.diagonal()
        expected = np.stack([hits, m.sum(0) - hits, m.sum(1) - hits], -1)
        assert (counts[:, s].sum(0) == expected).all()
    one = dialogues == 7
    alone = dialogue_counts(gold[one], predictions[:, one], dialogues[one], 5)
    assert (counts[7] == alone[0]).all()


def test_no_answer_is_a_false_negative_and_no_false_positive():
    gold, predictions, dialogues = some_runs(np.random.default_rng(0), classes=5)
    predictions[np.random.default_rng(1).random(predictions.shape) < 0.2] = NO_ANSWER
    total = dialogue_counts(gold, predictions, dialogues, 5).sum(0)
    for s, p in enumerate(predictions):
        m = confusion_matrix(gold, p, labels=[-1, *range(5)])
        hits = m.diagonal()[1:]
        expected = np.stack([hits, m.sum(0)[1:] - hits, m.sum(1)[1:] - hits], -1)
        assert (total[s] == expected).all()


@pytest.mark.parametrize("unanswered", [0.0, 0.3, 1.0])
def test_a_resample_is_the_score_of_its_dialogues(unanswered):
    gold, predictions, dialogues = some_runs(np.random.default_rng(1), d=9)
    predictions[np.random.default_rng(2).random(predictions.shape) < unanswered] = NO_ANSWER
    names = np.array([f"dialogue {d}" for d in dialogues])
    scores = resampled_scores(gold, predictions, names, 4, resamples=40, random_seed=3)
    picks = np.random.default_rng(3).integers(9, size=(40, 9))
    for r, chosen in enumerate(picks):
        rows = np.concatenate([np.flatnonzero(dialogues == d) for d in chosen])
        for s in range(3):
            theirs = sklearns(gold[rows], predictions[s, rows])
            assert scores.draws[r, s] == pytest.approx(100 * theirs)
    for s in range(3):
        theirs = sklearns(gold, predictions[s])
        assert scores.values[s] == pytest.approx(100 * theirs)


@pytest.mark.parametrize(
    ("gold", "predictions", "dialogues", "words"),
    [
        ([0, 1], [[0, 1, 1]], [0, 0], "do not fit"),
        ([0, 1], [0, 1], [0, 0], "do not fit"),
        ([], [[]], [], "do not fit"),
        ([0, 1], [[0, 1]], [0], "dialogues"),
        ([0, -1], [[0, 1]], [0, 0], "gold holds something else"),
        ([0, 1], [[0, 2]], [0, 0], "predictions holds something else"),
        ([0, 1], [[0, -2]], [0, 0], "predictions holds something else"),
        ([0, 1], [[0.5, 1.0]], [0, 0], "predictions holds something else"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(gold, predictions, dialogues, words):
    with pytest.raises(ValueError, match=words):
        resampled_scores(gold, predictions, dialogues, 2)


def test_every_run_needs_a_seed_of_its_own():
    for seeds in ([1, 2], [1, 1, 2]):
        with pytest.raises(ValueError, match="different seeds"):
            resampled_scores(*some_runs(np.random.default_rng(0)), 4, seeds=seeds)


# --- comparing


def scored(seed, seeds=(0, 1, 2), right=0.6, **kw):
    gold, _, dialogues = some_runs(np.random.default_rng(0), **kw)
    rng = np.random.default_rng(seed)
    noise = rng.integers(4, size=(len(seeds), len(gold)))
    p = np.where(rng.random(noise.shape) < right, gold, noise)
    return resampled_scores(gold, p, dialogues, 4, seeds=seeds, resamples=500)


def test_a_comparison_is_the_same_each_time_and_from_either_side():
    a, b = scored(1), scored(2)
    there, again, back = compare(a, b), compare(scored(1), scored(2)), compare(b, a)
    assert there == again
    assert there.difference == pytest.approx(a.mean - b.mean)
    assert back.difference == -there.difference
    assert (back.p, back.detectable) == pytest.approx((there.p, there.detectable))
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_interval_and_p_agree_whatever_the_data(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    s, d = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 12))
    classes, n = data.draw(st.integers(1, 4)), data.draw(st.integers(12, 40))
    gold, pa, dialogues = some_runs(rng, n, d, s, classes, data.draw(st.sampled_from([0, 0.5, 1])))
    pb = data.draw(st.sampled_from([pa, pa[::-1], np.zeros_like(pa), np.tile(gold, (s, 1))]))
    a, b = (resampled_scores(gold, p, dialogues, classes, resamples=200) for p in (pa, pb))
    paired = data.draw(st.booleans())
    result = compare(a, b, paired_seeds=paired)
    assert 0 <= result.p <= 1
    assert result.covers_seeds == (s > 1)
    if d < FEWEST_DIALOGUES:
        assert (result.interval, result.p, result.detectable) == (None, 1.0, None)
        return
    low, high = result.interval
    assert low <= result.difference <= high
    assert 0 <= high - low < math.inf or s == 2  # two seeds may leave half a degree of freedom
    assert result.detectable >= 0
    if abs(result.p - 0.05) > 1e-6:
        assert (result.p < 0.05) == (low > 0 or high < 0)
    if pb is pa:
        assert (result.difference, result.p) == (0, 1)
        if paired or s == 1:
            assert (low, high) == (0, 0)


@pytest.mark.parametrize("d", [5, 6])
def test_a_comparison_needs_at_least_six_dialogues(d):
    """The p of a sign-flip test over five dialogues is at least 2 / 2⁵ = 0.0625."""
    a, b = scored(1, d=d), scored(2, d=d)
    result = compare(a, b)
    assert result.difference == pytest.approx(a.mean - b.mean)
    assert (result.interval is None) == (d == 5)
    assert (result.detectable is None) == (d == 5)
    assert (result.p == 1) == (d == 5)


def test_p_is_bounded_by_the_number_of_dialogues():
    gold = np.tile([0, 1], 8)
    dialogues = np.repeat(np.arange(8), 2)
    right, wrong = (resampled_scores(gold, p[None], dialogues, 2) for p in (gold, 1 - gold))
    result = compare(right, wrong)
    assert (result.difference, result.interval) == (100.0, (100.0, 100.0))
    assert result.p == 2**-7


def test_without_variation_over_dialogues_a_figure_gets_the_t_test_over_seeds():
    """All dialogues are alike, so only the t-test over seeds remains."""
    gold = np.tile(np.arange(4), 10)
    dialogues = np.repeat(np.arange(10), 4)
    runs = np.tile([[0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 0, 0]], 10)
    result = compare_with_figure(resampled_scores(gold, runs, dialogues, 4), 50.0)
    values = [100 * f1_score(gold, r, average="weighted", zero_division=0) for r in runs]
    assert result.degrees_of_freedom == pytest.approx(2)
    assert result.p == pytest.approx(stats.ttest_1samp(values, 50.0).pvalue)


@pytest.mark.parametrize("seeds", [(1, 2), (2, 1), (7, 9)])
def test_seeds_of_two_methods_are_independent_however_they_are_numbered(seeds):
    a, b = scored(1, seeds=(1, 2)), scored(2, seeds=(1, 2))
    renumbered = replace(b, seeds=seeds)
    assert compare(a, renumbered) == compare(a, b)
    swapped = replace(b, values=b.values[::-1], draws=b.draws[:, ::-1])
    assert compare(a, swapped).p == pytest.approx(compare(a, b).p)
    assert compare(a, b).paired_seeds == ()


@pytest.mark.parametrize(("m", "n"), [(5, 5), (5, 2), (2, 3), (4, 5)])
def test_without_variation_over_dialogues_two_methods_get_welchs_test(m, n):
    """All dialogues are alike, so only the t-test of two independent samples of seeds remains."""
    gold = np.tile(np.arange(4), 10)
    dialogues = np.repeat(np.arange(10), 4)
    kinds = [[0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 0, 0], [1, 1, 0, 0], [1, 0, 3, 2]]
    runs = {s: np.tile(kinds[:s], 10) for s in (m, n)}
    other = {s: np.tile(kinds[-s:], 10) for s in (m, n)}
    result = compare(
        resampled_scores(gold, runs[m], dialogues, 4),
        resampled_scores(gold, other[n], dialogues, 4),
    )
    x, y = (
        [100 * f1_score(gold, run, average="weighted", zero_division=0) for run in side]
        for side in (runs[m], other[n])
    )
    welch = stats.ttest_ind(x, y, equal_var=False)
    assert result.difference == pytest.approx(np.mean(x) - np.mean(y))
    assert result.p == pytest.approx(max(welch.pvalue, 2**-9))
    assert result.degrees_of_freedom == pytest.approx(welch.df)
    assert result.interval == pytest.approx(tuple(welch.confidence_interval(0.95)))
    assert result.covers_seeds


def seeds_part(x):
    """Return s² / S, the term of the seeds in the variance, and whether e was cut to its bound.

    The symbols are those of the module. Before the cut, e is half the variance over resamples of
    the difference of two runs, averaged over all pairs of runs.
    """
    inflated = (x.freedom + 1) / x.freedom
    pairs = itertools.combinations(x.draws.T, 2)
    noise = inflated * np.mean([np.var(i - j, ddof=1) / 2 for i, j in pairs])
    bound = len(x.seeds) * inflated * x.draws.mean(1).var(ddof=1)
    observed = x.values.var(ddof=1)
    added = max(0.0, observed - min(noise, bound)) / len(x.seeds)
    return observed / len(x.seeds), added, noise > bound


def test_standard_error_and_freedom_are_those_of_the_formula():
    cut = set()
    for case, d in itertools.product(range(8), (12, 40)):
        a, b = scored(case, range(3), 0.6, d=d), scored(90 + case, range(5), 0.3, d=d)
        (first, added, cut_a), (second, more, cut_b) = seeds_part(a), seeds_part(b)
        of_dialogues = (a.draws.mean(1) - b.draws.mean(1)).var(ddof=1)
        of_dialogues *= (a.freedom + 1) / a.freedom
        variance = of_dialogues + added + more
        of_freedom = of_dialogues**2 / a.freedom + first**2 / 2 + second**2 / 4
        result = compare(a, b)
        assert result.standard_error == pytest.approx(math.sqrt(variance))
        assert result.degrees_of_freedom == pytest.approx(variance**2 / of_freedom)
        cut |= {cut_a, cut_b}
    assert cut == {True, False}


def test_seeds_are_paired_only_on_request():
    a, b = scored(1, seeds=(3, 1, 2, 9)), scored(2, seeds=(1, 7, 3))
    result = compare(a, b, paired_seeds=True)
    assert (result.paired_seeds, result.covers_seeds) == ((3, 1), True)
    assert result.difference == pytest.approx(a.values[:2].mean() - b.values[[2, 0]].mean())
    order = [2, 0, 1]
    swapped = replace(b, seeds=(3, 1, 7), values=b.values[order], draws=b.draws[:, order])
    assert compare(a, swapped, paired_seeds=True).p == pytest.approx(result.p)
    single = compare(a, scored(2, seeds=(8, 9)), paired_seeds=True)
    assert (single.paired_seeds, single.covers_seeds) == ((9,), False)
    with pytest.raises(ValueError, match="none in common"):
        compare(a, scored(2, seeds=(8,)), paired_seeds=True)


def test_pairing_seeds_removes_the_variance_that_two_methods_share():
    """Both methods have their luck at the same seeds, so only pairs have a small standard error."""
    luck, gold = np.arange(4), np.tile(np.arange(4), 10)
    dialogues = np.repeat(np.arange(10), 4)
    a = np.stack([np.where((np.arange(40) < 8 * seed), 0, gold) for seed in luck])
    b = np.stack([np.where((np.arange(40) < 8 * seed + 4), 0, gold) for seed in luck])
    first, second = (resampled_scores(gold, p, dialogues, 4) for p in (a, b))
    paired, apart = compare(first, second, paired_seeds=True), compare(first, second)
    assert paired.difference == pytest.approx(apart.difference)
    assert paired.standard_error < apart.standard_error / 3


def test_a_comparison_with_one_seed_is_about_the_trained_model():
    several, one, other = scored(1), scored(2, seeds=(1,)), scored(2, seeds=(8,))
    result = compare(several, one)
    assert compare(several, other) == result
    assert not result.covers_seeds
    assert result.difference == several.mean - one.values[0]
    alone = compare(scored(1, seeds=(5,)), one)
    assert not alone.covers_seeds
    assert alone.degrees_of_freedom == one.freedom < one.dialogues - 1


def test_another_test_set_can_not_be_compared():
    gold, predictions, dialogues = some_runs(np.random.default_rng(0))
    a = resampled_scores(gold, predictions, dialogues, 4, resamples=10)
    others = [
        resampled_scores(gold[::-1], predictions, dialogues, 4, resamples=10),
        resampled_scores(gold, predictions, np.arange(len(gold)), 4, resamples=10),
        resampled_scores(gold, predictions, dialogues, 4, resamples=11),
        resampled_scores(gold, predictions, dialogues, 4, resamples=10, random_seed=1),
    ]
    for b in others:
        with pytest.raises(ValueError, match="same gold labels and dialogues"):
            compare(a, b)


def test_a_comparison_with_a_published_figure():
    scores = scored(1)
    at_zero, constant = compare_with_figure(scores, 0.0), compare_with_figure(scores, 50.0)
    assert at_zero.difference == pytest.approx(scores.mean)
    assert constant.difference == pytest.approx(scores.mean - 50)
    assert constant.standard_error == at_zero.standard_error
    variance = scores.values.var(ddof=1)
    for n in (1, 3, 10**9):
        result = compare_with_figure(scores, 50.0, n)
        added = result.standard_error**2 - constant.standard_error**2
        assert added == pytest.approx(variance / n)
        # Our s² stands for the figure's too, so its degrees of freedom are ours.
        of_dialogues = scores.draws.mean(1).var(ddof=1) * (scores.freedom + 1) / scores.freedom
        of_freedom = of_dialogues**2 / scores.freedom + (variance / 3 + variance / n) ** 2 / 2
        freedom = result.standard_error**4 / of_freedom
        assert result.degrees_of_freedom == pytest.approx(freedom)
    covers = [compare_with_figure(scored(1, range(n)), 50.0).covers_seeds for n in (1, 2, 3)]
    assert covers == [False, True, True]
    # One seed says nothing about the variance over seeds, so the figure's seeds add nothing.
    one = scored(1, seeds=(0,))
    assert compare_with_figure(one, 50.0, 1) == compare_with_figure(one, 50.0)
    with pytest.raises(ValueError, match="0 seeds"):
        compare_with_figure(scores, 50.0, 0)


@pytest.mark.slow
@pytest.mark.timed
def test_a_pair_on_a_test_set_of_melds_size_takes_seconds():
    rng = np.random.default_rng(0)
    gold, pa, dialogues = some_runs(rng, 2610, 280, 5, 7)
    pb = some_runs(rng, 2610, 280, 5, 7)[1]
    start = time.process_time()
    a, b = (resampled_scores(gold, p, dialogues, 7, random_seed=11) for p in (pa, pb))
    compare(a, b)
    assert a.draws.shape == (10_000, 5)
    assert time.process_time() - start < 5


# --- several pairs, ranks


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert holm([]).shape == (0,)
    for bad in ([0.5, 1.1], [math.nan], [-0.1]):
        with pytest.raises(ValueError, match="p-values lie in"):
            holm(bad)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_holm_keeps_order_and_never_lowers(p, random):
    adjusted = holm(p)
    assert (adjusted >= np.array(p)).all()
    assert adjusted.max() <= 1
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
    assert (adjusted <= np.minimum(np.array(p) * len(p), 1)).all()  # never worse than Bonferroni
    order = random.sample(range(len(p)), len(p))
    assert holm([p[i] for i in order]).tolist() == adjusted[order].tolist()


def test_ranks():
    def better(m, *pairs):
        b = np.zeros((m, m), bool)
        for i, j in pairs:
            b[i, j] = True
        return b

    assert rank_groups(better(3)).tolist() == [1, 1, 1]
    assert rank_groups(better(3, (1, 0), (2, 0))).tolist() == [3, 1, 1]
    assert rank_groups(better(3, (0, 2))).tolist() == [1, 1, 2]
    assert rank_groups(np.triu(np.ones((3, 3)), 1)).tolist() == [1, 2, 3]
    assert rank_groups(np.zeros((0, 0))).tolist() == []
    with pytest.raises(ValueError, match="both ways"):
        rank_groups(better(2, (0, 1), (1, 0)))
    for bad in ([1, 2], np.zeros((2, 3))):
        with pytest.raises(ValueError, match="square"):
            rank_groups(bad)


# --- simulation: does the interval cover, and the test reject, as often as they claim?
#
# The corpora have a known truth. Gold labels cluster in dialogues. Whether a method is right
# depends on the class, on the dialogue (mostly in the same way for both methods), on the seed, on
# seed × dialogue and on the utterance. A method is right if a normal latent variable is positive.
# So the weighted-F1 of a trained model in the population is known in closed form. The weighted-F1
# of a method is the mean over its seeds.

PRIOR = np.array([0.47, 0.16, 0.13, 0.11, 0.08, 0.03, 0.02])
ABILITY = np.array([1.2, 0.3, 0.3, 0.0, 0.2, -0.4, -0.4])
WRONG = PRIOR * (1 - np.eye(7)) / (1 - PRIOR)[:, None]
INTERACTION = 0.5


def population_f1(ability, dialogue_sd):
    """Weighted-F1 ``(...)`` in the population, of models with class abilities ``(..., 7)``."""
    right = ndtr(ability / math.sqrt(1 + dialogue_sd**2 + INTERACTION**2))
    share = np.eye(7) * right[..., None] + WRONG * (1 - right)[..., None]
    return score(PRIOR[:, None] * share * 1e9)


def seed_abilities(rng, s, seed_sd, gain):
    """Class abilities ``(S, 7)`` of models trained from S seeds."""
    whole, each = rng.normal(size=(s, 1)), rng.normal(size=(s, 7))
    return ABILITY + gain + seed_sd * (whole + each)


def simulate(
    rng, seeds, *, d=280, mean_length=9.3, dialogue_sd=1.0, seed_sd=0.1, gain=0.0, resamples=1000
):
    """Simulate one test set and the runs of two methods, the first better by ``gain``.

    ``seeds`` holds the numbers of runs of the two methods.
    """
    length = np.minimum(1 + rng.geometric(1 / (mean_length - 1), d), 20 * mean_length).astype(int)
    dialogue = np.repeat(np.arange(d), length)
    n = len(dialogue)
    mood = rng.choice(7, p=PRIOR, size=d)[dialogue]
    gold = np.where(rng.random(n) < 0.4, mood, rng.choice(7, p=PRIOR, size=n))
    wrong = (rng.random(n)[:, None] > WRONG.cumsum(1)[gold]).sum(1).clip(max=6)
    shared, utterance = rng.normal(size=d), rng.normal(size=n)
    scores, models = [], []
    for s, extra in zip(seeds, (gain, 0.0), strict=True):
        model = seed_abilities(rng, s, seed_sd, extra)
        of_dialogue = dialogue_sd * (0.7**0.5 * shared + 0.3**0.5 * rng.normal(size=d))
        of_both = INTERACTION * rng.normal(size=(s, d))
        latent = model[:, gold] + (of_dialogue + of_both)[:, dialogue]
        latent += 0.6**0.5 * utterance + 0.4**0.5 * rng.normal(size=(s, n))
        predictions = np.where(latent > 0, gold, wrong)
        scores.append((predictions, model))
    random_seed = int(rng.integers(2**31))
    resampled = [
        resampled_scores(gold, p, dialogue, 7, resamples=resamples, random_seed=random_seed)
        for p, _ in scores
    ]
    models = [population_f1(m, dialogue_sd) for _, m in scores]
    return resampled, models


@cache
def expected_f1(gain, *, dialogue_sd=1.0, seed_sd=0.1):
    rng = np.random.default_rng(123)
    return population_f1(seed_abilities(rng, 200_000, seed_sd, gain), dialogue_sd).mean()


@dataclass
class Simulated:
    """Results over many corpora: shares and means."""

    miss: float
    """The interval of the difference misses the truth."""
    reject: float
    """The difference has p ≤ 0.05."""
    own_miss: float
    """The interval of the first method's own mean misses its truth."""
    reject_figure: float
    """The second method's mean, taken as a published figure of as many seeds, has p ≤ 0.05."""
    detectable: float
    spread: float
    """Mean squared standard error over the variance that the differences had."""


def simulated(times, seeds, gain=0.0, paired_seeds=False, **corpus):
    """Simulate ``times`` corpora; ``seeds`` holds the numbers of runs of the two methods."""
    return simulated_pairs(times, (seeds,), gain, paired_seeds, tuple(corpus.items()))[seeds]


def some_seeds(scores, count):
    """The scores of the first ``count`` seeds; seeds are independent and exchangeable."""
    return replace(
        scores,
        seeds=scores.seeds[:count],
        values=scores.values[:count],
        draws=scores.draws[:, :count],
    )


@cache
def simulated_pairs(times, pairs, gain, paired_seeds, corpus):
    """What :func:`simulated` finds for several numbers of seeds, on the same simulated corpora."""
    rng = np.random.default_rng(7)
    of_method = {k: v for k, v in corpus if k in ("dialogue_sd", "seed_sd")}
    truths = [expected_f1(g, **of_method) for g in (gain, 0.0)]
    most = tuple(map(max, zip(*pairs, strict=True)))
    rows, errors = {pair: [] for pair in pairs}, {pair: [] for pair in pairs}
    for _ in range(times):
        whole, models = simulate(rng, most, gain=gain, **dict(corpus))
        for seeds in pairs:
            sides = [some_seeds(side, count) for side, count in zip(whole, seeds, strict=True)]
            # With one seed, the interval is about this model, and has to cover its own truth.
            first, second = (
                truth if count > 1 else own[0]
                for truth, own, count in zip(truths, models, seeds, strict=True)
            )
            pair = compare(*sides, paired_seeds=paired_seeds)
            alone = compare_with_figure(sides[0], first)
            published = compare_with_figure(sides[0], sides[1].mean, seeds[1])
            miss = not pair.interval[0] <= first - second <= pair.interval[1]
            low = (each.p <= 0.05 for each in (pair, alone, published))
            rows[seeds].append((miss, *low, pair.detectable))
            errors[seeds].append((pair.standard_error**2, pair.difference - (first - second)))
    found = {}
    for seeds in pairs:
        squared, error = np.array(errors[seeds]).T
        spread = float(squared.mean() / (error**2).mean())
        found[seeds] = Simulated(*np.mean(rows[seeds], axis=0).tolist(), spread)
    return found


SEEDS = ((1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (5, 1), (5, 2), (5, 3))
FEW_SEEDS = ((5, 5), (5, 2))


def name_of(value):
    """The id of a parameter of a parametrised test."""
    if isinstance(value, dict):
        return "-".join(f"{k}={v}" for k, v in value.items())
    return "-".join(map(str, value))


@pytest.mark.parametrize(("seeds", "seed_sd"), [((3, 3), 0.3), ((5, 2), 0.3), ((5, 2), 0.0)])
def test_the_standard_error_is_that_of_the_difference(seeds, seed_sd):
    """A few small corpora take seconds and are enough to notice a variance wrong by a third."""
    found = simulated(200, seeds, seed_sd=seed_sd, d=60, resamples=200)
    assert 0.75 <= found.spread <= 1.33
    assert 0.01 <= found.miss <= 0.11


@pytest.mark.slow
def test_a_detectable_difference_is_found_four_times_in_five():
    gain = 0.216
    truth = expected_f1(gain, seed_sd=0.03) - expected_f1(0.0, seed_sd=0.03)
    found = simulated(400, (5, 5), gain, seed_sd=0.03)
    assert truth == pytest.approx(found.detectable, rel=0.03)
    assert 0.72 <= found.reject <= 0.88
    assert 0.02 <= found.miss <= 0.08


# For a seed_sd of 0, 0.1 and 0.3, the standard deviation over runs of one method is 0, 2.5 and 7
# points. For a real method it is about 0.5 points.
CORPORA = [
    {"seed_sd": 0.0},
    {"seed_sd": 0.1},
    {"seed_sd": 0.3},
    {"seed_sd": 0.05, "dialogue_sd": 2.0},
    {"seed_sd": 0.1, "gain": 0.2},
    {"seed_sd": 0.1, "d": 79, "mean_length": 12.5},
    {"seed_sd": 0.1, "d": 31, "mean_length": 52},
    {"seed_sd": 0.1, "d": 15},
    {"seed_sd": 0.1, "d": 8},
]


CASES = [
    # All numbers of seeds for corpora that differ in seed_sd alone; two pairs for the others.
    *((corpus, seeds) for corpus in CORPORA[:3] for seeds in SEEDS),
    *((corpus, seeds) for corpus in CORPORA[3:] for seeds in FEW_SEEDS),
]


@pytest.mark.slow
@pytest.mark.parametrize(("corpus", "seeds"), CASES, ids=name_of)
def test_coverage_and_size(seeds, corpus):
    pairs = SEEDS if corpus in CORPORA[:3] else FEW_SEEDS
    rest = tuple((name, value) for name, value in corpus.items() if name != "gain")
    found = simulated_pairs(500, pairs, corpus.get("gain", 0.0), False, rest)[seeds]
    few = corpus.get("d", 280) <= 15 or min(seeds) == 2
    assert (0.0 if few else 0.02) <= found.miss <= 0.08
    assert 0.8 <= found.spread <= 1.3
    assert 0.02 <= found.own_miss <= 0.12
    if "gain" in corpus:
        return
    if min(seeds) > 1 or corpus["seed_sd"] == 0:
        assert found.reject == found.miss
        assert found.reject_figure <= 0.13
    elif corpus["seed_sd"] >= 0.1 and corpus.get("d", 280) == 280:
        # One seed can't show that these two models differ although their methods do not.
        assert found.reject > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "low", "high"), [(5, 0.02, 0.08), (2, 0.07, 0.16)])
def test_coverage_of_pairs_of_seeds(seeds, low, high):
    """Two pairs are too few if seeds vary far more than dialogues do."""
    found = simulated(500, (seeds, seeds), paired_seeds=True, seed_sd=0.3)
    assert low <= found.miss <= high
