"""The tables of README.md and docs/results.md are what ``python -m docs.tables`` writes."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest

<<<<<<< HEAD
from docs import tables
from erc_bench.cli import app
from erc_bench.cli.run import experiments
from erc_bench.records.store import read_record, record_files
=======
from erc_bench.cli import app
from erc_bench.cli.run import experiments
from erc_bench.leaderboard.tables import signed

BOARD = ROOT / "leaderboard"
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
>>>>>>> cli


@pytest.fixture(autouse=True, scope="module")
def only_committed_records() -> None:
    """Whoever has made records of their own in ./leaderboard has other tables."""
    command = ["git", "-C", str(tables.BOARD), "ls-files", "--others", "--modified", "records"]
    try:
        own = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git does not say which records are the project's")
    if own:
        pytest.skip("./leaderboard has other records than the project's")


def test_the_tables_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["--check"]) == 0, f"run `python -m docs.tables`: {capsys.readouterr().out}"


def test_every_table_has_its_place() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in tables.PAGES)
    assert sorted(re.findall("<!-- table: (.+?) -->", pages)) == sorted(tables.TABLES)


def test_a_stale_table_is_found_and_written(tmp_path, monkeypatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("Before\n\n<!-- table: commands -->\nold\n<!-- end of table -->\n\nAfter\n")
    monkeypatch.setattr(tables, "PAGES", [page])
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    assert (tables.main(["--check"]), "old" in page.read_text()) == (1, True)
    assert (tables.main([]), "old" in page.read_text()) == (0, False)
    assert tables.main(["--check"]) == 0
    assert page.read_text().startswith("Before\n\n<!-- table: commands -->\n")
    assert page.read_text().endswith("<!-- end of table -->\n\nAfter\n")


<<<<<<< HEAD
def test_the_commands_make_every_record() -> None:
    """By method, corpus, settings and seed; nothing is run."""
    planned = set()
    for command in tables.commands():
        _, given, _ = app.parse_args(shlex.split(command, comments=True)[1:])
        seeds = given.arguments["seeds"]
        wanted = {name: given.arguments[name] for name in ("method", "dataset", "preset")}
        for each in experiments(**wanted, seeds=seeds):
            planned.add((each.method, each.dataset, each.hash, each.seed))
    records = [read_record(path) for path in record_files(tables.BOARD)]
    assert {(r.method, r.dataset, r.config_hash, r.seed) for r in records} == planned
=======
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
>>>>>>> cli
