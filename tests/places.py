"""The place of a run in a folder, and a record as plain data."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from erc_bench.execution.grid import plan
from erc_bench.records.place import Place
from erc_bench.records.schema import Record, to_json
from erc_bench.settings.experiment import Experiment

ROOT = Path(__file__).parent.parent


def committed_records(under: str = "", kind: str = "records") -> list[Path]:
    """The project's own records below ``leaderboard/<kind>/<under>``.

    A developer's other records in ./leaderboard are left out.
    """
    folder = ROOT / "leaderboard" / kind / under
    command = ["git", "-C", str(ROOT), "ls-files", "-z", str(folder)]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        listed = ""
    files = [ROOT / name for name in listed.split("\0") if name.endswith(".json")]
    return sorted(files or folder.rglob("*.json"))  # an archive without git holds nothing else


def place_of(root: Path, experiment: Experiment, data_dir: Path | None = None) -> Place:
    """The place of a run with the corpus and the encoder as they are now."""
    (job,), impossible = plan([experiment], root, {"data_dir": data_dir})
    assert not impossible
    return job.place


def plain(record: Record) -> dict[str, Any]:
    """Return a record as the JSON object in its file."""
    return to_json(record)
