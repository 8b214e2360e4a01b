"""The states of single positions, for which the last layer leaves out what only others need."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModel

from erc_bench.encoders.fast.one_position import states_at
from erc_bench.encoders.loading import BERTS

SIZES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def build(kind: str, attention: str | None = None, **settings):
    """An encoder of random weights, and a batch of rows of different lengths."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES, **settings)
    encoder = AutoModel.from_config(config, attn_implementation=attention)
    for p in encoder.parameters():
        torch.nn.init.normal_(p, std=0.3)  # so that every term weighs
    lengths = torch.tensor([9, 4, 7, 1])
    ids = torch.randint(5, 60, (4, 9))
    mask = (torch.arange(9) < lengths[:, None]).long()
    return encoder.double(), {"input_ids": ids, "attention_mask": mask}, torch.tensor([8, 0, 3, 0])


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *((kind, {}) for kind in (*BERTS, "electra", "distilbert")),
        ("bert", {"attention": "eager"}),
        ("bert", {"is_decoder": True}),
        ("roberta", {"is_decoder": True}),
        ("bert", {"position_embedding_type": "relative_key"}),
    ],
)
def test_states_and_gradients_are_those_of_the_whole_encoder(kind, settings, masked) -> None:
    encoder, inputs, positions = build(kind, **settings)
    encoder.eval()
    if not masked:
        del inputs["attention_mask"]
    whole = copy.deepcopy(encoder)
    ours = states_at(encoder, positions, **inputs)
    theirs = whole(**inputs).last_hidden_state[torch.arange(4), positions]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for states in (ours, theirs):
        (states * torch.arange(16)).sin().sum().backward()
    for (name, p), q in zip(encoder.named_parameters(), whole.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("dropped", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
@pytest.mark.parametrize("kind", BERTS)
def test_dropout_is_where_the_whole_encoder_has_it(kind: str, dropped: str) -> None:
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    encoder, inputs, positions = build(kind, **{**none, dropped: 1.0})  # nothing is left to chance
    encoder.train()
    theirs = encoder(**inputs).last_hidden_state[torch.arange(4), positions]
    torch.testing.assert_close(states_at(encoder, positions, **inputs), theirs)
    encoder.eval()
    assert not torch.allclose(states_at(encoder, positions, **inputs), theirs, atol=0.1)


@pytest.mark.parametrize("kind", BERTS)
def test_in_bfloat16_it_is_as_exact_as_the_whole_encoder(kind: str) -> None:
    encoder, inputs, positions = build(kind)
    encoder.float().eval()
    rows = torch.arange(4)
    with torch.no_grad():
        exact = encoder(**inputs).last_hidden_state[rows, positions]
        with torch.autocast("cpu", torch.bfloat16):
            theirs = encoder(**inputs).last_hidden_state[rows, positions]
            ours = states_at(encoder, positions, **inputs)
    assert ours.dtype == theirs.dtype
    assert (ours - exact).norm() < 1.2 * (theirs - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("kind", BERTS)
def test_the_last_layer_computes_only_what_is_read(kind: str) -> None:
    encoder, inputs, positions = build(kind)
    queries, outputs = [], []
    for layer in encoder.encoder.layer:
        attention = layer.attention.attn if kind == "mpnet" else layer.attention.self
        query = attention.q if kind == "mpnet" else attention.query
        query.register_forward_hook(lambda _, given, made: queries.append(made.shape))
        layer.output.register_forward_hook(lambda _, given, made: outputs.append(made.shape))
    states_at(encoder, positions, **inputs)
    assert queries == outputs == [(4, 9, 16), (4, 9, 16), (4, 1, 16)]
    assert encoder(**inputs).last_hidden_state.shape == (4, 9, 16)


@pytest.mark.parametrize("kind", BERTS)
def test_an_encoder_that_fails_is_left_as_it_was(kind: str) -> None:
    encoder, inputs, positions = build(kind)
    with pytest.raises(IndexError):
        states_at(encoder, positions + 99, **inputs)
    assert encoder(**inputs).last_hidden_state.shape == (4, 9, 16)
