"""Grids: many runs, side by side, one process a run.

A grid hands its runs as :class:`Job` to an :data:`Executor`; :func:`local` is the one for this
machine. What is finished is read from the records alone, so that several grids may share a folder:
a run that another process is at comes last, and its record is taken when it appears.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import numpy as np
from filelock import FileLock, Timeout
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from erc_bench.config import Experiment
from erc_bench.errors import ErcBenchError, explain
from erc_bench.progress import Stopwatch, console, duration, say, show_warning
from erc_bench.records import cannot_write, finished, leftovers, record_path, run_folder

GPU_MEMORY = {"paper": 24, "base": 16, "small": 4, "smoke": 3}
"""GiB of a GPU to reckon with for a run, by preset; any other counts as ``paper``. At least what
``python -m benchmarks.memory`` counts for the largest batch in bfloat16, and 2 GiB for CUDA."""

CORES_PER_RUN = 2
"""Cores for each of several runs on one GPU."""

PATIENCE = 1.0
"""Seconds between two looks at the runs that other processes are at."""

GRACE = 30.0
"""Seconds that processes have to stop in before they are killed."""


@dataclass(frozen=True)
class Job:
    """One run of a grid, and all that is needed to do it elsewhere."""

    experiment: Experiment
    root: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of :func:`erc_bench.runner.run`."""

    @property
    def log(self) -> Path:
        """Where the run's output goes: beside its checkpoints."""
        return run_folder(self.root, self.experiment) / "log.txt"


@dataclass(frozen=True)
class Ended:
    """A job that is over; its run has a record unless something else is said."""

    job: Job
    failure: str = ""
    """Why there is no record, in one paragraph."""
    taken: bool = False
    """Another process is at the same run."""


Executor = Callable[[Iterable[Job], int], Generator[Ended, None, None]]
"""Does jobs, at most so many at once, each by :func:`perform` in a process of its own, and yields
each when it is over. It draws a job only when it can start it; closed early, it stops those that
are running."""


@dataclass
class Report:
    """What came out of a grid."""

    scores: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """Weighted-F1 on test of every seed, by method and corpus."""
    failures: list[Ended] = field(default_factory=list)

    def complaints(self) -> list[str]:
        """One paragraph for all runs that failed alike, and where their logs are."""
        alike: dict[str, list[Job]] = defaultdict(list)
        for ended in self.failures:
            alike[ended.failure].append(ended.job)
        lines = []
        for failure, jobs in alike.items():
            logs = ", ".join(str(job.log) for job in jobs if job.log.exists())
            names = ", ".join(job.experiment.name for job in jobs)
            lines.append(f"{names}: {failure}{f' Log: {logs}' if logs else ''}")
        return lines

    def render(self, out: Any) -> None:
        """Print methods × corpora, the mean over seeds."""
        seeds = max(map(len, self.scores.values()), default=0)
        if not seeds:
            return
        over = f", mean ± standard deviation over {seeds} seeds" if seeds > 1 else ""
        out.print(f"weighted-F1 on test{over}")
        table = Table("")
        methods, corpora = (dict.fromkeys(names) for names in zip(*self.scores, strict=True))
        for corpus in corpora:
            table.add_column(corpus, justify="right")
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


def run_grid(jobs: list[Job], workers: int | None, executor: Executor | None = None) -> Report:
    """Do every job whose run has no record yet; one that fails stops none of the others.

    Args:
        jobs: the runs, each once.
        workers: how many at a time; None is what this machine does well.
        executor: what does them; :func:`local` if nothing else is said.
    """
    grid = _Grid(jobs)
    waiting = grid.unfinished()
    if not waiting:
        return grid.report
    why = ""
    if workers is None:
        workers, why = default_workers([job.experiment.preset for job in waiting])
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


