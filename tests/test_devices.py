"""Several devices train the same as one: the same losses, gradients, weights and predictions."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from device_runs import Task, courses, read
from real_data import real_data
from test_every_method import METHODS, config, talk
from torch import Tensor, nn
from torch.nn import functional as F

from erc_bench.corpus.conversation import Corpus, Dialogue, LabelSet
from erc_bench.encoders.locating import find_encoder
from erc_bench.errors import ErcBenchError
from erc_bench.execution.devices import check, started_outside
from erc_bench.execution.resources import Devices
from erc_bench.execution.run import run
from erc_bench.method import Batch, ErcMethod, MethodConfig, parts
from erc_bench.method.devices import Position
from erc_bench.settings.experiment import resolve
from erc_bench.settings.registry import corpus_source, method_class
from erc_bench.vectors.fine_tuning import UtteranceReader

TOGETHER = [method for method in sorted(METHODS) if method_class(method).several_devices]

STATEFUL = ["eacl", "sacl-lstm", "spcl"]
"""Methods whose losses depend on several examples. They are also tried on MELD, which is slow."""

STILL = {
    "dag-erc": ["dropout=0", "features.epochs=0"],
    "dialogue-rnn": ["dropout=0", "features.epochs=0"],
    "eacl": ["dropout=0"],
    "emoberta": ["dropout=0"],
    "finetune": ["dropout=0"],
    "sacl-lstm": ["dropout=0", "features.epochs=0"],
    "speaker-mtl": ["dropout=0", "head_dropout=0"],
    "spcl": [],
}
"""Settings that turn off each method's dropout, because each device draws its own masks."""

VARIANTS = {
    "eacl": ["anchors_from=last"],
    "sacl-lstm": ["at_rate=0.7", "situ_rate=0.3", "contrast_on=hidden", "gradient_clip=1"],
    "sacl-lstm-vectors": ["attack=vectors"],
    "speaker-mtl": ["speaker=pairs", "balance=uncertainty", "speaker_in_text=true"],
    "spcl": ["fgm=0.5", "projection=true"],
}
"""Settings that turn on further parts of the methods."""

SMALL = ("epochs=2", "batch_size=4", "evaluation.batch_size=3", "accumulate=2")
"""Settings with several steps, a smaller last batch, and devices without a dev batch."""


@dataclass
class PluginConfig(MethodConfig):
    """Settings of :class:`Plugin`."""

    encoder: str = ""
    lr: float = 1e-2


