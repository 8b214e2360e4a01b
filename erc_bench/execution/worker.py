"""The worker, a process that does one job: ``python -m erc_bench.execution.worker``.

Every executor starts it with the file of a job. At the end the worker writes a file that says how
the job ended. Its exit status says this roughly: :data:`DONE`; :data:`FAILED`; :data:`STOPPED` by
a signal before a time limit or a preemption; or :data:`UNSEEN` if the folder of the grid is not on
this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import sys
import threading
import traceback
import warnings
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from erc_bench.errors import ErcBenchError, explain
from erc_bench.execution.job_folder import Sent, check_code, read_job, sent_job
from erc_bench.execution.jobs import Ended
from erc_bench.files import cannot_write, write_atomically
from erc_bench.leases import this_process
from erc_bench.progress import say, show_warning
from erc_bench.records.place import LAST, RunTakenError

DONE, FAILED, UNSEEN, STOPPED = 0, 1, 66, 75
"""Exit statuses."""

TIED = "--tied"
"""Argument that makes a worker end when its standard input ends."""


def main(argv: list[str] | None = None) -> int:
    """Do the job in the file that the arguments name; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    tied = TIED in arguments
    (file,) = (Path(argument) for argument in arguments if argument != TIED)
    return work(file, tied=tied)


def work(file: Path, *, tied: bool = False) -> int:
    """Do the job in a file as a worker; returns the exit status.

    Args:
        file: the job.
        tied: end when standard input ends, which it does with the process that writes there.
    """
    # Ctrl-C on a terminal reaches every process there; the grid stops each by SIGTERM, once.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGTERM", "SIGUSR1"):  # Windows has no SIGUSR1
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    if tied:
        threading.Thread(target=_end_with_input, daemon=True).start()
    _leave_slurm_to_us()
    warnings.showwarning = show_warning
    try:
        ended = _do(file)
    except FileNotFoundError:
        print(f"There is no {file} on {platform.node()}.", file=sys.stderr)
        return UNSEEN
    except KeyboardInterrupt:
        return STOPPED
    if ended is None:
        return STOPPED
    run = ended.job.place.name if ended.job else file.stem
    said = json.dumps(ended.document(run))
    write_atomically(file.parent.parent / "ended" / file.name, said)
    return FAILED if ended.failure else DONE


def _do(file: Path) -> Ended | None:
    """Do the job in a file and say how it ended; None if it was stopped.

    Raises:
        FileNotFoundError: there is no such file here.
    """
    try:
        document = read_job(file)
        _go_to(document["directory"])
        sent = sent_job(document)
    except ErcBenchError as error:
        return Ended(None, str(error))  # type: ignore[arg-type]  # the grid knows the job
    write_atomically(file.parent.parent / "begun" / file.name, json.dumps(this_process()))
    try:
        _write_output_to(sent.job.place.log)
        check_code(sent)
    except ErcBenchError as error:
        return Ended(sent.job, str(error))
    return perform(sent)


def perform(sent: Sent) -> Ended | None:
    """Do a job in this process; returns how it ended, None if it was stopped."""
    import torch

    job = sent.job
    if _has_begun_anew(sent):
        job = replace(job, options={**job.options, "restart": False})
    try:
        torch.set_num_threads(sent.threads)
        # A second worker at the same run writes into the same log: this line says which it is.
        now, by = f"{datetime.now():%Y-%m-%d %H:%M:%S}", f"process {os.getpid()}"
        where = f"{by} on {platform.node()}"
        say(f"{now}  Run {job.place.name}, {job.experiment.preset}, {where}")
        job.do(sent.runs_at_once)
    except RunTakenError:
        return Ended(job, taken=True)
    except KeyboardInterrupt:
        say("Stopped by a signal; the run can be resumed after the last finished epoch.")
        return None
    except Exception as error:
        if not isinstance(error, ErcBenchError):
            traceback.print_exc()
        return Ended(job, explain(error, "its log shows where"))
    return Ended(job)


def _has_begun_anew(sent: Sent) -> bool:
    """Whether the training that ``restart`` asked for has ended an epoch, in an earlier attempt."""
    with contextlib.suppress(OSError):
        return (sent.job.place.folder / LAST).stat().st_mtime > sent.start
    return False


def _go_to(directory: str) -> None:
    """Go to the folder in which the command was given: paths may be relative to it."""
    try:
        os.chdir(directory)
    except OSError as error:
        raise ErcBenchError(
            f"The folder {directory}, in which the command was given, is not on "
            f"{platform.node()} ({error.strerror}). Give the command in a folder that all machines "
            "share."
        ) from error


def _write_output_to(log: Path) -> None:
    """Append everything that this process prints to a file."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
    except OSError as error:
        raise cannot_write(log, error) from error


def _leave_slurm_to_us() -> None:
    """Remove Slurm's environment variables.

    With them, Lightning would take this process for one of several, and would requeue the job.
    """
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        del os.environ[name]


def _end_with_input() -> None:
    """End this process when standard input ends.

    So a machine whose engine is lost keeps no worker that still holds a run.
    """
    while os.read(0, 1 << 10):
        pass
    os._exit(FAILED)


if __name__ == "__main__":
    sys.exit(main())
