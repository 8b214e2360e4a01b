"""Jobs of a grid as files: one file tells a worker what to do, another says how the job ended.

Each grid has its own folder below ``<root>/jobs``, which it holds while it is at work:

- ``sent/<name>.json``: a job, written by the grid.
- ``begun/<name>.json``: which process does it, written by the worker.
- ``ended/<name>.json``: how it ended, written by the worker, whole or not at all. A job that was
  stopped, or whose machine was lost, has no such file.
- ``output/<name>.txt``: the engine's own output, if it keeps that in files.
- ``batches/<batch>.json``: the engine's names of the jobs, if it runs on without the grid.

Only the record of a run holds its results. These files are deleted when the grid is over.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

from erc_bench.errors import ErcBenchError
from erc_bench.execution.code_digest import code_digest
from erc_bench.execution.jobs import Attempt, Ended, Job, different_here
from erc_bench.execution.resources import Resources
from erc_bench.files import cannot_write, replacing, temporary_name
from erc_bench.leases import HeldError, hold, holder, is_held

VERSION = 2
"""The version of the format of a job's file."""


@dataclass(frozen=True)
class Sent:
    """The content of a job's file, for the worker."""

    job: Job
    code: str
    start: float
    """When the grid began, by the filesystem's clock."""
    threads: int
    runs_at_once: int


def write_job(attempt: Attempt, start: float, threads: int, runs_at_once: int) -> None:
    """Write the file of a job of a grid that began at ``start``.

    Raises:
        OSError: it can't be written.
    """
    job = attempt.job
    document = {
        "version": VERSION,
        "code": code_digest(job.experiment),
        "name": job.place.name,
        "log": str(job.place.log.absolute()),
        "kind": f"{type(job).__module__}:{type(job).__qualname__}",
        "job": job.document(),
        "directory": os.getcwd(),
        "start": start,
        "threads": threads,
        "runs_at_once": runs_at_once,
    }
    _write(attempt.file, document)


def read_job(path: Path) -> Mapping[str, Any]:
    """Read the file of a job, for :func:`sent_job`.

    Raises:
        FileNotFoundError: there is no such file here.
        ErcBenchError: it is of another version.
    """
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if document.get("version") != VERSION:
        raise ErcBenchError(different_here("the version of erc-bench"))
    return document


def sent_job(document: Mapping[str, Any]) -> Sent:
    """Return the job that a file holds.

    Its settings may name files relative to its ``directory``, so the process must be there.

    Raises:
        ErcBenchError: its settings are different on this machine.
    """
    module, _, kind = document["kind"].partition(":")
    found = getattr(import_module(module), kind, None)
    if not (isinstance(found, type) and issubclass(found, Job)):
        raise ErcBenchError(different_here(f"the class {module}.{kind}"))
    return Sent(
        found.of(document["job"]),
        document["code"],
        document["start"],
        document["threads"],
        document["runs_at_once"],
    )


def check_code(sent: Sent) -> None:
    """Refuse a job of a grid that was begun with other code.

    Raises:
        ErcBenchError: the code on this machine is different.
    """
    if code_digest(sent.job.experiment) != sent.code:
        raise ErcBenchError(different_here("the code of erc-bench or of a plug-in"))


def _write(path: Path, document: Any) -> None:
    """Write a JSON file that is there whole or not at all, except perhaps after a power cut."""
    with replacing(path, temporary_name(path)) as file:
        file.write(json.dumps(document, separators=(",", ":")).encode())


# --- the folder of a grid ---


@dataclass(frozen=True)
class Queued:
    """A job that an engine has queued or is running."""

    executor: str
    handle: str
    """The engine's name of the job."""
    name: str
    """The name of the attempt."""
    run: str
    """``method/dataset/hash/seedK``."""


