"""Sorting turns by the numbers that a file gives them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from erc_bench.corpus.source import caution

Number = TypeVar("Number", bound=tuple[int, ...])
Turn = TypeVar("Turn")


def in_order(
    turns: Mapping[Number, Turn], path: Path, numbers: str
) -> Iterator[tuple[Number, Turn]]:
    """Yield the turns of a file in the order of their numbers; warn if the file's order differs.

    Args:
        turns: the turns by their numbers, in the order of the file.
        path: the file.
        numbers: the names of the columns or fields that hold the numbers, for the warning.
    """
    astray = [(a, b) for a, b in pairwise(turns) if b < a]
    if astray:
        (before, after), *_ = astray
        caution(
            f"{path} is not in the order of {numbers}, {len(astray):,} times (first "
            f"{_shown(before)} before {_shown(after)}); its turns were put in that order."
        )
    for number in sorted(turns):
        yield number, turns[number]


def _shown(number: tuple[int, ...]) -> str:
    return "/".join(map(str, number))
