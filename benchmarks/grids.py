"""Measure what a grid costs, and how many runs at a time are fastest on this machine.

    python -m benchmarks.grids threads --dataset meld --preset small --set max_batches=20
    python -m benchmarks.grids executor --executor local
    python -m benchmarks.grids cluster --runs 10000 --workers 1000

`threads` compares one run with a thread for each core with as many runs as there are cores, each
with one thread. It prints the utterances per second of all runs together.

`executor` prints the seconds that a grid adds to a run. Runs of a few steps are done one after
another. Their own times, as in their records, are subtracted from the time of the whole grid. The
start of the executor, of Ray for example, is printed separately.

`cluster` runs a grid on a simulated cluster, which is another process: a run sleeps for one to ten
seconds and leaves a record as large as MELD's. The store and its files are real. The processor time
of the grid's own process is divided by the number of runs, and by the number of runs × checks.
"""

from __future__ import annotations

import argparse
import heapq
import json
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from erc_bench.errors import ErcBenchError
from erc_bench.execution.executors import Gone, make_executor
from erc_bench.execution.grid import plan, run_grid
from erc_bench.execution.jobs import Attempt
from erc_bench.execution.local import cores
from erc_bench.execution.resources import parse_resources
from erc_bench.progress import console, say
from erc_bench.records.store import read_record, read_summary, record_files
from erc_bench.settings.experiment import Experiment, resolve
from erc_bench.settings.registry import executor_names

from .command import parser_of, positive, run

OURS = Path(__file__).parent.parent / "leaderboard"


def experiments(args: argparse.Namespace, runs: int) -> list[Experiment]:
    """Return ``runs`` runs that differ only in their seeds."""
    first = resolve(args.method, args.dataset, preset=args.preset, overrides=args.set)
    return [replace(first, seed=seed) for seed in range(1, runs + 1)]


def threads(args: argparse.Namespace) -> None:
    """Compare runs of one thread each with one run of all threads."""
    print("| runs at a time | threads of each | utterances/s together | ratio |")
    print("|---|---|---|---|")
    rates = []
    for workers in (1, cores()):
        with tempfile.TemporaryDirectory() as folder:
            report = run_grid(experiments(args, workers), Path(folder), workers=workers)
            if report.failed:
                raise ErcBenchError(" ".join(report.complaints()))
            trainings = [read_record(path).training for path in record_files(Path(folder))]
        rates.append(sum(float(t.utterances_per_second or 0) for t in trainings if t))
        cells = workers, cores() // workers, f"{rates[-1]:.1f}", f"{rates[-1] / rates[0]:.2f}"
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def executor(args: argparse.Namespace) -> None:
    """Measure the time that an executor adds to a run."""
    needs = parse_resources(args.resources, executor_names())
    start = time.perf_counter()
    engine = make_executor(args.executor, needs.of(args.executor))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        report = run_grid(
            experiments(args, args.runs), Path(folder), workers=1, executor=engine, resources=needs
        )
        took = time.perf_counter() - started
        if report.failed:
            raise ErcBenchError(" ".join(report.complaints()))
        trainings = [read_record(path).training for path in record_files(Path(folder))]
    own = sum(float(t.wall_seconds or 0) for t in trainings if t)
    print(f"{args.executor}: {started - start:.1f} s until it is started; a run itself takes")
    print(f"{own / args.runs:.1f} s, and the grid adds {(took - own) / args.runs:.1f} s.")


# --- a simulated cluster ---


def play(jobs: Any, workers: int, record: bytes) -> None:
    """Sleep for each job, ``workers`` jobs at a time, and write its record and its end file."""
    chance = random.Random(1)
    at_work: list[tuple[float, str, str]] = []
    waiting: list[tuple[str, str]] = []
    over = False
    while not over or at_work or waiting:
        now = time.monotonic()
        while jobs.poll(0):
            found = jobs.recv()
            if found is None:
                over = True
                break
            waiting += found
        while waiting and len(at_work) < workers:
            heapq.heappush(at_work, (now + chance.uniform(1, 10), *waiting.pop(0)))
        while at_work and at_work[0][0] <= now:
            _, place, end = heapq.heappop(at_work)
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            for path, contents in ((place, record), (end, b'{"failure": "", "taken": false}')):
                part = Path(f"{path}.part")
                part.write_bytes(contents)
                part.replace(path)
        time.sleep(0.005)


