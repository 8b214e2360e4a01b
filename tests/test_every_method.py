"""What every registered method must do; a new method adds one line to ``METHODS``."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fitting import Fitted, resumed_equals_uninterrupted
from lightning import Callback

from erc_bench.corpus.conversation import Corpus, Dialogue, LabelSet, Utterance
from erc_bench.errors import ErcBenchError
from erc_bench.execution import recording
from erc_bench.execution.recording import make_record
from erc_bench.execution.run import run
from erc_bench.method.datamodule import ErcDataModule
from erc_bench.records.schema import Predictions, parse_record, to_json
from erc_bench.settings.experiment import Experiment, resolve
from erc_bench.settings.registry import method_class, method_names
from erc_bench.training.checkpoints import load_weights
from erc_bench.training.trainer import build_trainer, predict

METHODS = {
    "eacl": ["encoder_lr=0.003", "lr=0.003", "lr_decay=0.9", "max_len=64", "batch_size=32"],
    "finetune": ["encoder_lr=0.003", "lr=0.005", "max_len=64"],
    "sacl-lstm": [
        *("lr=0.003", "batch_size=8", "accumulate=1", "epsilon=1", "features.lr=0.003"),
        *("features.epochs=4", "features.max_batches=0", "features.max_len=64"),
        "features.batch_size=16",
    ],
    "speaker-mtl": ["encoder_lr=0.002", "lr=0.005", "max_len=64"],
    "spcl": ["encoder_lr=0.003", "lr=0.005", "temperature=0.1", "epochs=12", "max_len=64"],
}
"""Every method with the settings by which it learns with a tiny encoder of random weights."""

ALWAYS = ("precision=float32", "max_batches=0", "evaluation.batch_size=64")


def test_every_registered_method_is_tested() -> None:
    assert set(METHODS) == set(method_names())


def config(method: str, encoder: str, *overrides: str):
    settings = [f"encoder={encoder}", *ALWAYS, *METHODS[method], *overrides]
    return resolve(method, "demo", preset="smoke", overrides=settings).config


@pytest.fixture(scope="module", params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> str:
    """The name of each method in turn."""
    return request.param


def talk(name: str, turns: int, speakers: int = 2, every: int = 1, classes: int = 3) -> Dialogue:
    """A made-up dialogue; only every so-many-th turn is labelled."""
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
def fitted(method: str, odd: Corpus, tiny_encoder: str, tmp_path_factory) -> Fitted:
    """The method after two epochs on the odd corpus."""
    folder = tmp_path_factory.mktemp(method)
    settings = config(method, tiny_encoder, "epochs=2")
    fitted = Fitted(method_class(method), settings, odd, folder)
    fitted.select()
    return fitted


def predict_on(fitted: Fitted, corpus: Corpus) -> dict[str, torch.Tensor]:
    """Probabilities ``(C,)`` by utterance id on the test split of another corpus."""
    datamodule = ErcDataModule(corpus, fitted.method)
    fitted.method.prepare(datamodule)
    rows, probabilities = predict(fitted.trainer, fitted.method, datamodule, "test")
    ids = [datamodule.ids[row] for row in rows]
    return dict(zip(ids, probabilities, strict=True))


def test_odd_dialogues_are_scored_and_unlabelled_turns_are_not(fitted: Fitted, odd: Corpus) -> None:
    scored = predict_on(fitted, odd)
    wanted = [u.id for d in odd.dialogues("test") for u in d.utterances if u.label is not None]
    assert sorted(scored) == sorted(wanted)
    assert all(torch.isfinite(p).all() for p in scored.values())
    assert all(abs(p.sum().item() - 1) < 1e-5 for p in scored.values())


def test_the_declared_context_holds(fitted: Fitted, odd: Corpus) -> None:
    """Causality: altering later turns leaves a ``past`` method's predictions unchanged."""
    dialogue = odd.dialogues("test")[3]
    cut = 5
    altered = Dialogue(
        dialogue.id,
        tuple(
            u
            if i < cut
            else replace(u, text="Leave me alone! I hate it.", speaker="Zoe", name="Zoe", label=0)
            for i, u in enumerate(dialogue.utterances)
        ),
    )
    before, after = (
        predict_on(fitted, Corpus.build("demo", odd.labels, {"test": [d]}))
        for d in (dialogue, altered)
    )
    early = [u.id for u in dialogue.utterances[:cut] if u.label is not None]
    unchanged = all(torch.allclose(before[i], after[i], atol=1e-6) for i in early)
    assert len(early) == 3
    assert unchanged == (fitted.method.context == "past")


def test_a_prediction_does_not_depend_on_what_else_is_in_the_batch(
    fitted: Fitted, odd: Corpus
) -> None:
    together = predict_on(fitted, odd)
    for dialogue in odd.dialogues("test")[:3]:
        alone = predict_on(fitted, Corpus.build("demo", odd.labels, {"test": [dialogue]}))
        for utterance, probabilities in alone.items():
            torch.testing.assert_close(probabilities, together[utterance], rtol=1e-4, atol=1e-5)


def test_a_checkpoint_predicts_the_same_in_a_new_object(
    method: str, fitted: Fitted, odd: Corpus, tiny_encoder: str
) -> None:
    best = Path(fitted.trainer.checkpoint_callback.best_model_path)
    settings = config(method, tiny_encoder, "epochs=2")
    another = method_class(method)(settings, odd.labels)
    datamodule = ErcDataModule(odd, another)
    another.prepare(datamodule)
    load_weights(another, best)
    _, ours = predict(fitted.trainer, another, datamodule, "test")
    _, theirs = fitted.predict("test")
    assert torch.equal(ours, theirs)


