"""Dialogues and corpora are validated when built."""

import pytest

from erc_bench.corpus.conversation import Corpus, Dialogue, LabelSet, Utterance
from erc_bench.errors import ErcBenchError

LABELS = LabelSet(("joy", "anger"))


def dialogue(name: str, *labels: int | None) -> Dialogue:
    return Dialogue(
        name, tuple(Utterance(f"{name}-u{i}", "Ada", f"Turn {i}.", y) for i, y in enumerate(labels))
    )


def test_a_corpus_gives_back_what_it_was_built_from() -> None:
    splits = {"train": [dialogue("a", 0, None, 1)], "test": [dialogue("b", 1)]}
    corpus = Corpus.build("made-up", LABELS, splits)
    assert corpus.dialogues("train") == splits["train"]
    assert corpus.dialogues("test") == splits["test"]
    assert corpus.dialogues("train")[0].labelled == (0, 2)
    assert corpus.splits["train"].num_rows == 1


def test_the_digest_changes_with_anything_a_model_can_see() -> None:
    def digest(text: str = "Hello.", speaker: str = "Ada", label: int = 0) -> str:
        turn = Utterance("u0", speaker, text, label)
        return Corpus.build("made-up", LABELS, {"train": [Dialogue("d", (turn,))]}).digest

    seen = {digest(), digest(text="Hello!"), digest(speaker="Bo"), digest(label=1)}
    assert len(seen) == 4
    assert digest() == digest()


def test_the_name_in_prompts_is_the_speaker_unless_given() -> None:
    assert Utterance("u", "Ada", "Hi.").name == "Ada"
    assert Utterance("u", "Ses01F", "Hi.", name="Mary").name == "Mary"


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Dialogue("d7", ()), ["d7", "no utterances"]),
        (lambda: Utterance("", "Ada", "Hi."), ["without an id"]),
        (lambda: LabelSet(("joy",)), ["two or more"]),
        (lambda: LABELS.index("anegr", "train.csv, line 7"), ["train.csv, line 7", "'anger'"]),
        (lambda: Corpus.build("c", LABELS, {"train": [dialogue("a", 2)]}), ["a-u0", "outside"]),
        (lambda: Corpus.build("c", LABELS, {"train": [dialogue("a", None)]}), ["no labelled"]),
        (lambda: Corpus.build("c", LABELS, {"train": []}), ["no utterance"]),
        (lambda: Corpus.build("c", LabelSet(()), {"train": []}), ["no utterance"]),
        (
            lambda: Corpus.build("c", LabelSet(()), {"train": [dialogue("a", 0)]}),
            ["a-u0", "without emotions"],
        ),
        (lambda: Corpus.build("c", LABELS, {"trian": [dialogue("a", 0)]}), ["'trian'", "'train'"]),
        (
            lambda: Corpus.build("c", LABELS, {"train": [dialogue("a", 0), dialogue("a", 1)]}),
            ["a-u0", "twice"],
        ),
    ],
)
def test_invalid_dialogues_and_corpora_are_named(build, words) -> None:
    with pytest.raises(ErcBenchError) as caught:
        build()
    for word in words:
        assert word in str(caught.value)
