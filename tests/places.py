"""The place of a run in a folder, and a record as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erc_bench.execution.grid import plan
from erc_bench.records.place import Place
from erc_bench.records.schema import Record, to_json
from erc_bench.settings.experiment import Experiment


def place_of(root: Path, experiment: Experiment, data_dir: Path | None = None) -> Place:
    """The place of a run with the corpus and the encoder as they are now."""
    (job,), impossible = plan([experiment], root, {"data_dir": data_dir})
    assert not impossible
    return job.place


def plain(record: Record) -> dict[str, Any]:
    """Return a record as the JSON object in its file."""
    return to_json(record)
