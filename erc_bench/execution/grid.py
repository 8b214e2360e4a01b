"""Grids: many runs, side by side.

A grid hands its runs as :class:`Job` to an :data:`Executor`. What is finished is read from the
records alone, so that several grids may share a folder: a run that another process is at comes
last, and its record is taken when it appears.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from erc_bench.corpus.conversation import Metric
from erc_bench.errors import ErcBenchError
from erc_bench.execution.jobs import Ended, Executor, Job, default_workers, local
from erc_bench.execution.run import identify, load_corpus
from erc_bench.files import cannot_write
from erc_bench.progress import Stopwatch, console, duration, say
from erc_bench.records.place import Place
from erc_bench.records.schema import Record
from erc_bench.settings.experiment import Experiment
from erc_bench.training.frameworks import quiet_frameworks

POLL_SECONDS = 1.0
"""Seconds between two looks at the runs that other processes are at."""


@dataclass
class Report:
    """What came out of a grid."""

    scores: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """The corpus's figure on test of every seed, by method and corpus."""
    metrics: dict[str, Metric] = field(default_factory=dict)
    """What each corpus is judged by, as far as a run is finished."""
    failures: list[Ended] = field(default_factory=list)
    impossible: dict[str, list[str]] = field(default_factory=dict)
    """Runs that could not even be begun, by the reason."""

    @property
    def failed(self) -> int:
        """How many runs left no record."""
        return len(self.failures) + sum(map(len, self.impossible.values()))

    def complaints(self) -> list[str]:
        """One paragraph for all runs that failed alike, and where their logs are."""
        alike: dict[str, list[Job]] = defaultdict(list)
        for ended in self.failures:
            alike[ended.failure].append(ended.job)
        lines = [f"{', '.join(names)}: {reason}" for reason, names in self.impossible.items()]
        for failure, jobs in alike.items():
            logs = ", ".join(str(job.place.log) for job in jobs if job.place.log.exists())
            names = ", ".join(job.place.name for job in jobs)
            lines.append(f"{names}: {failure}{f' Log: {logs}' if logs else ''}")
        return lines

    def render(self, out: Any) -> None:
        """Print methods × corpora, the mean over seeds."""
        seeds = max(map(len, self.scores.values()), default=0)
        if not seeds:
            return
        over = f", mean ± standard deviation over {seeds} seeds" if seeds > 1 else ""
        titles = {corpus: metric.title for corpus, metric in self.metrics.items()}
        alike = len(set(titles.values())) == 1
        out.print(f"{next(iter(titles.values())) if alike else 'score'} on test{over}")
        table = Table("")
        methods, corpora = (dict.fromkeys(names) for names in zip(*self.scores, strict=True))
        for corpus in corpora:
            of_corpus = "" if alike or corpus not in titles else f", {titles[corpus]}"
            table.add_column(f"{corpus}{of_corpus}", justify="right")
        for method in methods:
            cells = (self.scores.get((method, corpus), []) for corpus in corpora)
            table.add_row(method, *(_cell(scores, seeds) for scores in cells))
        out.print(table)


def _cell(scores: list[float], seeds: int) -> str:
    if not scores:
        return "–"
    spread = f" ± {np.std(scores, ddof=1):.2f}" if len(scores) > 1 else ""
    fewer = f" ({len(scores)} of {seeds})" if len(scores) < seeds else ""
    return f"{np.mean(scores):.2f}{spread}{fewer}"


