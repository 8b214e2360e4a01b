"""Compare the speed of training with the usual recipe, side by side in one process.

    python -m benchmarks --preset small base --encoder base=FOLDER

The usual recipe (``benchmarks/recipe*.py``) pads every example to max_len tokens, tokenises it in
the data loader, draws random batches, takes contrastive scores from expanded (n, m, d) tensors,
loops in Python wherever published code does, and scores dev and test after every epoch. Ours is a
training under Lightning's Trainer, as in `erc-bench run`, and scores dev. Both train the same
encoder from the same weights. Before anything is timed, both are trained for a few steps without
dropout in float32, and their losses must agree to 1e-4.

No whole epoch is run. One round warms up, then --steps rounds are measured. A round is four
training batches of ours and one of the recipe. Our batches differ in length, so those of the epoch
are sorted by length and the measured ones are taken at even distances. Batches of the evaluation
are measured in the same way, eight of ours and two of the recipe. The batches of SPCL's passes over
train are measured all at once, those of the recipe right after ours. (Ours has one pass for each
epoch and one more for the run, the published code has two for each epoch.)

The time of an epoch is the sum over these parts of the mean seconds of a batch × the number of
batches. It is without checkpoints, and without the reading and tokenising that ours does once for
all epochs. Vectors of utterances are drawn at random, since neither side computes them within an
epoch. "In single rounds" is the lowest and the highest ratio if the training batches of a single
round are used instead of the mean over all rounds.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch

from erc_bench.corpus.conversation import Corpus
from erc_bench.encoders.fast.backends import set_up_backends
from erc_bench.progress import say
from erc_bench.training.environment import device_name
from erc_bench.training.precision import trainer_precision

from .command import add_settings, encoder_of, load, parser_of, positive, quiet, run
from .sampling import Epoch
from .side_by_side import (
    RECIPES,
    TOLERANCE,
    Case,
    compare,
    in_float32_alone,
    losses,
    peak_memory,
)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = parser_of("benchmarks", __doc__)
    native = trainer_precision("auto") == "bf16-mixed"
    parser.add_argument(
        "--method", nargs="+", choices=RECIPES, default=list(RECIPES), help="(default: all)"
    )
    parser.add_argument("--preset", nargs="+", default=["small"], help="(default: small)")
    # The recipes only have the settings for these corpora.
    parser.add_argument(
        "--dataset", choices=("meld", "demo"), default="meld", help="(default: meld)"
    )
    parser.add_argument(
        "--encoder",
        nargs="+",
        default=[],
        metavar="[PRESET=]FOLDER",
        help="a folder with the encoder for one preset, or for all presets",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=("float32", "bfloat16"),
        default=["float32", "bfloat16"] if native else ["float32"],
        help="precision of ours; ours in bfloat16 is compared with the recipe in both precisions",
    )
    parser.add_argument(
        "--steps", type=positive, default=6, help="rounds that are measured (default: 6)"
    )
    parser.add_argument(
        "--threads", type=positive, help="threads of PyTorch (default: PyTorch chooses)"
    )
    parser.add_argument("--no-memory", action="store_true", help="do not measure the peak memory")
    add_settings(parser)
    parser.add_argument("--peak-memory-of", choices=("ours", "recipe"), help=argparse.SUPPRESS)
    return parser.parse_args()


def check(case: Case, corpus: Corpus) -> float:
    """Compare the losses of both sides and return the largest difference, as a share of the loss.

    Raises:
        SystemExit: the losses differ.
    """
    with quiet():
        ours, theirs = (np.array(values) for values in losses(case, corpus))
    same_steps = len(ours) == len(theirs)
    difference = float(np.max(np.abs(ours - theirs) / np.abs(theirs))) if same_steps else np.nan
    if not difference < TOLERANCE:
        sys.exit(
            f"{case.method}, {case.preset}: the losses of ours {ours} and of the recipe {theirs} "
            "differ, so there is nothing to compare."
        )
    return difference


@cache
def memory(case: Case, side: str) -> str:
    """Peak memory of one side in MiB, in a process of its own; "failed" if the process failed."""
    command = [sys.executable, "-m", "benchmarks", "--peak-memory-of", side]
    command += ["--method", case.method, "--preset", case.preset, "--dataset", case.dataset]
    command += ["--precision", case.precision, "--threads", str(torch.get_num_threads())]
    command += ["--encoder", case.encoder] if case.encoder else []
    command += ["--set", *case.overrides] if case.overrides else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.splitlines() or [f"exit status {done.returncode}"])[-1]
        say(f"The peak memory of {side} could not be measured: {reason}")
        return "failed"
    return f"{float(done.stdout):.0f}"


HEADER = (
    "method, preset",
    "precision",
    "of the recipe",
    "utterances/s",
    "of the recipe",
    "ratio",
    "in single rounds",
    "of processor time",
    "peak MiB",
    "of the recipe",
    "losses differ by",
)


def print_row(cells: Sequence[str]) -> None:
    """Print a row of the table."""
    print("| " + " | ".join(cells) + " |", flush=True)


def figures(utterances: int, ours: Epoch, theirs: Epoch) -> list[str]:
    """The cells of a row about speed."""
    ratios = theirs.rounds() / ours.rounds()
    return [
        f"{utterances / ours.seconds():.1f}",
        f"{utterances / theirs.seconds():.1f}",
        f"{theirs.seconds() / ours.seconds():.1f}",
        f"{ratios.min():.1f} … {ratios.max():.1f}",
        f"{theirs.seconds(1) / ours.seconds(1):.1f}",
    ]


def parts(name: str, epoch: Epoch) -> str:
    """A line with the seconds of an epoch and the parts of this sum."""
    terms = [f"{n} × {epoch.step(part)[0]:.3f} s {part}" for part, n in epoch.batches.items()]
    return f"  {name}: {epoch.seconds():.0f} s = {' + '.join(terms)}"


def conditions(corpus: Corpus, utterances: int, args: argparse.Namespace) -> str:
    """A sentence with the conditions of the measurement: corpus, machine and versions."""
    return (
        f"{corpus.name}, {utterances} training utterances; {device_name()}, {os.cpu_count()} "
        f"cores, {torch.get_num_threads()} threads; torch {torch.__version__}, Python "
        f"{platform.python_version()}; {args.steps} rounds measured after one to warm up"
        f"{'; ' * bool(args.set)}{', '.join(args.set)}."
    )


def measure(case: Case, corpus: Corpus, utterances: int, args: argparse.Namespace) -> None:
    """Print the rows of a case: against the recipe in float32 and in the precision of the case."""
    say("  comparing the losses of both sides …")
    difference = check(replace(case, precision="float32"), corpus)
    precisions = list(dict.fromkeys(("float32", case.precision)))
    say(f"  measuring {args.steps + 1} rounds of training, and batches of dev and test …")
    with quiet():
        ours, recipes = compare(case, corpus, args.steps, precisions)
    say(parts("ours", ours))
    for precision, theirs in recipes.items():
        say(parts(f"the usual recipe in {precision}", theirs))
        peaks = ["", ""]
        if not args.no_memory:
            say("  measuring the peak memory …")
            other = replace(case, precision=precision)
            peaks = [memory(case, "ours"), memory(other, "recipe")]
        first = [f"{case.method}, {case.preset}", case.precision, precision]
        print_row([*first, *figures(utterances, ours, theirs), *peaks, f"{difference:.0e}"])


def main() -> None:
    """Measure all cases and print the table."""
    args = arguments()
    set_up_backends()
    if args.threads:
        torch.set_num_threads(args.threads)
    corpus = load(args.dataset)
    cases = [
        Case(m, preset, corpus.name, precision, encoder_of(preset, args.encoder), tuple(args.set))
        for preset in args.preset
        for m in args.method
        for precision in args.precision
        if precision == "float32" or not in_float32_alone(m)
    ]
    for m in dict.fromkeys(args.method):
        if m not in {case.method for case in cases}:
            say(f"{m} is left out: it trains in float32 alone (--precision float32).")
    if not cases:
        sys.exit(2)
    for case in cases:  # report a wrong setting of any case before measuring another
        case.settings()
    if args.peak_memory_of:
        with quiet():
            print(peak_memory(cases[0], corpus, args.peak_memory_of))
        return
    utterances = sum(len(dialogue.labelled) for dialogue in corpus.dialogues("train"))
    print(conditions(corpus, utterances, args), end="\n\n")
    print_row(HEADER)
    print_row(["---"] * len(HEADER))
    for case in cases:
        say(f"{case.method}, {case.preset}, {case.precision} …")
        try:
            measure(case, corpus, utterances, args)
        except torch.OutOfMemoryError as error:
            say(f"  does not fit the GPU with the recipe beside it: {str(error).splitlines()[0]}")
            first = [f"{case.method}, {case.preset}", case.precision, "does not fit"]
            print_row(first + [""] * (len(HEADER) - len(first)))


if __name__ == "__main__":
    run(main)
