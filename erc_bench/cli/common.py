"""Options and output functions that several commands share."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

from cyclopts import ArgumentCollection, Group, Parameter, Token
from rich.console import Console

from erc_bench.api import FOLDER
from erc_bench.errors import ErcBenchError
from erc_bench.settings.presets import presets

DataDir = Annotated[
    Path | None,
    Parameter(help="Folder of the corpora (default: $ERC_BENCH_DATA, then the cache)."),
]
LeaderboardDir = Annotated[Path, Parameter(help="Folder of records and pages.", show_default=True)]
LEADERBOARD = FOLDER


def _completed_by(names: Callable[[Any], list[str]]) -> dict[str, Any]:
    """The argument by which a shell completes values; cyclopts before 5 (Python 3.10) has none."""
    return {"completer": names} if "completer" in signature(Parameter).parameters else {}


def _method_names(_: Any) -> list[str]:
    from erc_bench.settings.registry import method_names

    return method_names()


def _corpus_names(_: Any) -> list[str]:
    from erc_bench.settings.registry import corpus_names

    return corpus_names()


Preset = Annotated[
    str,
    Parameter(
        **_completed_by(lambda _: list(presets())),
        help=", ".join(f"{p.name} ({p.description})" for p in presets().values()) + ".",
        show_default=True,
    ),
]
Several = Parameter(consume_multiple=1)
"""An option that takes one or more values."""
Method = Annotated[str, Parameter(**_completed_by(_method_names))]
Methods = Annotated[list[str], Parameter(**_completed_by(_method_names), consume_multiple=1)]
Dataset = Annotated[str, Parameter(**_completed_by(_corpus_names))]
Datasets = Annotated[list[str], Parameter(**_completed_by(_corpus_names), consume_multiple=1)]


def _whole(_: Any, given: Sequence[Token]) -> int:
    """Parse a whole number, since cyclopts would round other numbers."""
    if not re.fullmatch(r"[+-]?\d+", given[0].value):
        raise ValueError(f"{given[0].value!r} is not a whole number.")
    return int(given[0].value)


Whole = Annotated[int, Parameter(converter=_whole)]


def one_of(remedy: str = "") -> Parameter:
    """A parameter that options share if they exclude each other.

    ``remedy`` says in the error what to do instead.
    """

    def not_both(options: ArgumentCollection) -> None:
        given = [option.name for option in options if option.tokens]
        if len(given) > 1:
            raise ValueError(f"Give {' or '.join(given)}, not both{remedy}.")

    return Parameter(group=("Parameters", Group(validator=not_both, show=False)))


def seed_number(text: str) -> int:
    """Parse a seed that the user wrote.

    Raises:
        ErcBenchError: it is not a seed.
    """
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if not 0 <= seed < 2**32:
        raise ErcBenchError(f"--seed takes whole numbers from 0 to 2³² - 1, not {text!r}.")
    return seed


def must_exist(root: Path) -> None:
    """Refuse a folder of records that does not exist."""
    if not root.is_dir():
        raise ErcBenchError(
            f"There is no folder {root} with records. Name the right one with --leaderboard-dir, "
            "or make records there: `erc-bench run` with the same --leaderboard-dir."
        )


def record_folders(own: Path, others: Sequence[Path]) -> list[Path]:
    """The folders from which records are read, the user's own folder first.

    The other folders must exist. If there are any, the user's own folder may be missing.
    """
    for folder in others:
        must_exist(folder)
    if others and not own.exists():
        named = " and ".join(map(str, others))
        complain(f"note: there is no folder {own}, so only records of {named} are read.")
        return list(others)
    must_exist(own)
    return [own, *others]


def corpus_name(dataset: str, root: Path) -> str:
    """The name of a corpus in the records of ``root``.

    A user's own corpus may be given by its folder.
    """
    from erc_bench.records.corpora import names_folder
    from erc_bench.settings.registry import corpus_source

    return corpus_source(dataset).name if names_folder(dataset, root) else dataset


def results() -> Console:
    """The console for results. Markup is off, since the text is often a user's."""
    return Console(highlight=False, markup=False, emoji=False)


def complain(text: str) -> None:
    """Print one paragraph to standard error."""
    print(f"erc-bench: {text}", file=sys.stderr)
