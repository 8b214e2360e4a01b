"""``erc-bench grid``."""

from __future__ import annotations

from cyclopts import App

from erc_bench.cli import common
from erc_bench.cli.common import LEADERBOARD, LeaderboardDir

app = App(name="grid", help="Show the progress of grids of runs.")


@app.command
def status(leaderboard_dir: LeaderboardDir = LEADERBOARD) -> None:
    """Show how far the grids of a folder are, wherever they run.

    Args:
        leaderboard_dir: Folder of the records.
    """
    from erc_bench.execution.status import print_status

    common.must_exist(leaderboard_dir)
    print_status(common.results(), leaderboard_dir)
