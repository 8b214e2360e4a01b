"""Grids of real runs in real processes: side by side, killed, interrupted, two on one folder."""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from fake_executors import Fake, do, end, nobody
from filelock import FileLock
from rich.console import Console

from erc_bench.corpus.conversation import Metric
from erc_bench.errors import ErcBenchError
from erc_bench.execution import grid_display, grid_progress
from erc_bench.execution.executors import Dispatch
from erc_bench.execution.grid import plan, run_grid
from erc_bench.execution.grid_progress import GridProgress
from erc_bench.execution.job_folder import JobFolder
from erc_bench.execution.jobs import Attempt, Job, Result
from erc_bench.execution.local import Local
from erc_bench.execution.report import Report
from erc_bench.execution.run import run
from erc_bench.records.parsing import parse_record
from erc_bench.records.schema import to_json
from erc_bench.records.store import read_record, record_files
from erc_bench.settings.experiment import resolve

METHODS = ("eacl", "finetune")
QUICK = ("max_batches=2", "epochs=2", "precision=float32")

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="what is running is read from /proc"
)


@pytest.fixture(scope="module")
def planned(tiny_encoder: str):
    """A function that plans methods × seeds on demo in a folder; each job takes a second or two."""

    def jobs(root: Path, *overrides: str, methods=METHODS, seeds=2, **options: Any) -> list[Job]:
        settings = [f"encoder={tiny_encoder}", *QUICK, *overrides]
        experiments = [
            resolve(m, "demo", preset="smoke", seed=s, overrides=settings)
            for m in methods
            for s in range(1, seeds + 1)
        ]
        return plan(experiments, root, options)[0]

    return jobs


def run_jobs(jobs: list[Job], workers: int | None, executor=None) -> Report:
    """Run the grid of some jobs."""
    experiments = [job.experiment for job in jobs]
    options = jobs[0].options
    root = jobs[0].place.root
    return run_grid(experiments, root, workers=workers, executor=executor, **options)


def command(jobs: list[Job], *options: str) -> list[str]:
    """The command line that asks for these jobs, two at a time."""
    methods = dict.fromkeys(job.experiment.method for job in jobs)
    seeds = dict.fromkeys(str(job.experiment.seed) for job in jobs)
    return [
        *(sys.executable, "-m", "erc_bench.cli", "run", "--dataset", "demo", "--preset", "smoke"),
        *("--method", *methods, "--seed", *seeds, "--leaderboard-dir", str(jobs[0].place.root)),
        *("--jobs", "2", *options, *jobs[0].experiment.overrides),
    ]


def predictions(job: Job) -> dict[str, Any]:
    stored = read_record(job.place.record).predictions
    return {split: of_split.probabilities for split, of_split in stored.items()}


def until(condition: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def reached(job: Job, text: str) -> bool:
    return job.place.log.exists() and text in job.place.log.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def whole(planned, tmp_path_factory: pytest.TempPathFactory):
    """The jobs and the report of an undisturbed grid."""
    jobs = planned(tmp_path_factory.mktemp("whole"))
    return jobs, run_jobs(jobs, 2)


@pytest.mark.slow
def test_a_run_in_a_grid_predicts_the_same_as_alone(whole, tmp_path: Path) -> None:
    jobs, report = whole
    assert report.failures == []
    assert {kind: len(scores) for kind, scores in report.scores.items()} == {
        ("eacl", "demo"): 2,
        ("finetune", "demo"): 2,
    }
    (alone,), _ = plan([jobs[1].experiment], tmp_path, {})
    run(alone.experiment, tmp_path)
    assert predictions(alone) == predictions(jobs[1])
    shared = [read_record(job.place.record) for job in (alone, jobs[1])]
    assert [record.environment.runs_at_once for record in shared] == [1, 2]


@pytest.mark.slow
def test_every_run_has_its_own_log(whole) -> None:
    jobs, _ = whole
    names = {job.place.name for job in jobs}
    for job in jobs:
        text = job.place.log.read_text(encoding="utf-8")
        assert {name for name in names if name in text} == {job.place.name}
        assert text.count("Epoch 2/2") == 1


@pytest.mark.slow
def test_finished_runs_are_skipped_without_a_process(whole) -> None:
    jobs, report = whole
    again = run_jobs(jobs, None, nobody())
    assert {k: sorted(v) for k, v in again.scores.items()} == {
        k: sorted(v) for k, v in report.scores.items()
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [({}, "that are resumed: 1."), ({"restart": True}, "that start from the beginning: 1.")],
)
def test_a_grid_says_how_many_runs_resume_or_restart(
    planned, tmp_path: Path, capsys, options: dict, said: str
) -> None:
    jobs = planned(tmp_path, methods=["finetune"], **options)
    folder = jobs[0].place.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "last.ckpt").touch()
    capsys.readouterr()
    run_jobs(jobs, 1, Fake(lambda attempt: end(attempt, "no")))
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_can_not_be_written_to_is_one_error(planned, tmp_path: Path) -> None:
    (tmp_path / "board").write_text("a file", encoding="utf-8")
    with pytest.raises(ErcBenchError, match="--leaderboard-dir"):
        run_jobs(planned(tmp_path / "board"), 2, nobody())


