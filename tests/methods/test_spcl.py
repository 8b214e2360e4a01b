"""SPCL-CL against its reference figures, its queues, curriculum and augmentation."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import golden_file
from fitting import fitted, last_state
from lightning import Callback
from torch import Tensor

from erc_bench.corpus.conversation import Corpus, Dialogue, LabelSet, Utterance
from erc_bench.errors import ErcBenchError
from erc_bench.evaluation.metrics import weighted_f1
from erc_bench.method.data import ErcDataModule
from erc_bench.method.ragged import take
from erc_bench.methods.prompts import PrototypeReader, is_lookback
from erc_bench.methods.spcl import (
    SPCL,
    Prototypes,
    SPCLConfig,
    class_centers,
    class_similarity,
    difficulty,
    drawn_examples,
    keep_probabilities,
    rate,
    spcl_loss,
)
from erc_bench.settings.experiment import resolve

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


class Figures:
    """The reference figures under one prefix."""

    def __init__(self, prefix: str) -> None:
        self.all = np.load(golden_file("spcl.npz"), allow_pickle=False)
        self.prefix = prefix

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(np.asarray(self.all[f"{self.prefix}/{name}"]))

    def steps(self) -> int:
        return sum(k.startswith(self.prefix) and k.endswith("out/loss") for k in self.all)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7, check_dtype=False)


@pytest.mark.parametrize("decoupled", [False, True])
def test_a_single_example_without_prototypes_has_no_loss(decoupled: bool) -> None:
    """There is nothing to compare it with; with the cross-entropy it would still be learnt."""
    h = torch.randn(1, 8, requires_grad=True)
    loss = spcl_loss(h, torch.tensor([2]), torch.empty(0, 8), 0.05, decoupled)
    loss.backward()
    assert loss == 0
    assert h.grad is not None
    assert not h.grad.any()


def test_a_very_low_temperature_has_finite_gradients() -> None:
    torch.manual_seed(0)
    centres, labels = torch.randn(7, 384), torch.randint(0, 7, (32,))
    h = centres[labels] + 0.05 * torch.randn(32, 384)
    h[0] = -5 * h.mean(dim=0)  # far from all others
    h.requires_grad_()
    spcl_loss(h, labels, centres, 0.005).backward()
    assert h.grad is not None
    assert h.grad.isfinite().all()


# --- the authors' figures ---


@pytest.mark.parametrize("number", range(5))
def test_losses_and_gradients_are_the_authors(number: int) -> None:
    case = Figures(f"loss{number}")
    pool, support = int(case["pool_size"]), int(case["support_set_size"])
    prototypes = Prototypes(*case["centers"].shape, pool, support)
    prototypes.reset(case["centers"])
    assert case.steps() > 1
    for step in range(case.steps()):
        h = case[f"step{step}/reps"].requires_grad_()
        labels = case[f"step{step}/labels"]
        decoupled = bool(case["decoupled"])
        loss = spcl_loss(h, labels, prototypes.draw(), float(case["temperature"]), decoupled)
        prototypes.push(h, labels)
        loss.backward()
        close(loss, case[f"step{step}/out/loss"])
        assert h.grad is not None
        close(h.grad, case[f"step{step}/out/grad_reps"])


@pytest.mark.parametrize("number", range(2))
def test_centres_difficulty_order_and_scores_are_the_authors(number: int) -> None:
    case = Figures(f"curriculum{number}")
    h, labels = case["reps"], case["labels"]
    centers = class_centers(h, labels, len(case["out/centers"]))
    hardness = difficulty(h, labels, centers)
    close(centers, case["out/centers"])
    close(hardness, case["out/difficulty"])
    assert torch.equal(hardness.argsort(stable=True), case["out/order_easy_to_hard"])
    close(class_similarity(h, centers), case["out/prototype_scores"])


@pytest.mark.parametrize(("number", "epochs"), [(0, (0, 5, 10)), (1, (0, 8, 16))])
def test_keep_probabilities_are_the_authors(number: int, epochs: tuple[int, ...]) -> None:
    case = Figures(f"curriculum{number}")
    for epoch in epochs:
        ours = keep_probabilities(len(case["labels"]), epoch, int(case["epochs"]))
        close(torch.from_numpy(ours), case[f"out/keep_probability_epoch{epoch}"])


@pytest.mark.parametrize("max_len", [256, 96])
def test_prompts_are_the_authors(max_len: int) -> None:
    figures = json.loads(golden_file("prompts.json").read_text(encoding="utf-8"))
    reader = PrototypeReader(MINILM, max_len)
    ours = []
    for d, turns in enumerate(figures["dialogues"]):
        utterances = tuple(
            Utterance(f"{d}-{i}", t["speaker"], t["text"], t["label"] if t["label"] >= 0 else None)
            for i, t in enumerate(turns)
        )
        for example in reader.examples(Dialogue(str(d), utterances)):
            (target,) = example["targets"]
            ours.append({"input_ids": example["input_ids"], "label": utterances[target].label})
    assert ours == figures["expected"]["spcl"][str(max_len)]


# --- queues ---


class PlainQueues:
    """Queues as lists, vector by vector; they draw the same random numbers as the tensors do."""

    def __init__(self, centers: Tensor, pool: int, support: int, generator: torch.Generator):
        self.centers, self.pool, self.support, self.generator = centers, pool, support, generator
        self.queues = [[center] for center in centers]

    def draw(self) -> Tensor:
        keys = torch.rand(len(self.queues), self.pool, generator=self.generator)
        prototypes = []
        for c, queue in enumerate(self.queues):
            if len(queue) < self.support:
                prototypes.append(self.centers[c])
                continue
            drawn = sorted(range(len(queue)), key=lambda i: keys[c, i].item())[: self.support]
            prototypes.append(torch.stack([queue[i] for i in drawn]).mean(dim=0))
        return torch.stack(prototypes)

    def push(self, h: Tensor, labels: Tensor) -> None:
        keys = torch.rand(len(self.queues), self.pool + len(h), generator=self.generator)
        for c, queue in enumerate(self.queues):
            held = [(keys[c, i].item(), vector) for i, vector in enumerate(queue)]
            for b, vector in enumerate(h):
                if labels[b] == c:
                    held.append((keys[c, self.pool + b].item(), vector))
            held.sort(key=lambda pair: pair[0])
            self.queues[c] = [vector for _, vector in held[: self.pool]]


@pytest.mark.parametrize(("pool", "support"), [(12, 5), (6, 6), (40, 1)])
def test_queues_and_prototypes_are_those_of_plain_lists(pool: int, support: int) -> None:
    numbers = torch.Generator().manual_seed(3)
    centers = torch.randn(4, 8, generator=numbers)
    ours = Prototypes(4, 8, pool, support)
    ours.reset(centers)
    generator = torch.Generator().manual_seed(11)
    plain = PlainQueues(centers, pool, support, torch.Generator().manual_seed(11))
    drawn_from_a_queue = False
    for _ in range(10):
        h = torch.randn(9, 8, generator=numbers)
        labels = torch.randint(0, 3, (9,), generator=numbers)  # emotion 3 has no example
        prototypes = ours.draw(generator)
        torch.testing.assert_close(prototypes, plain.draw())
        ours.push(h, labels, generator)
        plain.push(h, labels)
        assert ours.counts.tolist() == [len(queue) for queue in plain.queues]
        for c, queue in enumerate(plain.queues):
            assert torch.equal(ours.queues[c, : len(queue)], torch.stack(queue))
        drawn_from_a_queue |= not torch.equal(prototypes[0], centers[0])
    assert drawn_from_a_queue
    assert torch.equal(ours.queues[3, 0], centers[3])


def test_new_centres_empty_the_queues() -> None:
    prototypes = Prototypes(2, 3, pool_size=8, support_size=2)
    prototypes.reset(torch.randn(2, 3))
    prototypes.push(torch.randn(6, 3), torch.tensor([0, 0, 0, 1, 1, 1]))
    centers = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    prototypes.reset(centers)
    assert prototypes.counts.tolist() == [1, 0]  # the second class has no example
    assert torch.equal(prototypes.draw(), centers)


def test_a_class_without_examples_is_never_predicted() -> None:
    centers = class_centers(torch.randn(20, 6), torch.arange(20) % 3, 4)
    scores = class_similarity(torch.randn(500, 6), centers)
    assert torch.all(scores[:, 3] < scores[:, :3].min(dim=1).values)
    assert torch.isfinite(difficulty(torch.randn(5, 6), torch.arange(5) % 3, centers)).all()


# --- curriculum and augmentation ---


def test_draws_follow_the_keep_probabilities(tiny_encoder, small_demo) -> None:
    config = SPCLConfig(encoder=tiny_encoder, epochs=4, augmentation=0.0)
    method = SPCL(config, small_demo.labels)
    datamodule = ErcDataModule(small_demo, method)
    examples = drawn_examples(datamodule.columns["train"], 0.0, np.random.default_rng(0))
    order = np.random.default_rng(5).permutation(len(examples))
    frequency = np.zeros(len(examples))
    draws = 400
    for seed in range(draws):
        datamodule.seed = seed
        method.survey = 1, examples, order
        kept = method.epoch_examples(datamodule, 1)
        assert len(set(kept)) == len(kept)
        frequency[np.isin(examples[order], kept)] += 1 / draws
    expected = keep_probabilities(len(examples), 1, 4)
    assert expected[0] == 0.75
    assert expected[-1] == 0.25
    deviation = np.sqrt(expected * (1 - expected) / draws)
    assert np.all(np.abs(frequency - expected) < 5 * deviation)

    method.config.curriculum = False
    assert abs(len(method.epoch_examples(datamodule, 1)) / len(examples) - 0.5) < 0.1
    method.config.curriculum = True
    method.config.skip_first = True
    for seed in range(20):
        datamodule.seed = seed
        assert examples[0] not in method.epoch_examples(datamodule, 1)


def dialogue_of(labels: list[int | None]) -> Dialogue:
    return Dialogue(
        "d", tuple(Utterance(f"u{i}", "Ada", f"word {i}.", y) for i, y in enumerate(labels))
    )


def test_augmentation_asks_about_labelled_earlier_turns_of_late_windows(tiny_encoder) -> None:
    labels = LabelSet(("joy", "anger"))
    dialogue = dialogue_of([0, None, 1, 0, 1, 0, 1, None, 1, 0, 1, 0])
    corpus = Corpus.build("made-up", labels, {"train": [dialogue]})
    datamodule = ErcDataModule(corpus, SPCL(SPCLConfig(encoder=tiny_encoder), labels))
    columns = datamodule.columns["train"]
    turns, targets = np.asarray(columns["turn"]), columns["targets"].values  # type: ignore[union-attr]
    ordinary = drawn_examples(columns, 0.0, np.random.default_rng(0))
    assert turns[ordinary].tolist() == targets[ordinary].tolist() == list(dialogue.labelled)

    drawn: dict[int, list[int]] = {}
    draws = 2000
    for seed in range(draws):
        found = drawn_examples(columns, 0.2, np.random.default_rng(seed))
        assert len(set(found)) == len(found)
        for example in found[len(ordinary) :]:
            drawn.setdefault(int(turns[example]), []).append(int(targets[example]))
    assert sorted(drawn) == [4, 5, 6, 8, 9, 10, 11]
    for turn, queried in drawn.items():
        window = range(max(0, turn - 8), turn)
        labelled = [j for j in window if j not in (1, 7)]
        # Each turn of the window is drawn equally often, and not replaced if it has no label.
        counts = np.array([queried.count(j) for j in labelled])
        expected = 0.2 * draws / len(window)
        assert set(queried) == set(labelled)
        assert np.all(np.abs(counts - expected) < 5 * math.sqrt(expected))


def test_augmentation_is_impossible_at_evaluation(tiny_encoder, small_demo) -> None:
    config = SPCLConfig(encoder=tiny_encoder, augmentation=1.0)
    method = SPCL(config, small_demo.labels).eval()
    datamodule = ErcDataModule(small_demo, method)
    for split in ("dev", "test"):
        columns = datamodule.columns[split]
        targets = columns["targets"].values  # type: ignore[union-attr]
        assert np.array_equal(targets, columns["turn"])
        assert len(targets) == len(datamodule.rows(split))
    dialogue, reader = small_demo.dialogues("train")[0], method.reader
    assert len(reader.examples(dialogue, training=True)) > len(reader.examples(dialogue))
    # The training split has such examples; asking for their scores is refused.
    columns = datamodule.columns["train"]
    (augmented,) = np.nonzero(columns["targets"].values < np.asarray(columns["turn"]))  # type: ignore[union-attr]
    batch = datamodule.batch({name: take(c, augmented[:1]) for name, c in columns.items()})
    with pytest.raises(RuntimeError, match="training alone"), torch.no_grad():
        method.scores(method(batch), batch)


def test_later_turns_change_nothing(tiny_encoder, small_demo) -> None:
    torch.manual_seed(0)
    method = SPCL(SPCLConfig(encoder=tiny_encoder), small_demo.labels).eval()
    method.prototypes.centers.normal_()
    dialogue = max(small_demo.dialogues("test"), key=len)
    middle = len(dialogue) // 2
    altered = Dialogue(
        "altered",
        (
            *(dataclasses.replace(u, id=f"a-{u.id}") for u in dialogue.utterances[: middle + 1]),
            Utterance("a-last", "Zoe", "I am so happy about the choir!", 0),
        ),
    )
    corpus = Corpus.build("both", small_demo.labels, {"test": [dialogue, altered]})
    datamodule = ErcDataModule(corpus, method)
    with torch.no_grad():
        batches = list(datamodule.evaluation_loader("test"))
        rows = torch.cat([batch["rows"] for batch in batches])
        scores = torch.cat([method.scores(method(batch), batch) for batch in batches])
    scores = scores[rows.argsort()]
    upto = sum(i <= middle for i in dialogue.labelled)
    first = len(dialogue.labelled)
    torch.testing.assert_close(scores[:upto], scores[first : first + upto], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scores[upto], scores[first + upto], atol=1e-2)


# --- training ---


@pytest.fixture
def config(tiny_encoder) -> SPCLConfig:
    return SPCLConfig(
        encoder=tiny_encoder,
        epochs=3,
        batch_size=16,
        encoder_lr=1e-3,
        lr=5e-3,
        warmup_steps=4,
        support_size=4,
        pool_size=16,
        precision="float32",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"decoupled": True},
        {"projection": True, "curriculum": False, "augmentation": 0.0, "skip_first": True},
        {"fgm": 0.5, "accumulate": 2},
        {"select_on": "loss", "max_batches": 2},
    ],
    ids=["decoupled", "projection", "fgm", "max_batches"],
)
def test_it_trains_with_every_option(options, config, small_demo, tmp_path) -> None:
    config = dataclasses.replace(config, epochs=2, **options)
    trained = fitted(SPCL, config, small_demo, tmp_path)
    curves = trained.log.curves
    assert all(math.isfinite(epoch["train/loss"]) for epoch in curves)
    assert ("train/adversarial" in curves[0]) == ("fgm" in options)
    predicted = trained.predict("dev")
    assert torch.equal(predicted.rows, trained.data.rows("dev"))
    sums = predicted.probabilities.sum(dim=1)
    torch.testing.assert_close(sums, torch.ones(len(predicted.rows)))


@pytest.mark.slow
def test_dev_is_scored_with_centres_of_the_same_weights(config, small_demo, tmp_path) -> None:
    trained = fitted(SPCL, config, small_demo, tmp_path)
    method, data = trained.method, trained.data
    saved = last_state(tmp_path)
    assert not any("queues" in name for name in saved)
    method.load_saved_state(saved)
    stored = method.prototypes.centers.clone()
    method.survey_epoch(data, config.epochs)
    assert torch.equal(method.prototypes.centers, stored)
    # Whatever the epoch's augmentation drew, the centres are those of the training set.
    starts = method.prototypes.starts.clone()
    method.survey_epoch(data, config.epochs + 1)
    torch.testing.assert_close(method.prototypes.centers, stored)
    assert not torch.allclose(method.prototypes.starts, starts)
    ordinary = np.flatnonzero(~is_lookback(data.columns["train"]))
    h, labels = data.encode("train", method, ordinary)
    torch.testing.assert_close(stored, class_centers(h, labels, len(small_demo.labels)))
    predicted = trained.predict("dev").classes
    gold = data.gold[data.rows("dev")]
    value = trained.log.curves[-1]["dev/weighted_f1"]
    assert weighted_f1(predicted, gold, len(small_demo.labels)) == pytest.approx(value, abs=1e-4)


def test_the_adversarial_step_is_along_the_gradient(config, small_demo) -> None:
    config = dataclasses.replace(config, fgm=0.01)
    method = SPCL(config, small_demo.labels)
    method.train()
    for module in method.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    datamodule = ErcDataModule(small_demo, method)
    columns = datamodule.columns["train"].items()
    batch = datamodule.batch({name: take(c, np.arange(16)) for name, c in columns})
    method.prototypes.reset(torch.randn_like(method.prototypes.starts))
    parts = method.loss(method(batch), batch)
    parts["loss"].backward()
    words = method.encoder.get_input_embeddings().weight
    both = words.grad.clone()

    method.config.fgm = 0.0
    method.prototypes.reset(method.prototypes.starts.clone())
    words.grad = None
    clean = method.loss(method(batch), batch)["loss"]
    clean.backward()
    first = words.grad.clone()
    with torch.no_grad():
        words += 0.01 * first / first.norm()
    words.grad = None
    method.prototypes.reset(method.prototypes.starts.clone())
    moved = method.loss(method(batch), batch)["loss"]
    moved.backward()
    assert moved > clean
    torch.testing.assert_close(parts["adversarial"], moved)
    torch.testing.assert_close(both, first + words.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_rates_restart_every_epoch_and_warm_up_once(config, small_demo, tmp_path) -> None:
    assert [rate(step, 10, 4) for step in range(4)] == [0, 0.25, 0.5, 0.75]
    assert rate(4, 10, 4) == rate(0, 10, 0) == 1
    assert rate(5, 10, 0) == pytest.approx(0.5)
    assert rate(10, 10, 0) == pytest.approx(0)
    assert [rate(step, 3, 4) for step in range(3)] == [0, 0.25, 0.5]

    class Rates(Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            group = trainer.optimizers[0].param_groups[0]
            steps = int(trainer.num_training_batches)
            self.seen.append((trainer.current_epoch, batch_idx, steps, group["lr"]))

    rates = Rates()
    fitted(SPCL, config, small_demo, tmp_path / "long", rates)
    for epoch, step, steps, value in rates.seen:
        warmup = 4 if epoch == 0 else 0
        assert value == pytest.approx(config.encoder_lr * rate(step, steps, warmup))
    assert {epoch for epoch, *_ in rates.seen} == {0, 1, 2}
    # An epoch that is shorter than the warm-up is all warm-up; its last step has the full rate.
    short = Rates()
    one_epoch = replace(config, epochs=1, warmup_steps=128)
    fitted(SPCL, one_epoch, small_demo, tmp_path / "short", short)
    for _, step, steps, value in short.seen:
        assert steps < 128
        assert value == pytest.approx(config.encoder_lr * step / (steps - 1))
    single = Rates()
    fitted(SPCL, replace(one_epoch, max_batches=1), small_demo, tmp_path / "single", single)
    assert [value for *_, value in single.seen] == [config.encoder_lr]


def test_settings_are_checked() -> None:
    with pytest.raises(ErcBenchError, match="pool_size"):
        SPCLConfig(pool_size=32)
    with pytest.raises(ErcBenchError, match="temperature"):
        SPCLConfig(temperature=0)
    for preset in ("paper", "base", "small", "smoke"):
        assert isinstance(resolve("spcl", "meld", preset=preset).config, SPCLConfig)
