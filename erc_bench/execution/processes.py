"""Processes that this one starts: how they end, whatever becomes of this one."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess


def end_with_parent() -> None:
    """From now on this process ends with the one that started it, however that ends: a command
    that is killed leaves nobody behind who still holds a run."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def stop(processes: Sequence[BaseProcess], seconds: float) -> list[int | None]:
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