class Played:
    """An executor whose cluster is a process that only sleeps."""

    name = "played"
    outlives = False
    queues = True
    most = 1000
    seconds = 2.0

    def __init__(self, workers: int, record: bytes) -> None:
        context = multiprocessing.get_context("spawn")
        receiver, self.jobs = context.Pipe(duplex=False)
        self.process = context.Process(target=play, args=(receiver, workers, record), daemon=True)
        self.process.start()
        self.looks = 0

    def machine(self) -> tuple[bool, bool]:
        """There are no GPUs."""
        return False, False

    def start(self, attempts: Sequence[Attempt], at_once: int | None) -> list[str]:
        """Send the jobs to the other process."""
        root = Path.cwd()
        self.jobs.send([(str(root / a.job.place.record), str(a.ended)) for a in attempts])
        return [attempt.name for attempt in attempts]

    def gone(self, handles: Collection[str]) -> Mapping[str, Gone]:
        """No worker is ever gone."""
        self.looks += 1
        return {}

    def reap(self, handles: Collection[str]) -> None:
        """Do nothing."""

    def wait(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)

    def stop(self, handles: Collection[str]) -> None:
        """End the other process, and so all jobs."""
        self.process.kill()

    def close(self) -> None:
        """Tell the other process that there are no more jobs."""
        self.jobs.send(None)
        self.process.join()


def large_record(experiment: Experiment, folder: Path) -> bytes:
    """Return a record as large as MELD's that is accepted as a record of the run."""
    (job,), impossible = plan([experiment], folder, {})
    if impossible:
        raise ErcBenchError(impossible[0][1])
    kept = sorted((OURS / "records" / "meld").glob("*/*.json"))
    if not kept:
        raise ErcBenchError(f"There is no record of MELD in {OURS} whose size could be used.")
    document = json.loads(kept[0].read_text())
    identity = job.place.identity
    document["dataset_digest"] = identity.corpus_digest
    document["encoder"] = {"name": identity.encoder, "digest": identity.encoder_digest}
    document.pop("further_corpora", None)
    document.pop("model", None)
    return json.dumps(document).encode()


def cluster(args: argparse.Namespace) -> None:
    """Measure the processor time of the grid itself for many runs."""
    wanted = experiments(args, args.runs)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        root = Path(folder)
        engine = Played(args.workers, large_record(wanted[0], root))
        console.quiet = True
        before, start = time.process_time(), time.perf_counter()
        report = run_grid(wanted, root, executor=engine)
        used, took = time.process_time() - before, time.perf_counter() - start
        console.quiet = False
        found = sum(map(len, report.scores.values()))
        if found != args.runs:
            raise ErcBenchError(f"{found} of {args.runs} runs have a record.")
        path = next(record_files(root))
        before = time.process_time()
        for _ in range(10):
            read_summary(path)
        reading = (time.process_time() - before) / 10
    visits = args.runs * engine.looks
    print(f"{args.runs} runs, {args.workers} workers, {took:.0f} s, {engine.looks} checks of all")
    print(f"processor time of the grid: {used:.1f} s, {1e3 * used / args.runs:.2f} ms a run,")
    print(f"{1e3 * reading:.2f} ms of it to read its record; {1e3 * used / visits:.4f} ms a run")
    print("and check.")


def main() -> None:
    """Do the measurement that the command line asks for and print it."""
    parser = parser_of("benchmarks.grids", __doc__)
    parser.add_argument("what", choices=("threads", "executor", "cluster"))
    parser.add_argument("--method", default="finetune", help="(default: finetune)")
    parser.add_argument("--dataset", default="demo", help="(default: demo)")
    parser.add_argument("--preset", default="smoke", help="(default: smoke)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings")
    parser.add_argument("--runs", type=positive, default=4, help="(default: 4)")
    parser.add_argument("--workers", type=positive, default=1000, help="simulated (default: 1000)")
    parser.add_argument("--executor", default="local", help="(default: local)")
    parser.add_argument("--resources", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--folder", help="for the files of the runs (default: temporary)")
    args = parser.parse_args()
    os.environ["WANDB_MODE"] = "disabled"
    say(f"{args.what} …")
    {"threads": threads, "executor": executor, "cluster": cluster}[args.what](args)


if __name__ == "__main__":
    run(main)
