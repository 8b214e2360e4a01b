"""How the processes that this one starts are ended."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess


def end_with_parent() -> None:
    """Let this process end as soon as the one that started it ends, however that ends.

    So a command that is killed leaves no process behind that still holds a run.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def stop(processes: Sequence[BaseProcess], seconds: float) -> list[int | None]:
    """Wait for processes that are about to end, and kill those that don't.

    Returns the exit status of each; None for one that had to be killed here.
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
