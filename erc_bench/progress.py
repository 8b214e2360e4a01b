"""What a user sees while something takes longer than a second."""

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
"""Progress and notices go here; results go to standard output. ``--quiet`` sets its ``quiet``."""


def say(text: str) -> None:
    """One plain line on the progress console."""
    console.print(text, soft_wrap=True)


@cache
def say_once(text: str) -> None:
    """One plain line, the first time that this is to be said."""
    say(text)


def show_warning(message: Any, category: type[Warning], *place: Any, **options: Any) -> None:
    """Our own warnings as one plain line, those of libraries not at all."""
    if category.__module__.startswith("erc_bench"):
        say(f"Note: {message}")


def bar() -> Progress:
    """A progress bar that vanishes when done; nothing where there is no terminal."""
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
    """Iterate with a progress bar; where there is no terminal, one line says what is being done."""
    if not console.is_terminal:
        say(f"{description} …")
    with bar() as progress:
        total = len(items) if isinstance(items, Sized) else None
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            progress.advance(task)


def duration(seconds: float) -> str:
    """``95`` → ``1 min 35 s``; hours and minutes above an hour."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Elapsed seconds."""
        return time.perf_counter() - self.start
