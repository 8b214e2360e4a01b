"""The contract of a method, tested with methods of each kind that are not part of the suite.

They are registered as methods of a foreign package would be, and go the whole way: settings,
training, predictions, record, and a model that predicts again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from cosmic_layout import write_cosmic
from fitting import (
    declared_context_holds,
    fitted,
    last_state,
    predicted_on,
    resumed_equals_uninterrupted,
)
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from erc_bench.corpus.conversation import Corpus, Dialogue, Utterance
from erc_bench.encoders.loading import load_encoder
from erc_bench.errors import ErcBenchError
from erc_bench.execution.run import Outcome, run
from erc_bench.inference.model import Model
from erc_bench.method import (
    Batch,
    Columns,
    ErcDataModule,
    ErcMethod,
    Example,
    LabelSet,
    MethodConfig,
    Ragged,
    Reader,
)
from erc_bench.records.store import read_record
from erc_bench.settings import registry
from erc_bench.settings.experiment import resolve
from erc_bench.training.checkpoints import load_checkpoint, read_checkpoint
from erc_bench.training.train import train
from erc_bench.vectors import FeatureConfig, utterance_vectors, vector_size, vectors_identity
from erc_bench.vectors.fine_tuning import UtteranceReader, cls_states

# --- whole-dialogue models on vectors, without and with the future


@dataclass
class OnVectorsConfig(MethodConfig):
    """Settings of the two models on vectors."""

    encoder: str = ""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    epochs: int = 6
    batch_size: int = 8
    precision: str = "float32"
    group_by_length: bool = False
    lr: float = 1e-2


class RowsReader(Reader):
    """Reads whole dialogues as the row numbers of their turns' vectors."""

    def examples(self, dialogue: Dialogue, *, training: bool = False) -> list[Example]:
        """One example per dialogue."""
        return [{"targets": list(dialogue.labelled), "turns": list(range(len(dialogue)))}]

    def collate(self, columns: Columns) -> Batch:
        """``turns``: vector rows ``(B, T)``, padded with −1; ``cells``: flat indices of targets."""
        turns, targets, first = (columns[name] for name in ("turns", "targets", "first_row"))
        assert isinstance(turns, Ragged)
        assert isinstance(targets, Ragged)
        rows = Ragged(turns.values + first[turns.row_of_value], turns.offsets).pad(-1)
        cells = targets.row_of_value * rows.shape[1] + targets.values
        return {"turns": torch.from_numpy(rows), "cells": torch.from_numpy(cells)}


class OnVectors(ErcMethod):
    """A recurrent network over the vectors of a dialogue's turns so far."""

    Config = OnVectorsConfig
    context = "past"

    def __init__(self, config: OnVectorsConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        self.reader = RowsReader()
        size, both = vector_size(config.encoder, config.features), isinstance(self, WithTheFuture)
        self.network = nn.GRU(size, 16, batch_first=True, bidirectional=both)
        self.head = nn.Linear(32 if both else 16, len(labels))

    @classmethod
    def encoder_identity(cls, config: OnVectorsConfig) -> dict[str, str]:
        return vectors_identity(config.encoder, config.features)

    def prepare(self, data: ErcDataModule) -> None:
        found = utterance_vectors(data.corpus, self.config.encoder, self.config.features)
        self.vectors = found.vectors.to(self.device)

    def forward(self, batch: Batch) -> Tensor:
        turns = batch["turns"]
        lengths = (turns >= 0).sum(dim=1).cpu()
        packed = pack_padded_sequence(self.vectors[turns], lengths, True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.network(packed)[0], True)
        return self.head(states.flatten(0, 1)[batch["cells"]])

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(output, batch["labels"])}

    def scores(self, output: Tensor, batch: Batch) -> Tensor:
        return output

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.config.lr)


class WithTheFuture(OnVectors):
    """The same network in both directions; it declares ``full``."""

    context = "full"


class BrokenPromise(WithTheFuture):
    """Reads the future, but declares ``past``."""

    context = "past"


# --- a method that does not train and sometimes has no answer


