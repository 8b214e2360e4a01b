"""The report of `python -m benchmarks.gpu`: runs, trials, speed and commands as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erc_bench.leaderboard.tables import markdown_table
from erc_bench.leaderboard.wording import figure
from erc_bench.progress import duration
from erc_bench.records.parsing import RecordError
from erc_bench.records.store import read_record, record_files
from erc_bench.records.trials import read_trial, trial_files


def results(root: Path) -> list[dict[str, Any]]:
    """Return the runs and trials below a folder, with their scores in percent and their seconds."""
    found = []
    for path in record_files(root):
        try:
            record = read_record(path)
        except RecordError:
            continue
        training = record.training
        found.append(
            {
                "kind": "tuned run" if record.tuned else "run",
                "method": record.method,
                "dataset": record.dataset,
                "preset": record.preset,
                "number": record.seed,
                "split": "test",
                "score": record.metrics.test.score(record.judged_by),
                "seconds": training.wall_seconds if training else None,
            }
        )
    for path in trial_files(root):
        try:
            trial = read_trial(path)
        except RecordError:
            continue
        found.append(
            {
                "kind": "trial",
                "method": trial.method,
                "dataset": trial.dataset,
                "preset": trial.preset,
                "number": trial.number,
                "split": "dev",
                "score": trial.score if trial.dev is not None else None,
                "seconds": trial.training.wall_seconds if trial.training else None,
            }
        )
    return found


def as_markdown(found: dict[str, Any]) -> str:
    """Return the report of :meth:`~benchmarks.gpu.Session.report` in Markdown."""
    speed = [
        [
            row["method"],
            row["preset"] + (f" ({row['encoder']})" if row["encoder"] else ""),
            row["precision"],
            figure(row["utterances_per_second"], 1),
            figure(row["epoch_seconds"], 1),
            figure(row["peak_mib"], 0),
            figure(row["tera_flops"]),
            figure(row["utilisation"], 1),
            row["failure"],
        ]
        for row in found["speed"]
    ]
    head = ("method", "preset", "precision", "utterances/s", "s per epoch", "peak MiB", "TFLOP/s")
    runs = [
        [
            *(each[name] for name in ("kind", "method", "dataset", "preset", "number")),
            f"{each['split']} {figure(each['score'])}" if each["score"] is not None else "failed",
            duration(each["seconds"]) if each["seconds"] is not None else "",
        ]
        for each in found["runs"]
    ]
    commands = [
        [f"`{each['command']}`", each["outcome"], duration(each["seconds"]), each["last"]]
        for each in found["commands"]
    ]
    parts = [
        f"# {found['device']}",
        f"Commit {found['commit'] or 'not known'}, {duration(found['seconds'])} of "
        f"{found['minutes']} minutes. Tests: {found['tests']}.",
        "## Speed",
        markdown_table((*head, "% of peak", "failure"), speed, "lllrrrrrl"),
        "## Runs",
        markdown_table(
            ("", "method", "corpus", "preset", "seed or trial", "score", "time"), runs, "llllrlr"
        ),
        "## Commands",
        markdown_table(("command", "outcome", "time", "last line of its log"), commands, "llrl"),
    ]
    return "\n\n".join(parts) + "\n"
