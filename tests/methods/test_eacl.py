"""EACL against its reference figures, and its second stage."""

import json

import numpy as np
import pytest
import torch
from conftest import golden_file
from torch import Tensor, nn

from erc_bench.corpus.conversation import Dialogue, LabelSet, Utterance
from erc_bench.encoders.loading import load_encoder, load_tokenizer
from erc_bench.errors import ErcBenchError
from erc_bench.method.ragged import Ragged
from erc_bench.methods.eacl import (
    AnchoredEncoder,
    EACLConfig,
    adapt_anchors,
    anchor_scores,
    angle_loss,
    eacl_loss,
    label_anchors,
)
from erc_bench.methods.prompts import AnchorReader, window_starts

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


class Case:
    """One case of the reference figures."""

    def __init__(self, number: int) -> None:
        self.figures = np.load(golden_file("eacl_loss.npz"), allow_pickle=False)
        self.prefix = f"case{number}/"

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(np.asarray(self.figures[self.prefix + name]))

    def network(self) -> AnchoredEncoder:
        network = AnchoredEncoder(nn.Identity(), self["anchors_raw"], len(self["map.3.bias"]), 0.1)
        layers = [k for k in self.figures if k.startswith(self.prefix + "map.")]
        weights = {k[len(self.prefix) + 4 :]: self[k[len(self.prefix) :]] for k in layers}
        network.project.load_state_dict(weights)
        return network


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, check_dtype=False)


@pytest.mark.parametrize("number", range(4))
def test_losses_gradients_and_scores_are_the_authors(number: int) -> None:
    case = Case(number)
    network = case.network()
    hidden = case["hidden"].requires_grad_()
    z, anchors = network.project(hidden), network.mapped_anchors()
    weights = {
        "temperature": case["temperature"].item(),
        "ce_weight": case["ce_loss_weight"].item(),
        "angle_weight": case["angle_loss_weight"].item(),
    }
    parts = eacl_loss(z, case["classifier_logits"], case["labels"], anchors, **weights)
    both = parts["contrastive"] + weights["angle_weight"] * parts["angle"]
    parts["loss"].backward()
    close(z, case["out/mapped"])
    close(both, case["out/contrastive_plus_angle_loss"])
    close(parts["angle"], case["out/angle_loss"])
    close(parts["max_anchor_cosine"], case["out/max_anchor_cosine"])
    close(parts["ce"], case["out/ce_loss"])
    close(parts["loss"], case["out/total_loss"])
    assert hidden.grad is not None
    close(hidden.grad, case["out/grad_hidden"])
    logits = anchor_scores(z, anchors, weights["temperature"])
    close(logits, case["out/stage2_logits"])
    close(logits * weights["temperature"], case["out/anchor_scores"])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network.mapped_anchors(), anchors)


@pytest.mark.parametrize(
    "anchors",
    [[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [-1.0, 0.0]]],
    ids=["coincide", "opposed"],
)
def test_the_angle_of_parallel_anchors_has_a_finite_gradient(anchors: list[list[float]]) -> None:
    """The derivative of acos is infinite at 1 and −1."""
    given = torch.tensor(anchors, requires_grad=True)
    loss, _ = angle_loss(given)
    loss.backward()
    assert torch.isfinite(loss)
    assert given.grad is not None
    assert torch.isfinite(given.grad).all()


def made_up_dialogues() -> tuple[list[Dialogue], dict]:
    figures = json.loads(golden_file("prompts.json").read_text(encoding="utf-8"))
    dialogues = [
        Dialogue(
            f"d{d}",
            tuple(
                Utterance(
                    f"d{d}-u{i}",
                    turn["speaker"],
                    turn["text"],
                    turn["label"] if turn["label"] >= 0 else None,
                )
                for i, turn in enumerate(turns)
            ),
        )
        for d, turns in enumerate(figures["dialogues"])
    ]
    return dialogues, figures["expected"]


