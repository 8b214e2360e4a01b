"""Grids: many runs, side by side.

A grid hands its runs as :class:`Job` to an :class:`Executor`. Only the records say which runs are
finished, so several grids may share a folder: a run that another process is doing is looked at
last, and its record is used when it appears. Jobs that outlive the command are found again when the
command is given again.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from erc_bench.errors import ErcBenchError
from erc_bench.execution.executors import Dispatch, Executor
from erc_bench.execution.job_folder import JobFolder, Queued, job_folders
from erc_bench.execution.jobs import Attempt, Ended, Job, Result
from erc_bench.execution.local import Local, cores, default_workers
from erc_bench.execution.report import Report, kind_of
from erc_bench.execution.resources import Resources
from erc_bench.execution.run import identify, load_corpus
from erc_bench.files import cannot_write, filesystem_time, last_line
from erc_bench.leases import LEASE_SECONDS
from erc_bench.progress import Stopwatch, console, duration, say
from erc_bench.records.place import Identity, Place
from erc_bench.settings.experiment import Experiment
from erc_bench.training.frameworks import quiet_frameworks
from erc_bench.training.precision import measured_for_all

POLL_SECONDS = 1.0
"""Seconds between two checks of the runs that other processes are doing."""

LINE_SECONDS = 60.0
"""Seconds between two reports of the runs in progress, if there is no terminal."""

MOST_NAMED = 3
"""The largest number of other processes' runs that are named."""


def run_grid(
    experiments: Sequence[Experiment],
    root: Path,
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    resources: Resources | None = None,
    retries: int = 3,
    detach: bool = False,
    **options: Any,
) -> Report:
    """Do every run that is not finished yet. A run that fails does not stop the others.

    Args:
        experiments: the runs, each once.
        root: folder of the records and checkpoints.
        workers: how many runs at a time; None = as many as suit this machine, or as a cluster has
            room for.
        executor: the executor; None = processes of this machine.
        resources: what each run needs, as far as it was given.
        retries: how often a run is queued again after preemption, a lost machine or its time limit.
        detach: queue all runs and return.
        options: further arguments of :func:`erc_bench.execution.run.run`.

    Raises:
        ErcBenchError: the folder can't be written to, or the executor can't do the runs.
    """
    jobs, impossible = plan(experiments, root, options)
    return do_jobs(
        jobs,
        root,
        impossible=impossible,
        workers=workers,
        executor=executor,
        resources=resources,
        retries=retries,
        detach=detach,
    )


def do_jobs(
    jobs: Sequence[Job],
    root: Path,
    *,
    impossible: Sequence[tuple[Experiment, str]] = (),
    workers: int | None = None,
    executor: Executor | None = None,
    resources: Resources | None = None,
    retries: int = 3,
    detach: bool = False,
) -> Report:
    """Do every job that is not finished yet, as :func:`run_grid` does.

    Args:
        jobs: the jobs, each once, in the order in which they are begun.
        root: folder of the records and checkpoints.
        impossible: runs that can't be done, each with the reason. The report has them too.
        workers: how many jobs at a time.
        executor: the executor.
        resources: what each job needs.
        retries: how often a job is queued again.
        detach: queue all jobs and return.
    """
    executor = executor or Local()
    if detach and not executor.outlives:
        raise ErcBenchError(
            f"--detach can't be used with the executor {executor.name}: its runs end with this "
            "command. Choose one that has a queue, such as --executor slurm."
        )
    try:
        (root / "runs").mkdir(parents=True, exist_ok=True)
        start = filesystem_time(root / "runs")
    except OSError as error:  # one error instead of one for each run
        raise cannot_write(root, error) from error
    grid = _Grid(jobs, impossible, start)
    waiting = grid.unfinished()
    _forget(root, {job.place.name for job in jobs} - {job.place.name for job in waiting})
    if not waiting:
        return grid.report
    threads, why = None, ""
    if isinstance(executor, Local):
        if workers is None:
            workers, why = default_workers([job.experiment for job in waiting])
        workers = min(workers, len(waiting))
        threads = _threads(workers)
    at_once = (
        f"{workers} at a time" if workers else f"as many at a time as {executor.name} has room for"
    )
    say(f"Runs to do: {len(waiting)}, {at_once}{why}; each writes a log.txt beside its checkpoint.")
    with contextlib.ExitStack() as stack:
        stack.callback(executor.close)
        if isinstance(executor, Local):
            precisions = {job.experiment.config.precision for job in waiting}
            stack.enter_context(measured_for_all(precisions))
        folder, found = _folder(root, executor, waiting)
        folder.start = start
        stack.enter_context(folder.held())
        folder.describe(executor.name, waiting)
        grid.dispatch = dispatch = Dispatch(
            executor,
            folder,
            resources or Resources(),
            workers=workers,
            threads=threads,
            retries=retries,
            detach=detach,
            leave=grid.ask_to_leave,
        )
        stack.callback(_close, folder, dispatch, grid.report, {job.place.name for job in jobs})
        waiting = grid.adopt(waiting, found)
        stack.enter_context(grid.display())
        while waiting or dispatch.running:
            put_off: list[Job] = []
            started = grid.startable(waiting, put_off, _queued_elsewhere(root, folder))
            with contextlib.closing(dispatch.work_off(started)) as over:
                for ended in over:
                    put_off += grid.end(ended)
            waiting = put_off
            if detach:
                break
            grid.leave_to_others(waiting)
    return grid.report


