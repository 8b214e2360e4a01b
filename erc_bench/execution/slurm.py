"""The executor for a Slurm cluster: ``sbatch`` for a batch of runs, ``squeue`` for all at once.

The results of runs are read from files. Slurm is only asked which jobs it still has, and about a
job that ended without writing a file (``scontrol show job``). ``sacct`` is not used, because
accounting may be off.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence

from erc_bench.errors import ErcBenchError
from erc_bench.execution.executors import Gone, refuse_nodes
from erc_bench.execution.jobs import Attempt
from erc_bench.execution.resources import Resources
from erc_bench.execution.worker import DONE, STOPPED
from erc_bench.progress import say

SQUEUE_SECONDS = 10.0
"""Seconds between two calls of ``squeue``. Jobs that are over say so themselves, in a file."""

MISSED_SECONDS = 15.0
"""How long a job must be missing from ``squeue`` before it counts as gone."""

WARNING_SECONDS = 90
"""How long before its time limit a run is told to stop. Slurm may tell it a minute earlier."""

PATIENCE_SECONDS = 600.0
"""How long to wait for a controller that does not answer when a job is to be submitted."""

ANSWER_SECONDS = 120.0
"""How long one command of Slurm may take."""

LARGEST_BATCH = 1000

AGAIN = {
    "NODE_FAIL": "lost its node",
    "BOOT_FAIL": "found its node not booting",
    "PREEMPTED": "was preempted",
    "TIMEOUT": "was killed at its time limit",
    "DEADLINE": "was killed at its deadline",
    "REVOKED": "was revoked",
}
"""States after which a run is queued again."""

OVER = {
    "CANCELLED": "was cancelled in Slurm",
    "OUT_OF_MEMORY": "ran out of memory (--resources memory_gib=… asks for more)",
}
"""States after which it is not."""

SCRIPT = """#!/bin/bash
warned=
worker=
trap 'warned=1; [ -z "$worker" ] || kill -USR1 $worker 2>/dev/null' USR1
{setup}
status={stopped}
if [ -z "$warned" ]; then
    {worker} {sent}-"$SLURM_ARRAY_TASK_ID".json &
    worker=$!
    [ -z "$warned" ] || kill -USR1 $worker
    trap 'kill -TERM $worker 2>/dev/null' TERM
    while true; do
        wait $worker
        status=$?
        kill -0 $worker 2>/dev/null || break
    done
    # The warning kills a worker in its first second. That counts as stopped, too.
    [ -n "$warned" ] && [ $status = $((128 + $(kill -l USR1))) ] && status={stopped}
fi
# It was told that its time is nearly over, and stopped after the last epoch that ended.
if [ -n "$warned" ] && [ $status = {stopped} ] \\
        && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {retries} ]; then
    scontrol requeue "$SLURM_ARRAY_JOB_ID"_"$SLURM_ARRAY_TASK_ID"
