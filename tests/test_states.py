"""States of single positions: the last layer skips what only other positions need."""

import copy
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel

from erc_bench.encoders.fast import Speedups, enabled
from erc_bench.encoders.fast.one_position import KNOWN, states_at

SIZES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def build(kind: str, attention: str | None = None, **settings):
    """An encoder with random weights, a batch of rows of different lengths, a position in each."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES, **settings)
    encoder = AutoModel.from_config(config, attn_implementation=attention)
    for p in encoder.parameters():
        torch.nn.init.normal_(p, std=0.3)  # so that every term matters
    lengths = torch.tensor([9, 4, 7, 1])
    ids = torch.randint(5, 60, (4, 9))
    mask = (torch.arange(9) < lengths[:, None]).long()
    return encoder.double(), {"input_ids": ids, "attention_mask": mask}, torch.tensor([8, 0, 3, 0])


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *((kind, {}) for kind in (*KNOWN, "electra", "distilbert")),
        ("bert", {"attention": "eager"}),
        ("bert", {"is_decoder": True}),
        ("roberta", {"is_decoder": True}),
        ("bert", {"position_embedding_type": "relative_key"}),
        ("bert", {"chunk_size_feed_forward": 3}),
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
@pytest.mark.parametrize("kind", KNOWN)
def test_dropout_is_where_the_whole_encoder_has_it(kind: str, dropped: str) -> None:
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    encoder, inputs, positions = build(kind, **{**none, dropped: 1.0})  # not random
    encoder.train()
    theirs = encoder(**inputs).last_hidden_state[torch.arange(4), positions]
    torch.testing.assert_close(states_at(encoder, positions, **inputs), theirs)
    encoder.eval()
    assert not torch.allclose(states_at(encoder, positions, **inputs), theirs, atol=0.1)


@pytest.mark.parametrize("kind", KNOWN)
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


@pytest.mark.parametrize("kind", KNOWN)
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


@pytest.mark.parametrize("kind", KNOWN)
def test_the_encoder_is_left_as_it_is(kind: str) -> None:
    encoder, inputs, positions = build(kind)
    before = {name: id(module) for name, module in encoder.named_modules()}
    states_at(encoder, positions, **inputs)
    with pytest.raises(IndexError):
        states_at(encoder, positions + 99, **inputs)
    assert {name: id(module) for name, module in encoder.named_modules()} == before
    assert encoder(**inputs).last_hidden_state.shape == (4, 9, 16)


def gradients(encoder, inputs, positions) -> list[torch.Tensor]:
    """States and gradients of a step in training, with the same draws of dropout each time."""
    encoder.train().zero_grad()
    torch.manual_seed(1)
    states = states_at(encoder, positions, **inputs)
    (states * torch.arange(16)).sin().sum().backward()
    return [states, *(p.grad.clone() for p in encoder.parameters() if p.grad is not None)]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in KNOWN if kind != "mpnet"])
def test_gradient_checkpointing_changes_nothing(kind: str, reentrant: bool) -> None:
    encoder, inputs, positions = build(kind)
    expected = gradients(encoder, inputs, positions)
    encoder.gradient_checkpointing_enable({"use_reentrant": reentrant})
    computed = []
    encoder.encoder.layer[-1].intermediate.register_forward_hook(
        lambda _, given, made: computed.append(made.shape)
    )
    found = gradients(encoder, inputs, positions)
    assert computed == [(4, 1, 32), (4, 1, 32)]  # once more in the backward pass
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("reentrant", [False, True])
def test_layers_of_an_mpnet_can_be_checkpointed_by_hand(reentrant: bool) -> None:
    """Transformers does not offer it for MPNet, so it is done from outside, layer by layer."""
    encoder, inputs, positions = build("mpnet")
    with pytest.raises(ValueError, match=r"support (gradient|activation) checkpointing"):
        encoder.gradient_checkpointing_enable()
    expected = gradients(encoder, inputs, positions)

    class Checkpointed(type(encoder.encoder.layer[0])):
        def forward(self, *args, **kwargs):
            again = partial(super().forward, **kwargs)
            return checkpoint(again, *args, use_reentrant=reentrant)

    for layer in encoder.encoder.layer:
        layer.__class__ = Checkpointed
    found = gradients(encoder, inputs, positions)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_layer_whose_forward_was_replaced_still_gives_the_right_states() -> None:
    encoder, inputs, positions = build("bert")
    encoder.eval()
    theirs = encoder(**inputs).last_hidden_state[torch.arange(4), positions]
    layer = encoder.encoder.layer[-1]
    layer.forward = layer.forward  # bound to the layer itself, not to a copy
    torch.testing.assert_close(states_at(encoder, positions, **inputs), theirs)


@pytest.mark.parametrize("on", [True, False])
def test_one_position_has_a_switch(on: bool) -> None:
    encoder, inputs, positions = build("bert")
    outputs = []
    layer = encoder.encoder.layer[-1]
    layer.output.register_forward_hook(lambda _, given, made: outputs.append(made.shape[1]))
    with enabled(Speedups(one_position=on)):
        states_at(encoder, positions, **inputs)
        with enabled(Speedups(one_position=not on)):
            states_at(encoder, positions, **inputs)
        states_at(encoder, positions, **inputs)
    states_at(encoder, positions, **inputs)
    assert outputs == [1 if on else 9, 9 if on else 1, 1 if on else 9, 1]
