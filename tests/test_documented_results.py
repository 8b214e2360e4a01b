"""The tables of README.md and docs/results.md are those of the committed records, all of them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from typing import Any

import pytest
from conftest import ROOT

from erc_bench.cli import build_parser, experiments
from erc_bench.records import record_path

BOARD = ROOT / "leaderboard"
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
RELEASES = {"full": "emorynlp", "reduced": "emorynlp-reduced"}


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


def tables(page: str) -> list[list[list[str]]]:
    """The cells of every table of a page, without its head."""
    found = re.findall(r"^(?:\|.*\|\n)+", page, re.MULTILINE)
    return [
        [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()[2:]]
        for table in found
    ]


def rows(corpus: str) -> list[dict[str, Any]]:
    """The leaderboard's rows on a corpus, best first, each with ``track`` and its number there."""
    board = json.loads((BOARD / "leaderboard.json").read_text(encoding="utf-8"))
    (found,) = (c for c in board["corpora"] if c["name"] == corpus)
    numbered = [
        row | {"track": track, "number": i}
        for track in found["tracks"]
        for i, row in enumerate(track["rows"])
    ]
    return sorted(numbered, key=lambda row: -row["mean"])


def number(value: float, form: str = ".2f") -> str:
    """As the pages write it."""
    return format(value, form).replace("-", "−")


def name(row: dict[str, Any]) -> str:
    """What the first cell of a row says."""
    control = ", the control" if row["method"] == "finetune" else ""
    return row["title"] + control + (", `base`" if row["preset"] == "base" else "")


def against_control(row: dict[str, Any]) -> str:
    """The difference from `finetune` on test, as ``erc-bench compare`` gives it."""
    controls = [r["number"] for r in rows("meld") if r["method"] == "finetune"]
    if row["preset"] != "small" or row["method"] == "finetune":
        return ""
    both = sorted([row["number"], *controls])
    (pair,) = (p for p in row["track"]["pairs"] if [p["first"], p["second"]] == both)
    sign = 1 if pair["first"] == row["number"] else -1
    low, high = sorted(sign * end for end in pair["interval"])
    seeds = pair["paired_seeds"]
    difference = number(sign * pair["difference"], "+.2f")
    interval = f"({number(low, '+.2f')} to {number(high, '+.2f')})"
    return f"{difference} {interval}, seeds {seeds[0]}–{seeds[-1]}"


def test_the_documented_commands_make_every_record():
    block = re.search(r"^((?:    .*\n)+)", RESULTS, re.MULTILINE)
    assert block
    lines = [line.split("#")[0] for line in block[0].splitlines() if " erc-bench run " in line]
    parser = build_parser()
    planned = [e for line in lines for e in experiments(parser.parse_args(shlex.split(line)[1:]))]
    assert {record_path(BOARD, e) for e in planned} == set(BOARD.glob("records/*/*/*.json"))


def test_the_readme_shows_meld_as_it_is():
    (shown,) = (t for t in tables(README) if "±" in t[0][2])
    expected = []
    for row in rows("meld"):
        half = (row["seed_interval"][1] - row["mean"],) if row["seed_interval"] else ()
        figure = " ± ".join(number(value) for value in (row["mean"], *half))
        expected.append([name(row), str(len(row["seeds"])), figure])
    assert [cells[:3] for cells in shown] == expected
    for row, (*_, published) in zip(rows("meld"), shown, strict=True):
        if row["published"]:
            assert published.startswith(number(row["published"]["weighted_f1"]))
        else:
            assert not published


def test_the_results_on_meld():
    expected = [
        [
            name(row),
            str(len(row["seeds"])),
            number(row["mean"]),
            number(row["dev_weighted_f1"]),
            row["selection"].replace("weighted_f1", "weighted-F1"),
            against_control(row),
        ]
        for row in rows("meld")
    ]
    assert tables(RESULTS)[0] == expected


@pytest.mark.parametrize("release", RELEASES)
def test_the_results_on_emorynlp(release: str):
    expected = [
        [
            name(row),
            release,
            str(len(row["seeds"])),
            number(row["mean"]),
            number(row["dev_weighted_f1"]),
        ]
        for row in rows(RELEASES[release])
    ]
    (shown,) = (t for t in tables(RESULTS) if t[0][1] in RELEASES)
    assert [cells for cells in shown if cells[1] == release] == expected
