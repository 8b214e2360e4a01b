"""The executor for a Ray cluster. It uses only Ray Core.

Ray chooses a machine for each run and starts a process there, and this process starts the worker.
Ray retries nothing and returns nothing but the worker's exit status. Logs go to our own files.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from erc_bench.errors import ErcBenchError
from erc_bench.execution.executors import Gone, check_options, refuse_nodes
from erc_bench.execution.jobs import Attempt
from erc_bench.execution.resources import Resources
from erc_bench.execution.worker import STOPPED, TIED
from erc_bench.progress import say

GIB = 2**30

GRACE = 20.0
"""Seconds that a worker gets to stop before it is killed."""

SHARED = ("ERC_BENCH_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "WANDB_", "XDG_", "PYTHONPATH")
"""Prefixes of the environment variables that a worker gets from the command."""


def _reach(address: str) -> None:
    """Raise an OSError if nothing listens at ``HOST:PORT``. Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "/" not in host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


class Ray:
    """Executor that does runs as Ray tasks. The tasks end with this process.

    Args:
        options: ``address`` of a cluster. Without it, ``$RAY_ADDRESS`` is used. Without both, a
            cluster is started on this machine.

    Raises:
        ErcBenchError: Ray is not installed, or there is no cluster at the address.
    """

    name = "ray"
    outlives = False
    queues = True
    most = 1000
    seconds = 1.0

    def __init__(self, options: Mapping[str, str]) -> None:
        check_options(self.name, options, ("address",))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray sends usage reports
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError as error:
            raise ErcBenchError(
                "--executor ray needs Ray, which is not installed here: pip install "
                "'erc-bench[ray]', on all machines of the cluster."
            ) from error
        self.ray = ray
        address = options.get("address") or os.environ.get("RAY_ADDRESS") or "local"
        here: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 100 << 20}
        try:
            _reach(address)
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(here if address == "local" else {}),
            )
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise ErcBenchError(
                f"There is no Ray cluster at {address} ({str(error).splitlines()[0]}). Start one "
                "(`ray start --head`), or name it by --resources ray.address=… or $RAY_ADDRESS; "
                "without both one is started on this machine."
            ) from error
        self.tasks: dict[str, Any] = {}
        self.warned = False

    def machine(self) -> tuple[bool, bool]:
        """Whether the cluster has GPUs, and True: a run may have a part of one."""
        return bool(self.ray.cluster_resources().get("GPU")), True

    def start(self, attempts: Sequence[Attempt], at_once: int | None) -> list[str]:
        """Start a Ray task for each attempt."""
        shared = {name: v for name, v in os.environ.items() if name.startswith(SHARED)}
        task = self.ray.remote(_work)
        for attempt in attempts:
            needs = _needs(attempt.resources)
            self._warn(needs)
            arguments = (attempt.command[1:], shared, str(attempt.output))
            options = {**needs, "max_retries": 0, "name": attempt.job.place.name}
            self.tasks[attempt.name] = task.options(**options).remote(*arguments)
        return [attempt.name for attempt in attempts]

    def _warn(self, needs: Mapping[str, Any]) -> None:
        """Say once if no machine of the cluster is large enough for a run. One may still join."""
        names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        room = any(all(r.get(names[n], 0) >= needs[n] for n in needs) for r in nodes)
        if not room and not self.warned:
            self.warned = True
            say(
                f"No machine of the Ray cluster has what a run needs ({needs['num_cpus']} cores, "
                f"{needs['num_gpus']:g} GPUs, {needs['memory'] / GIB:g} GiB): the runs wait until "
                "one joins. --resources cpus=… gpus=… memory_gib=… asks for less."
            )

    def gone(self, handles: Collection[str]) -> dict[str, Gone]:
        """The tasks that are over."""
        by_task = {self.tasks[name]: name for name in handles if name in self.tasks}
        found = {}
        for task in self._over(list(by_task), 0, len(by_task)):
            found[by_task[task]] = self._how(task)
            del self.tasks[by_task[task]]
        return found

    def _over(self, tasks: list[Any], seconds: float, count: int) -> list[Any]:
        if not tasks:
            return []
        try:
            over, _ = self.ray.wait(tasks, num_returns=count, timeout=seconds, fetch_local=False)
            return list(over)
        except (self.ray.exceptions.RayError, ConnectionError, RuntimeError) as error:
            raise ErcBenchError(
                f"The Ray cluster is lost ({str(error).splitlines()[0]}). Give the same command "
                "again when there is a cluster: it resumes the runs after their last epoch."
            ) from error

    def _how(self, task: Any) -> Gone:
        errors = self.ray.exceptions
        try:
            status = self.ray.get(task)
        except errors.TaskCancelledError:
            return Gone("was cancelled in Ray")
        except errors.OutOfMemoryError:
            return Gone("ran out of memory (--resources memory_gib=… asks for more)")
        except errors.RayTaskError as error:
            return Gone(f"could not be started: {str(error).splitlines()[-1]}")
        except errors.RayError as error:
            return Gone(f"lost its machine ({type(error).__name__})", again=True)
        if status < 0:
            return Gone(f"was killed by signal {-status}", status=status)
        return Gone(f"ended with status {status}", again=status == STOPPED, status=status)

    def reap(self, handles: Collection[str]) -> None:
        """Forget tasks whose job is over. Ray frees their resources when they end."""
        self._over([self.tasks.pop(name) for name in handles if name in self.tasks], 0, 1)

    def wait(self, seconds: float) -> None:
        """Wait until a task is over, but at most so many seconds."""
        if not self._over(list(self.tasks.values()), seconds, 1) and not self.tasks:
            time.sleep(seconds)

    def stop(self, handles: Collection[str]) -> None:
        """Cancel tasks, and give their workers a moment to end."""
        tasks = [self.tasks.pop(name) for name in handles if name in self.tasks]
        for task in tasks:
            self.ray.cancel(task)
        self._over(tasks, GRACE + 5, len(tasks))

    def close(self) -> None:
        """Leave the cluster, or end the one that was started here."""
        self.ray.shutdown()


def _needs(resources: Resources) -> dict[str, Any]:
    """The resources of a task as options of Ray."""
    refuse_nodes(resources)
    return {
        "num_cpus": resources.cpus or 1,
        "num_gpus": resources.gpus or 0,
        "memory": int((resources.memory_gib or 0) * GIB),
    }


def _work(arguments: list[str], shared: Mapping[str, str], output: str) -> int:
    """Run a worker on a machine of the cluster and return its exit status.

    The worker ends with this process.
    """
    command = [sys.executable, *arguments, TIED]
    try:
        said: Any = Path(output).open("ab")  # noqa: SIM115  closed below
    except OSError:  # the folder is not on this machine, which the worker will report
        said = subprocess.DEVNULL
    process = subprocess.Popen(
        command, env={**os.environ, **shared}, stdin=subprocess.PIPE, stdout=said, stderr=said
    )
    try:
        return process.wait()
    except BaseException:  # cancelled
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    finally:
        if said is not subprocess.DEVNULL:
            said.close()
