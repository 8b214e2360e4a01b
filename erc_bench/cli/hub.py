"""``erc-bench hub``."""

from __future__ import annotations

from cyclopts import App

from erc_bench.cli.common import LEADERBOARD, LeaderboardDir, results

app = App(name="hub", help="Runs on the Hugging Face hub: hf://user/repo stands for a run.")


@app.command
def push(
    run: str,
    repo: str,
    /,
    *,
    public: bool = False,
    leaderboard_dir: LeaderboardDir = LEADERBOARD,
) -> None:
    """Push a finished run: weights, record and a model card. It is private by default.

    Args:
        run: A record, enough of its name method/dataset/hash/seedK, or hf://user/repo.
        repo: The repository, user/name; it is created if it does not exist.
        public: Let everybody read it. The licences of corpus and encoder have to allow that.
    """
    from erc_bench.hub import push as push_run
    from erc_bench.records.store import find_record

    pushed = push_run(find_record(leaderboard_dir, run), repo, leaderboard_dir, public=public)
    seen = "private" if pushed.private else "public"
    results().print(f"{pushed.url} ({seen}): hf://{repo}", soft_wrap=True)