def run_grid(
    experiments: Sequence[Experiment],
    root: Path,
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    **options: Any,
) -> Report:
    """Do every run that is not finished yet; one that fails stops none of the others.

    Args:
        experiments: the runs, each once.
        root: folder of the records and checkpoints.
        workers: how many at a time; None is what this machine does well.
        executor: what does them; :func:`local` if nothing else is said.
        options: further arguments of :func:`erc_bench.execution.run.run`.

    Raises:
        ErcBenchError: nothing can be written where the records belong.
    """
    jobs, impossible = plan(experiments, root, options)
    grid = _Grid(experiments, jobs, impossible)
    waiting = grid.unfinished()
    if not waiting:
        return grid.report
    try:
        (root / "runs").mkdir(parents=True, exist_ok=True)
    except OSError as error:  # said once, not of each run
        raise cannot_write(root, error) from error
    why = ""
    if workers is None:
        workers, why = default_workers([job.experiment for job in waiting])
    grid.workers = workers = min(workers, len(waiting))
    say(f"{len(waiting)} runs to do, {workers} at a time{why}; each has a log.txt by its model.")
    with grid.display():
        while waiting:
            put_off: list[Job] = []
            started = grid.startable(waiting, put_off)
            with contextlib.closing((executor or local)(started, workers)) as over:
                for ended in over:
                    put_off += grid.end(ended)
            waiting = put_off
            grid.leave_to_others(len(waiting))
    return grid.report


def plan(
    experiments: Sequence[Experiment], root: Path, options: Mapping[str, Any]
) -> tuple[list[Job], list[tuple[Experiment, str]]]:
    """The place of every run, and the runs that can't be done, with the reason.

    Every corpus is read once, and every encoder's weights: a run is told by their contents.
    """
    digests: dict[str, str] = {}
    missing: dict[str, str] = {}
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
                with quiet_frameworks():
                    digest = digests[experiment.corpus]
                    identity = identify(experiment, digest, options.get("data_dir"))
                jobs.append(Job(experiment, Place.of(root, experiment, identity), options))
                continue
            except ErcBenchError as error:
                reason = str(error)
        impossible.append((experiment, reason))
    return jobs, impossible


