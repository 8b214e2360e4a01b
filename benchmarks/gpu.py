"""What a GPU gives in a few minutes: its tests, its speed, and the runs that are missing.

    python -m benchmarks.gpu --minutes 12 --out gpu
    python -m benchmarks.gpu --minutes 12 --out gpu --prepared FOLDER    # without a network

In this order, each with a part of the time, and what one leaves over is the next one's:

1. `tests`: tests/test_gpu.py, up to three tenths of the time.
2. `speed`: `python -m benchmarks.utilisation` with the presets small, base, and paper with random
   weights of roberta-large's shape, until six tenths of the time are over.
3. `runs`: what the leaderboard's folder does not have, as `erc-bench run` and `erc-bench tune` do
   it: five seeds of the control and then of every method with preset base, on MELD and then on
   EmoryNLP; then eight trials of every method and five seeds of the best. As many at once as fit.

When the time is over, what is running is stopped as Ctrl-C would stop it. The same command skips
what is done, and goes on with a training after the last epoch that ended. Records and trials lie in
--leaderboard-dir, whose folder is what is told as missing, and a copy of each new one in --out,
beside report.json, report.md and the logs.

Without a GPU, or with --device cpu, all of it is only tried: tiny encoders of random weights, the
demo corpus, preset smoke, records in --out alone.

The prepared folder, of which any part may be missing:

    wheels/             pip install --no-index --find-links FOLDER/wheels -e '.[dev]', by yourself
                        and before; made by: pip download -d FOLDER/wheels '.[dev]'
    encoders/ORG/NAME/  an encoder by its name, as from: hf download ORG/NAME --local-dir …
                        of preset base: sentence-transformers/all-mpnet-base-v2, and for lora-lm
                        and prompt-lm Qwen/Qwen2.5-1.5B-Instruct; of preset small:
                        sentence-transformers/all-MiniLM-L6-v2 (or the package of the extra small)
                        and Qwen/Qwen2.5-0.5B-Instruct
    data/               the corpora, as `erc-bench data doctor --data-dir FOLDER/data` finds them
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
from erc_bench.leaderboard.tables import markdown_table
from erc_bench.leaderboard.wording import figure
from erc_bench.progress import duration, say
from erc_bench.records.schema import RecordError
from erc_bench.records.store import read_record, record_files
from erc_bench.records.trials import read_trial, trial_files

from .command import language_models, ordered, parser_of, positive, run

ROOT = Path(__file__).parent.parent

STAGES = ("tests", "speed", "runs")
UNTIL = {"tests": 0.3, "speed": 0.6, "runs": 1.0}
"""Which share of the time is over when a stage has to be; the last one has all that is left."""

TRIALS, SEEDS = 8, 5

STOPPING = 20.0
"""Seconds, a tenth of the time at most, in which what is running is stopped and the report made."""

LOOK = 1.0
"""Seconds between two looks for new records."""

STOPPED, NOT_BEGUN = "stopped, the time was over", "not begun, the time was over"


@dataclass(frozen=True)
class Ended:
    """How a command of a stage ended."""

    stage: str
    command: str
    outcome: str
    """``done``, ``failed``, or that the time was over."""
    seconds: float
    last: str
    """The last line of its log."""


class OutOfTimeError(Exception):
    """A command was stopped, since the time of its stage was over."""


class Session:
    """One call of the command: its folders, its clock, and what has ended.

    Args:
        args: of the command line; all folders absolute.
        gpu: the name of the GPU; empty where there is none, or it is not to be used.
        commit: of the code; None where that is not known.
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
        self.tested = (before.get("commit"), before.get("tests")) == (commit, "passed")

    def _read(self, name: str, empty: Any) -> Any:
        """What an earlier call, or a stage, has written; ``empty`` where it has not."""
        path = self.out / name
        try:
            found = json.loads(path.read_bytes()) if path.is_file() else empty
        except ValueError as error:
            raise ErcBenchError(
                f"{path} is not what this command writes ({error}). Delete it, or name another "
                "--out."
            ) from error
        if type(found) is not type(empty):
            raise ErcBenchError(f"{path} is not what this command writes. Name another --out.")
        return found

    # --- stages

    def tests(self) -> None:
        """The tests that need a GPU; without one they are skipped, with that reason."""
        if self.tested:
            say("tests: passed before, at this commit.")
            return
        arguments = ["-q", "-rs", "-p", "no:cacheprovider", str(ROOT / "tests" / "test_gpu.py")]
        self.do("tests", ["python", "-m", "pytest", *arguments], run_pytest, arguments)

    def speed(self) -> None:
        """Every method with three sizes of encoders."""
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
        """What is not on record, by its value."""
        common = ["--leaderboard-dir", str(self.root), "--wandb", "off"]
        common += ["--jobs", str(self.args.jobs)] if self.args.jobs else []
        corpora, preset, seeds, trials = ["meld", "emorynlp"], "base", SEEDS, TRIALS
        if not self.gpu:
            corpora, preset, seeds, trials = ["demo"], "smoke", 1, 2
            common += [f"encoder={self.encoder}", "max_batches=2"]
        language = () if self.gpu else language_models()  # whose encoder can't be the tiny one
        named = self.args.method or [name for name in ordered() if name not in language]
        methods = ["--method", *named]
        runs = [*methods, "--dataset", *corpora, "--preset", preset, "--seeds", str(seeds)]
        search = [*methods, "--dataset", corpora[0], "--preset", preset, "--trials", str(trials)]
        for words in (["run", *runs], ["tune", *search, "--seeds", str(seeds)]):
            self.do("runs", ["erc-bench", *words, *common], run_erc_bench, [*words, *common])

    def _tiny(self) -> Path:
        """The tiny encoder of a trial; a folder that stays, so that its runs are found again."""
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
        """Do a command in a process of its own, until it ends or its stage has no time left.

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
        """Wait for a command, and collect the records that it leaves meanwhile."""
        while (left := until - time.monotonic()) > 0:
            process.join(min(LOOK, left))
            self.collect()
            if process.exitcode is not None:
                return "failed" if process.exitcode else "done"
        return STOPPED

    # --- what it gives

    def _files(self) -> Iterator[Path]:
        yield from record_files(self.root)
        yield from trial_files(self.root)

    def collect(self) -> None:
        """Copy the records and trials that are new; each is written whole."""
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
        """Write report.json and report.md anew."""
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


def results(root: Path) -> list[dict[str, Any]]:
    """The runs and trials below a folder: names, scores, seconds."""
    found = []
    for path in record_files(root):
        try:
            record = read_record(path)
        except RecordError:
            continue
        training = record.training
        found.append(
            {
                "kind": "tuned run" if record.tuned else "run",
                "method": record.method,
                "dataset": record.dataset,
                "preset": record.preset,
                "number": record.seed,
                "split": "test",
                "score": record.metrics.test.score(record.judged_by),
                "seconds": training.wall_seconds if training else None,
            }
        )
    for path in trial_files(root):
        try:
            trial = read_trial(path)
        except RecordError:
            continue
        found.append(
            {
                "kind": "trial",
                "method": trial.method,
                "dataset": trial.dataset,
                "preset": trial.preset,
                "number": trial.number,
                "split": "dev",
                "score": trial.score if trial.dev is not None else None,
                "seconds": trial.training.wall_seconds if trial.training else None,
            }
        )
    return found


def as_markdown(found: dict[str, Any]) -> str:
    """The report as tables."""
    speed = [
        [
            row["method"],
            row["preset"] + (f" ({row['encoder']})" if row["encoder"] else ""),
            row["precision"],
            figure(row["utterances_per_second"], 1),
            figure(row["epoch_seconds"], 1),
            figure(row["peak_mib"], 0),
            figure(row["tera_flops"]),
            figure(row["utilisation"], 1),
            row["failure"],
        ]
        for row in found["speed"]
    ]
    head = ("method", "preset", "precision", "utterances/s", "s an epoch", "peak MiB", "TFLOP/s")
    runs = [
        [
            *(each[name] for name in ("kind", "method", "dataset", "preset", "number")),
            f"{each['split']} {figure(each['score'])}" if each["score"] is not None else "failed",
            duration(each["seconds"]) if each["seconds"] is not None else "",
        ]
        for each in found["runs"]
    ]
    commands = [
        [f"`{each['command']}`", each["outcome"], duration(each["seconds"]), each["last"]]
        for each in found["commands"]
    ]
    parts = [
        f"# {found['device']}",
        f"Commit {found['commit'] or 'not known'}, {duration(found['seconds'])} of "
        f"{found['minutes']} minutes. Tests: {found['tests']}.",
        "## Speed",
        markdown_table((*head, "% of the most", "failure"), speed, "lllrrrrrl"),
        "## Runs",
        markdown_table(
            ("", "method", "corpus", "preset", "seed or trial", "score", "took"), runs, "llllrlr"
        ),
        "## Commands",
        markdown_table(("command", "outcome", "took", "its last line"), commands, "llrl"),
    ]
    return "\n\n".join(parts) + "\n"


# --- in the processes of the commands


def _work(
    work: Callable[[list[str]], int], given: list[str], log: Path, prepared: Path | None, gpu: bool
) -> None:
    """The life of a process that does a command."""
    end_with_parent()
    if hasattr(os, "setpgid"):  # Ctrl-C on a terminal is for the first process, which passes it on
        os.setpgid(0, 0)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    # SIGINT too: what a shell starts in the background ignores it, and so would this child.
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
            os.chdir(prepared / "encoders")  # a folder is found by the name of its encoder there
    try:
        sys.exit(work(given))
    except KeyboardInterrupt:
        sys.exit(130)


def run_pytest(given: list[str]) -> int:
    """Run tests; returns the exit status."""
    import pytest

    os.chdir(ROOT)
    return int(pytest.main(given))


def run_utilisation(given: list[str]) -> int:
    """Measure; returns the exit status."""
    from . import utilisation

    run(lambda: utilisation.main(given))
    return 0


def run_erc_bench(given: list[str]) -> int:
    """Run a command of erc-bench; returns its exit status."""
    from erc_bench.cli import main

    return main(given)


def elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives, in a process that ends: CUDA keeps memory for every one that asks it,
    and PyTorch takes long to import."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as asking:
        return asking.submit(function, *arguments).result()


def surroundings() -> tuple[str | None, str]:
    """The commit of the code, and the name of the GPU; empty where there is none."""
    import torch

    from erc_bench.training.environment import COMMIT, device_name

    return COMMIT, device_name() if torch.cuda.is_available() else ""


def tiny(folder: Path) -> None:
    """Make the encoder of a trial."""
    from .utilisation import random_encoder

    random_encoder("tiny", folder)


def _interrupt(process: BaseProcess) -> None:
    """What Ctrl-C would do."""
    if process.is_alive() and process.pid is not None:
        os.kill(process.pid, signal.SIGINT)


@contextmanager
def in_folder(out: Path) -> Iterator[None]:
    """Make a folder for the results; an error that names it where that can't be."""
    try:
        (out / "logs").mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ErcBenchError(
            f"--out {out} can't be written to: {error.strerror or error}. Name another folder."
        ) from error