class JobFolder:
    """The jobs of one grid, as files that its workers and other commands see.

    Args:
        root: folder of the records.
        name: name of an earlier grid; None = a new one.
    """

    def __init__(self, root: Path, name: str | None = None) -> None:
        now = datetime.now(timezone.utc)
        self.name = name or f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self.path = jobs_folder(root) / self.name
        self.start = 0.0
        """When the grid of this command began, by the filesystem's clock; the grid sets it."""

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and hold it, so that no other command works on this grid.

        Raises:
            ErcBenchError: another process works on this grid, or the folder can't be written to.
        """
        try:
            for part in ("sent", "begun", "ended", "output", "batches"):
                (self.path / part).mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as stack:
                stack.enter_context(hold(self.path))
                yield
        except HeldError as error:
            raise ErcBenchError(
                f"Another process is working on the grid {self.name}{error}."
            ) from None
        except OSError as error:
            if error.filename and Path(error.filename).is_relative_to(self.path):
                raise cannot_write(self.path, error) from error
            raise

    def describe(self, executor: str, jobs: Sequence[Job]) -> None:
        """Write a description of the grid, for ``erc-bench grid status``.

        Args:
            executor: name of the executor.
            jobs: all jobs that are to be done. The file of one that is repeated counts only if it
                is not older than the grid.
        """
        earlier = self.description().get("records") or {}
        records = {}
        for job in jobs:
            file = str(job.file.relative_to(job.place.root))
            records[file] = (earlier.get(file) or self.start) if job.options.get("force") else 0
        _write(self.path / "grid.json", {"executor": executor, "records": records})

    def description(self) -> Mapping[str, Any]:
        """The description that :meth:`describe` wrote; empty if there is none."""
        return _read(self.path / "grid.json") or {}

    def send(
        self,
        jobs: Sequence[tuple[Job, int, Resources]],
        threads: int | None,
        runs_at_once: int,
        retries: int = 0,
    ) -> list[Attempt]:
        """Write the files of a batch of jobs.

        Args:
            jobs: each with the number of its attempt and its resources.
            threads: threads of each job; None = one for each of its cores.
            runs_at_once: how many runs share a machine, for the records.
            retries: how often the engine itself may queue each job again.

        Raises:
            ErcBenchError: they can't be written.
        """
        batch = secrets.token_hex(4)
        attempts = [
            Attempt(job, self.path, f"{batch}-{i}", needs, tries, retries)
            for i, (job, tries, needs) in enumerate(jobs)
        ]
        try:
            for attempt in attempts:
                cores = threads or attempt.resources.cpus or 1
                write_job(attempt, self.start, cores, runs_at_once)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        return attempts

    def note_queued(self, attempts: Mapping[str, Attempt], executor: str) -> None:
        """Note the jobs that an engine has queued, for commands that come later.

        Args:
            attempts: the attempts of a batch, by the engine's names of the jobs.
            executor: name of the executor.
        """
        queued = [[handle, a.name, a.job.place.name] for handle, a in attempts.items()]
        batch = next(iter(attempts.values())).name.rpartition("-")[0]
        _write(self.path / "batches" / f"{batch}.json", {"executor": executor, "queued": queued})

    def queued(self) -> list[Queued]:
        """The jobs that engines have queued, without those whose end was taken note of."""
        found = []
        sent = self.sent()
        for path in sorted((self.path / "batches").glob("*.json")):
            batch = _read(path) or {}
            for handle, name, run in batch.get("queued") or ():
                if name in sent:
                    found.append(Queued(str(batch.get("executor")), handle, name, run))
        return found

    def ended(self) -> set[str]:
        """Names of the attempts that have ended by themselves."""
        return self._names("ended")

    def begun(self) -> set[str]:
        """Names of the attempts that a worker has begun."""
        return self._names("begun")

    def sent(self) -> set[str]:
        """Names of the attempts that were sent, without those whose end was taken note of."""
        return self._names("sent")

    def _names(self, part: str) -> set[str]:
        try:
            with os.scandir(self.path / part) as entries:
                names = [entry.name for entry in entries]
        except OSError:
            return set()
        return {name[:-5] for name in names if name.endswith(".json") and name[0] != "."}

    def worker(self, name: str) -> Mapping[str, Any]:
        """The process that does an attempt: ``host``, ``process``, ``since``; empty if none."""
        return _read(self.path / "begun" / f"{name}.json") or {}

    def run_of(self, name: str) -> Mapping[str, Any]:
        """The job of an attempt, as plain data; empty if its file is absent."""
        return _read(self.path / "sent" / f"{name}.json") or {}

    def end_of(self, name: str) -> Mapping[str, Any]:
        """How an attempt ended: ``failure``, ``taken``, ``run``; empty if it has not ended."""
        return _read(self.path / "ended" / f"{name}.json") or {}

    def note_lost(self, attempt: Attempt, ended: Ended) -> None:
        """Write how an attempt ended whose worker could not, for ``erc-bench grid status``."""
        with contextlib.suppress(OSError):
            _write(attempt.ended, ended.document(attempt.job.place.name))

    def drop(self, attempt: Attempt, *, keep_end: bool = False) -> None:
        """Delete the files of an attempt that is over.

        Args:
            attempt: the attempt.
            keep_end: keep the file that says how it ended, for ``erc-bench grid status``.
        """
        files = [attempt.file, attempt.begun, attempt.output]
        for file in files if keep_end else [*files, attempt.ended]:
            with contextlib.suppress(OSError):
                file.unlink()

    def delete(self) -> None:
        """Delete the folder, when nothing is left to be done."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()

    def is_held(self) -> bool:
        """Whether a command is working on this grid now."""
        return is_held(self.path)

    def holder(self) -> str:
        """The process that is working on this grid, in brackets after a space."""
        return holder(self.path)


def jobs_folder(root: Path) -> Path:
    """The folder that holds the folders of a store's grids."""
    return Path(os.path.abspath(root)) / "jobs"


def job_folders(root: Path) -> list[JobFolder]:
    """The grids of a store that are not over, oldest first."""
    try:
        names = sorted(os.listdir(jobs_folder(root)))
    except OSError:
        return []
    return [JobFolder(root, name) for name in names]


def read_end(attempt: Attempt) -> Ended:
    """Read how an attempt ended, as its worker wrote it.

    Raises:
        OSError: there is no such file.
    """
    said = json.loads(attempt.ended.read_text(encoding="utf-8"))
    return Ended(attempt.job, str(said["failure"]), bool(said["taken"]))


def _read(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else None
    return None
