"""Prompts, their tokens, and label likelihood."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from erc_bench.corpus.conversation import Utterance
from erc_bench.errors import ErcBenchError
from erc_bench.methods.language_models import (
    MADE_UP,
    ChatText,
    Prompt,
    Turn,
    find_prompt,
    fitting,
    label_likelihoods,
    left_padded,
    load_model,
    model_identity,
    model_tokenizer,
    window,
)

LABELS = ("anger", "joy", "neutral")
CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def talk() -> list[Utterance]:
    turns = (("Ann", "Hello Bob."), ("Bob", "I won, Ann!"), ("Ann", "Bobby and Cleo will see."))
    return [Utterance(f"u{i}", name, text, 1) for i, (name, text) in enumerate(turns)]


# --- prompts


@pytest.mark.parametrize("name", ["plain", "question", "annotator"])
def test_the_prompts_of_the_suite_show_turns_and_labels(name: str, talk: list[Utterance]) -> None:
    prompt = find_prompt(name)
    turns = window(talk, 2, 8, masked=False)
    asked = prompt.user(turns, LABELS)["content"]
    said = " ".join(m["content"] for m in prompt.system(LABELS)) + asked
    for turn in turns:
        assert turn.text in asked
        assert turn.name in asked
    assert all(label in said for label in LABELS)
    assert prompt.answer("joy") == "joy"


def test_a_prompt_of_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(
        "{% block user %}{{ past | length }}|{{ target.text }}|{{ labels[0] }}{% endblock %}"
        "{% block answer %}It is {{ label }}.{% endblock %}",
        encoding="utf-8",
    )
    prompt = find_prompt(str(path))
    turns = [Turn("A", "x"), Turn("B", "{{ y }}")]
    assert prompt.user(turns, LABELS)["content"] == "1|{{ y }}|anger"
    assert prompt.answer("joy") == "It is joy."
    assert prompt.system(LABELS) == []
    assert pickle.loads(pickle.dumps(prompt)).user(turns, LABELS) == prompt.user(turns, LABELS)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("What?", "no block 'user'"),
        ("{% block user %}{{ turn", "line 1"),
        ("{% block user %}{{ speaker }}{% endblock %}", "'speaker' is undefined"),
        ("{% block user %}{{ target.emotion }}{% endblock %}", "emotion"),
        ("{% block user %}{{ ''.__class__.mro() }}{% endblock %}", "mine.jinja"),
    ],
)
def test_a_faulty_prompt_is_named(source: str, words: str) -> None:
    with pytest.raises(ErcBenchError, match=words) as caught:
        Prompt("mine.jinja", source).user([Turn("A", "x")], LABELS)
    assert "mine.jinja" in str(caught.value)


def test_a_prompt_that_is_not_there_is_named() -> None:
    with pytest.raises(ErcBenchError, match="Did you mean 'plain'"):
        find_prompt("plaim")


def test_a_window_has_past_turns_only_and_masks_names(talk: list[Utterance]) -> None:
    assert window(talk, 1, 8, masked=False) == [
        Turn("Ann", "Hello Bob."),
        Turn("Bob", "I won, Ann!"),
    ]
    assert window(talk, 2, 1, masked=False)[0].name == "Bob"
    # At the first turn, Bob has not spoken yet, so he is not known as a speaker.
    assert window(talk, 0, 8, masked=True) == [Turn("Speaker 1", "Hello Bob.")]
    assert window(talk, 2, 8, masked=True) == [
        Turn("Speaker 1", "Hello Speaker 2."),
        Turn("Speaker 2", "I won, Speaker 1!"),
        Turn("Speaker 1", "Bobby and Cleo will see."),
    ]


def test_each_word_of_a_name_is_masked_unless_several_speakers_have_it() -> None:
    said = [
        ("Ann Lee", "Hi."),
        ("Bo Lee", "Ann, is Mr. Lee here?"),
        ("Mr. Zed", "Bo Lee called Zed, Mr. Zed!"),
    ]
    talk = [Utterance(str(i), *turn) for i, turn in enumerate(said)]
    texts = [turn.text for turn in window(talk, 2, 8, masked=True)]
    assert texts[1:] == [
        "Speaker 1, is Mr. Lee here?",
        "Speaker 2 called Speaker 3, Speaker 3!",
    ]


# --- tokens


@pytest.fixture
def chat(tiny_causal: str) -> ChatText:
    return ChatText(model_tokenizer(tiny_causal))


def test_a_chat_format_is_used_if_a_model_has_one(tiny_causal: str, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_causal, tmp_path / "chatty")
    (folder / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    chat = ChatText(model_tokenizer(str(folder)))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Well?"}]
    expected = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert (
        chat.text(messages) == expected == "<|system|>Be brief.</s><|user|>Well?</s><|assistant|>"
    )
    assert chat.answer_ids("joy")[-1] == chat.tokenizer.eos_token_id


def test_a_chat_format_without_system_messages_gets_them_in_the_first(
    tiny_causal: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_causal, tmp_path / "chatty")
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(refusing + CHATML, encoding="utf-8")
    chat = ChatText(model_tokenizer(str(folder)))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Well?"}]
    assert chat.text(messages) == "<|user|>Be brief.\n\nWell?</s><|assistant|>"


def test_without_a_chat_format_the_answer_follows_the_word_answer(chat: ChatText) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Well?"},
        {"role": "assistant", "content": "joy"},
        {"role": "user", "content": "And now?"},
    ]
    assert chat.text(messages) == "Be brief.\n\nWell?\nAnswer: joy\n\nAnd now?\nAnswer:"


def test_a_prompt_that_is_too_long_loses_its_earliest_turns(chat: ChatText) -> None:
    turns = [Turn("Ilse", f"well {'so ' * n}well") for n in range(1, 7)]
    prompt = find_prompt("question")

    def ask(some):
        return [prompt.user(some, LABELS)]

    lengths = [len(chat.ids(ask(turns[first:]))) for first in range(len(turns))]
    assert lengths == sorted(lengths, reverse=True)
    for first, length in enumerate(lengths):
        found = fitting(ask, turns, chat, length)
        assert found == chat.ids(ask(turns[first:]))
        if first:
            assert fitting(ask, turns, chat, lengths[first - 1] - 1) == found
    shorter = fitting(ask, turns, chat, lengths[-1] - 2)  # the first words of the turn go
    assert len(shorter) == lengths[-1] - 2
    with pytest.raises(ErcBenchError, match="max_len=20"):
        fitting(ask, turns, chat, 20)


# --- likelihood


def whole_text_likelihood(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """The log-likelihood of an answer after a prompt, computed from the whole text alone."""
    ids = torch.tensor([[*prompt, *answer]])
    logits = model(input_ids=ids).logits[0].log_softmax(dim=-1)
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return sum(logits[place, token] for place, token in zip(places, answer, strict=True))


def test_likelihoods_are_those_of_each_whole_text_alone(tiny_causal: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_causal).eval()
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 100, (n,), generator=generator).tolist() for n in (5, 17, 9, 1)]
    answers = [[7], [8, 2], [8, 9, 2], [20, 21, 22, 23, 2]]
    with torch.no_grad():
        ours = label_likelihoods(model, *left_padded(prompts), answers)
        alone = torch.stack(
            [torch.stack([whole_text_likelihood(model, p, a) for a in answers]) for p in prompts]
        )
    torch.testing.assert_close(ours, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "mistral", "gemma2", "opt", "bloom"])
def test_likelihoods_of_other_architectures(kind: str) -> None:
    """They have learnt positions, sliding windows, soft caps, or positions that can't be given."""
    from transformers import AutoConfig

    sizes = {
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
        "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
        "opt": {"hidden_size": 32, "ffn_dim": 64, "word_embed_proj_dim": 32},
    }.get(kind, {"hidden_size": 32, "intermediate_size": 64, "num_key_value_heads": 2})
    if kind in ("mistral", "gemma2"):
        sizes |= {"sliding_window": 4, "head_dim": 16}
    layers = {} if kind in ("gpt2", "bloom") else {"num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(kind, vocab_size=50, pad_token_id=0, **sizes, **layers)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    prompts, answers = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14]], [[3, 2], [4, 5, 6, 2]]
    with torch.no_grad():
        ours = label_likelihoods(model, *left_padded(prompts), answers)
        alone = torch.stack(
            [torch.stack([whole_text_likelihood(model, p, a) for a in answers]) for p in prompts]
        )
    torch.testing.assert_close(ours, alone, rtol=1e-4, atol=1e-4)


def test_the_made_up_model_is_the_same_everywhere() -> None:
    torch.manual_seed(5)
    first = torch.rand(1)
    torch.manual_seed(5)
    model = load_model(MADE_UP, 64)
    assert torch.equal(torch.rand(1), first)  # it draws nothing from the run's own stream
    assert len(model_identity(MADE_UP)["digest"]) == 64
    assert next(model.parameters()) is not next(load_model(MADE_UP, 64).parameters())


def test_an_encoder_is_no_language_model(tiny_encoder: str) -> None:
    with pytest.raises(ErcBenchError, match="no causal language model but a bert"):
        load_model(tiny_encoder, 64)


def test_a_max_len_that_the_model_can_not_read_is_an_error(tiny_causal: str) -> None:
    with pytest.raises(ErcBenchError, match="max_len=4096"):
        load_model(tiny_causal, 4096)


def test_a_language_model_without_its_last_layer_is_an_error(
    tiny_causal: str, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_causal, tmp_path / "headless"))
    weights = load_file(folder / "model.safetensors")
    weights.pop("lm_head.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert not json.loads((folder / "config.json").read_text(encoding="utf-8"))[
        "tie_word_embeddings"
    ]
    with pytest.raises(ErcBenchError, match="lm_head"):
        load_model(str(folder), 64)
