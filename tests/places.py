"""Where a run lies in a folder, and its record as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erc_bench.execution.grid import plan
from erc_bench.records.place import Place
from erc_bench.records.schema import Record, to_json
from erc_bench.settings.experiment import Experiment


def place_of(root: Path, experiment: Experiment, data_dir: Path | None = None) -> Place:
    """The place of a run on the corpus and with the encoder that are there now."""
    (job,), impossible = plan([experiment], root, {"data_dir": data_dir})
    assert not impossible
    return job.place


def plain(record: Record) -> dict[str, Any]:
    """A record as its file holds it."""
    return to_json(record)