def main() -> None:
    """Do the stages, and write what they gave."""
    parser = parser_of("benchmarks.gpu", __doc__)
    parser.add_argument("--minutes", type=positive, default=12, help="(default: 12)")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="(default: gpu)")
    parser.add_argument("--prepared", type=Path, metavar="FOLDER", help="see above")
    parser.add_argument(
        "--leaderboard-dir", type=Path, default=ROOT / "leaderboard", help="(default: the clone's)"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), help="(default: cuda, if it is there)")
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=STAGES, help="(default: all)"
    )
    parser.add_argument("--method", nargs="+", choices=ordered(), help="of the runs (default: all)")
    parser.add_argument(
        "--jobs", type=positive, help="runs at once (default: as many as the GPU's memory holds)"
    )
    parser.add_argument(
        "--peak-tflops", type=float, help="of the GPU in bfloat16, where Lightning does not know it"
    )
    args = parser.parse_args()
    if args.prepared is not None and not args.prepared.is_dir():
        raise ErcBenchError(f"--prepared {args.prepared} is no folder; --help says what is in it.")
    for name in ("out", "prepared", "leaderboard_dir"):
        if (path := getattr(args, name)) is not None:
            setattr(args, name, path.absolute())
    commit, gpu = elsewhere(surroundings)
    if args.device == "cuda" and not gpu:
        raise ErcBenchError("--device cuda: PyTorch finds no GPU here. `nvidia-smi` shows them.")
    gpu = "" if args.device == "cpu" else gpu
    if not gpu:
        say("Without a GPU all of it is only tried, with tiny encoders on made-up dialogues.")
    with in_folder(args.out):
        session = Session(args, gpu, commit)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stages = {"tests": session.tests, "speed": session.speed, "runs": session.runs}
    for name in STAGES:
        if name in args.stages:
            try:
                stages[name]()
            except OutOfTimeError:
                say(f"{name}: stopped; the same command goes on.")
    session.report()
    print((args.out / "report.md").read_text(encoding="utf-8"), end="")
    say(f"All of it is in {args.out}.")


if __name__ == "__main__":
    run(main)
