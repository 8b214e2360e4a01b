"""Progress bars and notices for the user, on standard error."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from functools import cache
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")

console = Console(stderr=True, highlight=False, markup=False, emoji=False)
"""Progress and notices go here, results to standard output. ``--quiet`` sets its ``quiet``."""


def say(text: str) -> None:
    """Print one plain line on the progress console."""
    console.print(text, soft_wrap=True)


@cache
def say_once(text: str) -> None:
    """Print one plain line, unless the same text was printed before."""
    say(text)


def show_warning(message: Any, category: type[Warning], *place: Any, **options: Any) -> None:
    """Print erc-bench's own warnings as one plain line, and ignore those of libraries."""
    if category.__module__.startswith("erc_bench"):
        say(f"Note: {message}")


def bar() -> Progress:
    """A progress bar that disappears when done. Without a terminal, nothing is shown."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal or console.quiet,
    )


def track(items: Iterable[Item], description: str) -> Iterator[Item]:
    """Iterate with a progress bar. Without a terminal, print the description once instead."""
    if not console.is_terminal:
        say(f"{description} …")
    with bar() as progress:
        total = len(items) if isinstance(items, Sized) else None
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            progress.advance(task)


def duration(seconds: float) -> str:
    """Seconds as text: ``95`` → ``1 min 35 s``; above an hour, hours and minutes."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


class Stopwatch:
    """Counts the seconds since it was created."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Elapsed seconds."""
        return time.perf_counter() - self.start
