"""EmoBERTa: the turns read around a target, between the encoder's own special tokens."""

from __future__ import annotations

import pytest
from fitting import declared_context_holds, fitted
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from erc_bench.corpus.conversation import Dialogue, Utterance
from erc_bench.encoders.tokenising import separator
from erc_bench.errors import ErcBenchError
from erc_bench.methods.emoberta import EmoBERTa, EmoBERTaConfig, WindowReader, turns_around
from erc_bench.settings.experiment import resolve

TEXTS = ("I am so happy today.", "This is awful!", "Well, I see.", "Leave me alone!", "I see.")


@pytest.fixture(scope="module")
def dialogue() -> Dialogue:
    """Five turns of two speakers; the second has no label."""
    turns = (
        Utterance(f"u{i}", "AB"[i % 2], text, None if i == 1 else 0) for i, text in enumerate(TEXTS)
    )
    return Dialogue("d", tuple(turns))


def tokenizer_of(names: tuple[str, ...], processor) -> PreTrainedTokenizerFast:
    """A tokenizer of three special tokens and one word."""
    vocabulary = {word: i for i, word in enumerate((*names, "a"))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=names[0]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processor
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_the_separator_of_two_texts_is_the_tokenizers_own() -> None:
    bert = tokenizer_of(
        ("[UNK]", "[CLS]", "[SEP]"), processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    )
    roberta = tokenizer_of(
        ("<unk>", "<s>", "</s>"), processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    )
    for tokenizer, between in ((bert, [2]), (roberta, [2, 2])):
        assert separator(tokenizer) == between
        assert tokenizer("a", "a").input_ids == [1, 3, *between, 3, 2]


def test_a_tokenizer_without_pairs_is_refused() -> None:
    single = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    with pytest.raises(ErcBenchError, match="nothing between two texts"):
        separator(tokenizer_of(("<unk>", "<s>", "</s>"), single))


def test_the_past_and_the_target_are_a_pair_of_texts(dialogue, tiny_encoder) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    said = [f"{u.speaker}: {u.text}" for u in dialogue.utterances]
    examples = WindowReader(tiny_encoder, 512, "past", names=True).examples(dialogue)
    assert [example["targets"] for example in examples] == [[0], [2], [3], [4]]
    for example in examples:
        (i,) = example["targets"]
        assert example["input_ids"] == tokenizer(" ".join(said[:i]), said[i]).input_ids


def test_the_future_follows_as_a_third_text(dialogue, tiny_encoder) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    examples = WindowReader(tiny_encoder, 512, "both", names=False).examples(dialogue)
    for example in examples:
        (i,) = example["targets"]
        parts = (" ".join(TEXTS[:i]), TEXTS[i], " ".join(TEXTS[i + 1 :]))
        bare = [tokenizer(part, add_special_tokens=False).input_ids for part in parts]
        assert example["input_ids"] == [cls, *bare[0], sep, *bare[1], sep, *bare[2], sep]


def test_names_are_read_or_not(dialogue, tiny_encoder) -> None:
    other = Dialogue(
        "d", tuple(Utterance(u.id, "Zoe", u.text, u.label) for u in dialogue.utterances)
    )
    for names in (True, False):
        reader = WindowReader(tiny_encoder, 64, "both", names)
        texts = [reader.tokenizer.decode(e["input_ids"]) for e in reader.examples(dialogue)]
        assert all((":" in text) == names for text in texts)
        assert (reader.examples(dialogue) == reader.examples(other)) == (not names)


@pytest.mark.parametrize(
    ("room", "later", "expected"),
    [
        (0, True, (3, 4)),
        (10, True, (2, 4)),  # the turn before the target comes first
        (20, True, (2, 5)),
        (30, True, (1, 5)),
        (1000, True, (0, 7)),
        (1000, False, (0, 4)),
        (20, False, (1, 4)),
        (19, False, (2, 4)),
    ],
)
def test_turns_are_taken_from_both_sides_the_nearest_first(room, later, expected) -> None:
    assert turns_around([10] * 7, 3, room, later=later) == expected


def test_the_window_limits_the_turns_on_each_side() -> None:
    assert turns_around([10] * 7, 3, 1000, later=True, window=2) == (1, 6)
    assert turns_around([10] * 7, 0, 1000, later=True, window=2) == (0, 3)
    assert turns_around([10] * 7, 3, 1000, later=False, window=1) == (2, 4)
    assert turns_around([10] * 7, 3, 1000, later=True, window=0) == (3, 4)


def test_a_side_ends_before_the_first_turn_that_does_not_fit() -> None:
    # Before the target, a turn of 50 tokens does not fit. After it, more turns are taken.
    assert turns_around([1, 50, 5, 9, 5, 5, 5], 3, 30, later=True) == (2, 7)


def test_no_example_is_too_long_and_a_long_target_loses_its_end(tiny_encoder) -> None:
    long = " ".join(["happy"] * 100)
    turns = tuple(Utterance(f"u{i}", "A", text, 0) for i, text in enumerate((*TEXTS, long, *TEXTS)))
    reader = WindowReader(tiny_encoder, 32, "both", names=True)
    examples = reader.examples(Dialogue("d", turns))
    lengths = [len(example["input_ids"]) for example in examples]
    assert max(lengths) == 32
    ids = examples[len(TEXTS)]["input_ids"]
    sep, happy = (reader.tokenizer.convert_tokens_to_ids(token) for token in ("[SEP]", "happy"))
    assert ids.count(sep) == 3
    assert ids.count(happy) == 32 - 4 - 2  # without the special tokens and "A:"


@pytest.mark.parametrize(
    ("context", "window", "declared"),
    [("past", -1, "past"), ("both", -1, "full"), ("both", 1, "full"), ("both", 0, "past")],
)
def test_the_declared_context_holds(
    context, window, declared, dialogue, small_demo, tiny_encoder, tmp_path
) -> None:
    given = {"context": context, "window": window}
    config = EmoBERTaConfig(encoder=tiny_encoder, epochs=1, max_batches=2, **given)
    trained = fitted(EmoBERTa, config, small_demo, tmp_path)
    assert trained.method.context == declared
    assert declared_context_holds(trained, dialogue, 3)


def test_settings_are_checked() -> None:
    with pytest.raises(ErcBenchError, match="context"):
        resolve("emoberta", "meld", overrides=["context=future"])
    assert resolve("emoberta", "meld").config.max_len == 512
