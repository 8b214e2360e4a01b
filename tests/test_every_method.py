"""What every registered method must do; a new method adds one line to ``METHODS``."""

import json
import math
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LANGUAGE_MODELS
from fitting import (
    declared_context_holds,
    fitted,
    last_state,
    predicted_on,
    resumed_equals_uninterrupted,
)
from lightning import Callback
from torch.utils.data import DataLoader, Dataset

from erc_bench.corpus.conversation import Corpus, Dialogue, LabelSet, Utterance
from erc_bench.encoders.locating import find_encoder
from erc_bench.errors import ErcBenchError
from erc_bench.execution.recording import make_record
from erc_bench.execution.run import run
from erc_bench.inference.model import check_states
from erc_bench.method.data import ErcDataModule
from erc_bench.method.ragged import Columns, take
from erc_bench.method.reader import Reader
from erc_bench.methods.eacl import anchor_scores
from erc_bench.methods.spcl import class_similarity
from erc_bench.records.parsing import parse_record
from erc_bench.records.place import Identity, model_file
from erc_bench.records.schema import to_json
from erc_bench.settings.experiment import Experiment, resolve
from erc_bench.settings.registry import method_class, method_names, plugin
from erc_bench.training.checkpoints import load_checkpoint
from erc_bench.training.scoring import predict
from erc_bench.training.train import Trained, build_trainer, prepare

VECTORS = (
    *("features.lr=0.003", "features.epochs=4", "features.max_batches=0"),
    *("features.max_len=64", "features.batch_size=16"),
)
"""Settings for utterance vectors from which the demo corpus can be learnt."""

METHODS = {
    "dag-erc": ["lr=0.003", "batch_size=8", *VECTORS],
    "dialogue-rnn": ["lr=0.003", "batch_size=8", *VECTORS],
    "eacl": ["encoder_lr=0.003", "lr=0.003", "lr_decay=0.9", "max_len=64", "batch_size=32"],
    "emoberta": ["encoder_lr=0.003", "lr=0.005", "max_len=64"],
    "finetune": ["encoder_lr=0.003", "lr=0.005", "max_len=64"],
    "lora-lm": [
        *("lr=0.004", "max_len=256", "window=2", "batch_size=16", "micro_batch=16", "dropout=0"),
        *("checkpointing=false", "epochs=2"),
    ],
    "prompt-lm": ["keep=false", "window=3", "examples=2"],
    "sacl-lstm": ["lr=0.003", "batch_size=8", "accumulate=1", "epsilon=1", *VECTORS],
    "speaker-mtl": ["encoder_lr=0.002", "lr=0.005", "max_len=64"],
    "spcl": ["encoder_lr=0.003", "lr=0.005", "temperature=0.1", "epochs=12", "max_len=64"],
}
"""Every method, with settings that let it learn with a tiny encoder of random weights."""

LEARNERS = sorted(METHODS.keys() - {"prompt-lm"})
"""The methods that train."""

ALWAYS = ("precision=float32", "max_batches=0", "evaluation.batch_size=64")


def test_every_registered_method_is_tested() -> None:
    assert set(METHODS) == set(method_names())
    assert [name for name in sorted(METHODS) if method_class(name).trains] == LEARNERS


def config(method: str, encoder: str, *overrides: str):
    settings = [f"encoder={encoder}", *ALWAYS, *METHODS[method], *overrides]
    return resolve(method, "demo", preset="smoke", overrides=settings).config


