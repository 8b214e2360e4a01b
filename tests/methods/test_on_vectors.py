"""DialogueRNN and DAG-ERC against the same models written as loops, and what they read."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from cosmic_layout import write_cosmic
from fitting import built, declared_context_holds, fitted
from torch import Tensor

from benchmarks.recipe_on_vectors import dag_erc_logits, dialogue_rnn_logits
from erc_bench.corpus.conversation import Corpus, Dialogue, LabelSet, Utterance
from erc_bench.errors import ErcBenchError
from erc_bench.method.contract import ErcMethod
from erc_bench.method.data import ErcDataModule
from erc_bench.methods.dag_erc import DAGERC, DAGERCConfig, GraphReader
from erc_bench.methods.dialogue_rnn import DialogueRNN, DialogueRNNConfig
from erc_bench.settings.experiment import resolve
from erc_bench.vectors import FeatureConfig

SIZE = 8
KINDS: dict[str, tuple[type[ErcMethod], dict[str, object]]] = {
    "dialogue-rnn": (DialogueRNN, {}),
    "dialogue-rnn, forwards": (DialogueRNN, {"bidirectional": False}),
    "dialogue-rnn, no parties": (DialogueRNN, {"party_states": False}),
    "dialogue-rnn, neither": (DialogueRNN, {"party_states": False, "bidirectional": False}),
    "dag-erc": (DAGERC, {}),
    "dag-erc, omega 2, 3 layers": (DAGERC, {"omega": 2, "layers": 3}),
    "dag-erc, no relations": (DAGERC, {"relations": False}),
}
"""Every method on vectors, and every part of it that can be switched off."""


def dialogue(name: str, speakers: str, every: int = 1) -> Dialogue:
    """A made-up dialogue of the given speakers; one turn in ``every`` is labelled."""
    turns = (
        Utterance(f"{name}-{i}", who, f"Turn {i}.", i % 3 if i % every == 0 else None)
        for i, who in enumerate(speakers)
    )
    return Dialogue(name, tuple(turns))


@pytest.fixture(scope="module")
def odd() -> Corpus:
    """Dialogues of one turn, one or many speakers, a monologue, unlabelled turns, equal lengths."""
    dialogues = [
        dialogue("one", "A"),
        dialogue("alone", "AAAAA"),
        dialogue("two", "ABABABAB"),
        dialogue("many", "ABCDEFAGBA"),
        dialogue("long", "ABBBBBBBBBBACBAAAABCBABCAB", every=3),
        dialogue("short", "BA"),
        dialogue("also short", "CC"),
    ]
    named = {"train": dialogues, "dev": [dialogue("dev", "ABA")], "test": [dialogue("t", "AB")]}
    return Corpus.build("odd", LabelSet(("joy", "anger", "neutral")), named)


def settings(kind: str, corpus: Corpus, tmp_path, **others):
    method, own = KINDS[kind]
    features = FeatureConfig(path=str(write_cosmic(corpus, tmp_path / "v.pkl", SIZE)), size=SIZE)
    common = {"features": features, "hidden_size": 6, "dropout": 0.0}
    return method.Config(**{**common, **own, **others})


def plain(method: ErcMethod, network: torch.nn.Module, vectors: Tensor, speakers) -> Tensor:
    if isinstance(method, DAGERC):
        return dag_erc_logits(network, vectors, speakers, method.config.omega)
    return dialogue_rnn_logits(network, vectors, speakers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_outputs_and_gradients_are_those_of_plain_loops(kind, dtype, close, odd, tmp_path) -> None:
    method, data = built(KINDS[kind][0], settings(kind, odd, tmp_path), odd)
    ours = method.network.to(dtype)
    theirs = copy.deepcopy(ours)
    features = method.features.to(dtype)
    method.features = features.clone().requires_grad_()
    batch = data.batch(data.columns["train"])
    output = method(batch)
    weights = torch.randn(output.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    (output * weights).sum().backward()

    leaf = features.clone().requires_grad_()
    row, of_row = 0, {}
    for each in odd.dialogues("train"):
        speakers = [u.speaker for u in each.utterances]
        logits = plain(method, theirs, leaf[row : row + len(each)], speakers)
        of_row.update({row + i: logits[i] for i in range(len(each))})
        row += len(each)
    expected = torch.stack([of_row[row] for row in batch["rows"].tolist()])
    (expected * weights).sum().backward()

    torch.testing.assert_close(output, expected, atol=close, rtol=close)
    torch.testing.assert_close(method.features.grad, leaf.grad, atol=close, rtol=close)
    assert leaf.grad[:row].any()
    of_theirs = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        gradient = of_theirs[name].grad
        assert gradient is not None, name
        torch.testing.assert_close(parameter.grad, gradient, atol=close, rtol=close, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_declared_context_holds(kind, small_demo, tiny_encoder, tmp_path) -> None:
    method, own = KINDS[kind]
    features = FeatureConfig(epochs=0)
    config = method.Config(
        encoder=tiny_encoder, features=features, hidden_size=8, epochs=1, max_batches=2, **own
    )
    trained = fitted(method, config, small_demo, tmp_path)
    expected = "full" if getattr(config, "bidirectional", False) else "past"
    assert trained.method.context == expected
    assert declared_context_holds(trained, dialogue("d", "ABABABABA"), 5)


def columns_of(reader, dialogues: list[Dialogue]):
    """The examples of dialogues as the columns that ``collate`` sees; all turns have vectors."""
    corpus = Corpus.build("some", LabelSet(("a", "b", "c")), {"test": dialogues})
    config = DAGERCConfig(features=FeatureConfig(path="given", size=SIZE))
    method = DAGERC(config, corpus.labels)
    method.reader = reader
    data = ErcDataModule(corpus, method)
    reader.has_vector = np.ones(len(data.ids), dtype=bool)
    return data.columns["test"]


@pytest.mark.parametrize(
    ("omega", "first"),
    [(1, [0, 0, 0, 1, 3, 4, 5]), (2, [0, 0, 0, 0, 1, 3, 4]), (9, [0, 0, 0, 0, 0, 0, 0])],
)
def test_a_turn_reads_back_to_the_omega_th_turn_of_its_speaker(omega, first) -> None:
    reader = GraphReader(omega)
    batch = reader.collate(columns_of(reader, [dialogue("d", "ABABBBB")]))
    assert batch["first"].tolist() == first


def test_turns_without_a_vector_are_not_read() -> None:
    dialogues = [dialogue("a", "ABAB"), dialogue("b", "AAB", every=2)]
    reader = GraphReader(1)
    columns = columns_of(reader, dialogues)
    reader.has_vector[5] = False  # the second, unlabelled turn of the second dialogue
    batch = reader.collate(columns)
    assert batch["turns"].batch_sizes.tolist() == [2, 2, 1, 1]
    assert batch["turns"].data.tolist() == [0, 4, 1, 6, 2, 3]
    assert batch["turns"].data[batch["targets"]].tolist() == [0, 1, 2, 3, 4, 6]
    assert len(set(batch["parties"].tolist())) == 4


def test_no_party_state_of_one_dialogue_reaches_another(odd, tmp_path) -> None:
    _, data = built(DialogueRNN, settings("dialogue-rnn", odd, tmp_path), odd)
    batch = data.batch(data.columns["train"])
    of_party: dict[int, set[str]] = {}
    dialogues = [d for d in odd.dialogues("train") for _ in d.utterances]
    for row, party in zip(batch["turns"].data.tolist(), batch["parties"].tolist(), strict=True):
        of_party.setdefault(party, set()).add(dialogues[row].id)
    assert all(len(each) == 1 for each in of_party.values())
    speakers = sum(len({u.speaker for u in d.utterances}) for d in odd.dialogues("train"))
    assert len(of_party) == speakers


@pytest.mark.parametrize("config", [DialogueRNNConfig, DAGERCConfig])
def test_settings_are_checked(config) -> None:
    for wrong in ({"hidden_size": 0}, {"lr": 0}, {"dropout": 2}, {"precision": "float16"}):
        with pytest.raises(ErcBenchError, match=next(iter(wrong))):
            config(**wrong)
    assert config(precision="auto").precision == "float32"


def test_graph_settings_are_checked() -> None:
    for wrong in ({"omega": 0}, {"layers": 0}):
        with pytest.raises(ErcBenchError, match=next(iter(wrong))):
            DAGERCConfig(**wrong)


@pytest.mark.parametrize("method", ["dialogue-rnn", "dag-erc"])
def test_small_presets_share_their_vectors(method) -> None:
    small = {name: resolve(name, "meld", preset="small").config for name in (method, "sacl-lstm")}
    assert small[method].features == small["sacl-lstm"].features
    assert small[method].encoder == small["sacl-lstm"].encoder