@pytest.mark.slow
def test_failing_runs_stop_none_of_the_others(
    planned, tiny_encoder: str, tmp_path: Path, monkeypatch
) -> None:
    """One can't be begun, one fails without an explanation, one has a broken record."""
    jobs = planned(tmp_path, seeds=3)
    settings = ["encoder=no/such-encoder", *QUICK]
    wrong = resolve("eacl", "demo", preset="smoke", overrides=settings)
    odd, broken, *good = jobs
    (odd.place.folder / "best-epoch=9.ckpt").mkdir(parents=True)
    place = broken.place.record
    place.parent.mkdir(parents=True)
    place.write_text("{", encoding="utf-8")
    report = run_grid([wrong, *(job.experiment for job in jobs)], tmp_path, workers=2)
    failed = [ended.job.place.name for ended in report.failures]
    assert sorted(failed) == sorted(job.place.name for job in (odd, broken))
    assert report.failed == 3
    assert all(job.place.record.exists() for job in good)
    by_name = {text.partition(":")[0]: text for text in report.complaints()}
    complaints = [by_name[name] for name in (wrong.name, odd.place.name, broken.place.name)]
    for complaint, words in zip(
        complaints,
        (["'no/such-encoder'", "pip install"], ["its log shows where"], ["--force"]),
        strict=True,
    ):
        for word in words:
            assert word in complaint
    assert str(odd.place.log) in complaints[1]
    assert "Traceback" in odd.place.log.read_text(encoding="utf-8")
    assert place.read_text(encoding="utf-8") == "{"


def test_a_worker_refuses_another_corpus_than_the_grids(planned, tmp_path: Path) -> None:
    (job,) = planned(tmp_path, methods=["finetune"], seeds=1)
    sent = replace(job.place, run="another")
    with pytest.raises(ErcBenchError, match="not those with which the grid was begun"):
        run(job.experiment, tmp_path, expected=sent)


@pytest.mark.slow
def test_a_damaged_record_stops_none_of_the_others(planned, whole, tmp_path: Path) -> None:
    damaged, *others = planned(tmp_path, methods=["finetune"])
    source = read_record(whole[0][2].place.record)
    place = damaged.place.record
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({**to_json(source), "metrics": {}}), encoding="utf-8")
    report = run_jobs([damaged, *others], 1)
    (ended,) = report.failures
    assert ended.job.experiment == damaged.experiment
    assert str(place) in ended.failure
    assert "--force" in ended.failure
    assert len(report.scores["finetune", "demo"]) == 1


def test_runs_that_fail_alike_share_one_complaint(planned, tmp_path: Path) -> None:
    jobs = planned(tmp_path)
    failing = Fake(lambda attempt: end(attempt, "the same reason."))
    (complaint,) = run_jobs(jobs, 2, failing).complaints()
    assert complaint.count("the same reason.") == 1
    assert all(job.place.name in complaint for job in jobs)


