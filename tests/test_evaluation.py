"""The evaluator against scikit-learn, and predictions counted exactly once."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from sklearn.metrics import precision_recall_fscore_support as per_class

from erc_bench.evaluation import NO_ANSWER
from erc_bench.evaluation.metrics import Predictions, evaluate, predicted_classes, weighted_f1


@st.composite
def labellings(draw: st.DrawFn, unanswered: bool = False) -> tuple[int, list[int], list[int]]:
    classes = draw(st.integers(2, 7))
    size = draw(st.integers(1, 60))
    # Few of the classes at a time, so that absent and never-predicted classes are common.
    some = draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=classes))
    other = draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=classes))
    gold = draw(st.lists(st.sampled_from(some), min_size=size, max_size=size))
    other += [NO_ANSWER] * unanswered
    predicted = draw(st.lists(st.sampled_from(other), min_size=size, max_size=size))
    return classes, gold, predicted


@settings(deadline=None)
@given(labellings() | labellings(unanswered=True))
def test_all_figures_are_scikit_learns(labelling: tuple[int, list[int], list[int]]) -> None:
    classes, gold, predicted = labelling
    names = [f"class {c}" for c in range(classes)]
    ours = evaluate(torch.tensor(predicted), torch.tensor(gold), names)
    occurring = sorted({*gold, *predicted} - {NO_ANSWER})
    f1 = functools.partial(f1_score, gold, predicted, labels=occurring, zero_division=0)
    assert ours["weighted_f1"] / 100 == pytest.approx(f1(average="weighted"), abs=1e-6)
    assert ours["macro_f1"] / 100 == pytest.approx(f1(average="macro"), abs=1e-6)
    assert ours["accuracy"] / 100 == pytest.approx(accuracy_score(gold, predicted), abs=1e-6)
    everything = range(classes)
    each = per_class(gold, predicted, labels=everything, zero_division=0)
    for c, name in enumerate(names):
        figures = ours["per_class"][name]
        assert figures["precision"] / 100 == pytest.approx(each[0][c], abs=1e-6)
        assert figures["recall"] / 100 == pytest.approx(each[1][c], abs=1e-6)
        assert figures["f1"] / 100 == pytest.approx(each[2][c], abs=1e-6)
        assert figures["support"] == each[3][c]
    answered = [(y, p) for y, p in zip(gold, predicted, strict=True) if p != NO_ANSWER] or [(0, 0)]
    expected = confusion_matrix(*zip(*answered, strict=True), labels=everything)
    if NO_ANSWER not in predicted:
        assert "no_answer" not in ours
        assert ours["confusion"] == expected.tolist()
    else:
        assert ours["no_answer"] == pytest.approx(100 * predicted.count(NO_ANSWER) / len(gold))
        if predicted.count(NO_ANSWER) < len(gold):
            assert ours["confusion"] == expected.tolist()
    assert ours["utterances"] == len(gold)


def test_weighted_f1_is_within_a_millionth_on_a_whole_test_set() -> None:
    rng = np.random.default_rng(0)
    gold, predicted = rng.integers(0, 7, (2, 2610))
    ours = weighted_f1(torch.from_numpy(predicted), torch.from_numpy(gold), 7)
    assert ours / 100 == pytest.approx(f1_score(gold, predicted, average="weighted"), abs=1e-6)


def test_calibration_error_of_a_known_case() -> None:
    gold = torch.zeros(100, dtype=torch.long)
    probabilities = torch.tensor([[0.9, 0.1]]).repeat(100, 1)
    predicted = probabilities.argmax(dim=1)
    figures = evaluate(predicted, gold, ["a", "b"], probabilities)
    assert figures["calibration_error"] == pytest.approx(10, abs=1e-3)


def test_calibration_error_of_rounded_probabilities_a_little_above_one() -> None:
    """One number above 1 must not make logits of all of them."""
    gold = torch.zeros(100, dtype=torch.long)
    probabilities = torch.tensor([[0.9, 0.1]]).repeat(100, 1)
    probabilities[0] = torch.tensor([1.001, 0.0])
    figures = evaluate(gold, gold, ["a", "b"], probabilities)
    assert figures["calibration_error"] == pytest.approx(9.9, abs=1e-3)


def test_calibration_error_is_of_the_predicted_class() -> None:
    """Rounding may make ties, of which the first class is not the predicted one."""
    gold = torch.ones(100, dtype=torch.long)
    figures = evaluate(gold, gold, ["a", "b"], torch.full((100, 2), 0.5))
    assert figures["calibration_error"] == pytest.approx(50, abs=1e-3)


def test_calibration_error_is_over_answered_utterances() -> None:
    gold = torch.zeros(100, dtype=torch.long)
    probabilities = torch.tensor([[0.9, 0.1]]).repeat(100, 1)
    probabilities[50:] = torch.nan
    predicted = predicted_classes(probabilities)
    assert predicted.tolist() == [0] * 50 + [NO_ANSWER] * 50
    figures = evaluate(predicted, gold, ["a", "b"], probabilities)
    assert figures["calibration_error"] == pytest.approx(10, abs=1e-3)
    assert (figures["accuracy"], figures["no_answer"]) == (50, 50)


def test_without_any_answer_there_is_no_calibration_error() -> None:
    scores = torch.full((3, 2), torch.nan)
    figures = evaluate(predicted_classes(scores), torch.tensor([0, 1, 1]), ["a", "b"], scores)
    assert "calibration_error" not in figures
    assert (figures["weighted_f1"], figures["macro_f1"], figures["no_answer"]) == (0, 0, 100)
    assert figures["confusion"] == [[0, 0], [0, 0]]
    assert [figures["per_class"][name]["support"] for name in "ab"] == [1, 2]


def test_every_row_counts_once_and_in_corpus_order() -> None:
    predictions = Predictions()
    predictions.update(torch.tensor([5, 2]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    predictions.update(torch.tensor([9, 5]), torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
    rows, scores = predictions.compute()
    assert rows.tolist() == [2, 5, 9]
    assert scores.tolist() == [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
