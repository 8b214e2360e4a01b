"""The progress of the grids of a store, as any machine that shares the store sees it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from erc_bench.execution.job_folder import JobFolder, job_folders
from erc_bench.files import last_line
from erc_bench.records.store import record_files

MOST_SHOWN = 40
"""The largest number of runs in progress that are listed."""


def print_status(out: Any, root: Path) -> None:
    """Print each grid that is not over: its command, and what each of its runs does.

    Args:
        out: a console.
        root: folder of the records.
    """
    folders = job_folders(root)
    for folder in folders:
        _print_grid(out, root, folder)
    if not folders:
        finished = sum(1 for _ in record_files(root))
        out.print(f"No grid is running in {root}. Runs that have a record there: {finished}.")


def _print_grid(out: Any, root: Path, folder: JobFolder) -> None:
    grid = folder.description()
    records = grid.get("records") or {}
    who = (
        "no command is watching it"
        if not folder.is_held()
        else f"watched by a command{folder.holder()}"
    )
    out.print(
        f"Grid {folder.name}, {grid.get('executor', 'executor unknown')}, {who}", soft_wrap=True
    )
    ended = folder.ended()
    begun = [name for name in sorted(folder.begun()) if name not in ended]
    jobs = {name: folder.run_of(name) for name in begun}
    failures = {name: folder.end_of(name) for name in sorted(ended)}
    failed = {name: said for name, said in failures.items() if said.get("failure")}
    done = sum(_is_there(root / record, since) for record, since in records.items())
    waiting = max(len(records) - done - len(begun) - len(failed), 0)
    parts = {
        f"{done} of {len(records)} runs finished": True,
        f"{len(begun)} running": begun,
        f"{waiting} waiting": waiting,
        f"{len(failed)} failed": failed,
    }
    out.print("  " + ", ".join(text for text, shown in parts.items() if shown))
    table = Table.grid(padding=(0, 2))
    for _ in range(4):
        table.add_column(overflow="fold")
    for name in begun[:MOST_SHOWN]:
        job, worker = jobs[name], folder.worker(name)
        where = f"{worker.get('host', '?')} since {worker.get('since', '?')}"
        log = last_line(Path(job.get("log", "")))
        table.add_row("", Text(str(job.get("name", "?"))), Text(where), Text(log))
    out.print(table)
    if len(begun) > MOST_SHOWN:
        out.print(f"  … and {len(begun) - MOST_SHOWN} more")
    for said in failed.values():
        out.print(f"  {said.get('run', 'a run')}: {said['failure']}", soft_wrap=True)


def _is_there(record: Path, since: float) -> bool:
    """Whether there is a record that is not older than ``since``."""
    with contextlib.suppress(OSError):
        return record.stat().st_mtime >= since
    return False
