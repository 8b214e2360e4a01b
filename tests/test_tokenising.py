"""The token ids of many texts are those of the tokenizer itself."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_bench.encoders import tokenising
from erc_bench.encoders.loading import load_tokenizer
from erc_bench.encoders.tokenising import TextEncoder, special_tokens

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = ["Oh no!", "Ada says: [MASK] now", "", "  ", "Oh no!", "naïve 🙂 café", "x" * 300]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(load_tokenizer(MINILM))


def test_ids_are_the_tokenizers_own(encoder: TextEncoder) -> None:
    theirs = load_tokenizer(MINILM)
    assert encoder.ids(TEXTS) == theirs(TEXTS).input_ids
    cut = theirs(TEXTS, truncation=True, max_length=5).input_ids
    assert encoder.ids(TEXTS, max_len=5) == cut
    assert encoder.continued(TEXTS) == [ids[1:] for ids in theirs(TEXTS).input_ids]
    assert encoder.ids([]) == encoder.continued([]) == []
    assert (encoder.before, encoder.after) == ([theirs.cls_token_id], [theirs.sep_token_id])


@pytest.mark.slow
@given(st.lists(st.text(), max_size=5), st.integers(2, 20))
@settings(deadline=None, max_examples=50)
def test_ids_of_any_texts_are_the_tokenizers_own(
    encoder: TextEncoder, texts: list[str], max_len: int
) -> None:
    encoder = TextEncoder(encoder.tokenizer)
    encoder.add(texts)
    theirs = encoder.tokenizer(texts).input_ids if texts else []
    assert encoder.ids(texts) == theirs
    cut = encoder.tokenizer(texts, truncation=True, max_length=max_len).input_ids if texts else []
    assert encoder.ids(texts, max_len=max_len) == cut


def test_a_text_is_tokenised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncoder(load_tokenizer(MINILM))
    calls = []
    real = tokenising._tokenised
    monkeypatch.setattr(
        tokenising, "_tokenised", lambda t, texts, **more: calls.append(texts) or real(t, texts)
    )
    encoder.add(["a b", "c", "a b"])
    first = encoder.ids(["c", "a b"])
    first[0].append(0)  # it does not change what is remembered
    assert encoder.ids(["c"]) == [first[0][:-1]]
    encoder.ids(["c", "d"])
    assert calls == [["a b", "c"], ["d"]]


def test_the_number_of_remembered_texts_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenising, "MOST_TEXTS", 3)
    encoder = TextEncoder(load_tokenizer(MINILM))
    for i in range(20):
        texts = ["always", f"{i}", f"{i} more", f"{i} and more"]
        assert encoder.ids(texts) == encoder.tokenizer(texts).input_ids
        assert len(encoder._known) <= 3 + len(texts)


def test_a_pickled_copy_gives_the_same_ids_and_holds_no_text(encoder: TextEncoder) -> None:
    encoder.add(["a sentence of some corpus"])
    data = pickle.dumps(encoder)
    assert b"some corpus" not in data
    assert pickle.loads(data).ids(TEXTS) == encoder.ids(TEXTS)


def test_half_a_surrogate_pair_is_read_as_the_replacement_character(encoder: TextEncoder) -> None:
    assert encoder.ids(["so\ud83d!", "\ud83d\ude42"]) == encoder.ids(["so\ufffd!", "🙂"])


def test_the_tokenizer_says_where_special_tokens_stand() -> None:
    tokenizer = load_tokenizer(MINILM)
    assert special_tokens(tokenizer) == ([101], [102])
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A [SEP] [CLS]", special_tokens=[("[CLS]", 101), ("[SEP]", 102)]
    )
    assert special_tokens(tokenizer) == ([], [102, 101])
    encoder = TextEncoder(tokenizer)
    assert encoder.continued(TEXTS) == encoder.ids(TEXTS) == tokenizer(TEXTS).input_ids
