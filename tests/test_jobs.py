"""Jobs in separate processes, and how many of them run at a time."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from places import place_of

from erc_bench.execution import local
from erc_bench.execution.executors import Dispatch
from erc_bench.execution.job_folder import JobFolder
from erc_bench.execution.jobs import Job
from erc_bench.execution.local import Local, sane_workers
from erc_bench.execution.processes import stop
from erc_bench.method.config import MethodConfig
from erc_bench.settings.experiment import Experiment, resolve


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_only_a_kill_from_outside_is_explained_by_lack_of_memory() -> None:
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    process.start()
    (status,) = stop([process], 0.1)
    assert not process.is_alive()
    assert "did not end" in local._died(status)
    assert "memory" not in local._died(status)
    assert "memory" in local._died(-signal.SIGKILL)


@pytest.mark.slow
def test_closing_an_executor_stops_its_running_jobs(tiny_encoder: str, tmp_path: Path) -> None:
    def job(method: str, epochs: int) -> Job:
        quick = ["max_batches=2", "precision=float32", "patience=0"]
        settings = [f"encoder={tiny_encoder}", *quick, f"epochs={epochs}"]
        experiment = resolve(method, "demo", preset="smoke", overrides=settings)
        return Job(experiment, place_of(tmp_path, experiment))

    long, short = job("eacl", 500), job("finetune", 2)
    folder = JobFolder(tmp_path)
    with folder.held():
        over = Dispatch(Local(), folder, workers=2, threads=1).work_off(iter([long, short]))
        ended = next(over)
        assert ended.failure == ""
        assert ended.job.experiment == short.experiment
        over.close()
    assert multiprocessing.active_children() == []
    assert not long.place.record.exists()


@pytest.mark.parametrize(
    ("presets", "cores", "memory", "workers"),
    [
        (["small"], 16, None, 16),
        (["small"], 16, 139.0, 8),
        (["small"], 128, 139.0, 34),
        (["paper"], 16, 139.0, 5),
        (["smoke", "paper"], 16, 139.0, 5),
        (["somebody's"], 16, 24.0, 1),
        (["small"], 1, 24.0, 1),
    ],
)
def test_the_default_number_of_workers(presets, cores, memory, workers) -> None:
    runs = [Experiment("eacl", "meld", preset, 1, MethodConfig()) for preset in presets]
    number, why = sane_workers(runs, cores, memory)
    assert number == workers
    assert "--jobs" in why


@pytest.mark.parametrize(
    ("preset", "memory", "workers"), [("small", 36.0, 3), ("small", 1.0, 1), ("smoke", 640.0, 16)]
)
def test_on_a_cpu_every_core_gets_a_run_if_memory_suffices(preset, memory, workers) -> None:
    run = Experiment("eacl", "meld", preset, 1, MethodConfig())
    number, why = sane_workers([run], 16, None, memory)
    assert number == workers
    assert ("GiB" in why) == (workers < 16)


def test_a_gpu_that_pytorch_can_not_use_is_not_called_missing(tmp_path, monkeypatch) -> None:
    run = Experiment("eacl", "meld", "small", 1, MethodConfig())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no GPU" in sane_workers([run, run], 16, None)[1]
    (tmp_path / "nvidia-smi").touch(0o755)
    assert "PyTorch can't use the GPU" in sane_workers([run, run], 16, None)[1]


@pytest.mark.parametrize(
    ("override", "workers"),
    [("precision=float32", 1), ("evaluation.batch_size=512", 1), ("temperature=0.05", 34)],
)
def test_a_run_that_may_need_more_gpu_memory_runs_alone(override: str, workers: int) -> None:
    run = resolve("eacl", "meld", preset="small", overrides=[override])
    number, why = sane_workers([run, run], 128, 139.0)
    assert number == workers
    assert (override.partition("=")[0].rpartition(".")[2] in why) == (workers == 1)