class _Grid:
    """How far a grid is, and what the user sees of it."""

    workers: int

    def __init__(
        self,
        experiments: Sequence[Experiment],
        jobs: list[Job],
        impossible: Sequence[tuple[Experiment, str]] = (),
    ) -> None:
        self.start = time.time()
        self.total = len(jobs)
        self.left = {job.place.name: job for job in jobs}
        self.running: dict[str, Stopwatch] = {}
        self.others = 0
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.report = Report({(e.method, e.dataset): [] for e in experiments})
        for experiment, reason in impossible:
            self.report.impossible.setdefault(reason, []).append(experiment.name)

    def unfinished(self) -> list[Job]:
        """The jobs that are left to do; the others are counted."""
        for job in list(self.left.values()):
            if record := self._record(job):
                self._count(job, record)
        if done := self.total - len(self.left):
            say(f"{done} of {self.total} runs were finished before (--force repeats them).")
        left = list(self.left.values())
        interrupted = sum(job.place.is_interrupted() and not job.place.is_taken() for job in left)
        if interrupted and any(job.options.get("restart") for job in left):
            say(
                f"Interrupted runs that are begun anew: {interrupted}. Until an epoch has ended, "
                "Ctrl-C and the same command without --restart go on with what they had instead."
            )
        elif interrupted:
            say(f"Interrupted runs that go on from their last epoch: {interrupted}.")
        return left

    def _record(self, job: Job) -> Record | None:
        """The record that makes a job superfluous.

        With ``force`` only one that somebody made since this grid began. A broken one is none, and
        the run will say so; nor is one whose run was killed before it had tidied up.
        """
        with contextlib.suppress(ErcBenchError, OSError):
            made = job.place.record.stat().st_mtime
            if job.options.get("force") and made < self.start:
                return None
            if job.place.is_tidy():
                return job.place.finished()
        return None

    def startable(self, waiting: list[Job], put_off: list[Job]) -> Iterator[Job]:
        """The jobs that are still to be done and at which nobody is, when they are drawn."""
        for job in waiting:
            if job.place.is_taken():
                put_off.append(job)
            elif record := self._record(job):
                self._count(job, record)
                self._say(job, f"{_scores(record)}  done by another process")
            else:
                self.running[job.place.name] = Stopwatch()
                yield job

    def end(self, ended: Ended) -> list[Job]:
        """Take note of a job that is over; returns it if it is still to be done."""
        job = ended.job
        clock = self.running.pop(job.place.name)
        if ended.taken:
            return [job]
        if not ended.failure:
            try:
                record = job.place.finished()
            except ErcBenchError as error:
                ended = Ended(job, str(error))
            else:
                if record is not None:
                    self._count(job, record)
                    self._say(job, f"{_scores(record)}  {duration(clock.seconds)}")
                    return []
                ended = Ended(job, "it ended without a record.")
        del self.left[job.place.name]
        self.report.failures.append(ended)
        self._say(job, f"failed, see {job.place.log}")
        return []

    def _count(self, job: Job, record: Record) -> None:
        experiment = job.experiment
        del self.left[job.place.name]
        kind = experiment.method, experiment.dataset
        metric = self.report.metrics.setdefault(experiment.dataset, record.judged_by)
        self.report.scores[kind].append(record.metrics.test.score(metric))
        if record.training and record.training.wall_seconds is not None:
            self.seconds[kind].append(float(record.training.wall_seconds))

    def _say(self, job: Job, text: str) -> None:
        say(f"[{self.total - len(self.left)}/{self.total}] {job.place.name}  {text}")

    def leave_to_others(self, runs: int) -> None:
        """Wait a moment if these are all that is left and other processes are at them."""
        if runs and not self.others:
            say(f"Waiting for other processes: they are at the {runs} runs that are left.")
        self.others = runs
        if runs:
            time.sleep(POLL_SECONDS)

    # --- what is seen meanwhile ---

    def display(self) -> contextlib.AbstractContextManager[Any]:
        """Keeps :meth:`picture` on the terminal, if there is one."""
        if not console.is_terminal or console.quiet:
            return contextlib.nullcontext()
        return Live(get_renderable=self.picture, console=console, transient=True)

    def picture(self) -> Group:
        """A line for every run that is running, the last of its log, and a bar for all."""
        runs = Table.grid(padding=(0, 2))
        for _ in range(3):
            runs.add_column(no_wrap=True, overflow="ellipsis")
        for name, clock in list(self.running.items()):
            if job := self.left.get(name):
                runs.add_row(name, duration(clock.seconds), Text(_last_line(job.place.log)))
        whole = Table.grid(padding=(0, 2))
        done = self.total - len(self.left)
        whole.add_row(ProgressBar(total=self.total, completed=done, width=30), self.summary())
        return Group(runs, whole)

    def summary(self) -> str:
        """``7 of 15 runs, 2 running, 1 failed, about 12 min 0 s left``."""
        seconds = self._seconds_left()
        parts = {
            f"{self.total - len(self.left)} of {self.total} runs": True,
            f"{len(self.running)} running": self.running,
            f"{self.report.failed} failed": self.report.failed,
            f"{self.others} left to other processes": self.others,
            f"about {duration(seconds or 0)} left": seconds,
        }
        return ", ".join(text for text, shown in parts.items() if shown)

    def _seconds_left(self) -> float | None:
        """Estimated from the finished runs of the same method and corpus, else from all."""
        every = [seconds for kind in list(self.seconds.values()) for seconds in kind]
        if not every or not self.left:
            return None
        total = 0.0
        for name, job in list(self.left.items()):
            kind = self.seconds.get((job.experiment.method, job.experiment.dataset), every)
            clock = self.running.get(name)  # which may end meanwhile: the display has a thread
            elapsed = clock.seconds if clock else 0
            total += max(float(np.mean(kind)) - elapsed, 0)
        return total / min(self.workers, len(self.left))


def _scores(record: Record) -> str:
    test, dev = record.metrics.test, record.metrics.dev
    metric = record.judged_by
    on_dev = f" (dev {dev.score(metric):.2f})" if dev else ""
    return f"{metric.title} {test.score(metric):.2f}{on_dev}"


def _last_line(file: Path) -> str:
    with contextlib.suppress(OSError), file.open("rb") as log:
        log.seek(max(file.stat().st_size - 4096, 0))
        lines = log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""
