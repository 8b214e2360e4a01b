"""Executors start the workers of a grid, on this machine or on a cluster.

An executor only starts processes and reports which of them are gone. It does no scheduling and
passes on no results: a file says how a job ended (:mod:`erc_bench.execution.job_folder`), and the
record holds the results. A site can add an executor of its own: a class like :class:`Executor`,
named in an entry point of the group ``erc_bench.executors``. The class is called with its options,
which the user gives as ``--resources NAME.option=value``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from erc_bench.errors import ErcBenchError, did_you_mean
from erc_bench.execution.job_folder import JobFolder, read_end
from erc_bench.execution.jobs import Attempt, Ended, Job
from erc_bench.execution.resources import Resources
from erc_bench.execution.worker import DONE, FAILED, STOPPED, UNSEEN
from erc_bench.files import last_line
from erc_bench.progress import say
from erc_bench.settings.registry import executor_class


@dataclass(frozen=True)
class Gone:
    """A worker that is no longer there."""

    reason: str
    """How it ended, in words that follow "its worker"."""
    again: bool = False
    """Whether to try again: it was preempted, or lost its machine, or its time was over."""
    status: int | None = None
    """The exit status of the worker, if it is known."""
    restarts: int = 0
    """How often the engine itself has queued the job again."""


class Executor(Protocol):
    """Starts workers and says which are gone."""

    name: str
    """The name of its entry point."""
    outlives: bool
    """Whether its workers run on when this process ends."""
    queues: bool
    """Whether a job may wait in its queue before it begins."""
    most: int
    """The largest number of jobs for one call of :meth:`start`."""
    seconds: float
    """Seconds between two checks of the workers."""

    def machine(self) -> tuple[bool, bool]:
        """Whether there are GPUs, and whether a run may have a part of one."""
        ...

    def start(self, attempts: Sequence[Attempt], at_once: int | None) -> list[str]:
        """Start or queue a worker for each job; returns the engine's names of the workers.

        Args:
            attempts: the jobs. The ``command`` of each is to be run with its ``resources``.
            at_once: how many of them may run at the same time; None = as many as there is room for.

        Raises:
            ErcBenchError: the engine does not take the jobs.
        """
        ...

    def gone(self, handles: Collection[str]) -> Mapping[str, Gone]:
        """Return those of these workers that have ended, or that will never begin.

        One call asks for all workers.
        """
        ...

    def reap(self, handles: Collection[str]) -> None:
        """Release workers whose job is over. They have ended or are about to end."""
        ...

    def wait(self, seconds: float) -> None:
        """Sleep for so long, or only until the engine reports that something happened."""
        ...

    def stop(self, handles: Collection[str]) -> None:
        """Stop these workers, and cancel those that have not begun."""
        ...

    def close(self) -> None:
        """Release what the executor itself holds."""
        ...


def make_executor(name: str, options: Mapping[str, str]) -> Executor:
    """Return the executor with a name.

    Raises:
        ErcBenchError: there is no such executor, its package is missing, or an option is wrong.
    """
    made: Executor = executor_class(name)(options)
    return made


def check_options(engine: str, options: Mapping[str, str], known: Collection[str]) -> None:
    """Refuse options that an engine does not have.

    Raises:
        ErcBenchError: the engine does not have one of them.
    """
    for name in options:
        if name not in known:
            raise ErcBenchError(
                f"--resources {engine}.{name}: {engine} has no such option here."
                + did_you_mean(name, known)
            )


LATE_SECONDS = 60.0
"""How long it may take, over NFS, until a file of another machine is seen here."""


@dataclass
class Dispatch:
    """Gives the jobs of a grid to an executor and follows them to their end."""

    executor: Executor
    folder: JobFolder
    resources: Resources = field(default_factory=Resources)
    """What each run needs, as far as it was given."""
    workers: int | None = None
    """How many jobs run at a time; None = all, in the engine's queue."""
    threads: int | None = None
    """Threads of each run; None = one for each of its cores."""
    retries: int = 3
    """How often a job is queued again if its worker was lost through no fault of the run."""
    detach: bool = False
    """Whether to start all jobs and return without waiting for them."""
    leave: Callable[[int], bool] = lambda _: False
    """Called at Ctrl-C, if jobs can run on without this process: whether so many jobs shall."""

    def __post_init__(self) -> None:
        self.running: dict[str, Attempt] = {}
        """The attempts that are queued or running, by the engine's names."""
        self.again: list[Job] = []
        self.kept: set[str] = set()
        """Names of failed attempts. The files that say how they ended are kept."""
        self.tries: dict[str, int] = {}
        """How often each job was begun, also by the engine itself."""
        self.late: dict[str, float] = {}
        self.left = False
        """Whether jobs were left to run on without this process."""
        self.machine = self.executor.machine()

    def work_off(self, jobs: Iterator[Job]) -> Generator[Ended, None, None]:
        """Do jobs, and yield each when it is over.

        A job is taken from ``jobs`` only when it can be started. If the generator is closed early,
        it stops the running jobs, unless they are to be left.

        Raises:
            ErcBenchError: the engine takes no jobs, or a machine does not see the folder.
        """
        try:
            while True:
                while drawn := self._draw(jobs):
                    self._start(drawn)
                if self.detach:
                    self.left = bool(self.running)
                    return
                if not self.running:
                    return
                over = self._look()
                yield from over
                if not over and not self.again:
                    self.executor.wait(self.executor.seconds)
        except (KeyboardInterrupt, GeneratorExit):
            self.left = self.executor.outlives and self.leave(len(self.running))
            raise
        finally:
            if self.running and not self.left:
                self.executor.stop(list(self.running))
                for attempt in self.running.values():
                    self.folder.drop(attempt)

    def _draw(self, jobs: Iterator[Job]) -> list[Job]:
        """The next jobs that can be started now."""
        room = self.executor.most
        if self.workers is not None and not self.executor.outlives:
            room = min(room, self.workers - len(self.running))
        drawn, self.again = self.again[:room], self.again[room:]
        return [*drawn, *islice(jobs, room - len(drawn))]

    def _start(self, drawn: Sequence[Job]) -> None:
        """Write the files of jobs and start their workers."""
        gpus, shares = self.machine
        batches: dict[tuple[int, str], list[tuple[Job, int, Resources]]] = {}
        for job in drawn:
            name = job.place.name
            self.tries[name] = tries = self.tries.get(name, 0) + 1
            needs = self.resources.for_run(job.experiment, gpus=gpus, shares=shares)
            batches.setdefault((tries, repr(needs)), []).append((job, tries, needs))
        here = not self.executor.outlives
        for (tries, _), batch in batches.items():
            at_once = self.workers if here and self.workers else 1
            left = self.retries - (tries - 1)
            attempts = self.folder.send(batch, self.threads, at_once, left)
            handles = self.executor.start(attempts, self.workers)
            started = dict(zip(handles, attempts, strict=True))
            self.running |= started
            if self.executor.outlives:
                self.folder.note_queued(started, self.executor.name)

    def _look(self) -> list[Ended]:
        """The jobs that ended since the last look."""
        found = []
        ended = self.folder.ended() - self.kept
        over = [handle for handle, attempt in self.running.items() if attempt.name in ended]
        self.executor.reap(over)
        gone = self.executor.gone(self.running.keys() - set(over))
        for handle in [*over, *gone]:
            attempt = self.running[handle]
            outcome: Ended | None
            try:
                outcome = read_end(attempt)
            except (OSError, ValueError):
                if handle not in gone or self._is_late(handle, gone[handle]):
                    continue
                outcome = self._lost(attempt, gone[handle])
            del self.running[handle]
            if outcome is None:
                self.again.append(attempt.job)
            else:
                found.append(outcome)
                if outcome.taken:
                    self.tries[attempt.job.place.name] = attempt.tries - 1
                if outcome.failure:
                    self.kept.add(attempt.name)
            self.folder.drop(attempt, keep_end=bool(outcome and outcome.failure))
        return found

    def _is_late(self, handle: str, how: Gone) -> bool:
        """Whether a worker did its job, and its file may just not be seen here yet."""
        deadline = self.late.setdefault(handle, time.monotonic() + LATE_SECONDS)
        return how.status == DONE and time.monotonic() < deadline

    def _lost(self, attempt: Attempt, how: Gone) -> Ended | None:
        """The end of a job whose worker is gone and did not say how it ended; None = try again.

        Raises:
            ErcBenchError: its machine does not see the folder.
        """
        if how.status == UNSEEN:
            raise ErcBenchError(_unseen(self.folder))
        name, tries = attempt.job.place.name, attempt.tries + how.restarts
        if how.again and tries <= self.retries:
            say(f"{name}: its worker {how.reason}. It is queued again ({tries} of {self.retries}).")
            self.tries[name] = tries
            return None
        ended = Ended(attempt.job, _failure(how, attempt))
        self.folder.note_lost(attempt, ended)
        return ended


