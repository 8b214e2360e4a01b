"""``erc-bench rescore``: recompute the metrics of records from their predictions."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from erc_bench.corpus.conversation import Metric
from erc_bench.leaderboard.runs import Skipped
from erc_bench.progress import track
from erc_bench.records.parsing import RecordError, parse_unscored
from erc_bench.records.schema import Unscored
from erc_bench.records.store import record_contents, record_files, write_record

TOLERANCE = 1e-4
"""Largest difference, in points, at which a stored figure is kept."""

ROUNDING = 0.05
"""The same for the calibration error, because probabilities are stored with four decimals."""


@dataclass(frozen=True)
class Changed:
    """A record whose metrics did not agree with its predictions."""

    file: str
    figures: list[str]
    """The corrected figures: ``test weighted_f1 99.0000 → 66.1234``."""


@dataclass(frozen=True)
class Rescored:
    """The result of re-scoring."""

    records: int
    """Number of records that could be re-scored."""
    changed: list[Changed]
    broken: list[Skipped]

    def render(self, console: Any) -> None:
        """Print the result on a rich console."""
        console.print(f"Records re-scored from their predictions: {self.records}.")
        for record in self.changed:
            console.print(f"Put right: {record.file}: {'; '.join(record.figures)}", soft_wrap=True)
        for broken in self.broken:
            console.print(f"Left as it is: {broken.reason}", soft_wrap=True, markup=False)


def rescore(root: Path) -> Rescored:
    """Recompute the metrics of every record below ``root`` and write those that differ.

    Metrics that a method adds are kept. Broken records are reported and not changed. No GPU is
    needed.

    Raises:
        ErcBenchError: a record that must change can't be written.
    """
    changed, broken, good = [], [], 0
    for path in track(list(record_files(root)), "Re-scoring"):
        file = path.relative_to(root).as_posix()
        try:
            record = parse_unscored(record_contents(path), path)
        except RecordError as error:
            broken.append(Skipped(file, str(error).replace(f"{root}/", "")))
            continue
        good += 1
        metrics, figures = _metrics(record)
        if figures:
            extra = {**record.extra, "metrics": metrics}
            before = path.stat()
            write_record(path, msgspec.structs.replace(record, extra=extra))
            # Files in a run's folder that are older than its record are taken for an earlier run's.
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            changed.append(Changed(file, figures))
    return Rescored(good, changed, broken)


def _metrics(record: Unscored) -> tuple[dict[str, Any], list[str]]:
    """Return the metrics of a record's predictions, and how the stored ones differ."""
    import torch

    from erc_bench.evaluation.metrics import evaluate

    stored = record.extra["metrics"]
    metrics, changes = dict(stored) if isinstance(stored, dict) else {}, []
    for split, predictions in record.predictions.items():
        probabilities = None
        if predictions.probabilities is not None:
            no_answer = [math.nan] * len(record.labels)
            probabilities = torch.tensor([row or no_answer for row in predictions.probabilities])
        computed = evaluate(
            torch.tensor(predictions.predicted),
            torch.tensor(predictions.gold),
            record.labels,
            probabilities,
            Metric.of(record.metric, record.labels),
        )
        before = metrics.get(split)
        metrics[split] = of_split = dict(before) if isinstance(before, dict) else {}
        for name, value in computed.items():
            if not _same(of_split.get(name), value, name):
                changes.append(f"{split} {name} {_short(of_split.get(name))} → {_short(value)}")
                of_split[name] = value
        for name in ("calibration_error", "no_answer", "micro_f1"):  # not of these predictions
            if name in of_split and name not in computed:
                changes.append(f"{split} {name} {_short(of_split.pop(name))} → none")
    return metrics, changes


def _short(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "…"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _same(stored: Any, computed: Any, name: str = "") -> bool:
    """Whether two values are equal up to rounding."""
    if isinstance(computed, dict):
        return (
            isinstance(stored, dict)
            and stored.keys() == computed.keys()
            and all(_same(stored[key], computed[key]) for key in computed)
        )
    if isinstance(computed, float) and isinstance(stored, (int, float)):
        return abs(stored - computed) <= (ROUNDING if name == "calibration_error" else TOLERANCE)
    return stored == computed
