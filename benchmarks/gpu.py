"""Use a GPU for a few minutes: run its tests, measure its speed, and make the missing runs.

    python -m benchmarks.gpu --minutes 12 --out gpu
    python -m benchmarks.gpu --minutes 12 --out gpu --prepared FOLDER    # without a network

There are three stages. Time that one leaves over goes to the next:

1. `tests`: tests/test_gpu.py, until three tenths of the time are over.
2. `speed`: `python -m benchmarks.utilisation` with the presets small, base and paper, the last with
   random weights of roberta-large's shape, until six tenths of the time are over.
3. `runs`: `erc-bench run` and `erc-bench tune` for the runs that --leaderboard-dir does not have.
   First five seeds of the control and then of every other method with preset base, on MELD and then
   on EmoryNLP. Then eight trials of every method and five seeds of the best. As many runs at once
   as fit on the GPU.

When the time is over, the running command is stopped as by Ctrl-C. The same command later skips
finished runs and resumes interrupted trainings after the last epoch that ended. Records and trials
are written to --leaderboard-dir. Each new one is copied to --out, beside report.json, report.md and
the logs.

Without a GPU, or with --device cpu, this is only a try-out with tiny random encoders, the demo
corpus and preset smoke. Its records are written only to --out.

The folder of --prepared, any part of which may be missing:

    wheels/             for an installation without a network, before this command:
                        pip install --no-index --find-links FOLDER/wheels -e '.[dev]'
                        made by: pip download -d FOLDER/wheels '.[dev]'
    encoders/ORG/NAME/  encoders by name, made by: hf download ORG/NAME --local-dir …
                        preset base: sentence-transformers/all-mpnet-base-v2, and for lora-lm and
                        prompt-lm Qwen/Qwen2.5-1.5B-Instruct
                        preset small: sentence-transformers/all-MiniLM-L6-v2 (or the package of the
                        extra small) and Qwen/Qwen2.5-0.5B-Instruct
    data/               the corpora, as found by `erc-bench data doctor --data-dir FOLDER/data`
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from erc_bench.errors import ErcBenchError
from erc_bench.execution.processes import end_with_parent, stop
from erc_bench.files import last_line, replacing, temporary_name, write_atomically
from erc_bench.progress import duration, say
from erc_bench.records.store import record_files
from erc_bench.records.trials import trial_files

from .command import language_models, ordered, parser_of, positive, run
from .gpu_report import as_markdown, results

ROOT = Path(__file__).parent.parent

STAGES = ("tests", "speed", "runs")
UNTIL = {"tests": 0.3, "speed": 0.6, "runs": 1.0}
"""The share of the whole time at which a stage must end. The last stage has all the time left."""

TRIALS, SEEDS = 8, 5

STOPPING = 20.0
"""Seconds for stopping the last command and writing the report; at most a tenth of the time."""

LOOK = 1.0
"""Seconds between two looks for new records."""

STOPPED, NOT_BEGUN = "stopped, the time was over", "not begun, the time was over"


@dataclass(frozen=True)
class Ended:
    """How a command of a stage ended."""

    stage: str
    command: str
    outcome: str
    """``done``, ``failed``, :data:`STOPPED` or :data:`NOT_BEGUN`."""
    seconds: float
    last: str
    """The last line of its log."""


class OutOfTimeError(Exception):
    """Raised when a command is stopped because the time of its stage is over."""


class Session:
    """One call of the command: its folders, its clock, and the commands that ended.

    Args:
        args: of the command line, with absolute folders.
        gpu: name of the GPU; empty without one, or if it is not to be used.
        commit: of the code; None if unknown.
    """

    def __init__(self, args: argparse.Namespace, gpu: str, commit: str | None) -> None:
        self.args, self.gpu, self.commit = args, gpu, commit
        self.out: Path = args.out
        self.root: Path = args.leaderboard_dir if gpu else args.out / "leaderboard"
        self.seconds = 60.0 * args.minutes
        self.ended: list[Ended] = []
        self.known = set(self._files())
        before = self._read("report.json", {})
        self.encoder = "" if gpu else str(self._tiny())
        self.start = time.monotonic()
        is_known = commit is not None and not commit.endswith("-dirty")
        self.tested = is_known and (before.get("commit"), before.get("tests")) == (commit, "passed")

    def _read(self, name: str, empty: Any) -> Any:
        """Return the content of a JSON file in --out; ``empty`` if there is none."""
        path = self.out / name
        try:
            found = json.loads(path.read_bytes()) if path.is_file() else empty
        except ValueError as error:
            raise ErcBenchError(
                f"{path} was not written by this command ({error}). Delete it, or name another "
                "--out."
            ) from error
        if type(found) is not type(empty):
            raise ErcBenchError(f"{path} was not written by this command. Name another --out.")
        return found

    # --- stages

    def tests(self) -> None:
        """Run the tests that need a GPU. Without one, pytest skips them with that reason."""
        if self.tested:
            say("tests: already passed at this commit.")
            return
        arguments = ["-q", "-rs", "-p", "no:cacheprovider", str(ROOT / "tests" / "test_gpu.py")]
        self.do("tests", ["python", "-m", "pytest", *arguments], run_pytest, arguments)

    def speed(self) -> None:
        """Measure every method with encoders of three sizes."""
        arguments = ["--preset", "small", "base", "paper"]
        if self.gpu:
            arguments += ["--random", "paper=roberta-large"]
        else:
            arguments += ["--random", "tiny", "--dataset", "demo", "--steps", "1"]
            arguments += ["--set", "batch_size=2", "evaluation.batch_size=4"]
        if self.args.peak_tflops:
            arguments += ["--peak-tflops", str(self.args.peak_tflops)]
        arguments += ["--out", str(self.out / "speed.json")]
        command = ["python", "-m", "benchmarks.utilisation", *arguments]
        self.do("speed", command, run_utilisation, arguments)

    def runs(self) -> None:
        """Make the missing runs, the most valuable first."""
        common = ["--leaderboard-dir", str(self.root), "--wandb", "off"]
        common += ["--jobs", str(self.args.jobs)] if self.args.jobs else []
        corpora, preset, seeds, trials = ["meld", "emorynlp"], "base", SEEDS, TRIALS
        if not self.gpu:
            corpora, preset, seeds, trials = ["demo"], "smoke", 1, 2
            common += [f"encoder={self.encoder}", "max_batches=2"]
        language = () if self.gpu else language_models()  # they can't use the tiny encoder
        named = self.args.method or [name for name in ordered() if name not in language]
        methods = ["--method", *named]
        runs = [*methods, "--dataset", *corpora, "--preset", preset, "--seeds", str(seeds)]
        search = [*methods, "--dataset", corpora[0], "--preset", preset, "--trials", str(trials)]
        for words in (["run", *runs], ["tune", *search, "--seeds", str(seeds)]):
            self.do("runs", ["erc-bench", *words, *common], run_erc_bench, [*words, *common])

    def _tiny(self) -> Path:
        """Make the encoder of a try-out. It is kept, so that a second call finds its runs."""
        folder = self.out / "encoders"
        if not (folder / "tiny").is_dir():
            made = temporary_name(folder)
            elsewhere(tiny, made)
            made.replace(folder)
        return folder / "tiny"

    # --- commands

    def do(
        self, stage: str, command: list[str], work: Callable[[list[str]], int], given: list[str]
    ) -> None:
        """Run a command in a process of its own, until it ends or the time of its stage is over.

        Raises:
            OutOfTimeError: it was stopped.
        """
        last = max(self.args.stages, key=STAGES.index)
        share = 1.0 if stage == last else UNTIL[stage]
        margin = min(STOPPING, self.seconds / 10)
        until = self.start + min(share * self.seconds, self.seconds - margin)
        number = sum(each.stage == stage for each in self.ended) + 1
        log = self.out / "logs" / f"{stage}{number}.txt"
        say(f"{stage}: {' '.join(command)}; until {duration(until - self.start)}, log: {log}")
        begun = time.monotonic()
        process = multiprocessing.get_context("spawn").Process(
            target=_work, args=(work, given, log, self.args.prepared, bool(self.gpu))
        )
        outcome = "failed"
        try:
            if begun >= until:
                outcome = NOT_BEGUN
            else:
                process.start()
                outcome = self._watch(process, until)
        finally:
            if process.pid is not None:
                _interrupt(process)
                stop([process], STOPPING)
                self.collect()
            took = round(time.monotonic() - begun, 1)
            self.ended.append(Ended(stage, " ".join(command), outcome, took, last_line(log)))
            self.report()
        if outcome not in ("done", "failed"):
            raise OutOfTimeError

    def _watch(self, process: BaseProcess, until: float) -> str:
        """Wait for a command, collect the records that it writes, and return its outcome."""
        while (left := until - time.monotonic()) > 0:
            process.join(min(LOOK, left))
            self.collect()
            if process.exitcode is not None:
                return "failed" if process.exitcode else "done"
        return STOPPED

    # --- results

    def _files(self) -> Iterator[Path]:
        yield from record_files(self.root)
        yield from trial_files(self.root)

    def collect(self) -> None:
        """Copy new records and trials to --out, each in one atomic step."""
        for path in self._files():
            if path in self.known:
                continue
            self.known.add(path)
            name = path.relative_to(self.root)
            say(f"  {name}")
            copy = self.out / "leaderboard" / name
            if copy != path:
                copy.parent.mkdir(parents=True, exist_ok=True)
                with replacing(copy, temporary_name(copy)) as file:
                    file.write(path.read_bytes())

    def report(self) -> None:
        """Write report.json and report.md."""
        outcomes = {each.stage: each.outcome for each in self.ended}
        tests = "passed" if self.tested else outcomes.get("tests", "not begun")
        if tests == "done":
            tests = "passed" if self.gpu else "skipped, there is no GPU"
        found = {
            "commit": self.commit,
            "device": self.gpu or "CPU, only tried",
            "minutes": self.args.minutes,
            "seconds": round(time.monotonic() - self.start, 1),
            "tests": tests,
            "speed": self._read("speed.json", []),
            "runs": results(self.out / "leaderboard"),
            "commands": [asdict(each) for each in self.ended],
        }
        write_atomically(self.out / "report.json", json.dumps(found, indent=1) + "\n")
        write_atomically(self.out / "report.md", as_markdown(found))


# --- run in the processes of the commands


def _work(
    work: Callable[[list[str]], int], given: list[str], log: Path, prepared: Path | None, gpu: bool
) -> None:
    """Run a command in this process and exit with its status."""
    end_with_parent()
    if hasattr(os, "setpgid"):  # the first process gets the terminal's Ctrl-C and passes it on
        os.setpgid(0, 0)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    # SIGINT too: a process that a shell starts in the background ignores it, like its children.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    os.environ["WANDB_MODE"] = "disabled"
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if prepared is not None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        if (prepared / "data").is_dir():
            os.environ["ERC_BENCH_DATA"] = str(prepared / "data")
        if (prepared / "encoders").is_dir():
            os.chdir(prepared / "encoders")  # so that an encoder's name is the path of its folder
    try:
        sys.exit(work(given))
    except KeyboardInterrupt:
        sys.exit(130)


def run_pytest(given: list[str]) -> int:
    """Run pytest and return its exit status."""
    import pytest

    os.chdir(ROOT)
    return int(pytest.main(given))


def run_utilisation(given: list[str]) -> int:
    """Run benchmarks.utilisation and return its exit status."""
    from . import utilisation

    run(lambda: utilisation.main(given))
    return 0


def run_erc_bench(given: list[str]) -> int:
    """Run an erc-bench command and return its exit status."""
    from erc_bench.cli import main

    return main(given)


def elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process that ends, and return its result.

    So this process neither imports PyTorch, which is slow, nor holds memory of CUDA.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as asking:
        return asking.submit(function, *arguments).result()


def surroundings() -> tuple[str | None, str]:
    """Return the commit of the code and the name of the GPU, which is empty without one."""
    import torch

    from erc_bench.training.environment import COMMIT, device_name

    return COMMIT, device_name() if torch.cuda.is_available() else ""


def tiny(folder: Path) -> None:
    """Make the encoder of a try-out in a folder."""
    from .utilisation import random_encoder

    random_encoder("tiny", folder)


def _interrupt(process: BaseProcess) -> None:
    """Interrupt a process as Ctrl-C does."""
    if process.is_alive() and process.pid is not None:
        os.kill(process.pid, signal.SIGINT)


@contextmanager
def in_folder(out: Path) -> Iterator[None]:
    """Make the folder of the results. An OSError inside becomes an error that names the folder."""
    try:
        (out / "logs").mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ErcBenchError(
            f"--out {out} can't be written to: {error.strerror or error}. Name another folder."
        ) from error


def main() -> None:
    """Run the stages and write the report."""
    parser = parser_of("benchmarks.gpu", __doc__)
    parser.add_argument("--minutes", type=positive, default=12, help="(default: 12)")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="(default: gpu)")
    parser.add_argument(
        "--prepared",
        type=Path,
        metavar="FOLDER",
        help="folder for use without a network, see above",
    )
    parser.add_argument(
        "--leaderboard-dir", type=Path, default=ROOT / "leaderboard", help="(default: the clone's)"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), help="(default: cuda, if it is there)")
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=STAGES, help="(default: all)"
    )
    parser.add_argument(
        "--method", nargs="+", choices=ordered(), help="methods of the stage runs (default: all)"
    )
    parser.add_argument(
        "--jobs", type=positive, help="runs at once (default: as many as the GPU's memory holds)"
    )
    parser.add_argument(
        "--peak-tflops", type=float, help="of the GPU in bfloat16, where Lightning does not know it"
    )
    args = parser.parse_args()
    if args.prepared is not None and not args.prepared.is_dir():
        raise ErcBenchError(
            f"--prepared {args.prepared} is not a folder. --help says what belongs in it."
        )
    for name in ("out", "prepared", "leaderboard_dir"):
        if (path := getattr(args, name)) is not None:
            setattr(args, name, path.absolute())
    commit, gpu = elsewhere(surroundings)
    if args.device == "cuda" and not gpu:
        raise ErcBenchError("--device cuda: PyTorch finds no GPU here. `nvidia-smi` shows them.")
    gpu = "" if args.device == "cpu" else gpu
    if not gpu:
        say("There is no GPU to use: this is a try-out with tiny encoders on made-up dialogues.")
    with in_folder(args.out):
        session = Session(args, gpu, commit)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stages = {"tests": session.tests, "speed": session.speed, "runs": session.runs}
    for name in STAGES:
        if name in args.stages:
            try:
                stages[name]()
            except OutOfTimeError:
                say(f"{name}: stopped. The same command resumes it.")
    session.report()
    print((args.out / "report.md").read_text(encoding="utf-8"), end="")
    say(f"The report, its records and the logs are in {args.out}.")


if __name__ == "__main__":
    run(main)