def _failure(how: Gone, attempt: Attempt) -> str:
    """One paragraph that says why a run whose worker is gone has no record."""
    if how.status == STOPPED and not how.again:
        return "it was stopped; the same command resumes it after the last finished epoch."
    if how.status == FAILED:  # the worker could not write how it ended
        return f"its worker {how.reason}, and could not say why{_said(attempt)}."
    tries = attempt.tries + how.restarts
    tried = f" It was tried {tries} times." if tries > 1 else ""
    return (
        f"its worker {how.reason}{_said(attempt)}; the same command resumes it after the last "
        f"finished epoch.{tried}"
    )


def _said(attempt: Attempt) -> str:
    """The last line of the engine's output, in brackets after a space; empty without output.

    A worker that could open its log has written there instead.
    """
    last = last_line(attempt.output)
    return f" ({last[:200].rstrip('.')})" if last else ""


def _unseen(folder: JobFolder) -> str:
    return (
        f"A machine of the cluster does not see the folder {folder.path}, so it can't do a run of "
        "this grid, nor leave its record. Name a folder that all machines share under the same "
        "path with --leaderboard-dir, for example one of your home. No run that was begun is lost."
    )


def refuse_nodes(resources: Resources) -> None:
    """Raise an error if a run of a grid is to have several machines."""
    if (resources.nodes or 1) > 1:
        raise ErcBenchError(
            f"--resources nodes={resources.nodes}: a run of a grid has one machine. Leave it out."
        )