@pytest.fixture(scope="module", params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> str:
    """The name of each method in turn."""
    return request.param


@pytest.fixture(scope="module")
def tiny_encoder(method: str, request: pytest.FixtureRequest, tiny_encoder: str) -> str:
    """The folder of a tiny model of the kind that the method reads."""
    causal = method in LANGUAGE_MODELS
    return request.getfixturevalue("tiny_causal") if causal else tiny_encoder


every_learner = pytest.mark.parametrize("method", LEARNERS, scope="module")


def talk(name: str, turns: int, speakers: int = 2, every: int = 1, classes: int = 3) -> Dialogue:
    """A made-up dialogue; only every ``every``-th turn is labelled."""
    words = ("I am so happy today.", "This is awful!", "Well, I see.", "Leave me alone!")
    return Dialogue(
        name,
        tuple(
            Utterance(
                f"{name}-u{i}",
                f"Speaker {i % speakers}",
                words[(i * i + len(name)) % len(words)],
                (i * i + len(name)) % classes if i % every == 0 else None,
            )
            for i in range(turns)
        ),
    )


@pytest.fixture(scope="module")
def odd() -> Corpus:
    """Every odd shape of a dialogue, and a class that dev and test lack."""
    labels = LabelSet(("joy", "anger", "neutral", "sadness"))
    unlabelled = tuple(replace(u, label=None) for u in talk("train-unlabelled", 3).utterances)
    return Corpus.build(
        "demo",
        labels,
        {
            "train": [
                talk("train-one-turn", 1),
                replace(talk("train-unlabelled", 3), utterances=unlabelled),
                talk("train-one-speaker", 6, speakers=1),
                talk("train-long", 167, speakers=3, every=2),
                *(talk(f"train-{'x' * n}", 5 + n, classes=4) for n in range(6)),
            ],
            "dev": [talk("dev-a", 7), talk("dev-one-turn", 1)],
            "test": [
                talk("test-one-turn", 1),
                talk("test-one-speaker", 5, speakers=1),
                talk("test-long", 167, every=3),
                talk("test-b", 9, speakers=4, every=2),
            ],
        },
    )


@pytest.fixture(scope="module")
def trained(method: str, odd: Corpus, tiny_encoder: str, tmp_path_factory) -> Trained:
    """The method after two epochs on the odd corpus."""
    settings = config(method, tiny_encoder, "epochs=2")
    return fitted(method_class(method), settings, odd, tmp_path_factory.mktemp(method))


def test_odd_dialogues_are_scored_and_unlabelled_turns_are_not(
    trained: Trained, odd: Corpus
) -> None:
    scored = predicted_on(trained, odd)
    wanted = [u.id for d in odd.dialogues("test") for u in d.utterances if u.label is not None]
    assert sorted(scored) == sorted(wanted)
    assert all(torch.isfinite(p).all() for p in scored.values())
    assert all(abs(p.sum().item() - 1) < 1e-5 for p in scored.values())


def test_the_declared_context_holds(trained: Trained, odd: Corpus) -> None:
    """Causality: altering later turns leaves a ``past`` method's predictions unchanged."""
    assert declared_context_holds(trained, odd.dialogues("test")[3], 5)


def test_a_prediction_does_not_depend_on_what_else_is_in_the_batch(
    trained: Trained, odd: Corpus
) -> None:
    together = predicted_on(trained, odd)
    for dialogue in odd.dialogues("test")[:3]:
        alone = predicted_on(trained, Corpus.build("demo", odd.labels, {"test": [dialogue]}))
        for utterance, probabilities in alone.items():
            torch.testing.assert_close(probabilities, together[utterance], rtol=1e-4, atol=1e-5)


def from_anchors(method: Any, states: torch.Tensor) -> torch.Tensor:
    anchors = method.adapted_anchors
    anchors = anchors if len(anchors) else method.network.mapped_anchors()
    return anchor_scores(states, anchors, method.config.temperature)


def from_centers(method: Any, states: torch.Tensor) -> torch.Tensor:
    return class_similarity(states, method.prototypes.centers) / method.config.temperature


LAST_STEPS = {
    "dag-erc": lambda method, states: method.network.head(states),
    "dialogue-rnn": lambda method, states: method.network.head(states),
    "eacl": from_anchors,
    "emoberta": lambda method, states: method.head(states),
    "finetune": lambda method, states: method.head(states),
    "sacl-lstm": lambda method, states: method.network.log_probs(states),
    "speaker-mtl": lambda method, states: method.network.cer_head(states),
    "spcl": from_centers,
}
"""The step from states to scores, for each method that classifies states."""


def test_scores_follow_from_the_states(method: str, trained: Trained) -> None:
    if method not in LAST_STEPS:
        with pytest.raises(ErcBenchError, match="classifies no state"):
            check_states(type(trained.method), method)
        return
    prepare(trained.method, trained.data)  # other tests predicted other dialogues
    loader = trained.data.evaluation_loader("test")
    found = trained.trainer.predict(trained.method, loader)
    trained.method.eval()
    for batch, states in zip(loader, found, strict=True):
        assert torch.equal(batch["rows"], states["rows"])
        with torch.no_grad():
            wanted = trained.method.scores(trained.method(batch), batch)
            scores = LAST_STEPS[method](trained.method, states["states"])
        torch.testing.assert_close(scores, wanted, rtol=1e-4, atol=1e-5)
        if (anchors := trained.method.anchors()) is not None:
            cosines = torch.cosine_similarity(states["states"][:, None], anchors[None], dim=-1)
            assert torch.equal(cosines.argmax(dim=1), wanted.argmax(dim=1))


def test_a_checkpoint_predicts_the_same_in_a_new_object(
    method: str, trained: Trained, odd: Corpus, tiny_encoder: str, tmp_path: Path
) -> None:
    theirs = trained.predict("test").probabilities
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": trained.method.saved_state()}, path)
    another = method_class(method)(config(method, tiny_encoder, "epochs=2"), odd.labels)
    data = ErcDataModule(odd, another)
    load_checkpoint(another, path)
    prepare(another, data)
    assert torch.equal(predict(build_trainer(another), another, data, "test").probabilities, theirs)


@pytest.mark.slow
@every_learner
def test_a_resumed_training_equals_the_uninterrupted_one(
    method: str, small_demo: Corpus, tiny_encoder: str, tmp_path: Path
) -> None:
    settings = config(method, tiny_encoder, "epochs=3")
    resumed_equals_uninterrupted(method_class(method), settings, small_demo, tmp_path)


def as_lists(value):
    """The contents of a batch as lists, so that two batches can be compared."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return [None if part is None else part.tolist() for part in value]
    if isinstance(value, dict):
        return {key: as_lists(part) for key, part in value.items()}
    return [as_lists(part) for part in value] if isinstance(value, list) else value


class Batches(Dataset):
    """The batch of each list of example numbers, collated by a reader that was pickled."""

    def __init__(self, reader: Reader, columns: Columns) -> None:
        self.pickled = pickle.dumps((reader, columns))

    def __getitem__(self, examples):
        reader, columns = pickle.loads(self.pickled)
        taken = {name: take(column, examples) for name, column in columns.items()}
        return os.getpid(), reader.collate(taken)


def test_a_reader_makes_the_same_batches_in_other_processes(trained: Trained, odd: Corpus) -> None:
    prepare(trained.method, trained.data)  # other tests predicted other dialogues
    reader, columns = trained.method.reader, trained.data.columns["test"]
    copy = pickle.loads(pickle.dumps(reader))
    for dialogue in odd.dialogues("train"):
        for training in (False, True):
            ours = reader.examples(dialogue, training=training)
            assert copy.examples(dialogue, training=training) == ours
    assert not [value for value in vars(reader).values() if isinstance(value, torch.nn.Module)]
    numbers = np.array_split(np.arange(len(columns["dialogue"])), 3)
    batches = Batches(reader, columns)
    made = list(DataLoader(batches, sampler=numbers, batch_size=None, num_workers=2))
    assert len({process for process, _ in made} - {os.getpid()}) == 2
    for (_, batch), each in zip(made, numbers, strict=True):
        expected = reader.collate({name: take(column, each) for name, column in columns.items()})
        assert as_lists(batch) == as_lists(expected)


class Untouched(Callback):
    """Records the contents of each batch before and after its step."""

    def __init__(self) -> None:
        self.before: list[dict[str, int]] = []
        self.after: list[dict[str, int]] = []
        self.activations: list[str] = []

    @staticmethod
    def held(batch) -> dict[str, int]:
        return {name: id(value) for name, value in batch.items()}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before.append(self.held(batch))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.after.append(self.held(batch))
        tensors = [(n, v) for n, v in batch.items() if isinstance(v, torch.Tensor)]
        self.activations += [name for name, value in tensors if value.grad_fn is not None]

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.before.append(self.held(batch))

    def on_validation_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ):
        self.after.append(self.held(batch))

    on_test_batch_start, on_test_batch_end = on_validation_batch_start, on_validation_batch_end


@pytest.mark.slow
@every_learner
def test_nothing_is_put_into_a_batch(
    method: str, small_demo: Corpus, tiny_encoder: str, tmp_path: Path
) -> None:
    """Activations that a method puts into a batch would stay in memory until the next step."""
    settings = config(method, tiny_encoder, "epochs=1", "max_batches=2")
    batches = Untouched()
    trained = fitted(method_class(method), settings, small_demo, tmp_path, batches)
    trained.predict("test")
    assert len(batches.before) >= 4
    assert batches.before == batches.after
    assert not batches.activations


class Steps(Callback):
    """Records the loss of every batch and the gradients of every step of the optimiser."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        every = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.gradients.append(torch.cat(every).clone())


@pytest.mark.parametrize(
    "method", ["eacl", "emoberta", "finetune", "speaker-mtl", "spcl"], scope="module"
)
def test_accumulated_batches_keep_losses_of_their_own(
    method: str, small_demo: Corpus, tiny_encoder: str, tmp_path: Path
) -> None:
    seen = {}
    for k in (1, 2):
        still = ("epochs=1", "encoder_lr=1e-30", "lr=1e-30", f"accumulate={k}", "max_batches=4")
        seen[k] = Steps()
        folder = tmp_path / str(k)
        settings = config(method, tiny_encoder, *still)
        fitted(method_class(method), settings, small_demo, folder, seen[k])
    assert len(set(seen[1].losses)) > 1
    # Lightning divides each loss by the number of accumulated batches. The contrast stays within
    # each batch.
    assert [2 * loss for loss in seen[2].losses] == pytest.approx(seen[1].losses, rel=1e-5)
    single = seen[1].gradients
    pairs = list(zip(single[::2], single[1::2], seen[2].gradients, strict=False))
    assert pairs
    for first, second, both in pairs:
        torch.testing.assert_close(both, (first + second) / 2, atol=1e-5, rtol=1e-3)


@pytest.mark.slow
@every_learner
def test_bfloat16_trains_and_predicts_like_float32(
    method: str, odd: Corpus, tiny_encoder: str, tmp_path: Path
) -> None:
    settings = config(method, tiny_encoder, "epochs=2", "precision=bfloat16")
    trained = fitted(method_class(method), settings, odd, tmp_path)
    assert trained.trainer.precision == "bf16-mixed"
    numbers = [value for epoch in trained.log.curves for value in epoch.values()]
    assert all(math.isfinite(value) for value in numbers)
    weights = [value for value in last_state(tmp_path).values() if value.is_floating_point()]
    assert {value.dtype for value in weights} == {torch.float32}
    half = trained.predict("test").probabilities
    with torch.no_grad(), trained.trainer.precision_plugin.forward_context():
        for batch in trained.data.evaluation_loader("test"):
            # In bfloat16 many of an utterance's scores would be equal.
            output = trained.method(batch)
            assert trained.method.scores(output, batch).dtype == torch.float32
    plain = build_trainer(method_class(method)(replace(settings, precision="float32"), odd.labels))
    full = predict(plain, trained.method, trained.data, "test").probabilities
    assert half.dtype == full.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=0.05, rtol=0)


