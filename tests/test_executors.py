"""A grid and its executor: runs that are lost, queued again, left, found again, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from fake_executors import Fake, Queueing, do, end, nobody
from rich.console import Console

from erc_bench.cli import main
from erc_bench.errors import ErcBenchError
from erc_bench.execution import executors, slurm
from erc_bench.execution.executors import Dispatch, Gone, make_executor
from erc_bench.execution.grid import plan, run_grid
from erc_bench.execution.grid_display import GridDisplay
from erc_bench.execution.grid_progress import GridProgress
from erc_bench.execution.job_folder import (
    JobFolder,
    Queued,
    check_code,
    job_folders,
    read_job,
    sent_job,
)
from erc_bench.execution.jobs import Attempt, Job, experiment_document, experiment_of
from erc_bench.execution.resources import Resources, parse_resources
from erc_bench.execution.slurm import SCRIPT, Slurm
from erc_bench.execution.status import print_status
from erc_bench.execution.worker import STOPPED, UNSEEN, perform
from erc_bench.settings.experiment import Experiment, Tuned, resolve
from erc_bench.settings.registry import executor_names

QUICK = ("max_batches=1", "epochs=1", "precision=float32", "max_len=16")


@pytest.fixture(scope="module")
def experiments(tiny_encoder: str) -> list[Experiment]:
    """Two runs that take a second each."""
    settings = [f"encoder={tiny_encoder}", *QUICK]
    return [
        resolve("finetune", "demo", preset="smoke", seed=seed, overrides=settings)
        for seed in (1, 2)
    ]


def attempt_at(experiment: Experiment, root: Path, **options) -> Attempt:
    """Write a job to its file; returns its first attempt."""
    (job,), _ = plan([experiment], root, options)
    folder = JobFolder(root)
    folder.start = time.time()
    with folder.held():
        (attempt,) = folder.send([(job, 1, Resources(cpus=1))], 1, 1)
    return attempt


@pytest.mark.parametrize("variant", ["", "no-angle"])
@pytest.mark.parametrize("tuned", [None, Tuned(8, "random", 0, {"lr": [1, 2]}, 3, "ab" * 32)])
def test_a_worker_is_sent_the_whole_experiment(variant: str, tuned: Tuned | None) -> None:
    chosen = resolve("eacl", "meld", preset="small", seed=7, overrides=["lr=0.1"], variant=variant)
    chosen = replace(chosen, tuned=tuned)
    assert experiment_of(json.loads(json.dumps(experiment_document(chosen)))) == chosen


def work(attempt: Attempt, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        attempt.command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


# --- workers that are lost or fail ---


def test_a_run_whose_machine_is_lost_is_queued_again(experiments, tmp_path: Path, capsys) -> None:
    def begin(attempt: Attempt) -> None:
        if attempt.tries == 1:
            fake.lost[attempt.name] = Gone("lost its node", again=True)
        else:
            do(attempt)

    fake = Fake(begin)
    report = run_grid(experiments, tmp_path, executor=fake, restart=True)
    assert report.failures == []
    assert len(report.scores["finetune", "demo"]) == 2
    assert [attempt.tries for attempt in fake.started] == [1, 1, 2, 2]
    # The first attempts may not have ended an epoch; the worker looks.
    assert all(attempt.job.options["restart"] for attempt in fake.started)
    assert "lost its node. It is queued again (1 of 3)." in " ".join(
        capsys.readouterr().err.split()
    )
    assert job_folders(tmp_path) == []


@pytest.mark.parametrize(
    ("how", "attempts", "words"),
    [
        (Gone("lost its node", again=True), 3, "It was tried 3 times."),
        (Gone("was killed by SIGSEGV", status=-11), 1, "SIGSEGV; the same command resumes it"),
        (Gone("was stopped", status=STOPPED), 1, "it was stopped; the same command resumes it"),
        (Gone("ended with status 1", status=1), 1, "could not say why"),
    ],
)
def test_a_lost_run_that_is_not_queued_again_is_a_failure(
    experiments, tmp_path: Path, how: Gone, attempts: int, words: str
) -> None:
    fake = Fake(lambda attempt: fake.lost.setdefault(attempt.name, how))
    report = run_grid(experiments[:1], tmp_path, executor=fake, retries=2)
    (ended,) = report.failures
    assert words in ended.failure
    assert len(fake.started) == attempts


def test_requeues_of_the_engine_count_as_retries(experiments, tmp_path: Path, capsys) -> None:
    def begin(attempt: Attempt) -> None:
        once = attempt.tries == 1
        fake.lost[attempt.name] = Gone("was stopped", again=True, restarts=1 if once else 0)

    fake = Fake(begin)
    (ended,) = run_grid(experiments[:1], tmp_path, executor=fake, retries=2).failures
    assert "It was tried 3 times." in ended.failure
    assert [(attempt.tries, attempt.retries) for attempt in fake.started] == [(1, 2), (3, 0)]
    assert "queued again (2 of 2)" in " ".join(capsys.readouterr().err.split())


def test_slurm_says_how_often_it_queued_a_job_again(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = f"JobId=8 JobState=FAILED ExitCode={STOPPED}:0 Restarts=2 NodeList=n1"
    monkeypatch.setattr(slurm, "_ask", lambda *words: shown)
    how = slurm._how("7_0")
    assert (how.again, how.status, how.restarts) == (True, STOPPED, 2)
    monkeypatch.setattr(slurm, "_ask", lambda *words: "JobState=TIMEOUT Restarts=1")
    assert (slurm._how("7_0").again, slurm._how("7_0").restarts) == (True, 1)


def test_a_run_that_fails_is_not_queued_again(experiments, tmp_path: Path) -> None:
    fake = Fake(lambda attempt: end(attempt, "a reason."))
    report = run_grid(experiments, tmp_path, executor=fake)
    assert [ended.failure for ended in report.failures] == ["a reason."] * 2
    assert len(fake.started) == 2


def test_an_end_that_is_seen_late_over_nfs_is_waited_for(experiments, tmp_path: Path) -> None:
    class Late(Fake):
        def wait(self, seconds: float) -> None:
            super().wait(seconds)
            if self.waits == 3:
                do(self.started[-1])

    fake = Late(lambda attempt: fake.lost.setdefault(attempt.name, Gone("ended", status=0)))
    report = run_grid(experiments[:1], tmp_path, executor=fake)
    assert report.failures == []
    assert fake.waits >= 3


def test_an_end_that_is_never_seen_is_a_failure(
    experiments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "LATE_SECONDS", 0.1)
    fake = Fake(lambda attempt: fake.lost.setdefault(attempt.name, Gone("ended", status=0)))
    report = run_grid(experiments[:1], tmp_path, executor=fake)
    assert len(report.failures) == 1


def test_a_machine_that_does_not_see_the_folder_stops_the_grid(experiments, tmp_path: Path) -> None:
    fake = Fake(lambda a: fake.lost.setdefault(a.name, Gone("ended", status=UNSEEN)), most=2)
    with pytest.raises(ErcBenchError, match="--leaderboard-dir"):
        run_grid(experiments, tmp_path, executor=fake)
    assert len(fake.stopped) == 2
    assert job_folders(tmp_path) == []


# --- jobs that run on without the command ---


def test_runs_that_were_queued_and_left_are_found_again(experiments, tmp_path: Path) -> None:
    first = Queueing(lambda _: None, most=2)
    assert run_grid(experiments, tmp_path, executor=first, detach=True).left == 2
    assert first.stopped == []
    done, failed = first.started
    do(done)
    end(failed, "a reason.")
    again = nobody()
    again.name, again.outlives, again.queues = "queueing", True, True
    report = run_grid(experiments, tmp_path, executor=again)
    assert len(report.scores["finetune", "demo"]) == 1
    assert [ended.failure for ended in report.failures] == ["a reason."]
    assert job_folders(tmp_path) == []


def test_a_run_that_was_queued_with_no_test_is_done_by_a_later_command(
    experiments, tmp_path: Path, capsys
) -> None:
    first = Queueing(lambda _: None)
    run_grid(experiments[:1], tmp_path, executor=first, detach=True, no_test=True)
    do(first.started[0])
    again = Queueing()
    report = run_grid(experiments[:1], tmp_path, executor=again)
    assert report.failures == []
    assert len(report.scores["finetune", "demo"]) == 1
    assert [attempt.job.options for attempt in again.started] == [{}]
    assert "Other processes" not in capsys.readouterr().err
    assert job_folders(tmp_path) == []


@pytest.mark.slow
def test_detached_runs_that_have_ended_are_not_started_again(experiments, tmp_path: Path) -> None:
    first = Queueing(lambda _: None, most=2)
    run_grid(experiments, tmp_path, executor=first, detach=True)
    for attempt in first.started:
        do(attempt)
    report = run_grid(experiments, tmp_path, executor=nobody())
    assert len(report.scores["finetune", "demo"]) == 2
    assert job_folders(tmp_path) == []


class Interrupted(Queueing):
    def wait(self, seconds: float) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize(("answer", "stopped"), [("", 0), ("c", 2)])
def test_ctrl_c_asks_once(
    experiments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, stopped: int
) -> None:
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda: asked.append(1) or answer)
    fake = Interrupted(lambda _: None, most=2)
    with pytest.raises(KeyboardInterrupt):
        run_grid(experiments, tmp_path, executor=fake)
    assert len(asked) == 1
    assert len(fake.stopped) == stopped
    assert len(job_folders(tmp_path)) == (0 if stopped else 1)


@pytest.mark.slow
def test_a_run_that_another_command_has_queued_is_left_to_it(
    experiments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("erc_bench.execution.grid_progress.POLL_SECONDS", 0.01)
    first = Queueing(lambda _: None, most=2)
    run_grid(experiments, tmp_path, executor=first, detach=True)
    (folder,) = job_folders(tmp_path)
    looked = []

    def is_held(self: JobFolder) -> bool:
        looked.append(self.name)
        if len(looked) == 6:  # meanwhile the other command's runs end
            for attempt in first.started:
                do(attempt)
        return self.name == folder.name

    monkeypatch.setattr(JobFolder, "is_held", is_held)
    report = run_grid(experiments, tmp_path, executor=nobody())
    assert len(report.scores["finetune", "demo"]) == 2


def test_detach_needs_an_executor_with_a_queue(tmp_path: Path, capsys) -> None:
    words = ["run", "--method", "finetune", "--dataset", "demo", "--preset", "smoke", "--detach"]
    assert main([*words, "--leaderboard-dir", str(tmp_path)]) == 2
    assert "--executor slurm" in capsys.readouterr().err


def status_of(root: Path) -> str:
    out = StringIO()
    print_status(Console(file=out, width=250), root)
    return out.getvalue()


def test_status_counts_only_new_records_of_repeated_runs(experiments, tmp_path: Path) -> None:
    (job,), _ = plan(experiments[:1], tmp_path, {})
    run_grid(experiments[:1], tmp_path, executor=Queueing())
    os.utime(job.place.record, (1, 1))
    fake = Queueing(lambda _: None)
    run_grid(experiments, tmp_path, executor=fake, detach=True, force=True)
    assert "0 of 2 runs finished, 2 waiting" in status_of(tmp_path)
    job.place.record.touch()
    assert "1 of 2 runs finished, 1 waiting" in status_of(tmp_path)
    run_grid(experiments, tmp_path, executor=fake, detach=True, force=True)
    assert "1 of 2 runs finished, 1 waiting" in status_of(tmp_path)


def test_status_shows_a_run_whose_worker_was_killed(experiments, tmp_path: Path) -> None:
    said = []

    class Killed(Fake):
        def wait(self, seconds: float) -> None:
            said.append(status_of(tmp_path))
            end(self.started[1])

    fake = Killed(lambda _: fake.lost.setdefault(fake.started[0].name, killed), most=2)
    killed = Gone("was killed by SIGKILL", status=-9)
    run_grid(experiments, tmp_path, executor=fake)
    assert "0 of 2 runs finished, 1 waiting, 1 failed" in said[0]
    assert f"{fake.started[0].job.place.name}: its worker was killed by SIGKILL" in said[0]


def test_status_shows_the_state_of_every_run(experiments, tmp_path: Path) -> None:
    first = Queueing(lambda _: None, most=2)
    run_grid(experiments, tmp_path, executor=first, detach=True)
    running, failed = first.started
    running.begun.write_text(
        '{"host": "node7", "process": 3, "since": "2026-01-01"}', encoding="utf-8"
    )
    running.job.place.log.parent.mkdir(parents=True)
    running.job.place.log.write_text("Epoch 2/8  loss 0.5\n", encoding="utf-8")
    end(failed, "a reason.")
    said = status_of(tmp_path)
    for words in ("queueing", "0 of 2 runs finished, 1 running, 1 failed", "node7", "Epoch 2/8"):
        assert words in said
    assert f"{failed.job.place.name}: a reason." in said
    assert main(["grid", "status", str(tmp_path)]) == 0
    assert main(["grid", "status", str(tmp_path / "nowhere")]) == 2


@pytest.mark.skipif(os.name == "nt", reason="the programs are scripts of a Unix shell")
def test_what_a_run_needs_becomes_options_of_sbatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    sbatch = f'printf "%s\\n" "$@" > {tmp_path}/asked; cat > {tmp_path}/script; echo "7;cluster"'
    texts = {"sbatch": sbatch, "scontrol": "echo MaxArraySize = 100"}
    for name in ("sbatch", "scontrol", "squeue", "scancel", "sinfo"):
        (programs / name).write_text(f"#!/bin/sh\n{texts.get(name, '')}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    words = ["cpus=3", "gpus=2", "memory_gib=20", "minutes=90.5", "slurm.account=me"]
    words += ["slurm.exclusive=", "slurm.setup=module load cuda"]
    needs = parse_resources(words, executor_names())
    wanted = [resolve("finetune", "demo", preset="smoke", seed=seed) for seed in (1, 2, 3)]
    jobs, _ = plan(wanted, tmp_path / "board", {})
    folder = JobFolder(tmp_path / "board")
    folder.start = time.time()
    with folder.held():
        attempts = folder.send([(job, 1, needs) for job in jobs], 1, 1)
        assert Slurm(needs.of("slurm")).start(attempts, 2) == ["7_0", "7_1", "7_2"]
    assert {
        *("--array=0-2%2", "--cpus-per-task=3", "--mem=20480M", "--gres=gpu:2", "--time=90:30"),
        *("--account=me", "--exclusive", "--signal=B:USR1@90", "--requeue"),
    } <= set((tmp_path / "asked").read_text(encoding="utf-8").splitlines())
    assert "\nmodule load cuda\n" in (tmp_path / "script").read_text(encoding="utf-8")


def test_ctrl_c_without_a_terminal_leaves_the_jobs(
    experiments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", StringIO())
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("nobody can answer"))
    fake = Interrupted(lambda _: None, most=2)
    with pytest.raises(KeyboardInterrupt):
        run_grid(experiments, tmp_path, executor=fake)
    assert fake.stopped == []
    assert len(job_folders(tmp_path)) == 1


def test_two_hundred_runs_have_one_display(experiments, tmp_path: Path) -> None:
    wanted = [replace(experiments[0], seed=seed) for seed in range(1, 201)]
    planned, _ = plan(wanted, tmp_path, {})
    folder = JobFolder(tmp_path)
    state = GridProgress(planned)
    state.dispatch = Dispatch(Queueing(), folder)
    state.adopt(planned, {job.place.name: queued(job.place.name) for job in planned})
    with folder.held():
        for job in planned[:150]:
            (folder.path / "begun" / f"{job.place.name.replace('/', '-')}.json").touch()
        out = StringIO()
        screen = Console(file=out, width=120, height=25, force_terminal=True)
        screen.print(GridDisplay(state).picture())
    assert "0 of 200 runs, 150 running, 50 waiting in queueing" in out.getvalue()
    assert "more" in out.getvalue()
    assert out.getvalue().count("\n") < 25


def queued(run: str) -> Queued:
    name = run.replace("/", "-")
    return Queued("queueing", f"handle of {name}", name, run)


# --- the worker ---


@pytest.mark.slow
def test_the_worker_is_a_program_of_its_own(experiments, tmp_path: Path) -> None:
    attempt = attempt_at(experiments[0], tmp_path)
    done = work(attempt, SLURM_NTASKS="1", SLURM_JOB_ID="7", SLURM_JOB_NAME="erc")
    assert done.returncode == 0, done.stderr
    assert json.loads(attempt.ended.read_text(encoding="utf-8"))["failure"] == ""
    assert json.loads(attempt.begun.read_text(encoding="utf-8"))["process"]
    assert attempt.job.place.finished() is not None


@pytest.mark.slow
def test_the_worker_refuses_other_code_and_other_settings(experiments, tmp_path: Path) -> None:
    for name, value in (("code", "another"), ("job", None), ("version", 99)):
        attempt = attempt_at(experiments[0], tmp_path / name)
        document = json.loads(attempt.file.read_text(encoding="utf-8"))
        if name == "job":  # with other settings
            document["job"]["experiment"]["settings"]["epochs"] = 7
        else:
            document[name] = value
        attempt.file.write_text(json.dumps(document), encoding="utf-8")
        assert work(attempt).returncode == 1
        failure = json.loads(attempt.ended.read_text(encoding="utf-8"))["failure"]
        assert "with which the grid was begun" in failure
        assert not attempt.job.place.record.exists()


@pytest.mark.slow
def test_a_worker_elsewhere_finds_files_relative_to_the_commands_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.jinja").write_text(
        "{% block user %}{{ target.text }}{% endblock %}", encoding="utf-8"
    )
    server = ["base_url=http://127.0.0.1:1/v1", "retries=0", "encoder=m"]
    prompts = "prompts=[plain,question,mine.jinja]"
    attempt = attempt_at(resolve("prompt-lm", "demo", overrides=[*server, prompts]), Path("store"))
    monkeypatch.chdir("/")
    work(attempt)
    failure = json.loads(attempt.ended.read_text(encoding="utf-8"))["failure"]
    assert "127.0.0.1:1" in failure  # the prompts were read, and the server does not answer


@pytest.mark.slow
def test_the_worker_says_that_it_does_not_see_its_job(experiments, tmp_path: Path) -> None:
    attempt = attempt_at(experiments[0], tmp_path)
    attempt.file.unlink()
    done = work(attempt)
    assert done.returncode == UNSEEN
    assert str(attempt.file) in done.stderr


def test_a_job_is_read_as_it_was_written(
    experiments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = attempt_at(experiments[0], tmp_path, data_dir=None, wandb="off", force=True)
    sent = sent_job(read_job(attempt.file))
    assert sent.job == attempt.job
    check_code(sent)
    monkeypatch.setattr("erc_bench.execution.code_digest.OWN_CODE", "changed")
    with pytest.raises(ErcBenchError, match="the code of erc-bench or of a plug-in"):
        check_code(sent)


def test_restart_begins_anew_until_the_new_training_has_ended_an_epoch(
    experiments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = attempt_at(experiments[0], tmp_path, restart=True)
    sent = sent_job(read_job(attempt.file))
    seen = []
    monkeypatch.setattr(Job, "do", lambda job, _: seen.append(job.options["restart"]))
    last = attempt.job.place.folder / "last.ckpt"
    last.parent.mkdir(parents=True)
    perform(sent)
    last.touch()
    os.utime(last, (sent.start - 60, sent.start - 60))  # of the training that is discarded
    perform(sent)
    os.utime(last, (sent.start + 60, sent.start + 60))
    perform(sent)
    assert seen == [True, True, False]


# --- resources ---


def test_resources_are_read_from_the_command_and_from_files(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(
        "gpus: 2\nminutes: 90\nslurm:\n  partition: gpu\n  setup: [module load a, b]\n",
        encoding="utf-8",
    )
    names = executor_names()
    found = parse_resources([str(site), "gpus=1", "slurm.account=me"], names)
    assert (found.gpus, found.minutes, found.cpus) == (1, 90, None)
    assert found.of("slurm") == {"partition": "gpu", "setup": "module load a\nb", "account": "me"}
    assert found.of("ray") == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("gpu=1", "Did you mean 'gpus'"),
        ("cpus=1.5", "a whole number from 1 on"),
        ("gpus=-1", "a number above 0 or 0"),
        ("minutes=soon", "a number above 0"),
        ("slum.partition=gpu", "no resource 'slum.partition'"),
        ("slurm.=gpu", "the name of an option"),
        ("nowhere.yaml", "neither key=value nor a file"),
    ],
)
def test_wrong_resources_are_named(given: str, said: str) -> None:
    with pytest.raises(ErcBenchError, match=r"--resources") as error:
        parse_resources([given], executor_names())
    assert said in str(error.value)


@pytest.mark.parametrize("text", ["- a\n", "{", "gpus: yes\n", "slurm: {a: {b: c}}\n"])
def test_a_wrong_file_of_resources_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "site.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ErcBenchError, match=r"site\.yaml"):
        parse_resources([str(tmp_path / "site.yaml")], executor_names())


@pytest.mark.parametrize(
    ("preset", "gpus", "shares", "wanted"),
    [
        ("paper", True, True, (2, 1)),
        ("paper", False, False, (1, 0)),
        ("small", True, True, (2, 0.25)),
        ("small", True, False, (1, 0)),
    ],
)
def test_default_resources_depend_on_the_run(preset, gpus, shares, wanted) -> None:
    run = resolve("finetune", "demo", preset=preset)
    needs = Resources().for_run(run, gpus=gpus, shares=shares)
    assert (needs.cpus, needs.gpus) == wanted
    assert needs.memory_gib > 1
    assert Resources(cpus=7).for_run(run, gpus=gpus, shares=shares).cpus == 7


@pytest.mark.parametrize(("preset", "wanted"), [("small", 1), ("smoke", 0)])
def test_a_method_that_needs_a_gpu_gets_one_also_with_a_preset_for_the_cpu(preset, wanted) -> None:
    run = resolve("lora-lm", "demo", preset=preset)
    assert Resources().for_run(run, gpus=True, shares=False).gpus == wanted


def test_executors_are_found_by_entry_points() -> None:
    assert {"local", "ray", "slurm"} <= set(executor_names())
    assert make_executor("local", {}).name == "local"
    with pytest.raises(ErcBenchError, match="Did you mean 'slurm'"):
        make_executor("slrum", {})
    with pytest.raises(ErcBenchError, match="local has no such option"):
        make_executor("local", {"a": "b"})


@pytest.mark.skipif(sys.platform == "win32", reason="a file of Unix")
def test_a_missing_slurm_is_one_clear_error(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ErcBenchError, match="no `sbatch` here"):
        make_executor("slurm", {})


@pytest.mark.skipif(sys.platform == "win32", reason="a script of Unix")
@pytest.mark.parametrize(
    ("setup", "worker", "warn", "status", "requeued"),
    [
        ("touch ready; sleep 0.5", "exit 0", True, STOPPED, True),
        ("", "touch ready; exec sleep 60", True, STOPPED, True),
        ("", f"trap 'exit {STOPPED}' USR1; touch ready; sleep 2 & wait", True, STOPPED, True),
        ("", "trap '' USR1; touch ready; sleep 0.5; exit 0", True, 0, False),
        ("", "exit 1", False, 1, False),
        ("", f"exit {STOPPED}", False, STOPPED, False),
    ],
    ids=["in-setup", "not-yet-listening", "listening", "ends-by-itself", "fails", "preempted"],
)
@pytest.mark.parametrize("restarts", [0, 2])
def test_a_job_of_slurm_that_is_warned_is_queued_again(
    tmp_path: Path, setup: str, worker: str, warn: bool, status: int, requeued: bool, restarts: int
) -> None:
    """At whatever moment the warning comes, but no more often than ``retries`` allows."""
    for name, text in {"scontrol": 'echo "$@" > requeued', "worker": worker}.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        program.chmod(0o755)
    script = SCRIPT.format(setup=setup, worker="./worker", sent="job", stopped=STOPPED, retries=2)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    names = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    given = {**os.environ, **names, "PATH": path, "SLURM_RESTART_COUNT": str(restarts)}
    job = subprocess.Popen(["bash", "-c", script], cwd=tmp_path, env=given)
    if warn:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        job.send_signal(signal.SIGUSR1)
    assert job.wait(30) == status
    told = tmp_path / "requeued"
    assert told.exists() == (requeued and restarts < 2)
    assert not told.exists() or told.read_text(encoding="utf-8") == "requeue 7_3\n"
