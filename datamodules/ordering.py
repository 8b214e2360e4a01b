"""Turns in the order of the numbers that a file gives them."""

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
    """The turns of a file in the order of their numbers; a warning if the file has another.

    Args:
        turns: by their numbers, as the file has them.
        path: the file.
        numbers: what its columns or fields are called.
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
