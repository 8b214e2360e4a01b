"""python -m benchmarks.gpu and benchmarks.utilisation, tried without a GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from synthetic_records import Method, record, store, write_records
from transformers import BertConfig, BertModel

from benchmarks import gpu, utilisation
from erc_bench.errors import ErcBenchError
from erc_bench.settings.registry import method_names


def session(out: Path, root: Path, **changes: Any) -> gpu.Session:
    """A session of a minute with a made-up GPU."""
    args: dict[str, Any] = dict.fromkeys(("prepared", "jobs", "method", "peak_tflops"))
    args |= {"out": out, "leaderboard_dir": root, "minutes": 1, **changes}
    return gpu.Session(Namespace(**args), "made up", "c")


def test_the_operations_are_those_of_the_layers():
    """Forward takes 2 operations per weight and token (Kaplan et al., 2020, table 1).

    The two products of attention take 4 × length × width per token and layer. Backward takes twice
    as many operations as forward.
    """
    width, layers, rows, length = 32, 2, 3, 16
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 4 * width}
    encoder = BertModel(BertConfig(**sizes, num_attention_heads=2), add_pooling_layer=False)
    operations: Any = utilisation.Operations()
    for number in range(utilisation.PER_ROUND + 1):
        operations.on_train_batch_start(None, None, None, number)
        ids = torch.full((rows, length), 5)
        encoder(input_ids=ids).last_hidden_state.sum().backward()
        operations.on_train_batch_end(None, None, None, {"labels": ids[:, 0]}, number)
    forward = rows * length * layers * (2 * 12 * width**2 + 4 * length * width)
    assert len(operations.counts) == utilisation.PER_ROUND  # and none in the timed steps
    assert set(operations.counts) == {operations.counts[0]}
    assert operations.counts[0] == 3 * forward
    assert operations.utterances == [rows]  # of the timed steps


def test_the_control_comes_first_and_every_method_is_there():
    names = utilisation.ordered()
    assert names[0] == "finetune"
    assert sorted(names) == sorted(method_names())
    assert utilisation.why_not("prompt-lm", False) == "it trains nothing"
    assert not utilisation.why_not("lora-lm", False)
    assert "language model" in utilisation.why_not("lora-lm", True)


def test_only_new_records_are_copied_and_reported(tmp_path):
    root, out = tmp_path / "leaderboard", tmp_path / "out"
    write_records(root, [Method("finetune", seeds=(1,))], ["meld"], 10)
    call = session(out, root)
    new = Method("eacl", seeds=(2,))
    write_records(root, [new], ["meld"], 10)
    call.collect()
    call.collect()
    call.report()
    copies = [path for path in (out / "leaderboard").rglob("*") if path.is_file()]
    assert [path.name for path in copies] == [f"{new.config_hash}-seed2.json"]
    (told,) = json.loads((out / "report.json").read_text(encoding="utf-8"))["runs"]
    expected = record(new, "meld", 2, 10)["metrics"]["test"]["weighted_f1"]
    assert (told["method"], told["number"], told["kind"]) == ("eacl", 2, "run")
    assert told["score"] == pytest.approx(expected)
    assert f"test {expected:.2f}" in (out / "report.md").read_text(encoding="utf-8")


def test_a_damaged_copy_is_left_out_of_the_report(tmp_path):
    made = record(Method("eacl"), "meld", 1, 10)
    store(tmp_path / "records" / "meld" / "eacl" / "a-seed1.json", made)
    (tmp_path / "records" / "meld" / "eacl" / "b-seed1.json").write_text("{", encoding="utf-8")
    assert len(gpu.results(tmp_path)) == 1


def test_passed_tests_are_not_done_again_at_the_same_commit(tmp_path):
    report = {"commit": "c", "tests": "passed"}
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    assert session(tmp_path, tmp_path).tested
    (tmp_path / "report.json").write_text(json.dumps({**report, "commit": "d"}), encoding="utf-8")
    assert not session(tmp_path, tmp_path).tested


@pytest.mark.parametrize("commit", [None, "c-dirty"])
def test_code_that_no_commit_names_is_tested_again(tmp_path, commit):
    known = session(tmp_path, tmp_path)
    (tmp_path / "report.json").write_text(
        json.dumps({"commit": commit, "tests": "passed"}), encoding="utf-8"
    )
    assert not gpu.Session(known.args, "made up", commit).tested


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_file_that_is_not_a_report_is_refused(tmp_path, text):
    (tmp_path / "report.json").write_text(text, encoding="utf-8")
    with pytest.raises(ErcBenchError, match="was not written by this command"):
        session(tmp_path, tmp_path)


def test_the_runs_are_in_the_order_of_their_value(tmp_path, monkeypatch):
    call, given = session(tmp_path, tmp_path / "mine", jobs=3), []
    monkeypatch.setattr(call, "do", lambda stage, command, work, words: given.append(words))
    call.runs()
    (run, search) = (dict(options(words)) for words in given)
    assert (given[0][0], given[1][0]) == ("run", "tune")
    for words in (run, search):
        assert words["--method"][0] == "finetune"
        assert set(words["--method"]) == set(method_names())
        assert (words["--preset"], words["--seeds"], words["--jobs"]) == (["base"], ["5"], ["3"])
        assert words["--leaderboard-dir"] == [str(tmp_path / "mine")]
    assert (run["--dataset"], search["--dataset"]) == (["meld", "emorynlp"], ["meld"])
    assert search["--trials"] == ["8"]


def options(words: list[str]) -> dict[str, list[str]]:
    """The values of each option."""
    found: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            values = found.setdefault(word, [])
        elif found:
            values.append(word)
    return found


def test_wrong_options_are_errors_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "elsewhere", lambda function: ("c", ""))
    for given, said in (
        (["--prepared", "nowhere"], "--prepared nowhere is not a folder"),
        (["--device", "cuda"], "finds no GPU"),
        (["--out", str(ROOT / "README.md")], "can't be written to"),
    ):
        monkeypatch.setattr(sys, "argv", ["gpu", *given])
        with pytest.raises(ErcBenchError, match=said):
            gpu.main()


def command(out: Path, *options: str, minutes: int = 1) -> list[str]:
    """The command line of a short session on the CPU."""
    words = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--minutes", str(minutes)]
    return [*words, "--out", str(out), "--method", "finetune", *options]


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.timeout(300)
def test_every_stage_has_its_turn_and_all_ends_in_time(tmp_path):
    done = subprocess.run(command(tmp_path), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["seconds"] <= 60 + gpu.STOPPING
    assert {each["stage"] for each in report["commands"]} == set(gpu.STAGES)
    outcomes = {each["outcome"] for each in report["commands"]}
    assert outcomes <= {"done", gpu.STOPPED, gpu.NOT_BEGUN}, report["commands"]
    assert not [row for row in report["speed"] if row["failure"]]
    assert not [path for path in tmp_path.rglob("*.tmp") if path.is_file()]
    assert (tmp_path / "report.md").read_text(encoding="utf-8") in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_the_same_command_goes_on(tmp_path, name):
    """It is stopped after the first record; started again, it does only the other runs."""
    words = command(tmp_path, "--stages", "runs", minutes=4)
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # If the tests run in the background, SIGINT is ignored, and the command would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    records = tmp_path / "leaderboard"
    until = time.monotonic() + 200
    while not (first := sorted(records.glob("records/*/*/*.json"))) and time.monotonic() < until:
        assert process.poll() is None
        time.sleep(0.5)
    process.send_signal(signal.Signals[name])
    process.communicate(timeout=60)
    assert process.returncode
    before = first[0].read_bytes()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [each["outcome"] for each in report["commands"]] == ["done", "done"]
    assert {each["kind"] for each in report["runs"]} == {"run", "trial", "tuned run"}
    assert first[0].read_bytes() == before
