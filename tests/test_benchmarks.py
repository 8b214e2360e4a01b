"""The benchmarks: ours and the recipe have the same losses, and the commands print their tables."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from synthetic_records import Method, write_records

from benchmarks import __main__ as benchmark
from benchmarks import memory, probe, startup
from benchmarks.memory import CUDA_GIB, GIB, counted, largest_batch
from benchmarks.sampling import EVALUATION_ROUNDS, PER_ROUND, SampledDataModule, sample
from benchmarks.side_by_side import CHECKED, RECIPES, TOLERANCE, Case, losses
from erc_bench.errors import ErcBenchError
from erc_bench.execution.run import run
from erc_bench.method.data import ErcDataModule
from erc_bench.settings.experiment import resolve
from erc_bench.settings.methods import method_entry
from erc_bench.settings.registry import method_names


@pytest.mark.parametrize("method", RECIPES)
def test_both_sides_reach_the_same_losses(method, small_demo, tiny_encoder):
    ours, recipes = losses(Case(method, "small", "demo", "float32", tiny_encoder), small_demo)
    assert len(ours) == CHECKED
    np.testing.assert_allclose(ours, recipes, rtol=TOLERANCE)
    assert len(set(ours)) == CHECKED


@pytest.mark.parametrize(("batches", "rounds"), [(250, 5), (18, 2), (65, 10)])
def test_warm_up_batches_are_not_measured(batches, rounds):
    sizes = np.random.default_rng(0).integers(5, 100, 16 * batches)
    all_batches = np.split(np.arange(len(sizes)), batches)
    chosen = [tuple(b) for b in sample(all_batches, sizes, rounds=rounds, per_round=4)]
    assert len(chosen) == 4 * (rounds + 1)
    assert not set(chosen[:4]) & set(chosen[4:])


def test_a_sample_has_the_mean_of_all_batches():
    sizes = np.random.default_rng(0).integers(5, 100, 4000)
    batches = np.split(np.arange(4000), 250)
    warming, *rounds = np.array_split(sample(batches, sizes, rounds=5, per_round=4), 6)
    assert len(warming) == 4
    means = [sizes[batches_of_round].mean() for batches_of_round in rounds]
    assert np.mean(means) == pytest.approx(sizes.mean(), rel=0.01)


def test_a_sampled_pass_returns_as_many_values_as_the_whole(small_demo, tiny_encoder, monkeypatch):
    case = Case("spcl", "small", "demo", "float32", tiny_encoder, ("evaluation.batch_size=4",))
    data = SampledDataModule(small_demo, case.build(small_demo), rounds=1)
    read = []

    def encode(self, split, function, examples):
        read.extend(examples)
        return torch.from_numpy(examples).float(), torch.from_numpy(examples)

    monkeypatch.setattr(ErcDataModule, "encode", encode)
    examples = np.arange(3, 143)
    values, labels = data.encode("train", None, examples)
    assert len(values) == len(labels) == len(examples)
    assert data.batches["survey"] == 140 / 4
    assert len(read) == 4 * PER_ROUND * (EVALUATION_ROUNDS + 1)
    assert set(labels.tolist()) == set(read) <= set(examples)
    assert len(data.laps["survey"]) == 1


@pytest.mark.slow
def test_the_command_prints_ratios_and_memory(tiny_encoder):
    command = [sys.executable, "-m", "benchmarks", "--dataset", "demo", "--method", "eacl"]
    command += ["--encoder", tiny_encoder, "--steps", "1", "--precision", "float32"]
    command += ["--set", "max_len=32", "batch_size=4", "--threads", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    header, _, row = (line for line in done.stdout.splitlines() if line.startswith("|"))
    cells = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert float(cells["ratio"]) > 0
    assert float(cells["peak MiB"]) > 0
    assert float(cells["losses differ by |"].removesuffix("|")) < TOLERANCE


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--preset", "small", "bsae"], "did you mean 'base'"),
        (["--set", "temprature=1"], "did you mean 'temperature'"),
        (["--set", "epochs=3"], "'epochs=3' would be overwritten"),
        (["--steps", "0"], "'0' is no whole number from 1 on"),
        (["--method", "sacl-lstm", "--precision", "bfloat16"], "float32 alone"),
        (["--encoder", "nowhere"], "no encoder 'nowhere'"),
    ],
)
def test_wrong_options_are_errors_before_anything_is_measured(options, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--dataset", "demo", *options])
    monkeypatch.setattr(benchmark, "measure", lambda *_: pytest.fail("it began to measure"))
    with pytest.raises((SystemExit, ErcBenchError)) as stopped:
        benchmark.main()
    assert said in str(stopped.value).lower() + capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("method", ["finetune", "eacl", "spcl"])
def test_the_probe_repeats_the_dev_score_of_the_run(
    method, tiny_encoder, tmp_path, monkeypatch, capsys
):
    quick = ["max_len=32", "epochs=1", "max_batches=4", "precision=float32"]
    settings = [f"encoder={tiny_encoder}", *quick]
    record = run(resolve(method, "demo", preset="smoke", overrides=settings), tmp_path).record
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["probe", method, "--leaderboard-dir", str(tmp_path)])
    probe.main()
    own, *others = capsys.readouterr().out.splitlines()
    assert own.endswith(f" {record.metrics.dev.weighted_f1:.2f}")
    assert len(others) == len(probe.SHARES) + len(probe.STRENGTHS)
    assert all(0 < float(line.rpartition(" ")[2]) <= 100 for line in others)


def test_the_probe_names_the_methods_it_is_for(tmp_path, monkeypatch):
    write_records(tmp_path, [Method("sacl-lstm")], ["demo"], 10)
    monkeypatch.setattr(
        sys, "argv", ["probe", "sacl-lstm/seed1", "--leaderboard-dir", str(tmp_path)]
    )
    with pytest.raises(ErcBenchError, match="sacl-lstm, which reads no state of a mask"):
        probe.main()


QUICK = ["--dataset", "demo", "--preset", "smoke", "max_len=32", "max_batches=1"]


@pytest.mark.parametrize("method", ["eacl", "spcl", "speaker-mtl"])
@pytest.mark.slow
def test_startup_ends_at_the_first_training_step(method, tiny_encoder, tmp_path):
    arguments = ["--method", method, *QUICK, f"encoder={tiny_encoder}"]
    resource = pytest.importorskip("resource", reason="only Unix counts processor time")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = startup.seconds_to_first_step(sys.executable, arguments, tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert seconds == pytest.approx(
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, abs=0.1
    )
    root = tmp_path / "leaderboard"
    assert (root / "runs").is_dir()
    assert not [*root.glob("records/*/*/*"), *root.rglob("*.ckpt")]


def test_startup_says_why_no_step_was_reached(tmp_path):
    with pytest.raises(ErcBenchError, match=r"step was reached: .* no method 'eaclx'"):
        startup.seconds_to_first_step(sys.executable, ["--method", "eaclx", *QUICK], tmp_path)


def test_startup_compares_versions_that_take_turns(tmp_path, monkeypatch, capsys):
    python, other = sys.executable, str(tmp_path)
    order, seconds = [], {python: iter([90, 2, 5, 3]), other: iter([80, 6, 4, 6])}

    def measured(version, arguments, folder):
        order.append(version)
        assert arguments[:2] == ["--method", "finetune"]
        assert arguments[-1] == "max_len=32"
        return next(seconds[version])

    monkeypatch.setattr(startup, "seconds_to_first_step", measured)
    options = ["--method", "finetune", "--against", other, "--set", "max_len=32"]
    monkeypatch.setattr(sys, "argv", ["startup", *options])
    startup.main()
    *_, this_one, that = capsys.readouterr().out.splitlines()
    assert order == [python, other] * 4
    assert this_one == "| finetune | this one | 3.0 | 2.0 … 5.0 | 1.00 |"
    assert that == f"| finetune | {other} | 6.0 | 4.0 … 6.0 | 2.00 |"


@pytest.mark.slow
@pytest.mark.parametrize("method", method_names())
def test_the_gpu_memory_stated_is_the_count_rounded_up(method):
    said = method_entry(method).gpu_memory_gib
    for preset in ("paper", "base", "small"):
        if case := largest_batch(method, preset):
            assert math.ceil(sum(counted(case)) / GIB + CUDA_GIB) == said[preset], (case, said)


@pytest.mark.slow
def test_the_gpu_memory_stated_for_adapters_is_the_count_rounded_up():
    cases, said = memory.adapter_cases(), method_entry("lora-lm").gpu_memory_gib
    assert set(cases) == {"paper", "base", "small"}
    for preset, case in cases.items():
        assert math.ceil(sum(case.counted()) / GIB + CUDA_GIB) == said[preset], (case, said)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "billions"), [("Qwen2.5-7B", 7.61), ("Qwen2.5-0.5B", 0.49)])
def test_memory_is_counted_for_language_models_of_the_published_size(model, billions):
    small, large = (memory.AdapterCase(model, batch, 256, 16).counted() for batch in (1, 2))
    adapters = memory.AdapterCase(model, 1, 256, rank=8).counted()[0] - small[0]
    sizes = memory.LANGUAGE_MODELS[model]
    width, inner, layers = (
        sizes[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    keys = width * sizes["num_key_value_heads"] // sizes["num_attention_heads"]
    sides = 2 * 2 * width + 2 * (width + keys) + 3 * (width + inner)  # in and out of each layer
    assert -adapters == 16 * 8 * layers * sides  # rank 8 instead of 16
    frozen = small[0] + 2 * adapters
    assert frozen / 2e9 == pytest.approx(billions, abs=0.006)
    assert small[0] == large[0]
    assert large[1] == pytest.approx(2 * small[1], rel=0.01)
