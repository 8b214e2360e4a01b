"""The executor for this machine, and the number of runs that suits it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from erc_bench.execution.executors import Gone, check_options
from erc_bench.execution.jobs import Attempt
from erc_bench.execution.processes import end_with_parent, stop
from erc_bench.execution.resources import CORES_PER_RUN
from erc_bench.execution.worker import DONE, STOPPED, work
from erc_bench.settings.experiment import Experiment
from erc_bench.settings.presets import gpu_memory_gib, memory_gib
from erc_bench.settings.registry import own_modules

SIZES = ("encoder", "batch_size", "max_len", "accumulate", "precision")
"""Settings that change how much of a GPU a run needs."""

GRACE = 30.0
"""Seconds that processes get to stop before they are killed."""


# --- how many at a time ---


def default_workers(experiments: Sequence[Experiment]) -> tuple[int, str]:
    """How many runs at a time suit this machine, and the reason in brackets after a space."""
    return sane_workers(experiments, cores(), _free_gpu_memory(), free_memory())


def sane_workers(
    experiments: Sequence[Experiment],
    cores: int,
    gpu_memory: float | None,
    memory: float | None = None,
) -> tuple[int, str]:
    """Return :func:`default_workers` for a machine.

    Small encoders leave a big GPU idle. On a CPU, N threads do a training step less than N times as
    fast as one thread, because they wait for each other. So each core gets a run of its own
    (measured by ``python -m benchmarks.grids threads``).

    Args:
        experiments: the runs.
        cores: number of cores.
        gpu_memory: GiB free on the GPU; None without a GPU.
        memory: GiB of free main memory; None if unknown.
    """
    if gpu_memory is None:
        from erc_bench.training.environment import why_no_gpu

        need = max(memory_gib(e.preset) for e in experiments)
        workers, by = cores, f"one for each of {cores} cores"
        if memory is not None and memory / need < cores:
            workers = max(1, int(memory / need))
            by = f"one for each {need:g} of the {memory:.0f} GiB of memory that are free"
        return workers, f" ({why_no_gpu()}; {by}; --jobs sets another number)"
    given = {text.partition("=")[0].rpartition(".")[2] for e in experiments for text in e.overrides}
    if changed := [name for name in SIZES if name in given]:
        return 1, (
            f" (how much of the GPU a run with its own {' and '.join(changed)} needs is not known; "
            "--jobs sets another number)"
        )
    need = max(gpu_memory_gib(e.preset) for e in experiments)
    workers = max(1, min(int(gpu_memory / need), cores // CORES_PER_RUN))
    return workers, (
        f" (for each {need} of the {gpu_memory:.0f} GiB free on the GPU and {CORES_PER_RUN} of "
        f"{cores} cores; --jobs sets another number)"
    )


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> float | None:
    """GiB of memory that processes may still take; None if the system does not tell."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("MemAvailable:"))
        found.append(int(line.split()[1]) / 2**20)
    with contextlib.suppress(OSError, ValueError):  # of a container
        group = Path("/sys/fs/cgroup")
        most = int((group / "memory.max").read_text())
        found.append((most - int((group / "memory.current").read_text())) / 2**30)
    return min(found, default=None)


def _free_gpu_memory() -> float | None:
    """GiB free on the GPU; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    # CUDA keeps some memory in every process that asks, so a process that ends at once asks.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as asking:
        free, _ = asking.submit(torch.cuda.mem_get_info).result()
    return free / 2**30


# --- the executor ---


class Local:
    """Executor whose workers are processes of this machine.

    The workers end with this process, however it ends. If the system can fork, a worker is forked
    from a process that has imported the slow libraries and all of our own code. So all runs of a
    grid have the same code, whatever is checked out meanwhile.
    """

    name = "local"
    outlives = False
    queues = False
    most = 1 << 20
    seconds = 1.0

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        check_options(self.name, options or {}, ())
        self.context = _processes()
        self.processes: dict[str, BaseProcess] = {}

    def machine(self) -> tuple[bool, bool]:
        """Whether there are GPUs, and True: the processes may share one."""
        import torch

        return torch.cuda.is_available(), True

    def start(self, attempts: Sequence[Attempt], at_once: int | None) -> list[str]:
        """Start a process for each attempt."""
        for attempt in attempts:
            surroundings = os.getcwd(), dict(os.environ)
            process = self.context.Process(
                target=_work,
                args=(attempt.file, surroundings),
                name=attempt.job.place.name,
            )
            with _one_thread():
                process.start()
            self.processes[attempt.name] = process
        return [attempt.name for attempt in attempts]

    def gone(self, handles: Collection[str]) -> dict[str, Gone]:
        """The processes that have ended."""
        found = {}
        for name in handles:
            process = self.processes.get(name)
            if process is None:
                found[name] = Gone("ended", status=DONE)
            elif process.exitcode is not None:
                process.join()
                found[name] = Gone(_died(process.exitcode), status=process.exitcode)
                del self.processes[name]
        return found

    def reap(self, handles: Collection[str]) -> None:
        """Wait for processes that are about to end, since another run needs what they hold."""
        stop([self.processes.pop(name) for name in handles if name in self.processes], GRACE)

    def wait(self, seconds: float) -> None:
        """Wait until a process ends, but at most so many seconds."""
        sentinels = [process.sentinel for process in self.processes.values()]
        if sentinels:
            wait(sentinels, seconds)
        else:
            time.sleep(seconds)

    def stop(self, handles: Collection[str]) -> None:
        """End processes by SIGTERM, and those that do not end by SIGKILL."""
        processes = [self.processes.pop(name) for name in handles if name in self.processes]
        for process in processes:
            process.terminate()
        stop(processes, GRACE)

    def close(self) -> None:
        """Wait for the processes whose job is done."""
        stop(list(self.processes.values()), GRACE)
        self.processes.clear()


def _processes() -> Any:
    """How processes are started: forked from one that has imported the slow libraries, if the
    system can fork, else spawned. This process has threads, so it is never forked itself."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["erc_bench.execution.local", "erc_bench.execution.tuning", "datasets", *own_modules()]
    )
    return context


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let a process that is started inside start no OpenMP threads.

    They don't survive a fork, and the forked process would wait for them.
    """
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def _work(file: Path, surroundings: tuple[str, dict[str, str]]) -> None:
    """Do the job in a file, in a process of :class:`Local`."""
    end_with_parent()
    folder, environment = surroundings
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(work(file))


def _died(status: int | None) -> str:
    """How a process ended, in words that follow "its worker"."""
    if status is None:
        return f"gave no answer and did not end within {GRACE:g} s, so it was killed"
    if status < 0:
        name = signal.Signals(-status).name
        memory = ", probably because memory ran out (a smaller --jobs may help)"
        return f"was killed by {name}{memory if name == 'SIGKILL' else ''}"
    if status == STOPPED:
        return "was stopped"
    return f"ended with status {status}"
