import csv
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_data import real_data
from sklearn.metrics import f1_score, precision_recall_fscore_support

from erc_bench.corpus.conversation import Dialogue, Utterance
from erc_bench.evaluation.slices import (
    UtteranceFacts,
    class_scores,
    confusions,
    pair_confusions,
    recorded_facts,
    slices,
    utterance_facts,
)

MELD = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")


def dialogue(name, *turns):
    return Dialogue(
        name,
        tuple(Utterance(f"{name}-{i}", who, text, y) for i, (who, text, y) in enumerate(turns)),
    )


def some_facts(n, rng):
    return UtteranceFacts(
        position=rng.integers(0, 15, n),
        words=rng.integers(0, 25, n),
        speaker_train=rng.choice([0, 1, 9, 10, 99, 100, 1500], n),
        previous_label=rng.integers(-1, 4, n),
        seen_in_train=rng.random(n) < 0.3,
    )


def test_the_facts_of_a_dialogue():
    training = [dialogue("t", ("Ann", "Well,  hello!", 1), ("Bob", "Go.", None), ("Ann", "Oh", 0))]
    test = dialogue(
        "d",
        ("Ann", "Nobody said so", 2),
        ("Bob", "hello", None),
        ("Cid", "well, HELLO!", 1),
        ("Ann", "That's it", 2),
        ("Bob", "go.", 0),
        ("Cid", "Oh no", 0),
    )
    facts = utterance_facts([test, dialogue("e", ("Ann", "...", 1))], training)
    assert facts.position.tolist() == [0, 2, 3, 4, 5, 0]
    assert facts.words.tolist() == [3, 2, 2, 1, 2, 1]
    assert facts.speaker_train.tolist() == [2, 0, 2, 0, 0, 2]
    # Bob's unlabelled turn is not a previous label, nor is Ann's turn in the other dialogue.
    assert facts.previous_label.tolist() == [-1, -1, 2, -1, 1, -1]
    assert facts.seen_in_train.tolist() == [False, True, False, True, False, False]


def test_without_dialogues_the_facts_are_empty():
    facts = utterance_facts([], [])
    assert facts.position.shape == facts.seen_in_train.shape == (0,)


def test_every_slice_equals_scikit_learn_on_its_utterances():
    rng = np.random.default_rng(0)
    gold, predictions = rng.integers(0, 4, 300), rng.integers(-1, 4, (3, 300))
    facts = some_facts(300, rng)
    report = {(s.kind, s.name): s for s in slices(gold, predictions, facts, 4)}
    known = facts.previous_label >= 0
    masks = {
        ("emotion", "shift"): known & (facts.previous_label != gold),
        ("emotion", "hold"): known & (facts.previous_label == gold),
        ("position", "first"): facts.position == 0,
        ("position", "2–5"): (facts.position >= 1) & (facts.position <= 4),
        ("position", "6–10"): (facts.position >= 5) & (facts.position <= 9),
        ("position", "later"): facts.position >= 10,
        ("length", "up to 3"): facts.words <= 3,
        ("length", "4–8"): (facts.words >= 4) & (facts.words <= 8),
        ("length", "9–15"): (facts.words >= 9) & (facts.words <= 15),
        ("length", "16 or more"): facts.words >= 16,
        ("speaker", "not in train"): facts.speaker_train == 0,
        ("speaker", "1–9"): (facts.speaker_train >= 1) & (facts.speaker_train <= 9),
        ("speaker", "10–99"): (facts.speaker_train >= 10) & (facts.speaker_train <= 99),
        ("speaker", "100 or more"): facts.speaker_train >= 100,
        ("text", "seen in train"): facts.seen_in_train,
        ("text", "new"): ~facts.seen_in_train,
    }
    assert list(report) == list(masks)
    for key, mask in masks.items():
        f1 = [
            f1_score(gold[mask], p[mask], labels=range(4), average="weighted") for p in predictions
        ]
        assert report[key].support == mask.sum() > 0
        assert report[key].score == pytest.approx(100 * np.mean(f1))
        assert report[key].accuracy == pytest.approx(100 * (predictions == gold)[:, mask].mean())


def test_an_empty_slice_has_no_score():
    one = np.array([0])
    facts = UtteranceFacts(one, one, one, one - 1, one > 0)
    report = slices(one, one[None], facts, 2)
    assert {(s.name, s.score) for s in report if s.support} == {
        ("first", 100.0), ("up to 3", 100.0), ("not in train", 100.0), ("new", 100.0)
    }  # fmt: skip
    assert all(s.score is None and s.accuracy is None for s in report if not s.support)


@given(st.data())
def test_the_parts_of_a_kind_hold_every_utterance_once(data):
    n = data.draw(st.integers(1, 30))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    gold, predictions, facts = rng.integers(0, 4, n), rng.integers(0, 4, (2, n)), some_facts(n, rng)
    support, right = defaultdict(int), defaultdict(float)
    for s in slices(gold, predictions, facts, 4):
        support[s.kind] += s.support
        right[s.kind] += s.support * (s.accuracy or 0)
    emotion = int((facts.previous_label >= 0).sum())
    assert support == {"emotion": emotion, "position": n, "length": n, "speaker": n, "text": n}
    for kind in ("position", "length", "speaker", "text"):
        assert right[kind] / n == pytest.approx(100 * (predictions == gold).mean())


