"""Runs as jobs, each in a process of its own, and the executor of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ClassVar, cast

from erc_bench.errors import ErcBenchError, explain
from erc_bench.files import cannot_write
from erc_bench.progress import say, show_warning
from erc_bench.records.place import Place, RunTakenError
from erc_bench.settings.experiment import Experiment
from erc_bench.settings.presets import gpu_memory_gib
from erc_bench.settings.registry import own_modules

SIZES = ("encoder", "batch_size", "max_len", "accumulate", "precision")
"""Settings that change how much of a GPU a run needs."""

CORES_PER_RUN = 2
"""Cores for each of several runs on one GPU."""

GRACE = 30.0
"""Seconds that processes have to stop in before they are killed."""


@dataclass(frozen=True)
class Job:
    """One run of a grid, and all that is needed to do it elsewhere."""

    experiment: Experiment
    place: Place
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of :func:`erc_bench.execution.run.run`."""
    repeatable: ClassVar[bool] = True
    """Whether the user can have it done again by ``--force``."""

    def do(self, runs_at_once: int) -> None:
        """Do it in this process, as one of so many at a time."""
        from erc_bench.execution.run import run

        options = {"expected": self.place, "runs_at_once": runs_at_once, **self.options}
        run(self.experiment, self.place.root, **options)

    def result(self) -> Result | None:
        """What it came to, if it is over.

        Raises:
            RecordError: a file stands in the record's place that is none.
        """
        record = self.place.finished()
        if record is None:
            return None
        test, dev = record.metrics.test, record.metrics.dev
        on_dev = f" (dev {dev.weighted_f1:.2f})" if dev else ""
        seconds = record.training.wall_seconds if record.training else None
        return Result(
            float(test.weighted_f1), f"weighted-F1 {test.weighted_f1:.2f}{on_dev}", seconds
        )


@dataclass(frozen=True)
class Result:
    """What a job came to, as its grid shows it."""

    score: float
    """Weighted-F1 in percent: of a run on test."""
    text: str
    seconds: float | None
    """How long it took; None where that is not known."""


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


# --- how many at a time ---


def default_workers(experiments: Sequence[Experiment]) -> tuple[int, str]:
    """How many runs this machine does well at a time, and why, as a bracket behind the number."""
    return sane_workers(experiments, _cores(), _free_gpu_memory())


def sane_workers(
    experiments: Sequence[Experiment], cores: int, gpu_memory: float | None
) -> tuple[int, str]:
    """:func:`default_workers` for so many cores and GiB free on the GPU (None: no GPU).

    Small encoders leave a big GPU idle. Without one a single run has work for all cores.
    """
    if gpu_memory is None:
        from erc_bench.training.environment import why_no_gpu

        return 1, f" ({why_no_gpu()}; one run uses all cores, --jobs sets another number)"
    given = {text.partition("=")[0].rpartition(".")[2] for e in experiments for text in e.overrides}
    if changed := [name for name in SIZES if name in given]:
        return 1, (
            f" (what a run with its own {' and '.join(changed)} needs of the GPU is not known; "
            "--jobs sets another number)"
        )
    need = max(gpu_memory_gib(e.preset) for e in experiments)
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
                surroundings = os.getcwd(), dict(os.environ)
                process = context.Process(
                    target=_work,
                    args=(job, threads, workers, surroundings, sender),
                    name=job.place.name,
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


def perform(job: Job, threads: int, runs_at_once: int) -> Ended:
    """Do a job in this process, which is there for nothing else; its output goes to its log.

    It is one of ``runs_at_once``.
    """
    import torch

    try:
        _write_output_to(job.place.log)
        torch.set_num_threads(threads)
        # Whoever comes second at a run writes this into the log of the first, too.
        now, by = f"{datetime.now():%Y-%m-%d %H:%M:%S}", f"process {os.getpid()}"
        say(f"{now}  Run {job.place.name}, {job.experiment.preset}, {by}")
        job.do(runs_at_once)
    except RunTakenError:
        return Ended(job, taken=True)
    except KeyboardInterrupt:
        return Ended(
            job, "it was stopped; the same command goes on from the last epoch that ended."
        )
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
    such; never from this one, which has threads. All of our own code is among it, so that the
    runs of a grid have the same, whatever is checked out meanwhile."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["erc_bench.execution.jobs", "erc_bench.execution.run", "datasets", *own_modules()]
    )
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


def _work(
    job: Job,
    threads: int,
    runs_at_once: int,
    surroundings: tuple[str, dict[str, str]],
    results: Connection,
) -> None:
    """The life of a process of :func:`local`."""
    # Ctrl-C on a terminal reaches every process there; the grid stops each by SIGTERM, once.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder, environment = surroundings
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    warnings.showwarning = show_warning
    results.send(perform(job, threads, runs_at_once))


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
    return f"its process {how}; the same command goes on from the last epoch that ended."