def test_a_resumed_training_equals_the_uninterrupted_one(
    method: str, small_demo: Corpus, tiny_encoder: str, tmp_path: Path
) -> None:
    settings = config(method, tiny_encoder, "epochs=3")
    whole, resumed = resumed_equals_uninterrupted(
        method_class(method), settings, small_demo, tmp_path
    )
    whole.select()
    resumed.select()
    assert torch.equal(whole.predict("test")[1], resumed.predict("test")[1])


class Steps(Callback):
    """The loss of every batch, and the gradients of every step of the optimiser."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        every = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.gradients.append(torch.cat(every).clone())


@pytest.mark.parametrize("method", ["eacl", "finetune", "speaker-mtl", "spcl"])
def test_accumulated_batches_keep_losses_of_their_own(
    method: str, small_demo: Corpus, tiny_encoder: str, tmp_path: Path
) -> None:
    seen = {}
    for k in (1, 2):
        still = ("epochs=1", "encoder_lr=1e-30", "lr=1e-30", f"accumulate={k}", "max_batches=4")
        seen[k] = Steps()
        folder = tmp_path / str(k)
        settings = config(method, tiny_encoder, *still)
        Fitted(method_class(method), settings, small_demo, folder, seen[k])
    assert len(set(seen[1].losses)) > 1
    # Lightning divides what it steps on by the number of batches, the contrast is within each.
    assert [2 * loss for loss in seen[2].losses] == pytest.approx(seen[1].losses, rel=1e-5)
    single = seen[1].gradients
    pairs = list(zip(single[::2], single[1::2], seen[2].gradients, strict=False))
    assert pairs
    for first, second, both in pairs:
        torch.testing.assert_close(both, (first + second) / 2, atol=1e-5, rtol=1e-3)


def test_bfloat16_trains_and_predicts_like_float32(
    method: str, odd: Corpus, tiny_encoder: str, tmp_path: Path
) -> None:
    settings = config(method, tiny_encoder, "epochs=2", "precision=bfloat16")
    fitted = Fitted(method_class(method), settings, odd, tmp_path)
    assert fitted.trainer.precision == "bf16-mixed"
    numbers = [value for epoch in fitted.log.curves for value in epoch.values()]
    assert all(math.isfinite(value) for value in numbers)
    assert {value.dtype for value in fitted.last.values() if value.is_floating_point()} == {
        torch.float32
    }
    predictions = {split: fitted.predict(split) for split in ("dev", "test")}
    with torch.no_grad(), fitted.trainer.precision_plugin.forward_context():
        for batch in fitted.datamodule.evaluation_loader("test"):
            # In bfloat16 many of an utterance's scores would be equal.
            assert fitted.method.scores(batch).dtype == torch.float32
    experiment = Experiment(method, "demo", "smoke", 1, settings)
    record = make_record(
        experiment, fitted.method, fitted.datamodule, fitted.trainer, fitted.log, predictions, 1.0
    )
    contents = json.dumps(to_json(record), allow_nan=False).encode()
    assert parse_record(contents, tmp_path / "r.json") == record
    for each in record.predictions.test.probabilities:
        assert sum(each) == pytest.approx(1, abs=1e-3)
        assert each == [round(p, 4) for p in each]
    _, half = predictions["test"]
    plain = build_trainer(
        method_class(method)(replace(settings, precision="float32"), odd.labels), tmp_path, []
    )
    _, full = predict(plain, fitted.method, fitted.datamodule, "test")
    assert half.dtype == full.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=0.05, rtol=0)


def test_a_method_can_not_score_itself(small_demo: Corpus) -> None:
    class Boasting:
        def extra_metrics(self, datamodule: object, split: str) -> dict[str, float]:
            return {"accuracy": 100.0, "speed": 1.0}

    datamodule = SimpleNamespace(corpus=small_demo)
    stored = Predictions(
        ids=["a", "b"], gold=[0, 1], predicted=[1, 0], probabilities=[[0.0, 1.0] + [0.0] * 5] * 2
    )
    with pytest.raises(ErcBenchError, match="Boasting reports a metric 'accuracy' of its own"):
        recording._metrics(Boasting(), datamodule, "test", stored)


def test_it_learns_the_demo_corpus(method: str, demo: Corpus, tiny_encoder: str, tmp_path) -> None:
    settings = [f"encoder={tiny_encoder}", *ALWAYS, "epochs=5", *METHODS[method]]
    outcome = run(resolve(method, "demo", preset="smoke", overrides=settings), tmp_path)
    record = outcome.record
    gold = torch.tensor(record.predictions.test.gold)
    majority = gold.bincount().max().item() / len(gold)
    assert record.metrics.test.accuracy > 100 * majority + 15
    losses = [epoch["train/loss"] for epoch in record.training.curves]
    assert losses[-1] < 0.9 * losses[0]
    assert record.context in ("past", "full")
    again = method_class(method)(
        resolve(method, "demo", preset="smoke", overrides=settings).config, demo.labels
    )
    datamodule = ErcDataModule(demo, again)
    again.prepare(datamodule)
    folder = outcome.path.parents[3] / "runs" / "demo" / method / outcome.path.stem
    load_weights(again, folder / "model.ckpt")
    trainer = build_trainer(again, tmp_path / "again", [])
    _, probabilities = predict(trainer, again, datamodule, "test")
    stored = torch.tensor(record.predictions.test.probabilities)
    torch.testing.assert_close(probabilities, stored, atol=6e-5, rtol=0)