def test_class_scores_equal_scikit_learn_with_classes_absent():
    rng = np.random.default_rng(1)
    gold = rng.choice([0, 1, 2, 5], 200)
    predictions = rng.choice([-1, 0, 2, 3], (2, 200))
    scores = class_scores(gold, predictions, MELD)
    theirs = np.mean(
        [
            precision_recall_fscore_support(gold, p, labels=range(7), zero_division=0)[:3]
            for p in predictions
        ],
        axis=0,
    )
    assert [s.name for s in scores] == list(MELD)
    assert [s.support for s in scores] == np.bincount(gold, minlength=7).tolist()
    assert [s.precision for s in scores] == pytest.approx(100 * theirs[0])
    assert [s.f1 for s in scores] == pytest.approx(100 * theirs[2])
    assert [s.recall is None for s in scores] == [s.support == 0 for s in scores]
    assert [s.recall or 0 for s in scores] == pytest.approx(100 * theirs[1])


PAIRS = (("excited", "happy"), ("angry", "frustrated"), ("joy", "surprise"), ("anger", "disgust"))


def test_confusable_pairs_of_a_label_set():
    anger, disgust, joy, surprise = 0, 1, 3, 6
    gold = np.array([anger] * 4 + [disgust] * 2 + [joy] * 2)
    runs = np.array([
        [anger, disgust, disgust, joy, disgust, anger, joy, surprise],
        [anger, anger, disgust, joy, disgust, disgust, joy, joy],
    ])  # fmt: skip
    first, second = pair_confusions(gold, runs, MELD, PAIRS)
    assert (first.first, first.second, first.support) == ("joy", "surprise", (2, 0))
    assert (first.first_as_second, first.second_as_first, first.mutual) == (25.0, None, 25.0)
    assert (second.first, second.second, second.support) == ("anger", "disgust", (4, 2))
    assert second.first_as_second == pytest.approx(100 * 1.5 / 4)
    assert second.second_as_first == pytest.approx(100 * 0.5 / 2)
    assert second.mutual == pytest.approx(100 * 2 / 6)
    iemocap = ("angry", "excited", "frustrated", "happy", "neutral", "sad")
    pairs = [(p.first, p.second) for p in pair_confusions([0, 1], [[0, 1]], iemocap, PAIRS)]
    assert pairs == [("excited", "happy"), ("angry", "frustrated")]
    assert pair_confusions([0, 1], [[0, 1]], ("joyful", "mad"), PAIRS) == []


def test_confusions_count_every_run():
    m = confusions(np.array([0, 1, 1]), np.array([[0, 1, 0], [1, 1, -1]]), 2)
    assert m.tolist() == [[[1, 0, 0], [1, 1, 0]], [[0, 1, 0], [0, 1, 1]]]


def test_a_pair_of_emotions_includes_utterances_without_an_answer():
    gold = [0, 0, 0, 0, 1, 1]
    (pair,) = pair_confusions(gold, [[0, 1, -1, -1, -1, 0]], ("anger", "disgust"), PAIRS)
    assert pair.support == (4, 2)
    assert (pair.first_as_second, pair.second_as_first) == (25.0, 50.0)
    assert pair.mutual == pytest.approx(100 * 2 / 6)


def test_arrays_that_do_not_fit_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="position"):
        slices([0, 1], [[0, 1]], some_facts(3, rng), 4)
    with pytest.raises(ValueError, match="do not fit"):
        class_scores([0, 1], [[0]], MELD)
    with pytest.raises(ValueError, match="something else"):
        pair_confusions([0, 7], [[0, 1]], MELD, PAIRS)


def test_seen_in_train_on_meld():
    """12.8 % of MELD's test utterances have a text seen in train, 0.2 % of the longer ones."""
    folder = real_data("meld") / "meld"
    files = {s: folder / f"{s}_sent_emo.csv" for s in ("train", "test")}
    splits = {}
    for split, file in files.items():
        turns = defaultdict(list)
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                text = re.sub("[\x92’]", "'", row["Utterance"]).replace('"', "")
                turns[row["Dialogue_ID"]].append((row["Speaker"], text, MELD.index(row["Emotion"])))
        splits[split] = [dialogue(name, *rows) for name, rows in turns.items()]
    facts = utterance_facts(splits["test"], splits["train"])
    assert facts.words.shape == (2610,)
    longer = facts.words > 5
    assert 100 * facts.seen_in_train.mean() == pytest.approx(12.8, abs=0.05)
    assert 100 * facts.seen_in_train[longer].mean() == pytest.approx(0.2, abs=0.05)


def test_a_record_gets_the_facts_as_plain_lists(small_demo):
    stored = recorded_facts(small_demo, "test")
    dialogues = small_demo.dialogues("test")
    facts = utterance_facts(dialogues, small_demo.dialogues("train"))
    assert stored["facts"]["position"] == facts.position.tolist()
    assert stored["facts"]["seen_in_train"] == facts.seen_in_train.astype(int).tolist()
    assert Counter(stored["dialogue"]) == {d: len(x.labelled) for d, x in enumerate(dialogues)}
