"""What the commands of the benchmarks share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from erc_bench.errors import ErcBenchError


def positive(text: str) -> int:
    """A whole number from 1 on, of a command line."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def run(main: Callable[[], None]) -> None:
    """Run a command; what a user can mend, and Ctrl-C, end it with one line."""
    try:
        main()
    except ErcBenchError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted.")