class LastWordReader(Reader):
    """Gives each labelled turn the number of an emotion, or −1 if it is a question."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def examples(self, dialogue: Dialogue, *, training: bool = False) -> list[Example]:
        texts = [(i, dialogue.utterances[i].text) for i in dialogue.labelled]
        return [{"targets": [i], "answer": self.answer(text)} for i, text in texts]

    def answer(self, text: str) -> int:
        return -1 if text.endswith("?") else sum(map(ord, text)) % self.classes

    def collate(self, columns: Columns) -> Batch:
        return {"answer": torch.from_numpy(columns["answer"])}


@dataclass
class PromptedConfig(MethodConfig):
    """Settings of :class:`Prompted`; most have no effect, because nothing is trained."""

    encoder: str = ""
    epochs: int = 1


class Prompted(ErcMethod):
    """Answers by a fixed rule, in the place of a prompted language model."""

    Config = PromptedConfig
    context = "past"
    trains = False

    def __init__(self, config: PromptedConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        self.reader = LastWordReader(len(labels))

    def forward(self, batch: Batch) -> Tensor:
        return batch["answer"]

    def scores(self, output: Tensor, batch: Batch) -> Tensor:
        logits = 4.0 * F.one_hot(output.clamp(min=0), len(self.labels))
        return logits.masked_fill(output[:, None] < 0, torch.nan)


# --- a method that saves only a part of its weights


@dataclass
class AdapterConfig(MethodConfig):
    """Settings of :class:`Adapter`."""

    epochs: int = 3
    batch_size: int = 32
    precision: str = "float32"
    lr: float = 3e-2


class Adapter(ErcMethod):
    """A frozen encoder that many runs share, and a small trained part of each run."""

    Config = AdapterConfig
    context = "past"

    def __init__(self, config: AdapterConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        self.reader = UtteranceReader(config.encoder, 32)
        self.encoder = load_encoder(config.encoder).requires_grad_(False)
        size = self.encoder.config.hidden_size
        self.adapter = nn.Sequential(nn.Linear(size, size), nn.Tanh(), nn.Linear(size, len(labels)))

    def forward(self, batch: Batch) -> Tensor:
        self.encoder.eval()  # frozen, and without dropout
        return self.adapter(cls_states(self.encoder, batch["input_ids"], batch["attention_mask"]))

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(output, batch["labels"])}

    def scores(self, output: Tensor, batch: Batch) -> Tensor:
        return output

    def saved_state(self) -> dict[str, Tensor]:
        return self.adapter.state_dict()

    def load_saved_state(self, state) -> None:
        self.adapter.load_state_dict(state)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.adapter.parameters(), lr=self.config.lr)


class Hesitant(Adapter):
    """Trains, but has no answer to texts of some lengths."""

    def scores(self, output: Tensor, batch: Batch) -> Tensor:
        without = batch["attention_mask"].sum(dim=1) % 3 == 0
        return output.masked_fill(without[:, None], torch.nan)


class Staged(Adapter):
    """Uses the optional hooks of a method."""

    def __init__(self, config: AdapterConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        self.calls: list[object] = []

    def prepare(self, data: ErcDataModule) -> None:
        self.calls.append(("prepare", data.corpus.name))

    def epoch_examples(self, data: ErcDataModule, epoch: int):
        self.calls.append(("epoch_examples", epoch))
        return None

    def after_epoch(self, data: ErcDataModule, epoch: int) -> None:
        self.calls.append(("after_epoch", epoch))

    def adapt(self, data: ErcDataModule, last_state) -> None:
        selected, last = self.saved_state(), last_state()
        same = all(torch.equal(selected[name], value) for name, value in last.items())
        self.calls.append(("adapt", data.corpus.name, same))
        with torch.no_grad():
            self.adapter[-1].bias.zero_()

    def extra_metrics(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        first = batch["rows"] % 2 == 0
        right = (output.argmax(dim=1) == batch["labels"]) & first
        return {"even_accuracy": torch.stack([right.sum(), first.sum()])}

    def recorded(self) -> dict[str, object]:
        return {"stages": 2}


METHODS = {
    "on-vectors": OnVectors,
    "with-the-future": WithTheFuture,
    "prompted": Prompted,
    "adapter": Adapter,
    "hesitant": Hesitant,
    "staged": Staged,
}


@pytest.fixture
def registered(tmp_path: Path, monkeypatch) -> Iterator[None]:
    """A package that brings these methods, each with its YAML."""
    package = tmp_path / "package"
    (package / "each_kind-1.5.dist-info").mkdir(parents=True)
    names = ", ".join(kind.__name__ for kind in METHODS.values())
    (package / "each_kind.py").write_text(f"from test_contract import {names}\n", encoding="utf-8")
    points = "".join(f"{name} = each_kind:{kind.__name__}\n" for name, kind in METHODS.items())
    for file, text in {
        "METADATA": "Metadata-Version: 2.1\nName: each-kind\nVersion: 1.5\n",
        "entry_points.txt": f"[erc_bench.methods]\n{points}",
    }.items():
        (package / "each_kind-1.5.dist-info" / file).write_text(text, encoding="utf-8")
    for name in METHODS:
        (package / f"{name}.yaml").write_text(f"title: {name}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(package)
    registry._points.cache_clear()
    yield
    registry._points.cache_clear()
    sys.modules.pop("each_kind", None)  # its folder is deleted with the test


def run_of(method: str, root: Path, *overrides: str) -> Outcome:
    """Run a method on the demo corpus, and assert that it leaves what every run leaves."""
    experiment = resolve(method, "demo", overrides=overrides)
    outcome = run(experiment, root)
    assert read_record(outcome.path) == outcome.record
    assert run(experiment, root).skipped
    plugin = outcome.record.plugin
    assert (plugin.distribution, plugin.version) == ("each-kind", "1.5")
    return outcome


def scored_by_hand(record) -> tuple[float, float]:
    """Weighted-F1 and accuracy on test by scikit-learn; no answer counts as wrong."""
    test, classes = record.predictions.test, range(len(record.labels))
    f1 = f1_score(test.gold, test.predicted, labels=classes, average="weighted", zero_division=0)
    return 100 * f1, 100 * accuracy_score(test.gold, test.predicted)


def assert_scored(record) -> None:
    figures = record.metrics.test
    weighted_f1, accuracy = scored_by_hand(record)
    assert figures.weighted_f1 == pytest.approx(weighted_f1, abs=1e-4)
    assert figures.accuracy == pytest.approx(accuracy, abs=1e-4)


# --- vectors


@pytest.fixture(scope="module")
def vectors(small_demo, tmp_path_factory) -> FeatureConfig:
    """A file of utterance vectors of the small demo corpus."""
    path = write_cosmic(small_demo, tmp_path_factory.mktemp("vectors") / "demo.pkl")
    return FeatureConfig(path=str(path), size=8)


def test_a_model_of_whole_dialogues_learns_from_vectors(small_demo, vectors, tmp_path) -> None:
    trained = fitted(OnVectors, OnVectorsConfig(features=vectors), small_demo, tmp_path)
    losses = [epoch["train/loss"] for epoch in trained.log.curves]
    assert losses[-1] < 0.7 * losses[0]
    predicted = trained.predict("test")
    gold = trained.data.gold[predicted.rows]
    majority = gold.bincount().max() / len(gold)
    assert (predicted.classes == gold).float().mean() > majority + 0.2


def test_a_model_on_vectors_is_recorded(registered, demo, tmp_path) -> None:
    path = write_cosmic(demo, tmp_path / "demo.pkl")
    settings = (f"features.path={path}", "features.size=8", "epochs=2")
    record = run_of("on-vectors", tmp_path, *settings).record
    assert record.encoder.name == "demo.pkl"
    assert len(record.encoder.digest) == 64
    assert record.context == "past"
    assert_scored(record)


@pytest.fixture(scope="module")
def dialogue() -> Dialogue:
    """A labelled dialogue of nine turns."""
    words = ("I am so happy today.", "This is awful!", "Well, I see.", "Leave me alone!")
    turns = (Utterance(f"u{i}", "AB"[i % 2], words[i % 4], i % 3) for i in range(9))
    return Dialogue("d", tuple(turns))


@pytest.mark.parametrize(
    ("kind", "holds"), [(OnVectors, True), (WithTheFuture, True), (BrokenPromise, False)]
)
def test_a_method_that_reads_the_future_must_declare_it(
    small_demo, tiny_encoder, dialogue, tmp_path, kind, holds
) -> None:
    config = OnVectorsConfig(encoder=tiny_encoder, features=FeatureConfig(epochs=0), epochs=1)
    trained = fitted(kind, config, small_demo, tmp_path)
    assert declared_context_holds(trained, dialogue, 5) == holds


def test_a_prediction_does_not_depend_on_the_rest_of_the_batch(
    small_demo, tiny_encoder, dialogue, tmp_path
) -> None:
    config = OnVectorsConfig(encoder=tiny_encoder, features=FeatureConfig(epochs=0), epochs=1)
    trained = fitted(WithTheFuture, config, small_demo, tmp_path)
    others = [*small_demo.dialogues("test"), dialogue]
    together, alone = (
        predicted_on(trained, Corpus.build("some", small_demo.labels, {"test": test}))
        for test in (others, [dialogue])
    )
    for utterance, probabilities in alone.items():
        torch.testing.assert_close(probabilities, together[utterance], rtol=1e-4, atol=1e-5)


# --- no training, and no answer


def test_a_method_that_does_not_train_is_only_prepared_and_predicts(small_demo, tmp_path) -> None:
    method = Prompted(PromptedConfig(), small_demo.labels)
    trained = train(method, ErcDataModule(small_demo, method), tmp_path / "run")
    predicted = trained.predict("test")
    turns = [u for d in small_demo.dialogues("test") for u in d.utterances if u.label is not None]
    expected = [method.reader.answer(u.text) for u in turns]
    assert -1 in expected
    assert predicted.classes.tolist() == expected
    without = predicted.classes == -1
    assert predicted.probabilities[without].isnan().all()
    torch.testing.assert_close(
        predicted.probabilities[~without].sum(dim=1), torch.ones(int((~without).sum()))
    )
    assert trained.log.curves == []
    assert not list(tmp_path.rglob("*.ckpt"))


def test_no_answer_counts_as_wrong_and_is_recorded(registered, tmp_path) -> None:
    outcome = run_of("prompted", tmp_path)
    record, test = outcome.record, outcome.record.predictions.test
    without = [p == -1 for p in test.predicted]
    assert 0 < sum(without) < len(without)
    assert [row is None for row in test.probabilities] == without
    assert_scored(record)
    figures = record.metrics.test
    assert figures.utterances == len(test.gold)
    assert figures.no_answer == pytest.approx(100 * sum(without) / len(without))
    assert sum(map(sum, figures.confusion)) == len(without) - sum(without)
    assert {c.support for c in figures.per_class.values()} == {
        test.gold.count(c) for c in range(len(record.labels))
    }
    assert record.trains is False
    assert not record.training.epochs
    assert not record.training.curves

    model = Model(outcome.path, record)
    turns = (Utterance("n0", "A", "Really?"), Utterance("n1", "B", "Oh yes, really."))
    question, statement = model.answers([Dialogue("new", turns)])
    assert (question.label, question.probabilities) == ("", {})
    assert (
        statement.label == record.labels[LastWordReader(len(record.labels)).answer(turns[1].text)]
    )


def test_the_selection_of_an_epoch_counts_no_answer_as_wrong(
    small_demo, tiny_encoder, tmp_path
) -> None:
    config = AdapterConfig(encoder=tiny_encoder, epochs=2)
    trained = fitted(Hesitant, config, small_demo, tmp_path)
    trained.method.load_saved_state(last_state(tmp_path))
    predicted = trained.predict("dev")
    assert 0 < (predicted.classes == -1).sum() < len(predicted.classes)
    gold = trained.data.gold[predicted.rows]
    classes = range(len(small_demo.labels))
    by_hand = f1_score(gold, predicted.classes, labels=classes, average="weighted", zero_division=0)
    assert trained.log.curves[-1]["dev/weighted_f1"] == pytest.approx(100 * by_hand, abs=1e-4)
    occurring = sorted({*gold.tolist(), *predicted.classes.tolist()} - {-1})
    answers = (gold, predicted.classes)
    macro = f1_score(*answers, labels=occurring, average="macro", zero_division=0)
    assert trained.log.curves[-1]["dev/macro_f1"] == pytest.approx(100 * macro, abs=1e-4)


class Odd(Prompted):
    """Gives a row of scores that are neither all numbers nor all NaN."""

    def scores(self, output: Tensor, batch: Batch) -> Tensor:
        scores = torch.zeros(len(output), len(self.labels))
        scores[0, 0] = torch.nan
        return scores


class Forgetful(LastWordReader):
    """A reader that leaves out the last turn of a dialogue."""

    def examples(self, dialogue: Dialogue, *, training: bool = False) -> list[Example]:
        return super().examples(dialogue)[:-1]


class Repeating(LastWordReader):
    """A reader that asks about every turn twice."""

    def examples(self, dialogue: Dialogue, *, training: bool = False) -> list[Example]:
        return 2 * super().examples(dialogue)


def test_wrong_scores_or_examples_are_a_defect_of_the_method(small_demo, tmp_path) -> None:
    def predict(kind: type[Prompted], reader: type[LastWordReader] = LastWordReader) -> None:
        method = kind(PromptedConfig(), small_demo.labels)
        method.reader = reader(len(small_demo.labels))
        train(method, ErcDataModule(small_demo, method), tmp_path).predict("test")

    predict(Prompted)
    with pytest.raises(RuntimeError, match=r"Odd gives scores .* neither"):
        predict(Odd)
    for reader in (Forgetful, Repeating):
        with pytest.raises(RuntimeError, match=r"not exactly its .* labelled ones"):
            predict(Prompted, reader)


def test_a_diverged_training_is_not_taken_for_no_answer(small_demo, tiny_encoder, tmp_path) -> None:
    trained = fitted(Adapter, AdapterConfig(encoder=tiny_encoder, epochs=1), small_demo, tmp_path)
    with torch.no_grad():
        trained.method.adapter[-1].bias.fill_(torch.nan)
    with pytest.raises(ErcBenchError, match="diverged"):
        trained.predict("test")


def test_a_missing_function_of_a_method_is_named(small_demo) -> None:
    method = ErcMethod(MethodConfig(encoder=""), small_demo.labels)
    for call, name in (
        (lambda: method.forward({}), "forward"),
        (lambda: method.loss(None, {}), "loss"),
    ):
        with pytest.raises(NotImplementedError, match=f"ErcMethod.*{name}"):
            call()


# --- saving a part of the weights


def test_checkpoints_hold_only_the_saved_part_and_a_run_resumes_from_them(
    small_demo, tiny_encoder, tmp_path
) -> None:
    config = AdapterConfig(encoder=tiny_encoder)
    whole, _ = resumed_equals_uninterrupted(Adapter, config, small_demo, tmp_path)
    losses = [epoch["train/loss"] for epoch in whole.log.curves]
    assert losses[-1] < losses[0]
    small = {"0.weight", "0.bias", "2.weight", "2.bias"}
    checkpoints = list((tmp_path / "whole").glob("*.ckpt"))
    assert len(checkpoints) > 1
    for checkpoint in checkpoints:
        assert read_checkpoint(checkpoint)["state_dict"].keys() == small
    before = load_encoder(tiny_encoder).state_dict()
    after = whole.method.encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_saved_weights_that_do_not_fit_are_one_error(small_demo, tiny_encoder, tmp_path) -> None:
    method = Adapter(AdapterConfig(encoder=tiny_encoder), small_demo.labels)
    path = tmp_path / "model.ckpt"
    for state in ({}, {"0.weight": torch.zeros(1)}, Hesitant.state_dict(method)):
        torch.save({"state_dict": state}, path)
        with pytest.raises(ErcBenchError, match="does not fit Adapter") as caught:
            load_checkpoint(method, path)
        assert "\n" not in str(caught.value)


def test_a_model_with_a_saved_part_predicts_again(registered, demo, tiny_encoder, tmp_path) -> None:
    outcome = run_of("adapter", tmp_path, f"encoder={tiny_encoder}", "epochs=1")
    record = outcome.record
    assert_scored(record)
    (weights,) = tmp_path.glob("runs/*/*/*/model*.ckpt")
    assert weights.name == record.model.file
    assert len(read_checkpoint(weights)["state_dict"]) == 4
    every = sum(p.numel() for p in load_encoder(tiny_encoder).parameters())
    assert record.training.parameters > every
    answers = Model(outcome.path, record).answers(demo.dialogues("test"))
    labels = [record.labels.index(answer.label) for answer in answers]
    turns = [u for d in demo.dialogues("test") for u in d.utterances]
    of_labelled = [c for c, u in zip(labels, turns, strict=True) if u.label is not None]
    assert of_labelled == record.predictions.test.predicted


# --- optional hooks


def test_hooks_are_called_in_order_with_what_they_need(small_demo, tiny_encoder, tmp_path) -> None:
    config = AdapterConfig(encoder=tiny_encoder, epochs=3, lr=0.3)
    trained = fitted(Staged, config, small_demo, tmp_path)
    first, *course, last = trained.method.calls
    assert first == ("prepare", "demo")
    expected = [(hook, e) for e in range(3) for hook in ("epoch_examples", "after_epoch")]
    assert course == expected
    best = trained.log.best_epoch("weighted_f1")
    assert last == ("adapt", "demo", best == 2)
    assert not trained.method.adapter[-1].bias.any()
    predicted = trained.predict("test")
    even = predicted.rows % 2 == 0
    right = (predicted.classes == trained.data.gold[predicted.rows])[even].float().mean().item()
    assert predicted.extra == {"even_accuracy": pytest.approx(100 * right, abs=1e-4)}


def test_further_figures_of_a_method_are_recorded(registered, tiny_encoder, tmp_path) -> None:
    record = run_of("staged", tmp_path, f"encoder={tiny_encoder}", "epochs=1").record
    assert 0 <= record.metrics.test.extra["even_accuracy"] <= 100
    assert record.encoder.extra["stages"] == 2
