"""Grids: many runs, side by side.

A grid hands its runs as :class:`Job` to an :class:`Executor`. Only the records say which runs are
finished, so several grids may share a folder: a run that another process is doing is looked at
last, and its record is used when it appears. Jobs that outlive the command are found again when the
command is given again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erc_bench.errors import ErcBenchError
from erc_bench.execution.executors import Dispatch, Executor
from erc_bench.execution.grid_display import GridDisplay
from erc_bench.execution.grid_progress import GridProgress
from erc_bench.execution.job_folder import JobFolder, Queued, job_folders
from erc_bench.execution.jobs import Job
from erc_bench.execution.local import Local, cores, default_workers
from erc_bench.execution.report import Report
from erc_bench.execution.resources import Resources
from erc_bench.execution.run import identify, load_corpus
from erc_bench.files import cannot_write, filesystem_time
from erc_bench.progress import say
from erc_bench.records.place import Identity, Place
from erc_bench.settings.experiment import Experiment
from erc_bench.training.frameworks import quiet_frameworks
from erc_bench.training.precision import measured_for_all


def run_grid(
    experiments: Sequence[Experiment],
    root: Path,
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    resources: Resources | None = None,
    retries: int = 3,
    detach: bool = False,
    **options: Any,
) -> Report:
    """Do every run that is not finished yet. A run that fails does not stop the others.

    Args:
        experiments: the runs, each once.
        root: folder of the records and checkpoints.
        workers: how many runs at a time; None = as many as suit this machine, or as a cluster has
            room for.
        executor: the executor; None = processes of this machine.
        resources: what each run needs, as far as it was given.
        retries: how often a run is queued again after preemption, a lost machine or its time limit.
        detach: queue all runs and return.
        options: further arguments of :func:`erc_bench.execution.run.run`.

    Raises:
        ErcBenchError: the folder can't be written to, or the executor can't do the runs.
    """
    jobs, impossible = plan(experiments, root, options)
    return do_jobs(
        jobs,
        root,
        impossible=impossible,
        workers=workers,
        executor=executor,
        resources=resources,
        retries=retries,
        detach=detach,
    )


def do_jobs(
    jobs: Sequence[Job],
    root: Path,
    *,
    impossible: Sequence[tuple[Experiment, str]] = (),
    workers: int | None = None,
    executor: Executor | None = None,
    resources: Resources | None = None,
    retries: int = 3,
    detach: bool = False,
) -> Report:
    """Do every job that is not finished yet, as :func:`run_grid` does.

    Args:
        jobs: the jobs, each once, in the order in which they are begun.
        root: folder of the records and checkpoints.
        impossible: runs that can't be done, each with the reason. The report has them too.
        workers: how many jobs at a time.
        executor: the executor.
        resources: what each job needs.
        retries: how often a job is queued again.
        detach: queue all jobs and return.
    """
    executor = executor or Local()
    if detach and not executor.outlives:
        raise ErcBenchError(
            f"--detach can't be used with the executor {executor.name}: its runs end with this "
            "command. Choose one that has a queue, such as --executor slurm."
        )
    try:
        (root / "runs").mkdir(parents=True, exist_ok=True)
        start = filesystem_time(root / "runs")
    except OSError as error:  # one error instead of one for each run
        raise cannot_write(root, error) from error
    grid = GridProgress(jobs, impossible, start)
    display = GridDisplay(grid)
    waiting = grid.unfinished()
    _forget(root, {job.place.name for job in jobs} - {job.place.name for job in waiting})
    if not waiting:
        return grid.report
    threads, why = None, ""
    if isinstance(executor, Local):
        if workers is None:
            workers, why = default_workers([job.experiment for job in waiting])
        workers = min(workers, len(waiting))
        threads = _threads(workers)
    at_once = (
        f"{workers} at a time" if workers else f"as many at a time as {executor.name} has room for"
    )
    say(f"Runs to do: {len(waiting)}, {at_once}{why}; each writes a log.txt beside its checkpoint.")
    with contextlib.ExitStack() as stack:
        stack.callback(executor.close)
        if isinstance(executor, Local):
            precisions = {job.experiment.config.precision for job in waiting}
            stack.enter_context(measured_for_all(precisions))
        folder, found = _folder(root, executor, waiting)
        folder.start = start
        stack.enter_context(folder.held())
        folder.describe(executor.name, waiting)
        grid.dispatch = dispatch = Dispatch(
            executor,
            folder,
            resources or Resources(),
            workers=workers,
            threads=threads,
            retries=retries,
            detach=detach,
            leave=display.ask_to_leave,
        )
        stack.callback(_close, folder, dispatch, grid.report, {job.place.name for job in jobs})
        waiting = grid.adopt(waiting, found)
        stack.enter_context(display.shown())
        while waiting or dispatch.running:
            put_off: list[Job] = []
            started = grid.startable(waiting, put_off, _queued_elsewhere(root, folder))
            with contextlib.closing(dispatch.work_off(started)) as over:
                for ended in over:
                    put_off += grid.end(ended)
            waiting = put_off
            if detach:
                break
            grid.leave_to_others(waiting)
    return grid.report


def _close(folder: JobFolder, dispatch: Dispatch, report: Report, runs: set[str]) -> None:
    """Count the runs that were left to run on.

    If there are none, delete the folder, unless runs of other commands are queued in it.
    """
    if dispatch.left:
        report.left = len(dispatch.running)
    elif {queued.run for queued in folder.queued()} <= runs:
        folder.delete()


def _forget(root: Path, finished: set[str]) -> None:
    """Delete the folders of earlier commands whose runs are all finished."""
    for folder in job_folders(root):
        queued = {each.run for each in folder.queued()}
        if queued <= finished and not folder.is_held():
            folder.delete()


def _threads(workers: int) -> int:
    """How many threads each run gets, with so many runs at a time on this machine."""
    import torch

    return max(1, min(torch.get_num_threads(), cores() // workers))


def _folder(
    root: Path, executor: Executor, jobs: Sequence[Job]
) -> tuple[JobFolder, dict[str, Queued]]:
    """Choose the folder of a grid: an earlier command's with runs still queued, else a new one.

    Returns the folder, and those of these jobs that are still queued in it, by the run.
    """
    wanted = {job.place.name for job in jobs}
    for folder in job_folders(root):
        if folder.is_held():
            continue
        queued = folder.queued()
        found = {q.run: q for q in queued if q.executor == executor.name and q.run in wanted}
        if found:
            return folder, found
    return JobFolder(root), {}


def _queued_elsewhere(root: Path, own: JobFolder) -> set[str]:
    """Runs that other commands have queued with an engine. Only commands at work now count."""
    others = [folder for folder in job_folders(root) if folder.name != own.name]
    return {queued.run for folder in others if folder.is_held() for queued in folder.queued()}


def plan(
    experiments: Sequence[Experiment], root: Path, options: Mapping[str, Any]
) -> tuple[list[Job], list[tuple[Experiment, str]]]:
    """Return a job for every run, and the runs that can't be done, each with the reason.

    Every corpus, including further ones, and every encoder's weights are read once, because their
    contents are a part of a run's identity.
    """
    digests: dict[str, str] = {}
    missing: dict[str, str] = {}
    known: dict[tuple[str, str, str], Identity] = {}
    for dataset in dict.fromkeys(experiment.corpus for experiment in experiments):
        try:
            with quiet_frameworks():
                digests[dataset] = load_corpus(dataset, options.get("data_dir")).digest
        except ErcBenchError as error:
            missing[dataset] = str(error)
    jobs, impossible = [], []
    for experiment in experiments:
        reason = missing.get(experiment.corpus)
        if reason is None:
            try:
                key = experiment.method, experiment.corpus, experiment.hash  # of all seeds
                if key not in known:
                    with quiet_frameworks():
                        known[key] = identify(experiment, digests, options.get("data_dir"))
                identity = known[key]
                jobs.append(Job(experiment, Place.of(root, experiment, identity), options))
                continue
            except ErcBenchError as error:
                reason = str(error)
        impossible.append((experiment, reason))
    return jobs, impossible