@pytest.mark.slow
def test_the_record_of_bfloat16_holds_probabilities(
    method: str, odd: Corpus, tiny_encoder: str, tmp_path: Path
) -> None:
    settings = config(method, tiny_encoder, "epochs=1", "precision=bfloat16")
    trained = fitted(method_class(method), settings, odd, tmp_path)
    record = make_record(
        Experiment(method, "demo", "smoke", 1, settings),
        trained,
        Identity(odd.digest, settings.encoder, find_encoder(settings.encoder).digest),
        predictions={split: trained.predict(split) for split in ("dev", "test")},
        model=("model.ckpt", "0" * 64),
        plugin=plugin(method),
        wall_seconds=1.0,
    )
    contents = json.dumps(to_json(record), allow_nan=False).encode()
    assert parse_record(contents, tmp_path / "r.json") == record
    assert record.predictions.test.probabilities
    for each in record.predictions.test.probabilities:
        assert sum(each) == pytest.approx(1, abs=1e-3)
        assert each == [round(p, 4) for p in each]


@pytest.mark.slow
@every_learner
def test_it_learns_the_demo_corpus(method: str, demo: Corpus, tiny_encoder: str, tmp_path) -> None:
    settings = [f"encoder={tiny_encoder}", *ALWAYS, "epochs=5", *METHODS[method]]
    experiment = resolve(method, "demo", preset="smoke", overrides=settings)
    outcome = run(experiment, tmp_path)
    record = outcome.record
    gold = torch.tensor(record.predictions.test.gold)
    majority = gold.bincount().max().item() / len(gold)
    assert record.metrics.test.accuracy > 100 * majority + 15
    losses = [epoch["train/loss"] for epoch in record.training.curves]
    assert losses[-1] < 0.9 * losses[0]
    assert record.context in ("past", "full")
    again = method_class(method)(experiment.config, demo.labels)
    data = ErcDataModule(demo, again)
    load_checkpoint(again, model_file(outcome.path, record))
    prepare(again, data)
    probabilities = predict(build_trainer(again), again, data, "test").probabilities
    stored = torch.tensor(record.predictions.test.probabilities)
    torch.testing.assert_close(probabilities, stored, atol=6e-5, rtol=0)