def _close(folder: JobFolder, dispatch: Dispatch, report: Report, runs: set[str]) -> None:
    """Count the runs that were left to go on.

    If there are none, delete the folder, unless runs of other commands are queued in it.
    """
    if dispatch.left:
        report.left = len(dispatch.running)
    elif {queued.run for queued in folder.queued()} <= runs:
        folder.delete()


def _forget(root: Path, finished: set[str]) -> None:
    """Delete the folders of earlier commands whose runs are all finished."""
    for folder in job_folders(root):
        queued = {each.run for each in folder.queued()}
        if queued <= finished and not folder.is_held():
            folder.delete()


def _threads(workers: int) -> int:
    """How many threads each run gets, with so many runs at a time on this machine."""
    import torch

    return max(1, min(torch.get_num_threads(), cores() // workers))


def _folder(
    root: Path, executor: Executor, jobs: Sequence[Job]
) -> tuple[JobFolder, dict[str, Queued]]:
    """Choose the folder of a grid: an earlier command's with runs still queued, else a new one.

    Returns the folder, and those of these jobs that are still queued in it, by the run.
    """
    wanted = {job.place.name for job in jobs}
    for folder in job_folders(root):
        if folder.is_held():
            continue
        queued = folder.queued()
        found = {q.run: q for q in queued if q.executor == executor.name and q.run in wanted}
        if found:
            return folder, found
    return JobFolder(root), {}


def _queued_elsewhere(root: Path, own: JobFolder) -> set[str]:
    """Runs that other commands have queued with an engine. Only commands at work now count."""
    others = [folder for folder in job_folders(root) if folder.name != own.name]
    return {queued.run for folder in others if folder.is_held() for queued in folder.queued()}


def plan(
    experiments: Sequence[Experiment], root: Path, options: Mapping[str, Any]
) -> tuple[list[Job], list[tuple[Experiment, str]]]:
    """Return a job for every run, and the runs that can't be done, each with the reason.

    Every corpus, including further ones, and every encoder's weights are read once, because their
    contents are a part of a run's identity.
    """
    digests: dict[str, str] = {}
    missing: dict[str, str] = {}
    known: dict[tuple[str, str, str], Identity] = {}
    for dataset in dict.fromkeys(experiment.corpus for experiment in experiments):
        try:
            with quiet_frameworks():
                digests[dataset] = load_corpus(dataset, options.get("data_dir")).digest
        except ErcBenchError as error:
            missing[dataset] = str(error)
    jobs, impossible = [], []
    for experiment in experiments:
        reason = missing.get(experiment.corpus)
        if reason is None:
            try:
                key = experiment.method, experiment.corpus, experiment.hash  # of all seeds
                if key not in known:
                    with quiet_frameworks():
                        known[key] = identify(experiment, digests, options.get("data_dir"))
                identity = known[key]
                jobs.append(Job(experiment, Place.of(root, experiment, identity), options))
                continue
            except ErcBenchError as error:
                reason = str(error)
        impossible.append((experiment, reason))
    return jobs, impossible


class _Grid:
    """The progress of a grid, and its display.

    The display has a thread of its own, so a run may end while the display is drawn.
    """

    dispatch: Dispatch

    def __init__(
        self,
        jobs: Sequence[Job],
        impossible: Sequence[tuple[Experiment, str]] = (),
        start: float = 0.0,
    ) -> None:
        self.start = start
        """When the grid began, by the filesystem's clock. Newer records were made since then."""
        self.total = len(jobs)
        self.repeatable = all(job.repeatable for job in jobs)
        self.left = {job.place.name: job for job in jobs}
        self.running: dict[str, Stopwatch] = {}
        self.adopted: set[str] = set()
        """Runs that an earlier command has queued, perhaps with other options."""
        self.others: list[Job] = []
        self.live: Live | None = None
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        experiments = [*(job.experiment for job in jobs), *(e for e, _ in impossible)]
        self.report = Report({kind_of(e): [] for e in experiments})
        for experiment, reason in impossible:
            self.report.impossible.setdefault(reason, []).append(experiment.name)

    def unfinished(self) -> list[Job]:
        """Return the jobs that are left to do, and count the others."""
        for job in list(self.left.values()):
            if result := self._result(job):
                self._count(job, result)
        if done := self.total - len(self.left):
            hint = " (--force repeats them)" if self.repeatable else ""
            say(f"{done} of {self.total} runs were finished before{hint}.")
        left = list(self.left.values())
        interrupted = sum(job.place.is_interrupted() and not job.place.is_taken() for job in left)
        if interrupted and any(job.options.get("restart") for job in left):
            say(
                f"Interrupted runs that begin anew: {interrupted}. Their old checkpoints are kept "
                "until the first epoch ends; to go on with them, press Ctrl-C before that and "
                "leave out --restart."
            )
        elif interrupted:
            say(f"Interrupted runs that go on from their last epoch: {interrupted}.")
        return left

    def _result(self, job: Job) -> Result | None:
        """The result of a job that has a record already; None if the job is still to be done.

        With ``force``, only a record counts that was made since this grid began. A broken record
        does not count, and the run will report it. The record of a run that was killed before it
        had tidied up does not count either.
        """
        with contextlib.suppress(ErcBenchError, OSError):
            made = job.place.done_file.stat().st_mtime
            if job.options.get("force") and made < self.start:
                return None
            if job.place.is_tidy():
                return job.result()
        return None

    def adopt(self, waiting: list[Job], found: Mapping[str, Queued]) -> list[Job]:
        """Take over what an earlier command has queued; returns the jobs that are left to start."""
        left = []
        for job in waiting:
            queued = found.get(job.place.name)
            if queued is None:
                left.append(job)
                continue
            attempt = Attempt(job, self.dispatch.folder.path, queued.name, Resources())
            self.dispatch.running[queued.handle] = attempt
            self.dispatch.tries[job.place.name] = attempt.tries
            self.running[job.place.name] = Stopwatch()
            self.adopted.add(job.place.name)
        if self.dispatch.running:
            say(f"Runs that an earlier command has queued: {len(self.dispatch.running)}.")
        return left

    def startable(
        self, waiting: list[Job], put_off: list[Job], elsewhere: set[str]
    ) -> Iterator[Job]:
        """Yield the jobs that have no record yet and that no other command is doing.

        Jobs without a record that another command is doing are put into ``put_off``.
        """
        for job in waiting:
            if job.place.is_taken():
                put_off.append(job)
            elif result := self._result(job):
                self._count(job, result)
                self._say(job, f"{result.text}  done by another process")
            elif job.place.name in elsewhere:
                put_off.append(job)
            else:
                self.running[job.place.name] = Stopwatch()
                yield job

    def end(self, ended: Ended) -> list[Job]:
        """Take note of a job that is over; returns it if it is still to be done."""
        job = ended.job
        clock = self.running.pop(job.place.name)
        adopted = job.place.name in self.adopted
        self.adopted.discard(job.place.name)
        if ended.taken:
            return [job]
        if not ended.failure:
            try:
                result = job.result()
            except ErcBenchError as error:
                ended = Ended(job, str(error))
            else:
                if result is not None:
                    self._count(job, result)
                    self._say(job, f"{result.text}  {duration(clock.seconds)}")
                    return []
                if adopted:  # it had other options, such as --no-test
                    self.running[job.place.name] = Stopwatch()
                    self.dispatch.again.append(job)
                    return []
                ended = Ended(job, "it ended without a record.")
        del self.left[job.place.name]
        self.report.failures.append(ended)
        self._say(job, f"failed, see {job.place.log}")
        return []

    def _count(self, job: Job, result: Result) -> None:
        del self.left[job.place.name]
        kind = kind_of(job.experiment)
        self.report.metrics[job.experiment.dataset] = result.metric
        for scores, score in (
            (self.report.scores, result.test),
            (self.report.on_dev, result.dev),
        ):
            if score is not None:
                scores.setdefault(kind, []).append(score)
        if result.seconds is not None:
            self.seconds[kind].append(float(result.seconds))

    def _say(self, job: Job, text: str) -> None:
        say(f"[{self.total - len(self.left)}/{self.total}] {job.place.name}  {text}")

    def leave_to_others(self, jobs: list[Job]) -> None:
        """Wait a moment for the last jobs, if there are any. Other processes are doing them."""
        if jobs and not self.others:
            shown = [f"{job.place.name}{job.place.holder()}" for job in jobs[:MOST_NAMED]]
            more = f", and {len(jobs) - MOST_NAMED} more" if len(jobs) > MOST_NAMED else ""
            say(
                f"Other processes are working on what is left: {', '.join(shown)}{more}. "
                "This command waits for them. If a machine is lost, its run "
                f"is taken over after {LEASE_SECONDS / 60:.0f} minutes without a sign."
            )
        self.others = jobs
        if jobs:
            time.sleep(POLL_SECONDS)

    def ask_to_leave(self, count: int) -> bool:
        """Ask at Ctrl-C whether so many jobs shall go on without this command."""
        name = self.dispatch.executor.name
        onwards = "the same command picks them up, `erc-bench grid status` shows them"
        if self.live is not None:
            self.live.stop()
        if sys.stdin is None or not sys.stdin.isatty():
            say(f"Jobs that stay with {name}: {count}; {onwards}.")
            return True
        say(
            f"Jobs that are with {name}: {count}. Enter leaves them there ({onwards}); c cancels "
            "them."
        )
        try:
            return input().strip().lower() not in ("c", "cancel")
        except (KeyboardInterrupt, EOFError):
            return True

    # --- the display ---

    def display(self) -> contextlib.AbstractContextManager[Any]:
        """Show :meth:`picture` on the terminal; without a terminal, print :meth:`lines` once a
        minute."""
        if console.quiet:
            return contextlib.nullcontext()
        if not console.is_terminal:
            return self._saying_lines()
        self.live = Live(get_renderable=self.picture, console=console, transient=True)
        return self.live

    @contextlib.contextmanager
    def _saying_lines(self) -> Iterator[None]:
        over = threading.Event()

        def report() -> None:
            while not over.wait(LINE_SECONDS):
                for line in self.lines():
                    say(line)

        reporter = threading.Thread(target=report, daemon=True)
        reporter.start()
        try:
            yield
        finally:
            over.set()
            reporter.join()

    def lines(self) -> list[str]:
        """A line for each run in progress, with the last line of its log, and one for all."""
        lines = []
        for name in self._at_work():
            clock, job = self.running.get(name), self.left.get(name)
            if clock and job:
                lines.append(f"{name}  {duration(clock.seconds)}  {last_line(job.place.log)}")
        return [*lines, self.summary()]

    def picture(self) -> Group:
        """A line for each run in progress, with the last line of its log, and a bar for all."""
        runs = Table.grid(padding=(0, 2))
        for _ in range(3):
            runs.add_column(no_wrap=True, overflow="ellipsis")
        shown = self._at_work()
        most = max(3, console.height - 4)
        for name in shown[: most if len(shown) <= most else most - 1]:
            clock, job = self.running.get(name), self.left.get(name)
            if clock and job:
                runs.add_row(name, duration(clock.seconds), Text(last_line(job.place.log)))
        if len(shown) > most:
            runs.add_row(f"… and {len(shown) - most + 1} more", "", "")
        whole = Table.grid(padding=(0, 2))
        done = self.total - len(self.left)
        whole.add_row(ProgressBar(total=self.total, completed=done, width=30), self.summary())
        return Group(runs, whole)

    def summary(self) -> str:
        """``7 of 15 runs, 2 running, 1 failed, about 12 min 0 s left``."""
        seconds = self._seconds_left()
        at_work = len(self._at_work())
        waiting, engine = len(self.running) - at_work, self.dispatch.executor.name
        parts = {
            f"{self.total - len(self.left)} of {self.total} runs": True,
            f"{at_work} running": at_work,
            f"{waiting} waiting in {engine}": waiting,
            f"{self.report.failed} failed": self.report.failed,
            f"{len(self.others)} left to other processes": self.others,
            f"about {duration(seconds or 0)} left": seconds,
        }
        return ", ".join(text for text, shown in parts.items() if shown)

    def _at_work(self) -> list[str]:
        """Names of the runs that a worker is doing. The others are in an engine's queue."""
        attempts = list(self.dispatch.running.values())
        if not self.dispatch.executor.queues:
            return [attempt.job.place.name for attempt in attempts]
        begun = self.dispatch.folder.begun()
        return [attempt.job.place.name for attempt in attempts if attempt.name in begun]

    def _seconds_left(self) -> float | None:
        """Estimate from the finished runs of the same method and corpus, else from all of them."""
        every = [seconds for kind in list(self.seconds.values()) for seconds in kind]
        if not every or not self.left:
            return None
        total = 0.0
        for name, job in list(self.left.items()):
            kind = self.seconds.get(kind_of(job.experiment), every)
            clock = self.running.get(name)
            elapsed = clock.seconds if clock else 0
            total += max(float(np.mean(kind)) - elapsed, 0)
        at_once = self.dispatch.workers or len(self._at_work()) or 1
        return total / min(at_once, len(self.left))
