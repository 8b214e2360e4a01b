"""The progress of a grid: which jobs are left, running and done, and their results."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from erc_bench.errors import ErcBenchError
from erc_bench.execution.executors import Dispatch
from erc_bench.execution.job_folder import Queued
from erc_bench.execution.jobs import Attempt, Ended, Job, Result
from erc_bench.execution.report import Report, kind_of
from erc_bench.execution.resources import Resources
from erc_bench.leases import LEASE_SECONDS
from erc_bench.progress import Stopwatch, duration, say
from erc_bench.settings.experiment import Experiment

POLL_SECONDS = 1.0
"""Seconds between two checks of the runs that other processes are doing."""

MOST_NAMED = 3
"""The largest number of other processes' runs that are named."""


class GridProgress:
    """Which jobs of a grid are left, running and done, and their results."""

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
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        experiments = [*(job.experiment for job in jobs), *(e for e, _ in impossible)]
        self.report = Report({kind_of(e): [] for e in experiments})
        for experiment, reason in impossible:
            self.report.impossible.setdefault(reason, []).append(experiment.name)

    @property
    def done(self) -> int:
        """How many jobs are over, failed ones included."""
        return self.total - len(self.left)

    def unfinished(self) -> list[Job]:
        """Return the jobs that are left to do, and count the others."""
        for job in list(self.left.values()):
            if result := self._result(job):
                self._count(job, result)
        if self.done:
            hint = " (--force repeats them)" if self.repeatable else ""
            say(f"{self.done} of {self.total} runs were finished before{hint}.")
        left = list(self.left.values())
        interrupted = sum(job.place.is_interrupted() and not job.place.is_taken() for job in left)
        if interrupted and any(job.options.get("restart") for job in left):
            say(
                f"Interrupted runs that start from the beginning: {interrupted}. Their old "
                "checkpoints are kept until the first epoch ends; to resume them, press Ctrl-C "
                "before that and leave out --restart."
            )
        elif interrupted:
            say(f"Interrupted runs that are resumed: {interrupted}.")
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
        say(f"[{self.done}/{self.total}] {job.place.name}  {text}")

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

    def summary(self) -> str:
        """``7 of 15 runs, 2 running, 1 failed, about 12 min 0 s left``."""
        seconds = self._seconds_left()
        at_work = len(self.at_work())
        waiting, engine = len(self.running) - at_work, self.dispatch.executor.name
        parts = {
            f"{self.done} of {self.total} runs": True,
            f"{at_work} running": at_work,
            f"{waiting} waiting in {engine}": waiting,
            f"{self.report.failed} failed": self.report.failed,
            f"{len(self.others)} left to other processes": self.others,
            f"about {duration(seconds or 0)} left": seconds,
        }
        return ", ".join(text for text, shown in parts.items() if shown)

    def at_work(self) -> list[str]:
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
        at_once = self.dispatch.workers or len(self.at_work()) or 1
        return total / min(at_once, len(self.left))
