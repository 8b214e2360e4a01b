"""What README.md and docs/results.md show of the leaderboard is what stands there.

Their tables of MELD and EmoryNLP are compared with ``leaderboard.json``, which
``erc-bench leaderboard --check`` compares with the records; the commands, with the records.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from typing import Any

import pytest
from conftest import ROOT

from erc_bench.cli import app
from erc_bench.cli.run import experiments
from erc_bench.leaderboard.tables import signed

BOARD = ROOT / "leaderboard"
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True, scope="module")
def only_committed_records() -> None:
    """Whoever has made records of their own in ./leaderboard has other tables."""
    command = ["git", "-C", str(BOARD), "ls-files", "--others", "--modified", "records"]
    try:
        own = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git does not say which records are the project's")
    if own:
        pytest.skip("./leaderboard has other records than the project's")


def table(page: str, *head: str) -> list[list[str]]:
    """The cells of the one table of a page that has these columns."""
    found = []
    for lines in re.findall(r"^(?:\|.*\|\n)+", page, re.MULTILINE):
        cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines.splitlines()]
        if cells[0] == list(head):
            found.append(cells[2:])
    assert len(found) == 1, f"{len(found)} tables with the columns {head}"
    return found[0]


def rows(corpus: str) -> list[dict[str, Any]]:
    """The leaderboard's rows on a corpus, best first, each with its ``track``."""
    board = json.loads((BOARD / "leaderboard.json").read_text(encoding="utf-8"))
    (found,) = (c for c in board["corpora"] if c["name"] == corpus)
    both = [row | {"track": track} for track in found["tracks"] for row in track["rows"]]
    return sorted(both, key=lambda row: -row["mean"])


def name(row: dict[str, Any]) -> str:
    """What the first cell of a row says."""
    control = ", the control" if row["method"] == "finetune" else ""
    return row["title"] + control + ("" if row["preset"] == "small" else f", `{row['preset']}`")


def against_control(row: dict[str, Any]) -> str:
    """The difference from `finetune` with the same encoder, as ``erc-bench compare`` gives it."""
    track = [(each["method"], each["preset"]) for each in row["track"]["rows"]]
    assert len(set(track)) == len(track), "two rows with one name; the page must tell them apart"
    if row["method"] == "finetune" or ("finetune", row["preset"]) not in track:
        return ""
    own = track.index((row["method"], row["preset"]))
    control = track.index(("finetune", row["preset"]))
    (pair,) = (p for p in row["track"]["pairs"] if {p["first"], p["second"]} == {own, control})
    sign = 1 if pair["first"] == own else -1
    low, high = (signed(end) for end in sorted(sign * end for end in pair["interval"]))
    seeds = pair["paired_seeds"]
    gapless = seeds == list(range(seeds[0], seeds[-1] + 1)) and len(seeds) > 1
    which = f"{seeds[0]}–{seeds[-1]}" if gapless else ", ".join(map(str, seeds))
    which = f"seeds {which}" if len(seeds) > 1 else f"seed {which}"
    return f"{signed(sign * pair['difference'])} ({low} to {high}), {which}"


def test_the_documented_commands_make_every_record():
    _, part = RESULTS.split("## How it was made\n", 1)
    block = re.search(r"^(?:    .*\n)+", part, re.MULTILINE)
    assert block
    lines = [line.split("#")[0] for line in block[0].splitlines() if " erc-bench run " in line]
    planned = set()
    for line in lines:
        _, given, _ = app.parse_args(shlex.split(line)[1:])
        for e in experiments(*given.args, **given.kwargs):
            planned.add((e.dataset, e.method, e.hash, str(e.seed)))
    made = set()
    for path in BOARD.glob("records/*/*/*.json"):
        config, _, seed = path.stem.partition("-")
        made.add((*path.parts[-3:-1], config, seed.rpartition("seed")[2]))
    assert planned == made


def test_the_readme_shows_meld_as_it_is():
    shown = table(README, "", "seeds", "here", "published")
    expected = []
    for row in rows("meld"):
        half = (row["seed_interval"][1] - row["mean"],) if row["seed_interval"] else ()
        figure = " ± ".join(f"{value:.2f}" for value in (row["mean"], *half))
        published = f"{row['published']['weighted_f1']:.2f}" if row["published"] else ""
        expected.append([name(row), str(len(row["seeds"])), figure, published])
    assert [[*cells[:3], cells[3].split(",")[0]] for cells in shown] == expected


def test_the_results_on_meld():
    head = ("", "seeds", "test", "dev", "selected by", "against `finetune`, test")
    assert table(RESULTS, *head) == [
        [
            name(row),
            str(len(row["seeds"])),
            f"{row['mean']:.2f}",
            f"{row['dev_weighted_f1']:.2f}",
            row["selection"].replace("weighted_f1", "weighted-F1"),
            against_control(row),
        ]
        for row in rows("meld")
    ]


def test_the_results_on_emorynlp():
    assert table(RESULTS, "weighted-F1", "release", "seeds", "test", "dev") == [
        [
            name(row),
            release,
            str(len(row["seeds"])),
            f"{row['mean']:.2f}",
            f"{row['dev_weighted_f1']:.2f}",
        ]
        for release, corpus in (("full", "emorynlp"), ("reduced", "emorynlp-reduced"))
        for row in rows(corpus)
    ]