fi
exit $status
"""


class Slurm:
    """Executor that does runs as Slurm jobs, with one array for runs that need the same.

    Args:
        options: options of ``sbatch``, by their long names; ``setup`` holds lines of shell that
            each job begins with.

    Raises:
        ErcBenchError: there is no Slurm here.
    """

    name = "slurm"
    outlives = True
    queues = True
    seconds = 2.0

    def __init__(self, options: Mapping[str, str]) -> None:
        for program in ("sbatch", "squeue", "scontrol", "scancel", "sinfo"):
            if not shutil.which(program):
                raise ErcBenchError(
                    f"There is no `{program}` here, which --executor slurm needs. Give the command "
                    "on a machine that can submit jobs, for example a login node."
                )
        self.options = dict(options)
        self.setup = self.options.pop("setup", "")
        limit = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"), re.M)
        self.most = max(1, min(LARGEST_BATCH, int(limit[1]) if limit else LARGEST_BATCH))
        self.next_look = 0.0
        self.missing: dict[str, float] = {}
        """Since when each job has been missing from ``squeue``."""
        self.silent = False

    def machine(self) -> tuple[bool, bool]:
        """Whether there are GPUs, and False: a run can't have a part of one."""
        partition = self.options.get("partition")
        chosen = [f"--partition={partition}"] if partition else []
        return "gpu" in _ask("sinfo", "--noheader", "--format=%G", *chosen), False

    def start(self, attempts: Sequence[Attempt], at_once: int | None) -> list[str]:
        """Submit an array of jobs."""
        first = attempts[0]
        batch = first.name.rpartition("-")[0]
        throttle = f"%{at_once}" if at_once else ""
        script = SCRIPT.format(
            setup=self.setup,
            worker=shlex.join(first.command[:-1]),
            sent=shlex.quote(str(first.file.parent / batch)),
            stopped=STOPPED,
            retries=first.retries,
        )
        words = [
            *("sbatch", "--parsable", "--job-name=erc-bench", "--requeue", "--open-mode=append"),
            f"--array=0-{len(attempts) - 1}{throttle}",
            f"--output={first.output.parent / batch}-%a.txt",
            *_needs(first.resources),
            *(f"--{name}={value}" if value else f"--{name}" for name, value in self._given()),
        ]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                number = _ask(*words, given=script).strip().partition(";")[0]
                break
            except _SilentError as error:
                if time.monotonic() > deadline:
                    raise
                if not self.silent:
                    say(f"{error} Trying again.")
                self.silent = True
                time.sleep(5)
        self.silent = False
        return [f"{number}_{i}" for i in range(len(attempts))]

    def _given(self) -> list[tuple[str, str]]:
        """The given options of ``sbatch``. An option may have several values."""
        return [(n, value) for n, text in self.options.items() for value in text.split("\n")]

    def gone(self, handles: Collection[str]) -> dict[str, Gone]:
        """The jobs that Slurm no longer has. It is asked only every :data:`SQUEUE_SECONDS`."""
        if not handles or time.monotonic() < self.next_look:
            return {}
        self.next_look = time.monotonic() + SQUEUE_SECONDS
        try:
            listed = _ask("squeue", "--me", "--noheader", "--array", "--format=%F_%K %T")
        except ErcBenchError as error:
            if not self.silent:
                say(f"{error} The runs are not affected; Slurm is asked again.")
            self.silent = True
            return {}
        self.silent = False
        there = {line.split()[0] for line in listed.splitlines() if line.strip()}
        now, found = time.monotonic(), {}
        for handle in handles:
            if handle in there:
                self.missing.pop(handle, None)
            elif now - self.missing.setdefault(handle, now) >= MISSED_SECONDS:
                found[handle] = _how(handle)
        return found

    def reap(self, handles: Collection[str]) -> None:
        """Do nothing: Slurm does it."""

    def wait(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)

    def stop(self, handles: Collection[str]) -> None:
        """Cancel jobs, queued or at work."""
        ordered = sorted(handles)
        for first in range(0, len(ordered), 200):
            _ask("scancel", *ordered[first : first + 200])

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def _needs(resources: Resources) -> list[str]:
    """What a job needs, as options of ``sbatch``.

    Raises:
        ErcBenchError: Slurm can't give this.
    """
    gpus = resources.gpus or 0
    if gpus != int(gpus):
        raise ErcBenchError(
            f"--resources gpus={gpus:g}: Slurm gives whole GPUs. Give a whole number; a cluster "
            "that shares GPUs has its own option for it, such as slurm.gres=shard:1 with gpus=0."
        )
    refuse_nodes(resources)
    words = ["--nodes=1", "--ntasks=1", f"--cpus-per-task={resources.cpus or 1}"]
    if resources.memory_gib:
        words.append(f"--mem={int(resources.memory_gib * 1024)}M")
    if gpus:
        words.append(f"--gres=gpu:{int(gpus)}")
    if resources.minutes:
        seconds = int(resources.minutes * 60)
        words.append(f"--time={seconds // 60}:{seconds % 60:02}")
    return [*words, f"--signal=B:USR1@{WARNING_SECONDS}"]


def _how(handle: str) -> Gone:
    """How a job ended that Slurm no longer lists."""
    try:
        shown = _ask("scontrol", "show", "job", "--oneliner", handle)
    except ErcBenchError:
        # If a task was cancelled before it began, Slurm knows only the other tasks of its array.
        with contextlib.suppress(ErcBenchError):
            _ask("scontrol", "show", "job", "--oneliner", handle.partition("_")[0])
            return Gone("was cancelled in Slurm before it began")
        return Gone("is no longer known to Slurm", again=True)
    facts = dict(word.split("=", 1) for word in shown.split() if "=" in word)
    state = facts.get("JobState", "").partition("+")[0]
    node = f" on {facts['NodeList']}" if facts.get("NodeList", "(null)") != "(null)" else ""
    restarts = int(facts.get("Restarts", 0))
    if state in AGAIN:
        return Gone(f"{AGAIN[state]}{node}", again=True, restarts=restarts)
    if state in OVER:
        return Gone(f"{OVER[state]}{node}")
    code, _, number = facts.get("ExitCode", "0:0").partition(":")
    if state == "COMPLETED":
        return Gone(f"ended{node}", status=DONE)
    if number not in ("", "0"):
        return Gone(f"was killed by signal {number}{node}")
    status = int(code) if code.isdecimal() else None
    if status == STOPPED:
        why = "by its time limit or for another job"
        return Gone(f"was stopped{node}, {why}", True, status, restarts)
    return Gone(f"ended with status {code}{node}", again=False, status=status)


class _SilentError(ErcBenchError):
    """Slurm's controller does not answer."""


SILENT = (
    "unable to contact",
    "timed out",
    "connection refused",
    "communication connection failure",
)


def _ask(*words: str, given: str = "") -> str:
    """Run a command of Slurm and return its output.

    Raises:
        ErcBenchError: the command failed. The message has the command's own reason.
    """
    try:
        done = subprocess.run(
            words,
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _SilentError(f"`{words[0]}` gave no answer ({error}).") from error
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        kind = _SilentError if any(s in said.lower() for s in SILENT) else ErcBenchError
        raise kind(f"Slurm refused `{words[0]}`: {said[:400]}.")
    return done.stdout
