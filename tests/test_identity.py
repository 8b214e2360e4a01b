"""A run is identified by method, settings, seed and the contents of corpus and encoder."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_executors import Fake
from places import ROOT, committed_records, place_of
from safetensors.torch import load_file, save_file

from erc_bench.corpus.conversation import Corpus
from erc_bench.errors import ErcBenchError
from erc_bench.execution import run as execution
from erc_bench.execution.grid import run_grid
from erc_bench.execution.run import run
from erc_bench.records.place import Identity, Place
from erc_bench.records.schema import to_json
from erc_bench.records.store import read_record, write_record
from erc_bench.settings import registry
from erc_bench.settings.experiment import Experiment, Tuned, resolve

QUICK = ("precision=float32", "max_len=32", "max_batches=2", "epochs=1")


@pytest.fixture
def encoder(tiny_encoder: str, tmp_path: Path) -> Path:
    """A copy of the tiny encoder that may be changed."""
    return Path(shutil.copytree(tiny_encoder, tmp_path / "encoder"))


def experiment(encoder: Path, seed: int = 1) -> Experiment:
    settings = [f"encoder={encoder}", *QUICK]
    return resolve("finetune", "demo", preset="smoke", seed=seed, overrides=settings)


def other_weights(encoder: Path) -> None:
    """Put other weights into an encoder's folder."""
    file = encoder / "model.safetensors"
    weights = {name: value.clone() for name, value in load_file(file).items()}
    name = "embeddings.word_embeddings.weight"
    weights[name] = weights[name] + 0.1 * torch.randn_like(weights[name])
    save_file(weights, file, metadata={"format": "pt"})


def another_copy(corpus: Corpus) -> Corpus:
    """A copy of the corpus with one word added to the first training turn."""
    first, *rest = corpus.dialogues("train")
    turn = replace(first.utterances[0], text=first.utterances[0].text + " indeed")
    changed = replace(first, utterances=(turn, *first.utterances[1:]))
    splits = {**corpus.contents, "train": [changed, *rest]}
    return Corpus.build(corpus.name, corpus.labels, splits, official=False)


@pytest.fixture
def copies(demo: Corpus, monkeypatch: pytest.MonkeyPatch):
    """``--data-dir other`` gives another copy of the demo corpus."""
    kind = type(registry.corpus_source("demo"))

    def load(self, data_dir: Path | None = None) -> Corpus:
        return another_copy(demo) if data_dir == Path("other") else demo

    monkeypatch.setattr(kind, "load", load)


@pytest.mark.slow
def test_other_weights_in_the_same_folder_are_another_run(encoder: Path, tmp_path: Path) -> None:
    first = run(experiment(encoder), tmp_path / "lb")
    assert run(experiment(encoder), tmp_path / "lb").skipped
    other_weights(encoder)
    second = run(experiment(encoder), tmp_path / "lb")
    assert not second.skipped
    assert first.path != second.path
    assert first.record.encoder.digest != second.record.encoder.digest
    assert first.record.config_hash == second.record.config_hash
    assert read_record(first.path) == first.record


def test_another_copy_of_the_corpus_is_another_run(encoder, copies, tmp_path: Path) -> None:
    first = run(experiment(encoder), tmp_path / "lb")
    second = run(experiment(encoder), tmp_path / "lb", data_dir=Path("other"))
    assert not second.skipped
    assert first.record.dataset_digest != second.record.dataset_digest
    assert (first.record.dataset_official, second.record.dataset_official) == (True, False)
    both = {first.path, second.path}
    assert set((tmp_path / "lb").glob("records/*/*/*.json")) == both