class _Grid:
    """How far a grid is, and what the user sees of it."""

    workers: int

    def __init__(self, jobs: list[Job]) -> None:
        self.start = time.time()
        self.total = len(jobs)
        self.left = {job.experiment.name: job for job in jobs}
        self.running: dict[str, Stopwatch] = {}
        self.others = 0
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        kinds = [(job.experiment.method, job.experiment.dataset) for job in jobs]
        self.report = Report({kind: [] for kind in kinds})

    def unfinished(self) -> list[Job]:
        """The jobs that are left to do; the others are counted."""
        for job in list(self.left.values()):
            if record := self._record(job):
                self._count(job, record)
        if done := self.total - len(self.left):
            say(f"{done} of {self.total} runs were finished before (--force repeats them).")
        return list(self.left.values())

    def _record(self, job: Job) -> dict[str, Any] | None:
        """The record that makes a job superfluous.

        With ``force`` only one that somebody made since this grid began. A broken one is none, and
        the run will say so; nor is one whose run was killed before it had tidied up.
        """
        with contextlib.suppress(ErcBenchError, OSError):
            made = record_path(job.root, job.experiment).stat().st_mtime
            if job.options.get("force") and made < self.start:
                return None
            if not leftovers(job.root, job.experiment):
                return finished(job.root, job.experiment)
        return None

    def startable(self, waiting: list[Job], put_off: list[Job]) -> Iterator[Job]:
        """The jobs that are still to be done and at which nobody is, when they are drawn."""
        for job in waiting:
            if _is_taken(job):
                put_off.append(job)
            elif record := self._record(job):
                self._count(job, record)
                self._say(job, f"{_scores(record)}  done by another process")
            else:
                self.running[job.experiment.name] = Stopwatch()
                yield job

    def end(self, ended: Ended) -> list[Job]:
        """Take note of a job that is over; returns it if it is still to be done."""
        job = ended.job
        clock = self.running.pop(job.experiment.name)
        if ended.taken:
            return [job]
        if not ended.failure:
            try:
                record = finished(job.root, job.experiment)
            except ErcBenchError as error:
                ended = Ended(job, str(error))
            else:
                if record is not None:
                    self._count(job, record)
                    self._say(job, f"{_scores(record)}  {duration(clock.seconds)}")
                    return []
                ended = Ended(job, "it ended without a record.")
        del self.left[job.experiment.name]
        self.report.failures.append(ended)
        self._say(job, f"failed, see {job.log}")
        return []

    def _count(self, job: Job, record: dict[str, Any]) -> None:
        experiment = job.experiment
        del self.left[experiment.name]
        kind = experiment.method, experiment.dataset
        score = record["metrics"]["test"]["weighted_f1"]
        self.report.scores[kind].append(score)
        with contextlib.suppress(KeyError, TypeError, ValueError):  # an estimate can do without
            self.seconds[kind].append(float(record["training"]["wall_seconds"]))

    def _say(self, job: Job, text: str) -> None:
        say(f"[{self.total - len(self.left)}/{self.total}] {job.experiment.name}  {text}")

    def leave_to_others(self, runs: int) -> None:
        """Wait a moment if these are all that is left and other processes are at them."""
        if runs and not self.others:
            say(f"Waiting for other processes: they are at the {runs} runs that are left.")
        self.others = runs
        if runs:
            time.sleep(PATIENCE)

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
                runs.add_row(name, duration(clock.seconds), Text(_last_line(job.log)))
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
            f"{len(self.report.failures)} failed": self.report.failures,
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


def _scores(record: dict[str, Any]) -> str:
    test, dev = (record["metrics"][split]["weighted_f1"] for split in ("test", "dev"))
    return f"weighted-F1 {test:.2f} (dev {dev:.2f})"


def _is_taken(job: Job) -> bool:
    """Whether a process is at this run now."""
    lock = run_folder(job.root, job.experiment) / "lock"
    if not lock.exists():
        return False
    try:
        with FileLock(lock).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False  # the run itself will say what is wrong with the place


def _last_line(file: Path) -> str:
    with contextlib.suppress(OSError), file.open("rb") as log:
        log.seek(max(file.stat().st_size - 4096, 0))
        lines = log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


# --- how many at a time ---


def default_workers(presets: list[str]) -> tuple[int, str]:
    """How many runs this machine does well at a time, and why, as a bracket behind the number."""
    return sane_workers(presets, _cores(), _free_gpu_memory())


