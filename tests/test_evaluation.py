"""The evaluator against scikit-learn, and predictions counted exactly once."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from sklearn.metrics import precision_recall_fscore_support as per_class

from erc_bench.evaluation.metrics import Predictions, evaluate, weighted_f1


@st.composite
def labellings(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    classes = draw(st.integers(2, 7))
    size = draw(st.integers(1, 60))
    # Few of the classes at a time, so that absent and never-predicted classes are the rule.
    some = draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=classes))
    other = draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=classes))
    gold = draw(st.lists(st.sampled_from(some), min_size=size, max_size=size))
    predicted = draw(st.lists(st.sampled_from(other), min_size=size, max_size=size))
    return classes, gold, predicted


@given(labellings())
def test_all_figures_are_scikit_learns(labelling: tuple[int, list[int], list[int]]) -> None:
    classes, gold, predicted = labelling
    names = [f"class {c}" for c in range(classes)]
    ours = evaluate(torch.tensor(predicted), torch.tensor(gold), names)
    everything = range(classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert ours["weighted_f1"] == pytest.approx(
            100 * f1_score(gold, predicted, average="weighted"), abs=1e-4
        )
        assert ours["macro_f1"] == pytest.approx(
            100 * f1_score(gold, predicted, average="macro"), abs=1e-4
        )
        each = per_class(gold, predicted, labels=everything, zero_division=0)
    assert ours["accuracy"] == pytest.approx(100 * accuracy_score(gold, predicted), abs=1e-4)
    assert ours["confusion"] == confusion_matrix(gold, predicted, labels=everything).tolist()
    for c, name in enumerate(names):
        figures = ours["per_class"][name]
        assert figures["precision"] == pytest.approx(100 * each[0][c], abs=1e-4)
        assert figures["recall"] == pytest.approx(100 * each[1][c], abs=1e-4)
        assert figures["f1"] == pytest.approx(100 * each[2][c], abs=1e-4)
        assert figures["support"] == each[3][c]
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


def test_every_row_counts_once_and_in_corpus_order() -> None:
    predictions = Predictions()
    predictions.update(torch.tensor([5, 2]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    predictions.update(torch.tensor([9, 5]), torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
    rows, scores = predictions.compute()
    assert rows.tolist() == [2, 5, 9]
    assert scores.tolist() == [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