@pytest.mark.slow
def test_a_process_that_dies_is_a_failed_run(planned, tmp_path: Path) -> None:
    (victim,) = planned(tmp_path, "epochs=500", "patience=0", methods=["eacl"], seeds=1)
    jobs = [victim, *planned(tmp_path, methods=["finetune"])]

    def kill() -> None:
        until(lambda: reached(victim, "Epoch 1/"))
        (process,) = (p for p in multiprocessing.active_children() if p.name == victim.place.name)
        os.kill(process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    report = run_jobs(jobs, 2)
    killer.join()
    (ended,) = report.failures
    assert ended.job.experiment == victim.experiment
    assert "SIGKILL" in ended.failure
    assert "the same command resumes it" in ended.failure
    assert not victim.place.record.exists()
    assert len(report.scores["finetune", "demo"]) == 2


# --- several grids on one folder ---


@pytest.mark.slow
def test_two_grids_at_once_do_every_run_once(planned, whole, tmp_path: Path) -> None:
    jobs, said = planned(tmp_path / "board"), tmp_path / "said.txt"
    other = start(jobs, said)
    until(lambda: reached(jobs[0], "Run "))
    report = run_jobs(jobs, 2)
    assert other.wait(120) == 0, said.read_text(encoding="utf-8")
    assert report.failures == []
    for job, undisturbed in zip(jobs, whole[0], strict=True):
        assert job.place.log.read_text(encoding="utf-8").count("Epoch 1/") == 1
        assert predictions(job) == predictions(undisturbed)
    out = StringIO()
    report.render(Console(file=out))
    assert out.getvalue() in said.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_run_of_another_process_comes_last_and_its_record_is_awaited(
    planned, whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(grid_progress, "POLL_SECONDS", 0.05)
    jobs = planned(tmp_path, methods=["finetune"])
    taken, free = jobs
    folder = taken.place.folder
    folder.mkdir(parents=True)
    elsewhere = whole[0][2]
    assert elsewhere.experiment == taken.experiment
    done = []

    def other_process_ends() -> None:
        until(lambda: free.place.record.exists())
        time.sleep(0.3)
        place = taken.place.record
        place.write_bytes(elsewhere.place.record.read_bytes())
        lock.release()

    def noting(attempt: Attempt) -> None:
        do(attempt)
        done.append(attempt.job)

    with FileLock(folder / "lock", thread_local=False) as lock:
        other = threading.Thread(target=other_process_ends)
        other.start()
        report = run_jobs(jobs, 1, Fake(noting))
        other.join()
    assert done == [free]
    assert len(report.scores["finetune", "demo"]) == 2
    assert "done by another process" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_was_given_up_elsewhere_is_done_here(
    planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid_progress, "POLL_SECONDS", 0.05)
    taken, free = jobs = planned(tmp_path, methods=["finetune"])
    folder = taken.place.folder
    folder.mkdir(parents=True)

    def other_process_dies() -> None:
        until(lambda: free.place.record.exists())
        lock.release()

    with FileLock(folder / "lock", thread_local=False) as lock:
        other = threading.Thread(target=other_process_dies)
        other.start()
        report = run_jobs(jobs, 1, Fake())
        other.join()
    assert report.failures == []
    assert len(report.scores["finetune", "demo"]) == 2


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.slow
def test_a_record_that_appears_meanwhile_is_taken(planned, tmp_path: Path, force: bool) -> None:
    """Also with ``force``: a record that another grid has renewed meanwhile is new enough."""
    jobs = planned(tmp_path, methods=["finetune"], force=force)
    if force:
        run_jobs(planned(tmp_path, methods=["finetune"]), 1, Fake())
    stamps = [job.place.record for job in jobs]
    before = [path.stat().st_mtime_ns if force else 0 for path in stamps]
    drawn = []

    def with_another(attempt: Attempt) -> None:
        drawn.append(attempt.job)
        for each in jobs:  # the second as if by another process
            run(each.experiment, each.place.root, force=force)
        end(attempt)

    report = run_jobs(jobs, 1, Fake(with_another))
    assert drawn == jobs[:1]
    assert len(report.scores["finetune", "demo"]) == 2
    assert all(p.stat().st_mtime_ns > b for p, b in zip(stamps, before, strict=True))


def test_files_of_a_run_killed_before_tidying_up_are_removed(planned, tmp_path: Path) -> None:
    (job,) = planned(tmp_path, methods=["finetune"], seeds=1)
    path = run(job.experiment, tmp_path).path
    folder = job.place.folder
    old = [
        folder / "last.ckpt",
        folder / "best-epoch=0.ckpt",
        folder / "last.ckpt.tmp",
        path.with_name(f".{path.name}.17.tmp"),
    ]
    for file in old:
        file.touch()
        os.utime(file, ns=(0, path.stat().st_mtime_ns - 1))
    stamp = path.stat().st_mtime_ns
    assert run_jobs([job], 1, Fake()).failures == []
    assert not any(file.exists() for file in old)
    assert path.stat().st_mtime_ns == stamp
    (folder / "last.ckpt").touch()  # of a repetition that was interrupted
    run_jobs([job], 1, nobody())
    assert (folder / "last.ckpt").exists()


# --- what the user sees ---


def test_a_variant_has_a_mean_of_its_own(tmp_path: Path) -> None:
    both = [resolve("eacl", "demo", preset="smoke", variant=name) for name in ("", "no-angle")]
    jobs, _ = plan(both, tmp_path, {})
    state = GridProgress(jobs)
    for job, score in zip(jobs, (60.0, 40.0), strict=True):
        state._count(job, Result(score, Metric(), "", 1.0))
    assert state.report.scores == {("eacl", "demo"): [60.0], ("eacl:no-angle", "demo"): [40.0]}


def test_the_table_has_means_over_seeds() -> None:
    report = Report(
        scores={
            ("eacl", "meld"): [60.0, 62.0],
            ("spcl", "meld"): [50.0],
            ("eacl", "demo"): [90.0, 90.0],
        }
    )
    out = StringIO()
    report.render(Console(file=out, width=100))
    rows = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:-1]]
        for line in out.getvalue().splitlines()
        if "│" in line
    }
    # Student's t of one degree of freedom, 12.706, times the standard error, 1.
    assert rows["eacl"] == ["61.00 ± 12.71", "90.00 ± 0.00"]
    assert rows["spcl"] == ["50.00 (1 of 2)", "–"]
    assert "over 2 seeds" in out.getvalue()