def sane_workers(presets: list[str], cores: int, gpu_memory: float | None) -> tuple[int, str]:
    """:func:`default_workers` for so many cores and GiB free on the GPU (None: no GPU).

    Small encoders leave a big GPU idle. Without one a single run has work for all cores.
    """
    if gpu_memory is None:
        return 1, " (there is no GPU, and one run uses all cores; --jobs sets another number)"
    need = max(GPU_MEMORY.get(preset, GPU_MEMORY["paper"]) for preset in presets)
    workers = max(1, min(int(gpu_memory / need), cores // CORES_PER_RUN))
    return workers, (
        f" (for each {need} of the {gpu_memory:.0f} GiB free on the GPU and {CORES_PER_RUN} of "
        f"{cores} cores; --jobs sets another number)"
    )


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _free_gpu_memory() -> float | None:
    """GiB free on the GPU; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    # CUDA keeps some memory for every process that asks, so another one asks and ends.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as asking:
        free, _ = asking.submit(torch.cuda.mem_get_info).result()
    return free / 2**30


# --- doing jobs ---


def local(jobs: Iterable[Job], workers: int) -> Generator[Ended, None, None]:
    """The executor of this machine: so many processes at a time, which share its cores.

    They end with this process, however it ends.
    """
    import torch

    threads = max(1, min(torch.get_num_threads(), _cores() // workers))
    context = _processes()
    running: dict[Connection, tuple[Job, BaseProcess]] = {}
    jobs = iter(jobs)
    try:
        while True:
            for job in islice(jobs, workers - len(running)):
                results, sender = context.Pipe(duplex=False)
                place = os.getcwd(), dict(os.environ)
                process = context.Process(
                    target=_work, args=(job, threads, place, sender), name=job.experiment.name
                )
                with _one_thread():
                    process.start()
                sender.close()  # so that the pipe ends with the process
                running[results] = job, process
            if not running:
                return
            for ready in cast(list[Connection], wait(list(running))):
                job, process = running.pop(ready)
                try:
                    ended = ready.recv()
                except (EOFError, OSError):
                    ended = None
                (status,) = _stop([process], GRACE)
                yield ended or Ended(job, _died(status))
    finally:
        processes = [process for _, process in running.values()]
        for process in processes:
            process.terminate()
        _stop(processes, GRACE)


def perform(job: Job, threads: int) -> Ended:
    """Do a job in this process, which is there for nothing else; its output goes to its log."""
    import torch

    from erc_bench.runner import RunTakenError, run

    try:
        _write_output_to(job.log)
        torch.set_num_threads(threads)
        experiment = job.experiment
        # Whoever comes second at a run writes this into the log of the first, too.
        now, by = f"{datetime.now():%Y-%m-%d %H:%M:%S}", f"process {os.getpid()}"
        say(f"{now}  Run {experiment.name}, {experiment.preset}, {by}")
        run(experiment, job.root, **job.options)
    except RunTakenError:
        return Ended(job, taken=True)
    except KeyboardInterrupt:
        return Ended(job, "it was stopped; --resume goes on from the last finished epoch.")
    except Exception as error:
        if not isinstance(error, ErcBenchError):
            traceback.print_exc()
        return Ended(job, explain(error, "its log shows where"))
    return Ended(job)


def _write_output_to(log: Path) -> None:
    """Everything that this process prints goes behind what is in the file already."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
    except OSError as error:
        raise cannot_write(log, error) from error


def _processes() -> Any:
    """How processes begin: forked from one that has imported what takes long, where there are
    such; never from this one, which has threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["erc_bench.grid", "erc_bench.runner", "datasets"])
    return context


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """A process that begins here starts no OpenMP threads: they don't survive a fork, and whoever
    was forked would wait for them."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def _work(job: Job, threads: int, place: tuple[str, dict[str, str]], results: Connection) -> None:
    """The life of a process of :func:`local`."""
    # Ctrl-C on a terminal reaches every process there; the grid stops each by SIGTERM, once.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder, environment = place
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    warnings.showwarning = show_warning
    results.send(perform(job, threads))


def _end_with_parent() -> None:
    """A grid that is killed leaves nobody behind who still holds a run."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _stop(processes: list[BaseProcess], seconds: float) -> list[int | None]:
    """Wait for processes that are about to end, and kill those that don't.

    Returns the exit status of each; None is one that had to be killed here.
    """
    deadline = time.monotonic() + seconds
    try:
        for process in processes:
            process.join(max(deadline - time.monotonic(), 0))
    finally:
        statuses = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
            process.join()
    return statuses


def _died(status: int | None) -> str:
    """Why a process gave no answer, in one paragraph."""
    if status is None:
        how = f"gave no answer and did not end within {GRACE:g} s, so it was killed"
    elif status < 0:
        name = signal.Signals(-status).name
        memory = ", perhaps for want of memory (a smaller --jobs may help)"
        how = f"was killed by {name}{memory if name == 'SIGKILL' else ''}"
    else:
        how = f"ended with status {status}"
    return f"its process {how}; --resume goes on from the last finished epoch."