class Plugin(ErcMethod):
    """A plug-in method that ignores devices; its loss compares all examples of a batch."""

    Config = PluginConfig
    context = "past"

    def __init__(self, config: PluginConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        self.reader = UtteranceReader(config.encoder, 32)
        self.words = nn.Embedding(self.reader.tokenizer.vocab_size, 8)
        self.centres = nn.Parameter(torch.linspace(-1, 1, 8 * len(labels)).view(-1, 8))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        mask = batch["attention_mask"][..., None]
        states = torch.tanh(self.words(batch["input_ids"])) * mask
        return {"tokens": states, "mean": states.sum(dim=1) / mask.sum(dim=1)}

    def loss(self, output: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        alike = (output["mean"] @ output["mean"].T).logsumexp(dim=1).mean()
        drawn = torch.rand(len(batch["labels"]))  # the same on all devices
        weighted = F.cross_entropy(self.scores(output, batch), batch["labels"], reduction="none")
        return {"loss": (drawn * weighted).mean() + alike, "alike": alike}

    def scores(self, output: dict[str, Tensor], batch: Batch) -> Tensor:
        return output["mean"] @ self.centres.T

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.config.lr)


class Mixing(Plugin):
    """The output of its network for an example depends on the others of the batch."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        output = super().forward(batch)
        return {**output, "mean": output["mean"] - output["mean"].mean(dim=0)}


class Normed(Plugin):
    """The same by batch normalisation, which depends on the others only in training."""

    def __init__(self, config: PluginConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        output = super().forward(batch)
        return {**output, "mean": self.norm(output["mean"])}


@pytest.fixture(scope="module")
def still_encoder(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny encoder without dropout."""
    return without_dropout(tiny_encoder, tmp_path_factory.mktemp("still") / "tiny-bert")


def without_dropout(encoder: str, folder: Path) -> str:
    """A copy of an encoder whose configuration has no dropout."""
    folder.mkdir()
    for file in Path(encoder).iterdir():
        if file.name != "config.json" and file.is_file():
            (folder / file.name).symlink_to(file.resolve())
    said = json.loads(Path(encoder, "config.json").read_text(encoding="utf-8"))
    said |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def talks() -> Corpus:
    """Dialogues of different lengths; the last training batch is always smaller than the others.

    No two turns are the same, because equally difficult examples have no fixed order.
    """
    numbers = itertools.count()
    labels = LabelSet(("joy", "anger", "neutral", "sadness"))
    return Corpus.build(
        "demo",
        labels,
        {
            split: [unlike(dialogue, numbers) for dialogue in dialogues]
            for split, dialogues in {
                "train": [talk(f"train-{'x' * n}", 3 + n % 7, classes=4) for n in range(10)],
                "dev": [talk("dev-a", 7), talk("dev-one-turn", 1)],
                "test": [talk("test-one-turn", 1), talk("test-b", 9, speakers=4, every=2)],
            }.items()
        },
    )


def unlike(dialogue: Dialogue, numbers: Iterator[int]) -> Dialogue:
    """The dialogue with a number at the end of each turn, written in binary with two words."""
    told = [
        replace(u, text=u.text + "".join(" happy" if d == "1" else " awful" for d in f"{n:07b}"))
        for u, n in zip(dialogue.utterances, numbers, strict=False)
    ]
    return replace(dialogue, utterances=tuple(told))


def task(method: str, encoder: str, corpus: Corpus, *settings: str, name: str = "") -> Task:
    """A training of a method of the suite without dropout."""
    chosen = config(method, encoder, *SMALL, *STILL[method], *settings)
    return Task(name or method, method_class(method), chosen, corpus)


def equal(one: Any, other: Any, where: str) -> None:
    """Raise unless two courses are the same up to rounding in float64."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            equal(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            equal(a, b, f"{where}[{i}]")
    elif isinstance(one, Tensor):
        torch.testing.assert_close(
            one, other, rtol=1e-10, atol=1e-10, msg=lambda m: f"{where}: {m}"
        )
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-10, abs=1e-10), where
    else:
        assert one == other, where


def same_everywhere(name: str, count: int, folder: Path) -> None:
    """Raise unless each of ``count`` devices had the same course of training as a single one."""
    alone = read(name, 1, 0, folder)
    assert len(alone["losses"]) > 3
    assert alone["gradients"]
    assert len({len(rows) for rows in alone["drawn"]}) > 1, "no uneven batch"
    assert alone.pop("devices") == 1
    for rank in range(count):
        there = read(name, count, rank, folder)
        assert there.pop("devices") == count
        equal(there, alone, name)


def test_a_method_of_one_device_is_refused_on_two(tmp_path: Path) -> None:
    experiment = resolve("prompt-lm", "demo", preset="smoke")
    with pytest.raises(ErcBenchError, match="prompt-lm can't be trained on several devices"):
        run(experiment, tmp_path, devices=Devices(2))


@pytest.mark.parametrize("method", ["sacl-lstm", "speaker-mtl"])
def test_an_encoder_that_can_not_be_shared_out_is_refused(method: str, tmp_path: Path) -> None:
    experiment = resolve(method, "demo", preset="smoke")
    with pytest.raises(ErcBenchError, match=r"can't share out .* Leave --strategy fsdp out"):
        run(experiment, tmp_path, devices=Devices(2, sharded=True))


@pytest.mark.parametrize("examples", [2, 5, 7, 32])
@pytest.mark.parametrize("micro_batch", [0, 1, 2, 3])
def test_devices_have_equally_many_micro_batches(
    examples: int, micro_batch: int, monkeypatch
) -> None:
    counts, found = set(), []
    for rank in range(2):
        monkeypatch.setattr(parts.devices, "position", lambda rank=rank: Position(rank, 2))
        pieces, empty = parts.parts_of(np.arange(examples), micro_batch)
        assert not empty
        assert all(len(piece) for piece in pieces)
        assert max(map(len, pieces)) <= (micro_batch or examples) + (micro_batch == 1)
        counts.add(len(pieces))
        found += pieces
    assert len(counts) == 1
    assert np.concatenate(found).tolist() == list(range(examples))


@pytest.mark.slow
def test_two_devices_train_the_same_as_one(
    still_encoder: str, talks: Corpus, tmp_path: Path
) -> None:
    """Tested with the method whose training has the most state."""
    courses([task("spcl", still_encoder, talks, "drop_last=false")], (1, 2), tmp_path)
    same_everywhere("spcl", 2, tmp_path)


def tasks(encoder: str, corpus: Corpus) -> list[Task]:
    """Trainings of every method, with further parts, in micro-batches, and of a plug-in."""
    plain = [task(method, encoder, corpus, *whole_epoch(method)) for method in TOGETHER]
    further = [
        task(m, encoder, corpus, *whole_epoch(m), *settings, name=f"{name}-further")
        for name, settings in VARIANTS.items()
        for m in [name.removesuffix("-vectors")]
    ]
    micro = [
        task(method, encoder, corpus, *whole_epoch(method), "micro_batch=1", name=f"{method}-micro")
        for method in ("eacl", "sacl-lstm", "spcl")
    ]
    plugin = PluginConfig(encoder, epochs=2, batch_size=5, precision="float32")
    return [*plain, *further, *micro, Task("plugin", Plugin, plugin, corpus)]


def whole_epoch(method: str) -> list[str]:
    return ["drop_last=false"] if method == "spcl" else []


NAMES = [
    *TOGETHER,
    *(f"{method}-further" for method in VARIANTS),
    *(f"{method}-micro" for method in ("eacl", "sacl-lstm", "spcl")),
    "plugin",
]


@pytest.fixture(scope="module")
def made_up(still_encoder: str, talks: Corpus, tmp_path_factory) -> Path:
    """The folder with the courses of all trainings on one, two and three devices."""
    folder = tmp_path_factory.mktemp("courses")
    courses(tasks(still_encoder, talks), (1, 2, 3), folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_every_method_trains_the_same(name: str, count: int, made_up: Path) -> None:
    same_everywhere(name, count, made_up)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["eacl", "sacl-lstm", "spcl"])
def test_micro_batches_train_the_same(method: str, made_up: Path) -> None:
    equal(read(f"{method}-micro", 1, 0, made_up), read(method, 1, 0, made_up), method)


@pytest.fixture(scope="module")
def on_meld(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with trainings on a few dialogues of MELD, read by MiniLM without dropout."""
    folder = tmp_path_factory.mktemp("meld")
    data = real_data("meld")
    found = find_encoder("sentence-transformers/all-MiniLM-L6-v2").folder
    encoder = without_dropout(str(found), folder / "minilm")
    meld = corpus_source("meld").load(data)
    few = {"train": 5, "dev": 2, "test": 2}
    corpus = Corpus.build(
        "meld", meld.labels, {split: meld.dialogues(split)[:n] for split, n in few.items()}
    )
    slowly = {  # sacl-lstm has batches of dialogues, only two an epoch, so it keeps two epochs
        "eacl": ["encoder_lr=1e-5", "lr=1e-4", "epochs=1"],
        "sacl-lstm": ["lr=1e-4"],
        "spcl": ["encoder_lr=1e-5", "lr=1e-4", "epochs=1"],
    }
    wanted = [task(m, encoder, corpus, *whole_epoch(m), *slowly[m]) for m in STATEFUL]
    courses(wanted, (1, 2), folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", STATEFUL)
def test_every_method_trains_the_same_on_meld(method: str, on_meld: Path) -> None:
    same_everywhere(method, 2, on_meld)
    shutil.rmtree(on_meld / method)  # gigabytes


@pytest.mark.slow
@pytest.mark.parametrize("method", ["eacl", "finetune", "spcl"])
def test_sharded_encoders_train_the_same(
    method: str, still_encoder: str, talks: Corpus, tmp_path: Path
) -> None:
    chosen = task(method, still_encoder, talks, *whole_epoch(method), "gradient_clip=0.5")
    courses([chosen], (1, 2), tmp_path, sharded=True)
    alone, there = read(method, 1, 0, tmp_path), read(method, 2, 0, tmp_path)
    assert there.pop("devices") != alone.pop("devices")
    equal(there, alone, method)


# --- micro-batches, on one device


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compute in float64 even if the code asks for float32."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def gradients(encoder: str, corpus: Corpus, *settings: str) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of EACL's first training batch, in train mode from seed 1."""
    from fitting import built

    from erc_bench.encoders.fast import enabled
    from erc_bench.training.sharding import checkpoint_layers

    method, data = built(
        method_class("eacl"), config("eacl", encoder, "batch_size=7", *settings), corpus
    )
    method.double().train()
    if method.config.checkpointing:
        checkpoint_layers(method)
    torch.manual_seed(3)
    batch = next(iter(data.train_dataloader()))
    with enabled(method.config.speedups):
        loss = method.loss(method.whole_output(batch), batch)["loss"]
        loss.backward()
    found = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
    assert len(found) > 20
    return float(loss.detach()), found


def test_micro_batches_have_the_gradients_of_the_batch(
    still_encoder: str, talks: Corpus, float64: None
) -> None:
    whole = gradients(still_encoder, talks, "dropout=0")
    for size in (1, 3, 6):
        in_parts = gradients(still_encoder, talks, "dropout=0", f"micro_batch={size}")
        equal(in_parts, whole, str(size))


def test_both_passes_over_a_micro_batch_have_the_same_dropout(
    tiny_encoder: str, talks: Corpus, float64: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = gradients(tiny_encoder, talks, "micro_batch=3")

    def once(function, *arguments, use_reentrant):
        return function(*arguments)

    monkeypatch.setattr("erc_bench.method.parts.checkpoint", once)
    equal(twice, gradients(tiny_encoder, talks, "micro_batch=3"), "dropout")


def test_checkpointed_layers_have_the_same_gradients(
    tiny_encoder: str, talks: Corpus, float64: None
) -> None:
    plain = gradients(tiny_encoder, talks)
    equal(gradients(tiny_encoder, talks, "checkpointing=true"), plain, "checkpointing")


@pytest.mark.parametrize("kind", [Mixing, Normed])
def test_a_network_that_mixes_examples_is_refused(
    kind: type[ErcMethod], still_encoder: str, talks: Corpus
) -> None:
    from fitting import built

    plain = PluginConfig(still_encoder, batch_size=5, micro_batch=2)
    for each in (Plugin, kind):
        method, data = built(each, plain, talks)
        batch = next(iter(data.train_dataloader()))
        if each is Plugin:
            assert method.whole_output(batch)["mean"].shape == (5, 8)
            continue
        with pytest.raises(ErcBenchError, match=r"depends on the other .* Leave out --devices"):
            method.whole_output(batch)
        assert method.training


def test_checkpointing_needs_an_encoder(still_encoder: str) -> None:
    from erc_bench.training.sharding import checkpoint_layers

    with pytest.raises(ErcBenchError, match="it has no encoder"):
        checkpoint_layers(Plugin(PluginConfig(still_encoder), LabelSet(("joy", "anger"))))


# --- the processes of a run


def smoke(encoder: str, *overrides: str) -> Any:
    settings = [f"encoder={encoder}", "precision=float32", "max_len=64", "max_batches=4"]
    return resolve("finetune", "demo", preset="smoke", overrides=[*settings, *overrides])


@pytest.mark.slow
def test_a_run_on_two_devices_leaves_the_same_record(still_encoder: str, tmp_path: Path) -> None:
    experiment = smoke(still_encoder, "dropout=0", "epochs=2")
    alone = run(experiment, tmp_path / "one").record
    outcome = run(experiment, tmp_path / "two", devices=Devices(2))
    both = outcome.record
    assert both.config_hash == alone.config_hash
    assert alone.environment is not None
    assert both.environment is not None
    assert (alone.environment.devices, both.environment.devices) == (1, 2)
    assert both.predictions.test.predicted == alone.predictions.test.predicted
    for ours, theirs in zip(
        both.predictions.test.probabilities, alone.predictions.test.probabilities, strict=True
    ):
        assert ours == pytest.approx(theirs, abs=2e-3)
    assert run(experiment, tmp_path / "two", devices=Devices(2)).skipped
    assert run(experiment, tmp_path / "two").skipped


@pytest.mark.slow
def test_vectors_are_fine_tuned_on_several_devices(
    still_encoder: str, tmp_path: Path, monkeypatch
) -> None:
    settings = [f"encoder={still_encoder}", *METHODS["sacl-lstm"], "dropout=0", "max_batches=4"]
    settings += ["features.epochs=1", "features.max_batches=3", "features.dropout=0", "epochs=2"]
    settings += ["features.precision=float32"]
    experiment = resolve("sacl-lstm", "demo", preset="smoke", overrides=settings)
    records = []
    for count in (1, 2):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache{count}"))
        root = tmp_path / str(count)
        records.append(run(experiment, root, devices=Devices(count)).record)
    one, two = records
    assert one.encoder is not None
    assert two.encoder is not None
    assert two.encoder.fine_tuning is not None
    assert two.encoder.fine_tuning.devices == 2
    assert two.predictions.test.predicted == one.predictions.test.predicted


@pytest.mark.slow
def test_a_run_can_be_started_by_torchrun(still_encoder: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "erc_bench.cli", "run", "--method", "finetune", "--dataset", "demo"]
    command += ["--preset", "smoke", "--devices", "2", "--wandb", "off", "--leaderboard-dir"]
    command += [str(tmp_path), f"encoder={still_encoder}", "precision=float32", "max_len=64"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    for said in ("Record:", "Finished before"):
        done = subprocess.run(command, capture_output=True, text=True, env=environ)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(said) == 1
    (record,) = (tmp_path / "records").rglob("*.json")
    assert json.loads(record.read_text(encoding="utf-8"))["environment"]["devices"] == 2


@pytest.mark.slow
def test_a_lost_device_is_reported_and_the_run_resumes_later(
    still_encoder: str, tmp_path: Path, monkeypatch
) -> None:
    experiment = smoke(still_encoder, "dropout=0", "epochs=2")
    monkeypatch.setattr("erc_bench.execution.run._follow", follow_and_die)
    with pytest.raises(ErcBenchError, match=r"device 1 was killed by SIGKILL.*resumes the run"):
        run(experiment, tmp_path, devices=Devices(2))
    monkeypatch.undo()
    assert not run(experiment, tmp_path, devices=Devices(2)).skipped


def follow_and_die(task: Any) -> None:
    """Kill the process of a device."""
    os.kill(os.getpid(), 9)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Devices(0), "give 1 or more"),
        (Devices(2, 2), "srun --nodes=2 --ntasks-per-node=2"),
        (Devices(1, 1, sharded=True), "give --devices 2"),
    ],
)
def test_impossible_devices_are_refused(wanted: Devices, words: str) -> None:
    with pytest.raises(ErcBenchError, match=words):
        check(wanted)


def test_processes_started_by_torchrun_know_their_position(monkeypatch) -> None:
    assert started_outside() is None
    for name, value in {
        "RANK": "5",
        "WORLD_SIZE": "6",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "first",
        "MASTER_PORT": "1234",
    }.items():
        monkeypatch.setenv(name, value)
    here = Position(5, 6, 1, 3)
    assert started_outside() == (here, "first", 1234)
    assert here.node == 2
    check(Devices(2, 3))
    with pytest.raises(ErcBenchError, match=r"6 processes .* takes 4"):
        check(Devices(2, 2))


def test_devices_are_not_a_setting(still_encoder: str) -> None:
    experiment = smoke(still_encoder)
    config = replace(experiment.config, micro_batch=0, checkpointing=False)
    assert replace(experiment, config=config).hash == experiment.hash
    assert "devices" not in experiment.settings
