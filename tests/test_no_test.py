"""Runs with ``--no-test`` leave the test set unscored; the same run without it scores test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erc_bench.cli import main
from erc_bench.errors import ErcBenchError
from erc_bench.execution import run as runner
from erc_bench.execution.grid import run_grid
from erc_bench.execution.run import run
from erc_bench.leaderboard import read_board
from erc_bench.records.parsing import RecordError
from erc_bench.records.schema import Record, Untested, to_json
from erc_bench.records.store import (
    find_record,
    read_untested,
    record_files,
    untested_files,
)
from erc_bench.settings.experiment import Experiment, resolve

QUICK = ("precision=float32", "max_len=32", "max_batches=2", "epochs=2")


def experiment(encoder: str, *overrides: str, seed: int = 1) -> Experiment:
    settings = [f"encoder={encoder}", *QUICK, *overrides]
    return resolve("finetune", "demo", preset="smoke", seed=seed, overrides=settings)


@pytest.mark.slow
def test_the_kept_model_scores_test_later(
    tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = experiment(tiny_encoder)
    (at_once,) = (run(wanted, tmp_path / "at-once").record,)
    root = tmp_path / "later"
    first = run(wanted, root, no_test=True)
    assert isinstance(first.record, Untested)
    said = json.loads(first.path.read_text(encoding="utf-8"))
    assert said["test"] == "not scored"
    assert set(said["metrics"]) == set(said["predictions"]) == {"dev"}
    assert not list(record_files(root))
    assert not read_board(root).tryouts

    def nobody_trains(*args, **kwargs):
        raise AssertionError("it is trained again")

    monkeypatch.setattr(runner, "train", nobody_trains)
    assert run(wanted, root, no_test=True).skipped
    model = list(first.path.parents[3].glob("runs/*/*/*/model-*.ckpt"))
    later = run(wanted, root)
    assert isinstance(later.record, Record)
    assert to_json(later.record.predictions) == to_json(at_once.predictions)
    assert to_json(later.record.metrics) == to_json(at_once.metrics)
    assert later.record.training.curves == at_once.training.curves
    assert not list(untested_files(root))
    assert list(root.glob("runs/*/*/*/model-*.ckpt")) == model
    again = run(wanted, root, no_test=True)
    assert again.skipped
    assert isinstance(again.record, Record)
    with pytest.raises(ErcBenchError, match="has scored test"):
        run(wanted, root, no_test=True, force=True)


def test_an_untested_run_gives_another_error_than_a_missing_run(
    tiny_encoder: str, tmp_path: Path
) -> None:
    path = run(experiment(tiny_encoder), tmp_path, no_test=True).path
    with pytest.raises(ErcBenchError, match=r"has not scored test.*--no-test is left out"):
        find_record(tmp_path, "finetune/demo")
    with pytest.raises(ErcBenchError, match="There is no run 'eacl'"):
        find_record(tmp_path, "eacl")
    assert main(["records", "rm", "finetune", "--yes", "--leaderboard-dir", str(tmp_path)]) == 0
    assert not list(tmp_path.glob("runs/*/*/*"))
    assert not path.exists()


def test_damaged_files_and_contradictory_settings_are_errors(
    tiny_encoder: str, tmp_path: Path
) -> None:
    with pytest.raises(ErcBenchError, match="after every epoch"):
        run(experiment(tiny_encoder, "evaluation.oracle=true"), tmp_path, no_test=True)
    wanted = experiment(tiny_encoder)
    path = run(wanted, tmp_path, no_test=True).path
    (model,) = tmp_path.glob("runs/*/*/*/model-*.ckpt")
    kept = model.read_bytes()
    model.write_bytes(kept[:-1])
    with pytest.raises(ErcBenchError, match="SHA-256"):
        run(wanted, tmp_path)
    model.write_bytes(kept)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"predicted":[', '"predicted":[99,'), encoding="utf-8")
    with pytest.raises(RecordError, match=r"predictions\.dev"):
        read_untested(path)


@pytest.mark.slow
def test_a_grid_and_the_command_line_show_dev_alone(
    tiny_encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [experiment(tiny_encoder, seed=seed) for seed in (1, 2)]
    report = run_grid(both, tmp_path, no_test=True)
    assert {name: len(scores) for name, scores in report.on_dev.items()} == {
        ("finetune", "demo"): 2
    }
    assert not any(report.scores.values())
    words = ["run", "--method", "finetune", "--dataset", "demo", "--preset", "smoke", "--seed", "1"]
    words += [*both[0].overrides, "--leaderboard-dir", str(tmp_path), "--wandb", "off"]
    assert main([*words, "--no-test"]) == 0
    shown = capsys.readouterr().out
    assert "dev" in shown
    assert "test not scored" in shown
    assert main(["leaderboard", "--leaderboard-dir", str(tmp_path)]) == 0
    assert "Runs left out because they have not scored test: 2." in capsys.readouterr().err
    report = run_grid(both, tmp_path)
    assert len(report.scores["finetune", "demo"]) == 2
    assert len(list(record_files(tmp_path))) == 2
