"""The demo corpus: the same on every machine, and not solvable without context."""

import hashlib

import pytest

from erc_bench.corpus.conversation import SPLITS
from erc_bench.datamodules.demo import BAD_NEWS, TEMPERAMENT_OF, Demo, reaction


@pytest.fixture(scope="module")
def demo():
    return Demo().load()


def test_it_has_the_promised_shape(demo):
    sizes = {"train": 200, "dev": 40, "test": 60}
    assert {split: len(demo.splits[split]) for split in SPLITS} == sizes
    for split in SPLITS:
        for dialogue in demo.dialogues(split):
            assert 4 <= len(dialogue) <= 14
            assert 2 <= len({u.speaker for u in dialogue.utterances}) <= 4
            assert len(dialogue.labelled) == len(dialogue)
    for split in SPLITS:
        labels = {u.label for d in demo.dialogues(split) for u in d.utterances}
        assert labels == set(range(7))


def test_it_is_the_same_on_every_machine():
    dialogues = repr(Demo().parse({})).encode()
    assert hashlib.sha256(dialogues).hexdigest() == (
        "29a573a7dd9ad4ec51c0df5492294634931b82faba5db7bb710a40d28e31c785"
    )


def test_it_needs_no_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("ERC_BENCH_DATA", str(tmp_path / "nowhere"))
    assert Demo().prepare() == {}
    assert Demo().status() == []
    assert Demo().load().name == "demo"


def test_replies_depend_on_who_speaks():
    for news in BAD_NEWS:
        assert {reaction(name, news) for name in TEMPERAMENT_OF} >= {"neutral", "fear", "anger"}
    assert reaction("Priya", "joy") == "neutral"
    assert reaction("Ilse", "joy") == reaction("Greta", "joy") == "joy"


def features(corpus, split, context):
    """Words of each utterance; with context also its speaker and the words of two turns before."""
    texts, labels = [], []
    for dialogue in corpus.dialogues(split):
        turns = dialogue.utterances
        for i, turn in enumerate(turns):
            words = [f"now_{word}" for word in turn.text.lower().split()]
            if context:
                words.append(f"speaker_{turn.speaker}")
                for back in range(1, min(i, 2) + 1):
                    words += [f"{back}_{word}" for word in turns[i - back].text.lower().split()]
            texts.append(" ".join(words))
            labels.append(turn.label)
    return texts, labels


def test_context_and_speaker_clearly_help(demo):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    scores = []
    for context in (False, True):
        vectorizer = TfidfVectorizer(token_pattern=r"\S+")
        train, labels = features(demo, "train", context)
        model = LogisticRegression(C=10, max_iter=1000)
        model.fit(vectorizer.fit_transform(train), labels)
        test, truth = features(demo, "test", context)
        predicted = model.predict(vectorizer.transform(test))
        scores.append(100 * f1_score(truth, predicted, average="weighted"))
    alone, in_context = scores
    assert 50 < alone < 75
    assert in_context > alone + 20