@pytest.mark.parametrize("max_len", [256, 96])
def test_prompts_are_the_authors(max_len: int) -> None:
    dialogues, expected = made_up_dialogues()
    reader = AnchorReader(MINILM, max_len)
    reader.preload(dialogues)
    ours = []
    for dialogue in dialogues:
        for example in reader.examples(dialogue):
            (target,) = example["targets"]
            label = dialogue.utterances[target].label
            ours.append({"input_ids": example["input_ids"], "label": label})
    assert ours == expected["eacl"][str(max_len)]


def test_a_window_holds_at_most_eight_past_turns_and_at_least_one() -> None:
    assert window_starts([5] * 12, 256) == [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]
    assert window_starts([200, 200, 200], 256) == [0, 0, 1]
    assert window_starts([60, 60, 60, 60], 256) == [0, 0, 0, 1]


def test_a_window_of_other_sizes() -> None:
    assert window_starts([5] * 5, 256, window=2) == [0, 0, 0, 1, 2]
    assert window_starts([5] * 12, 256, window=-1) == [0] * 12
    assert window_starts([200, 5, 5], 256, window=0) == [0, 1, 2]


def test_the_mask_read_is_the_querys_not_one_in_the_text() -> None:
    reader = AnchorReader(MINILM, 256)
    tokenizer = reader.tokenizer
    turn = Utterance("u0", "Ada", f"Say {tokenizer.mask_token} again.", 0)
    (example,) = reader.examples(Dialogue("d", (turn,)))
    ids = list(example["input_ids"])
    shorter = ids[3:]
    rows = Ragged(np.array(ids + shorter), np.array([0, len(ids), len(ids) + len(shorter)]))
    batch = reader.collate({"input_ids": rows})
    last = [len(row) - 1 - row[::-1].index(tokenizer.mask_token_id) for row in (ids, shorter)]
    assert batch["positions"].tolist() == last
    assert ids.count(tokenizer.mask_token_id) == 2
    assert batch["attention_mask"].sum(dim=1).tolist() == [len(ids), len(shorter)]
    first = AnchorReader(MINILM, 256, read_at="first").collate({"input_ids": rows})
    assert first["positions"].tolist() == [0, 0]


def test_anchors_are_the_mean_states_of_the_words_alone() -> None:
    tokenizer, encoder = load_tokenizer(MINILM), load_encoder(MINILM)
    names = ("joy", "embarrassment", "anger")
    anchors = label_anchors(encoder, tokenizer, LabelSet(names))
    for name, anchor in zip(names, anchors, strict=True):
        with torch.no_grad():
            states = encoder(**tokenizer(name, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(anchor, states.mean(dim=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("names", [("joy", "Joy", "anger"), ("😀", "anger", "😢")])
def test_labels_that_the_tokenizer_reads_alike_are_refused(names: tuple[str, ...]) -> None:
    tokenizer, encoder = load_tokenizer(MINILM), load_encoder(MINILM)
    with pytest.raises(ErcBenchError, match="as the same tokens") as caught:
        label_anchors(encoder, tokenizer, LabelSet(names))
    assert "anger" not in str(caught.value)


def test_stage_two_learns_anchors_that_frozen_vectors_need() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 6, generator=generator)
    labels = torch.randint(0, 3, (300,), generator=generator)
    z = centres[labels] + 0.3 * torch.randn(300, 6, generator=generator)
    wrong = centres[[1, 2, 0]]
    before = (anchor_scores(z, wrong, 0.1).argmax(dim=1) == labels).float().mean()
    data = (z[:200], labels[:200]), (z[200:], labels[200:])
    config, accuracy = EACLConfig(stage2_lr=0.05), lambda a, b: (a == b).float().mean().item()
    anchors = adapt_anchors(wrong, *data, config, 1, accuracy)
    after = (anchor_scores(z, anchors, 0.1).argmax(dim=1) == labels).float().mean()
    assert before < 0.2
    assert after > 0.95
    again = adapt_anchors(wrong, *data, config, 1, accuracy)
    assert torch.equal(anchors, again)
