"""The display of a grid: its runs in progress on the terminal, or a line for each now and then."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from erc_bench.execution.grid_progress import GridProgress
from erc_bench.files import last_line
from erc_bench.progress import console, duration, say

LINE_SECONDS = 60.0
"""Seconds between two reports of the runs in progress, if there is no terminal."""


class GridDisplay:
    """Shows the progress of a grid.

    It has a thread of its own, so a run may end while the display is drawn.
    """

    def __init__(self, progress: GridProgress) -> None:
        self.progress = progress
        self.live: Live | None = None

    def shown(self) -> contextlib.AbstractContextManager[Any]:
        """Show :meth:`picture` on the terminal; without a terminal, print :meth:`lines` once a
        minute."""
        if console.quiet:
            return contextlib.nullcontext()
        if not console.is_terminal:
            return self._saying_lines()
        self.live = Live(get_renderable=self.picture, console=console, transient=True)
        return self.live

    @contextlib.contextmanager
    def _saying_lines(self) -> Iterator[None]:
        over = threading.Event()

        def report() -> None:
            while not over.wait(LINE_SECONDS):
                for line in self.lines():
                    say(line)

        reporter = threading.Thread(target=report, daemon=True)
        reporter.start()
        try:
            yield
        finally:
            over.set()
            reporter.join()

    def lines(self) -> list[str]:
        """A line for each run in progress, with the last line of its log, and one for all."""
        rows = self._rows(self.progress.at_work())
        return [*map("  ".join, rows), self.progress.summary()]

    def picture(self) -> Group:
        """A line for each run in progress, with the last line of its log, and a bar for all."""
        runs = Table.grid(padding=(0, 2))
        for _ in range(3):
            runs.add_column(no_wrap=True, overflow="ellipsis")
        at_work = self.progress.at_work()
        most = max(3, console.height - 4)
        for row in self._rows(at_work[: most if len(at_work) <= most else most - 1]):
            runs.add_row(*map(Text, row))
        if len(at_work) > most:
            runs.add_row(f"… and {len(at_work) - most + 1} more", "", "")
        bar = ProgressBar(total=self.progress.total, completed=self.progress.done, width=30)
        whole = Table.grid(padding=(0, 2))
        whole.add_row(bar, self.progress.summary())
        return Group(runs, whole)

    def _rows(self, names: list[str]) -> Iterator[tuple[str, str, str]]:
        """Yield name, time and last line of the log of the runs that are still in progress."""
        for name in names:
            clock, job = self.progress.running.get(name), self.progress.left.get(name)
            if clock and job:
                yield name, duration(clock.seconds), last_line(job.place.log)

    def ask_to_leave(self, count: int) -> bool:
        """Ask at Ctrl-C whether so many jobs shall run on without this command."""
        name = self.progress.dispatch.executor.name
        onwards = "the same command resumes the grid, `erc-bench grid status` shows it"
        if self.live is not None:
            self.live.stop()
        if sys.stdin is None or not sys.stdin.isatty():
            say(f"Jobs that stay with {name}: {count}; {onwards}.")
            return True
        say(
            f"Jobs that are with {name}: {count}. Enter leaves them there ({onwards}); c cancels "
            "them."
        )
        try:
            return input().strip().lower() not in ("c", "cancel")
        except (KeyboardInterrupt, EOFError):
            return True