def test_the_display_shows_each_run_and_the_whole(
    planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = StringIO()
    monkeypatch.setattr(grid_display, "console", Console(file=out, force_terminal=True, width=120))
    jobs = planned(tmp_path)

    class Slow(Fake):
        """Ends a job as soon as the display has shown the expected words."""

        shows = iter(["Epoch 2/8", "1 failed", "2 failed", "3 failed"])

        def wait(self, seconds: float) -> None:
            words = next(self.shows)
            until(lambda: words in out.getvalue())
            end(self.started.pop(0), "a reason.")

    def begin(attempt: Attempt) -> None:
        log = attempt.job.place.log
        log.parent.mkdir(parents=True)
        log.write_text("Epoch 1/8  …\nEpoch 2/8  dev weighted-F1 50.00\n", encoding="utf-8")

    run_jobs(jobs, 2, Slow(begin, most=2))
    shown = out.getvalue()
    assert "0 of 4 runs, 2 running" in shown
    assert "1 of 4 runs, 2 running, 1 failed" in shown
    assert jobs[1].place.name in shown


def test_without_a_terminal_each_run_has_a_line_from_time_to_time(
    planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(grid_display, "LINE_SECONDS", 0.01)
    lines: list[str] = []
    monkeypatch.setattr(grid_display, "say", lines.append)
    jobs = planned(tmp_path)

    class Slow(Fake):
        """Ends a job as soon as its line has been printed."""

        def wait(self, seconds: float) -> None:
            name = self.started[0].job.place.name
            until(lambda: any(name in line and "Epoch 2/8" in line for line in lines))
            end(self.started.pop(0), "a reason.")

    def begin(attempt: Attempt) -> None:
        log = attempt.job.place.log
        log.parent.mkdir(parents=True)
        log.write_text("Epoch 1/8  …\nEpoch 2/8  dev weighted-F1 50.00\n", encoding="utf-8")

    run_jobs(jobs, 2, Slow(begin, most=2))
    assert any(line.startswith("0 of 4 runs, 2 running") for line in lines)


def test_the_time_that_is_left_is_estimated(planned, tmp_path: Path) -> None:
    jobs = planned(tmp_path)
    state = GridProgress(jobs)
    state.dispatch = Dispatch(Local(), JobFolder(tmp_path), workers=2)
    assert "left" not in state.summary()
    state.seconds["finetune", "demo"] = [60.0, 62.0]
    assert state.summary() == "0 of 4 runs, about 2 min 2 s left"


# --- kills and Ctrl-C ---


def session(leader: int) -> dict[int, int]:
    """The parent of each living process of a session."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent, _, sid = (
                    (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[:4]
                )
            except OSError:
                continue
            if int(sid) == leader and state != "Z":
                found[int(folder.name)] = int(parent)
    return found


def start(jobs: list[Job], log: Path, *options: str, **environment: str) -> subprocess.Popen:
    """Start a grid in a session of its own; its output goes to a file."""
    with log.open("a", encoding="utf-8") as file:
        return subprocess.Popen(
            command(jobs, *options),
            stdout=file,
            stderr=file,
            env=os.environ | environment,
            start_new_session=True,
            # If the tests run in the background, SIGINT is ignored; the grid would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_a_grid_that_is_stopped_leaves_no_process_behind_and_resumes(
    planned, tmp_path: Path, name: str
) -> None:
    """Ctrl-C goes to all processes, as a terminal sends it; kill -9 goes to the grid alone."""
    how = signal.Signals[name]
    jobs = planned(tmp_path / "board", "epochs=20", methods=["finetune"])
    said = tmp_path / "said.txt"
    process = start(jobs, said)
    until(lambda: all(reached(job, "Epoch 2/") for job in jobs))
    if how is signal.SIGINT:
        os.killpg(process.pid, how)
        assert process.wait(60) == 130
        assert "the same command resumes it" in said.read_text(encoding="utf-8")
        assert "Traceback" not in said.read_text(encoding="utf-8")
    else:
        process.kill()
        process.wait()
    until(lambda: not session(process.pid), 30)
    assert list(record_files(jobs[0].place.root)) == []
    assert all((j.place.folder / "last.ckpt").exists() for j in jobs)
    assert run_jobs(jobs, 2).failures == []
    assert all(job.place.log.read_text(encoding="utf-8").count("Epoch 1/") == 1 for job in jobs)
    assert len(list(record_files(jobs[0].place.root))) == 2


def kill_at_random(
    process: subprocess.Popen, chance: random.Random, others: int, look: Callable[[], None]
) -> int:
    """Kill ``others`` processes of a grid at random moments, then the grid; returns the count.

    Most of them are runs; sometimes it is the process that runs are forked from. Fewer are killed
    if the grid ends before. ``look`` is called all the time.
    """
    killed = 0
    while killed <= others:
        moment = time.monotonic() + chance.uniform(0, 1.8)
        victims: list[int] = []
        while time.monotonic() < moment or not victims:
            look()
            if process.poll() is not None:
                return killed
            time.sleep(0.03)
            there = session(process.pid)
            victims = [pid for pid, of in there.items() if of in there and of != process.pid]
            if not victims:
                moment = time.monotonic() + chance.uniform(0, 1.8)
        if killed == others:
            target = process.pid
        else:
            run = chance.choice(victims)
            target = run if chance.random() < 0.95 else there[run]
        with contextlib.suppress(ProcessLookupError):
            os.kill(target, signal.SIGKILL)
            killed += 1
    return killed


@needs_proc
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_9_at_fifty_random_moments(planned, tmp_path: Path) -> None:
    """Records are always whole, none is lost, and the results equal those of an untroubled grid.

    Up to eight processes of each grid are killed, and then the grid itself. The next grid begins at
    once and resumes what there is. When all runs of a folder are finished, the kills continue in
    another folder with its own cache.
    """
    chance = random.Random(7)
    methods = ("eacl", "finetune", "sacl-lstm")
    untroubled = planned(tmp_path / "untroubled", methods=methods, seeds=3)
    assert run_jobs(untroubled, 2).failures == []
    killed, grids, said = 0, [], tmp_path / "said.txt"
    while killed < 50:
        root = tmp_path / f"after{killed}"
        jobs = planned(root, methods=methods, seeds=3)
        seen: dict[Path, bytes] = {}

        def look(root: Path = root, seen: dict[Path, bytes] = seen) -> None:
            for path in record_files(root):
                contents = path.read_bytes()
                if path not in seen:
                    parse_record(contents, path)
                assert seen.setdefault(path, contents) == contents
            assert all(path.exists() for path in seen)

        status = None
        while status != 0:
            cache = str(tmp_path / "cache" / root.name)
            grids.append(start(jobs, said, XDG_CACHE_HOME=cache))
            if killed < 50:
                killed += kill_at_random(
                    grids[-1], chance, min(chance.randint(3, 8), 49 - killed), look
                )
            status = None
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = grids[-1].wait(240)
            assert status in (0, 1, -signal.SIGKILL), said.read_text(encoding="utf-8")
        look()
        for job, other in zip(jobs, untroubled, strict=True):
            assert predictions(job) == predictions(other)
            left = {path.name for path in job.place.folder.iterdir()}
            model = read_record(job.place.record).model
            assert left == {"lock", "log.txt", model.file}
        assert len(seen) == len(jobs)
        assert len([path for path in (root / "records").rglob("*") if path.is_file()]) == len(jobs)
    until(lambda: not any(session(process.pid) for process in grids), 30)
    print(f"{killed} kills, {len(grids)} grids, {len(list(tmp_path.glob('after*')))} folders")
