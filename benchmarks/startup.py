"""Measure the processor time from the command to the first training step, with warm caches.

    python -m benchmarks.startup --method eacl spcl --preset small
    python -m benchmarks.startup --against FOLDER

Every figure is the processor time of a separate process that does `erc-bench run` and ends when
Lightning gives it the first training batch. With --against, other versions are measured too. A
version is a folder that it was installed into (`pip install --no-deps --target FOLDER` in its
checkout), which then uses the same Python and the same other packages, or the interpreter of an
environment. The versions take turns, so that any disturbance of the machine affects all of them.
The first run of each version fills the caches and is not counted.

SPCL-CL passes over its training examples before its first step; with `--set max_batches=1` there
are only a few.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from erc_bench.errors import ErcBenchError
from erc_bench.progress import say

from .command import parser_of, positive, run

UNTIL_THE_FIRST_STEP = """
import os, sys
from erc_bench.cli import main

def end(*_):
    os._exit(0)

def end_at_first_step(event, _):
    module = sys.modules.get("lightning.pytorch.strategies.strategy")
    if event == "import" and hasattr(module, "Strategy"):
        module.Strategy.training_step = end

sys.addaudithook(end_at_first_step)
sys.exit(main(sys.argv[1:]) or "The run ended before a training step.")
"""
"""A program that runs a command of erc-bench and ends at the first training step.

The only name of erc-bench in it is that of the command line, so that it works with every version.
It does not change the order of imports: it patches Lightning as soon as the command has imported
it.
"""


def seconds_to_first_step(version: str, arguments: Sequence[str], folder: Path) -> float:
    """Measure the processor time of one `erc-bench run` until its first training step.

    Args:
        version: the interpreter of an environment, or a folder that erc-bench was installed into.
        arguments: those of `erc-bench run`.
        folder: an empty folder, for the files of the run.

    Raises:
        ErcBenchError: the run failed, or made no step.
    """
    there = Path(version).absolute()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    if there.is_dir():
        environment["PYTHONPATH"] = str(there)
    python = sys.executable if there.is_dir() else str(there)
    command = [python, "-c", UNTIL_THE_FIRST_STEP, "run", "--quiet", *arguments]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").splitlines()
            raise ErcBenchError(
                f"{version}: no training step was reached: "
                f"{lines[-1] if lines else f'exit status {process.returncode}'}"
            )
    return used.ru_utime + used.ru_stime


def compare(versions: Sequence[str], arguments: Sequence[str], runs: int) -> list[list[float]]:
    """Measure the seconds of ``runs`` runs of each version, in turn.

    Before these, one run of each version fills the caches.
    """
    seconds: list[list[float]] = [[] for _ in versions]
    for round_ in range(runs + 1):
        for version, of_version in zip(versions, seconds, strict=True):
            with tempfile.TemporaryDirectory() as folder:
                measured = seconds_to_first_step(version, arguments, Path(folder))
            if round_:
                of_version.append(measured)
    return seconds


def main() -> None:
    """Measure each method and version, and print a row for each."""
    parser = parser_of("benchmarks.startup", __doc__)
    parser.add_argument("--method", nargs="+", default=["eacl"], help="(default: eacl)")
    parser.add_argument("--dataset", default="meld", help="(default: meld)")
    parser.add_argument("--preset", default="small", help="(default: small)")
    parser.add_argument("--runs", type=positive, default=3, help="runs of a version (default: 3)")
    parser.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="other versions: folders of their installation, or interpreters",
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the runs"
    )
    args = parser.parse_args()
    for version in args.against:
        if not Path(version).exists():
            raise ErcBenchError(f"{version!r} is neither a folder nor an interpreter.")
    versions = [sys.executable, *args.against]
    print("| method | version | seconds | fewest … most | ratio |")
    print("|---|---|---|---|---|")
    for method in args.method:
        say(f"{method}: {args.runs + 1} runs of each version …")
        arguments = ["--method", method, "--dataset", args.dataset, "--preset", args.preset]
        measured = compare(versions, [*arguments, *args.set], args.runs)
        for version, seconds in zip(["this one", *args.against], measured, strict=True):
            ratio = median(seconds) / median(measured[0])
            spread = f"{min(seconds):.1f} … {max(seconds):.1f}"
            cells = (method, version, f"{median(seconds):.1f}", spread, f"{ratio:.2f}")
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    run(main)
