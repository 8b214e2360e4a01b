"""The processes of one run on several devices.

On one machine, this process starts the others, and they end with it. On several machines, ``srun``
or ``torchrun`` starts the same command for every device. The first process does the run as if it
were alone, and tells the others what to train with it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from erc_bench.errors import ErcBenchError, explain
from erc_bench.execution.processes import end_with_parent, stop
from erc_bench.execution.resources import Devices
from erc_bench.method import devices
from erc_bench.method.devices import Position
from erc_bench.progress import console, say

GRACE = 20.0
"""Seconds that processes get to end before they are killed."""


def check(wanted: Devices) -> None:
    """Raise an error if there are not so many devices, or if nothing starts their processes."""
    if wanted.each < 1 or wanted.nodes < 1:
        raise ErcBenchError(
            f"--devices {wanted.each} --nodes {wanted.nodes} leaves nothing to train on: give 1 or "
            "more of each."
        )
    if wanted.sharded and wanted.count == 1:
        raise ErcBenchError(
            "--strategy fsdp shares the weights out among several devices: give --devices 2 or "
            "more. For less memory on one device there are checkpointing=true and micro_batch."
        )
    gpus = torch.cuda.device_count()
    if torch.cuda.is_available() and wanted.each > gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = f" (CUDA_VISIBLE_DEVICES={visible})" if visible else ""
        raise ErcBenchError(
            f"--devices {wanted.each} asks for more GPUs than the {gpus} that are here{why}."
        )
    if wanted.count > 1 and (outside := started_outside()) is not None:
        started = outside[0].count
        if started != wanted.count:
            raise ErcBenchError(
                f"{started} processes of this command were started, but --devices {wanted.each} "
                f"--nodes {wanted.nodes} takes {wanted.count}: one for each device."
            )
    elif wanted.nodes > 1:
        raise ErcBenchError(
            f"--nodes {wanted.nodes} takes a process for every device on {wanted.nodes} machines. "
            "Start the same command for each of them: with Slurm by srun "
            f"--nodes={wanted.nodes} --ntasks-per-node={wanted.each}, else on each machine by "
            f"torchrun --nnodes={wanted.nodes} --nproc-per-node={wanted.each}."
        )


def started_outside() -> tuple[Position, str, int] | None:
    """Position of this process among those of ``torchrun`` or ``srun``, and the first one's address
    and port; None if this process was started alone."""
    environ = os.environ
    if {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= environ.keys():
        count = int(environ["WORLD_SIZE"])
        nodes = count // int(environ.get("LOCAL_WORLD_SIZE", count))
        here = Position(int(environ["RANK"]), count, int(environ["LOCAL_RANK"]), nodes)
        return here, environ["MASTER_ADDR"], int(environ["MASTER_PORT"])
    if int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        slurm = SLURMEnvironment(auto_requeue=False)
        nodes = int(environ.get("SLURM_STEP_NUM_NODES", "1"))
        count = int(environ["SLURM_STEP_NUM_TASKS"])
        here = Position(slurm.global_rank(), count, slurm.local_rank(), nodes)
        return here, slurm.main_address, slurm.main_port
    return None


class Team:
    """The processes of a run, as seen by one of them.

    Args:
        wanted: the devices to train on.
        work: the function that the others call, ``work(task)``, while the first process does its
            own part of the task. Their processes import it by its name.
    """

    def __init__(self, wanted: Devices, work: Callable[[Any], Any]) -> None:
        check(wanted)
        self.wanted = wanted
        self.work = work
        self.told = False
        self.outside = started_outside() if wanted.count > 1 else None

    @property
    def follows(self) -> bool:
        """Whether this process is not the first."""
        return self.outside is not None and self.outside[0].rank > 0

    def follow(self) -> Any:
        """Do the tasks of the first process, and return the result that it sends at the end."""
        assert self.outside is not None
        console.quiet = True
        with self._joined(*self.outside):
            while (message := devices.first(None)) is not None:
                kind, task = message
                if kind == "end":
                    return task
                self.work(task)
            raise ErcBenchError("The first process of this run failed; its output says why.")

    @contextlib.contextmanager
    def leading(self) -> Iterator[None]:
        """Inside, be the first of the processes that ``srun`` or ``torchrun`` started."""
        if self.outside is None:
            yield
            return
        with self._joined(*self.outside):
            try:
                yield
            finally:
                if not self.told:
                    devices.first(None)

    def end(self, result: Any) -> None:
        """Tell the processes that ``srun`` or ``torchrun`` started that the run is over."""
        if self.outside is not None:
            self.told = True
            devices.first(("end", result))

    @contextlib.contextmanager
    def working(self, task: Any) -> Iterator[None]:
        """Inside, all processes work on a task."""
        if self.wanted.count == 1:
            yield
        elif self.outside is not None:
            devices.first(("work", task))
            self.told = True  # if this fails, the others notice it when they next communicate
            yield
            self.told = False
        else:
            with self._started(task):
                yield

    def _joined(self, here: Position, address: str, port: int) -> Any:
        here = Position(here.rank, here.count, here.local_rank, here.nodes, self.wanted.sharded)
        return devices.joined(here, address, port)

    @contextlib.contextmanager
    def _started(self, task: Any) -> Iterator[None]:
        """Start the other processes on this machine, and end them."""
        count, threads = self.wanted.count, torch.get_num_threads()
        port = _free_port()
        context = multiprocessing.get_context("spawn")
        others: Others = []
        if not torch.cuda.is_available():
            torch.set_num_threads(max(1, threads // count))
        try:
            for rank in range(1, count):
                results, sender = context.Pipe(duplex=False)
                here = Position(rank, count, rank, 1, self.wanted.sharded)
                process = context.Process(
                    target=_follow,
                    args=(here, port, torch.get_num_threads(), self.work, task, sender),
                    name=f"device {rank}",
                )
                process.start()
                sender.close()
                others.append((process, results))
            over = threading.Event()
            threading.Thread(target=_watch, args=(others, over), daemon=True).start()
            try:
                with self._joined(Position(0, count), "127.0.0.1", port), _ending(others):
                    yield
            finally:
                over.set()
            _end(others, GRACE)
        finally:
            _end(others, 0.0)
            torch.set_num_threads(threads)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


Others = list[tuple[BaseProcess, Connection]]
"""The processes beside the first, each with a connection that says why it failed."""


@contextlib.contextmanager
def _ending(others: Others) -> Iterator[None]:
    """End the other processes if something fails in here; raise their reason, if they have one."""
    try:
        yield
    except Exception as error:
        reason = None if isinstance(error, ErcBenchError) else _failure(others)
        _end(others, 0.0)
        own = " ".join(str(error).split())
        if reason is not None and own not in reason:  # else all of them failed alike
            raise ErcBenchError(reason) from error
        raise
    except BaseException:
        _end(others, 0.0)
        raise


def _failure(others: Others, seconds: float = 2.0) -> str | None:
    """Why one of the other processes failed; None if none of them did."""
    wait([process.sentinel for process, _ in others], seconds)
    for process, results in others:
        with contextlib.suppress(EOFError, OSError):
            if results.poll():
                return f"The process of {process.name} failed: {results.recv()}"
        if process.exitcode:
            status = process.exitcode
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else "ended"
            return (
                f"The process of {process.name} {how}, probably because memory ran out; the same "
                "command resumes the run after the last finished epoch."
            )
    return None


def _end(others: Others, seconds: float) -> None:
    """Wait for the other processes, and kill those that don't end."""
    stop([process for process, _ in others], seconds)


def _watch(others: Others, over: threading.Event) -> None:
    """End this process if another one has failed and this one would wait for it forever."""
    while not over.is_set():
        wait([process.sentinel for process, _ in others], 1.0)
        if any(process.exitcode for process, _ in others):
            break
    # A wait in C++ can't be interrupted. Any other wait has failed by the end of the grace period.
    if not over.wait(GRACE):
        say(_failure(others) or "Another process of this run failed.")
        os._exit(1)


def _follow(
    here: Position,
    port: int,
    threads: int,
    work: Callable[[Any], Any],
    task: Any,
    results: Connection,
) -> None:
    """Do the part of a task in a process that was started here."""
    # Ctrl-C on a terminal reaches every process there; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    console.quiet = True
    torch.set_num_threads(threads)
    try:
        with devices.joined(here, "127.0.0.1", port):
            work(task)
    except torch.OutOfMemoryError as error:
        results.send(f"its GPU has too little memory ({str(error).split('. ')[0]}).")
        raise SystemExit(1) from None
    except Exception as error:
        results.send(explain(error))
        raise SystemExit(1) from None
