"""How a copy differs from the official release, shown on made-up dialogues."""

from dataclasses import replace

import pytest

from erc_bench.corpus.conversation import Corpus, Dialogue, LabelSet, Utterance
from erc_bench.corpus.release import Release, text_damage
from erc_bench.errors import ErcBenchError

LABELS = LabelSet(("dull", "bright"))
LINES = ("I don’t know.", "That’s the kettle.", "You’re late, René!", "Can’t be.")


def build(change=lambda utterance: utterance, order=lambda turns: turns):
    """Twelve dialogues of four turns; ``order`` reorders the turns, and ``change`` changes each."""
    dialogues = []
    for d in range(12):
        said = order(
            [(f"{line} Number {d}.", ("Zoë", "Ann’s Twin")[i % 2]) for i, line in enumerate(LINES)]
        )
        turns = (
            change(Utterance(f"test-d{d}-u{i}", speaker, text, i % 2))
            for i, (text, speaker) in enumerate(said)
        )
        dialogues.append(Dialogue(f"test-d{d}", tuple(turns)))
    return Corpus.build("made-up", LABELS, {"test": dialogues})


RELEASE = Release.of(build())


def everywhere(damage):
    return lambda u: replace(u, text=damage(u.text), speaker=damage(u.speaker))


DAMAGE = {
    "mojibake": (lambda t: t.encode().decode("cp1252", errors="ignore"), "mojibake"),
    "question marks": (lambda t: t.encode("ascii", "replace").decode(), "a question mark for an"),
    "lost": (lambda t: t.encode("ascii", "ignore").decode(), "have lost an apostrophe"),
    "a blank": (lambda t: t.replace("’", "  "), "hold a blank for an apostrophe"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_text_is_named_and_its_speakers_do_not_count_as_others(damage, message):
    first, *rest = RELEASE.doubts(build(everywhere(damage)))
    assert message in first
    assert not any("speaker" in doubt for doubt in rest)


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("?", "a question mark for"),
        ("`", "a backtick for"),
        ("", "a blank for"),
        ("â€™", "mojibake"),
    ],
)
def test_damaged_apostrophes_between_blanks_are_noticed_too(mark, message):
    texts = ["I don ’ t know .", "That ’ s it ."]
    assert text_damage(texts) == []
    assert message in text_damage(text.replace("’", mark) for text in texts)[0]


def test_other_speakers_are_named_after_the_damage():
    def change(u):
        return replace(u, text=u.text.replace("’", "\ufffd"), speaker="A")

    damage, speakers = RELEASE.doubts(build(change))
    assert "replacement character" in damage
    assert speakers.startswith("the speakers differ: 'A' at 48 of 48 utterances")


def test_names_spelled_differently_are_a_doubt():
    (doubt,) = RELEASE.doubts(build(lambda u: replace(u, speaker=u.speaker.replace("’", "'"))))
    assert doubt == "capitals, blanks or punctuation of some utterances or names differ"


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "48 of 48 utterances have no text"), ("Hm.", "have the same text, 'Hm.'")],
)
def test_empty_or_identical_texts_are_refused_with_their_number(text, message):
    with pytest.raises(ErcBenchError, match=rf"12 of 12 dialogues have other texts.*; .*{message}"):
        RELEASE.doubts(build(lambda u: replace(u, text=text)))


def test_turns_in_another_order_are_refused():
    with pytest.raises(ErcBenchError, match="turns in another order"):
        RELEASE.doubts(build(order=lambda turns: turns[::-1]))


def test_a_few_empty_or_equal_texts_are_no_damage():
    assert text_damage(["", *(f"Number {i}." for i in range(9))]) == []
    assert text_damage([*["Yes."] * 5, *(f"Number {i}." for i in range(5))]) == []
