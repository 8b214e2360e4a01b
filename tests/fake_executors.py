"""Executors that start no processes, to test what a grid does without waiting for processes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence

from erc_bench.errors import ErcBenchError
from erc_bench.execution.executors import Gone
from erc_bench.execution.jobs import Attempt


def end(attempt: Attempt, failure: str = "", *, taken: bool = False) -> None:
    """Write how an attempt ended, as its worker would."""
    run_name = attempt.job.place.name
    said = {"failure": failure, "taken": taken, "run": run_name}
    attempt.ended.write_text(json.dumps(said), encoding="utf-8")


def do(attempt: Attempt) -> None:
    """Run an attempt in this process."""
    failure = ""
    try:
        attempt.job.do(1)
    except ErcBenchError as error:
        failure = str(error)
    end(attempt, failure)


class Fake:
    """An executor that calls a function with each attempt, and loses the attempts in ``lost``.

    Args:
        begin: the function that is called with each started attempt.
        most: the largest number of attempts at a time.
    """

    name = "fake"
    outlives = False
    queues = False
    seconds = 0.01

    def __init__(self, begin: Callable[[Attempt], object] = do, most: int = 1) -> None:
        self.begin = begin
        self.most = most
        self.started: list[Attempt] = []
        self.lost: dict[str, Gone] = {}
        """How attempts were lost, by the attempt's name."""
        self.stopped: list[str] = []
        self.waits = 0

    def machine(self) -> tuple[bool, bool]:
        return False, False

    def start(self, attempts: Sequence[Attempt], at_once: int | None) -> list[str]:
        for attempt in attempts:
            self.started.append(attempt)
            self.begin(attempt)
        return [f"handle of {attempt.name}" for attempt in attempts]

    def gone(self, handles: Collection[str]) -> dict[str, Gone]:
        names = {handle.removeprefix("handle of "): handle for handle in handles}
        return {names[name]: how for name, how in self.lost.items() if name in names}

    def reap(self, handles: Collection[str]) -> None:
        pass

    def wait(self, seconds: float) -> None:
        self.waits += 1
        time.sleep(seconds)

    def stop(self, handles: Collection[str]) -> None:
        self.stopped += handles

    def close(self) -> None:
        pass


class Queueing(Fake):
    """An executor whose jobs run on without the command, like those of a cluster."""

    name = "queueing"
    outlives = True
    queues = True


def nobody() -> Fake:
    """Return an executor that must not be asked to start anything."""

    def begin(attempt: Attempt) -> None:
        raise AssertionError(f"{attempt.job.place.name} was started")

    return Fake(begin)