@pytest.mark.slow
def test_a_mean_over_seeds_uses_one_copy_of_the_corpus(encoder, copies, tmp_path: Path) -> None:
    run(experiment(encoder), tmp_path / "lb")
    seeds = [experiment(encoder, seed) for seed in (1, 2)]
    report = run_grid(seeds, tmp_path / "lb", workers=1, executor=Fake(), data_dir=Path("other"))
    assert len(report.scores["finetune", "demo"]) == 2
    digests = [read_record(p).dataset_digest for p in (tmp_path / "lb").glob("records/*/*/*.json")]
    assert sorted(map(digests.count, set(digests))) == [1, 2]


def test_an_interrupted_run_is_not_resumed_on_another_copy(
    encoder, copies, tmp_path: Path, monkeypatch
) -> None:
    def power_cut(*_: object, **__: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(execution, "make_record", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            run(experiment(encoder), tmp_path / "lb")
    assert place_of(tmp_path / "lb", experiment(encoder)).is_interrupted()
    other = place_of(tmp_path / "lb", experiment(encoder), Path("other"))
    assert not other.is_interrupted()


@pytest.mark.slow
def test_a_record_under_its_old_file_name_stays_finished(encoder, tmp_path: Path) -> None:
    """This holds only for the same corpus and the same encoder weights."""
    made = run(experiment(encoder), tmp_path / "lb")
    hashed = f"{made.record.config_hash}-seed1.json"
    old = tmp_path / "old" / "records" / "demo" / "finetune" / hashed
    write_record(old, made.record)
    assert run(experiment(encoder), tmp_path / "old").path == old
    assert run(experiment(encoder), tmp_path / "old").skipped
    other_weights(encoder)
    assert not run(experiment(encoder), tmp_path / "old").skipped


def test_committed_records_stay_finished() -> None:
    """The path computed for each run is the committed file."""
    board = ROOT / "leaderboard"
    for path in committed_records():
        record = read_record(path)
        experiment = resolve(
            record.method,
            record.dataset,
            preset=record.preset,
            seed=record.seed,
            overrides=record.overrides or [],
            variant=record.variant or "",
        )
        if record.tuned is not None:
            experiment = replace(experiment, tuned=Tuned(**to_json(record.tuned)))
        place = Place.of(
            board,
            experiment,
            Identity(record.dataset_digest, record.encoder.name, record.encoder.digest),
        )
        assert place.record == path
        assert place.finished() == record


def test_two_packages_that_bring_one_name_are_an_error(monkeypatch) -> None:
    from importlib.metadata import EntryPoint

    points = [
        EntryPoint("eacl", "one:EACL", registry.METHODS),
        EntryPoint("eacl", "two:EACL", registry.METHODS),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    registry._points.cache_clear()
    try:
        with pytest.raises(ErcBenchError, match="Two packages bring 'eacl'"):
            registry.method_names()
    finally:
        monkeypatch.undo()
        registry._points.cache_clear()


def test_the_package_of_a_method_is_known_in_another_folder_too(
    tmp_path: Path, monkeypatch
) -> None:
    """A package may lie on a relative search path, such as that of ``python -c``."""
    package = tmp_path / "here" / "relative-1.5.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: relative\nVersion: 1.5\n", encoding="utf-8"
    )
    (package / "entry_points.txt").write_text(
        "[erc_bench.methods]\nrelative = json:JSONDecoder\n", encoding="utf-8"
    )
    monkeypatch.chdir(package.parent)
    monkeypatch.syspath_prepend("")
    registry._points.cache_clear()
    try:
        assert "relative" in registry.method_names()
        monkeypatch.chdir(tmp_path)
        assert registry.plugin("relative") == {"distribution": "relative", "version": "1.5"}
    finally:
        monkeypatch.undo()
        registry._points.cache_clear()


def test_the_record_names_model_plugin_and_corpus(encoder: Path, tmp_path: Path) -> None:
    record = to_json(run(experiment(encoder), tmp_path / "lb").record)
    assert set(record["model"]) == {"file", "sha256"}
    assert record["plugin"]["distribution"] == "erc-bench"
    assert record["dataset_official"] is True
    assert record["trains"] is True
