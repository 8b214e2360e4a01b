"""Grids on a real Slurm, whose jobs are requeued, killed, warned and cancelled."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from slurm_cluster import Cluster, missing

from erc_bench.errors import ErcBenchError
from erc_bench.execution import slurm
from erc_bench.execution.grid import plan, run_grid
from erc_bench.execution.job_folder import job_folders
from erc_bench.execution.jobs import Job
from erc_bench.execution.resources import Resources
from erc_bench.execution.slurm import Slurm
from erc_bench.execution.status import print_status
from erc_bench.settings.experiment import resolve

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

NEEDS = Resources(cpus=1, memory_gib=1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory):
    """A Slurm that only these tests use."""
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    before = dict(os.environ)
    try:
        made.start()
        os.environ.update(SLURM_CONF=str(made.conf), PATH=made.environment["PATH"])
        yield made
    finally:
        made.stop()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "SQUEUE_SECONDS", 1.0)
    monkeypatch.setattr(slurm, "MISSED_SECONDS", 2.0)
    monkeypatch.setattr(Slurm, "seconds", 0.3)


def jobs_in(root: Path, encoder: str, seeds: int, epochs: int) -> list[Job]:
    quick = ["max_batches=2", f"epochs={epochs}", "precision=float32", "patience=0"]
    settings = [f"encoder={encoder}", *quick]
    experiments = [
        resolve("finetune", "demo", preset="smoke", seed=seed, overrides=settings)
        for seed in range(1, seeds + 1)
    ]
    return plan(experiments, root, {})[0]


def grid(jobs: list[Job], **options):
    root = jobs[0].place.root
    experiments = [job.experiment for job in jobs]
    return run_grid(experiments, root, executor=Slurm({}), resources=NEEDS, **options)


def queued_in(root: Path) -> set[str]:
    """Names of the runs that Slurm still has to do."""
    return {queued.run for folder in job_folders(root) for queued in folder.queued()}


def handle_of(job: Job) -> str:
    """Return Slurm's id of a job."""
    (folder,) = job_folders(job.place.root)
    return next(q.handle for q in folder.queued() if q.run == job.place.name)


def worker_of(job: Job) -> int:
    """Return the id of the process that does a job."""
    (folder,) = job_folders(job.place.root)
    name = next(q.name for q in folder.queued() if q.run == job.place.name)
    return int(folder.worker(name)["process"])


def test_a_grid_whose_jobs_are_requeued_killed_warned_and_cancelled(
    cluster: Cluster, tiny_encoder: str, tmp_path: Path, quickly: None, capsys
) -> None:
    """One job is requeued, one killed at its time limit, one warned of it, and one cancelled.

    In between, the controller is restarted. The cancelled run fails, and the others are resumed
    after their last epochs.
    """
    timed, requeued, cancelled, warned = jobs = jobs_in(tmp_path, tiny_encoder, 4, 40)
    troubles: list[BaseException] = []
    handles: list[str] = []

    def has_an_epoch(job: Job):
        return lambda: (job.place.folder / "last.ckpt").exists()

    def befall() -> None:
        try:
            cluster.until(has_an_epoch(timed), 600)
            handles.append(handle_of(timed))
            os.kill(worker_of(timed), signal.SIGSTOP)  # it will not be done in time
            cluster.run("scontrol", "update", f"JobId={handle_of(timed)}", "TimeLimit=1")
            cluster.run("scancel", handle_of(cancelled))
            cluster.until(has_an_epoch(requeued), 600)
            cluster.run("scontrol", "requeue", handle_of(requeued))
            cluster.until(lambda: cancelled.place.name not in queued_in(tmp_path))
            cluster.stop_controller()
            cluster.start_controller()
            cluster.until(has_an_epoch(warned), 600)
            cluster.run("scancel", "--batch", "--signal=USR1", handle_of(warned))
        except BaseException as error:
            troubles.append(error)

    trouble = threading.Thread(target=befall)
    trouble.start()
    report = grid(jobs)
    trouble.join()
    assert troubles == []
    (ended,) = report.failures
    assert ended.job.experiment == cancelled.experiment
    assert "was cancelled in Slurm" in ended.failure
    assert len(report.scores["finetune", "demo"]) == 3
    for job in (timed, requeued, warned):
        assert job.place.finished() is not None
        assert job.place.log.read_text(encoding="utf-8").count("Epoch 1/") == 1
        assert "Resuming after epoch" in job.place.log.read_text(encoding="utf-8")
    said = " ".join(capsys.readouterr().err.split())
    # Before Slurm kills the worker, it wakes it and asks it to end. If the worker is fast enough,
    # the job requeues itself at the end of each minute. Otherwise the grid queues it again.
    if not re.search("Restarts=[1-9]", cluster.run("scontrol", "show", "job", *handles)):
        assert re.search("was (killed at|stopped on n., by) its time limit", said), said
        assert "queued again (1 of 3)" in said
    assert job_folders(tmp_path) == []


def test_the_jobs_of_a_detached_grid_are_picked_up(
    cluster: Cluster,
    tiny_encoder: str,
    tmp_path: Path,
    quickly: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = jobs_in(tmp_path, tiny_encoder, 2, 2)
    assert grid(jobs, detach=True).left == 2
    out = StringIO()
    print_status(Console(file=out, width=200), tmp_path)
    assert "no command is watching it" in out.getvalue()
    assert "0 of 2 runs finished" in out.getvalue()
    monkeypatch.setattr(Slurm, "start", lambda *_: pytest.fail("it was handed in again"))
    report = grid(jobs)
    assert len(report.scores["finetune", "demo"]) == 2
    assert job_folders(tmp_path) == []


def test_a_machine_that_does_not_see_the_folder_is_one_error(
    cluster: Cluster, tiny_encoder: str, tmp_path: Path, quickly: None, monkeypatch
) -> None:
    jobs = jobs_in(tmp_path, tiny_encoder, 2, 2)
    start = Slurm.start

    def elsewhere(self, attempts, at_once):
        for attempt in attempts:  # as if the folder existed on this machine alone
            attempt.file.unlink()
        return start(self, attempts, at_once)

    monkeypatch.setattr(Slurm, "start", elsewhere)
    with pytest.raises(ErcBenchError, match="does not see the folder"):
        grid(jobs)
    assert not cluster.run("squeue", "--noheader", "--states=PENDING").strip()


def test_jobs_that_slurm_refuses_are_errors(
    cluster: Cluster, tiny_encoder: str, tmp_path: Path
) -> None:
    jobs = jobs_in(tmp_path, tiny_encoder, 2, 2)
    experiments = [job.experiment for job in jobs]
    with pytest.raises(ErcBenchError, match=r"Slurm refused `sbatch`: .*partition"):
        run_grid(experiments, tmp_path, executor=Slurm({"partition": "nowhere"}), resources=NEEDS)
    with pytest.raises(ErcBenchError, match="Slurm gives whole GPUs"):
        run_grid(experiments, tmp_path, executor=Slurm({}), resources=Resources(gpus=0.5))
    assert json.dumps([folder.name for folder in job_folders(tmp_path)]) == "[]"
