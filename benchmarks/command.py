"""Functions that the commands of the benchmarks share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from erc_bench.corpus.conversation import Corpus
from erc_bench.errors import ErcBenchError
from erc_bench.progress import console, say
from erc_bench.settings.methods import method_entries
from erc_bench.settings.registry import corpus_source, method_names
from erc_bench.training.frameworks import quiet_frameworks

SET_HERE = ("epochs", "max_batches", "precision")
"""Settings that the benchmark itself sets in every case."""


def setting(text: str) -> str:
    """Check KEY=VALUE of a command line; the settings in :data:`SET_HERE` are refused."""
    if text.partition("=")[0] in SET_HERE:
        raise argparse.ArgumentTypeError(
            f"{text!r} would be overwritten: the benchmark itself sets {', '.join(SET_HERE)} "
            "(`python -m benchmarks` has --precision for the precision)"
        )
    return text


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--set``, for settings of everything that is measured."""
    parser.add_argument(
        "--set", nargs="+", type=setting, default=[], metavar="KEY=VALUE", help="for all methods"
    )


def positive(text: str) -> int:
    """Parse a positive whole number of a command line."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


CONTROL = "finetune"


def language_models() -> list[str]:
    """Return the names of the methods whose encoder is a language model."""
    return [each.name for each in method_entries() if each.family == "language model"]


def ordered() -> list[str]:
    """Return the names of all methods: the control first, language models last."""
    last = language_models()
    return sorted(method_names(), key=lambda name: (name != CONTROL, name in last, name))


def parser_of(module: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of ``python -m MODULE``, which shows the description as it is."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def encoder_of(preset: str, given: list[str]) -> str:
    """The folder given for a preset, or for all presets; "" if none was given."""
    folders = {name: folder for name, equals, folder in (g.partition("=") for g in given) if equals}
    return folders.get(preset, next((g for g in given if "=" not in g), ""))


def load(name: str) -> Corpus:
    """Load a corpus; if it is not available, load the generated one instead."""
    try:
        return corpus_source(name).load(None)
    except ErcBenchError as error:
        say(f"{error} The demo corpus, which is generated, is used instead.")
        return corpus_source("demo").load(None)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the messages of a training."""
    console.quiet = True
    try:
        with quiet_frameworks():
            yield
    finally:
        console.quiet = False


def run(main: Callable[[], None]) -> None:
    """Run a command; Ctrl-C and errors that a user can correct end it with one line."""
    try:
        main()
    except ErcBenchError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted.")
