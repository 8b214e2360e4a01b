"""The folder with the real corpora, for tests that need them."""

import os
from pathlib import Path

import pytest

# Read once: tests of the command line delete the variable.
NAMED = os.environ.get("ERC_BENCH_DATA")


def real_data(name: str) -> Path:
    """The data folder if it holds the corpus ``name``; otherwise the test is skipped."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(NAMED or beside).resolve()
    if not (folder / name).is_dir():
        pytest.skip(f"no real data: {folder / name} is not there; set ERC_BENCH_DATA")
    return folder
