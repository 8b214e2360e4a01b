"""The tables and commands of docs/tables.py on made-up records: tuned, variants, overrides."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_records import SMALL, Method, write_records

from docs import tables
from erc_bench.cli import app, tune
from erc_bench.leaderboard import build
from erc_bench.leaderboard.board import read_board
from erc_bench.leaderboard.latex import to_latex
from erc_bench.leaderboard.wording import configuration, full_name


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """A function that makes the leaderboard of some methods on MELD, which docs/tables reads."""

    def make(*methods: Method) -> Path:
        write_records(tmp_path, methods, ["meld"], 30)
        build(tmp_path)
        return tmp_path

    monkeypatch.setattr(tables, "BOARD", tmp_path)
    tables.corpora.cache_clear()
    yield make
    tables.corpora.cache_clear()


def small(name: str, ability: float = 0.0, seeds: tuple[int, ...] = (1, 2), **changes: Any) -> Any:
    """A method with preset small."""
    return Method(name, ability, seeds, SMALL, "small", changes=changes)


def tuned(
    name: str,
    ability: float,
    seeds: tuple[int, ...] = (1, 2),
    *,
    fixed: tuple[str, ...] = (),
    seed: int = 0,
) -> Method:
    """A method with the settings that trial 3 of 8 drew; ``fixed`` settings were given by hand."""
    search = {"trials": 8, "sampler": "random", "sampler_seed": seed, "chosen": 3}
    search |= {"space": {"lr": {"log": [1e-5, 1e-3]}}, "digest": f"{seed}{len(fixed)}" * 32}
    return small(name, ability, seeds, tuned=search, overrides=[*fixed, "lr=0.0002"])


FIXED, ANOTHER = ("epochs=2", "select_on=loss"), 5


def rows(table: str) -> list[list[str]]:
    """The cells of a Markdown table's body."""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line[2:-2].split(" | ")] for line in lines[2:]]


def test_tables_without_runs_are_empty(board: Callable[..., Path]) -> None:
    board(small("finetune"))
    assert (tables.tuned(), tables.ablations()) == ("", "")
    assert len(rows(tables.results())) == 1


def test_the_command_of_a_tuned_row_has_the_arguments_of_its_search(board) -> None:
    board(
        tuned("eacl", 0.4, fixed=FIXED, seed=ANOTHER),
        tuned("finetune", 0.1),
        small("finetune", overrides=["encoder=a folder"]),
    )
    found = {}
    for command in tables.commands():
        what, given, _ = app.parse_args(shlex.split(command)[1:])
        given.apply_defaults()
        found[(what, *given.arguments["method"])] = given.arguments
    searched = found[tune.tune, "eacl"]
    assert searched["overrides"] == FIXED  # without those that the trial drew
    assert (searched["sampler_seed"], searched["trials"], searched["seeds"]) == (ANOTHER, 8, 2)
    default = inspect.signature(tune.tune).parameters["sampler_seed"].default
    assert found[tune.tune, "finetune"]["sampler_seed"] == default
    assert found[tune.tune, "finetune"]["overrides"] == ()
    (plain,) = (given for (what, _), given in found.items() if what is not tune.tune)
    assert plain["overrides"] == ("encoder=a folder",)


def test_the_leaderboard_tells_searches_of_one_method_apart(board) -> None:
    root = board(tuned("eacl", 0.4, fixed=FIXED, seed=ANOTHER), tuned("eacl", 0.2, (3, 4)))
    found = read_board(root)
    (track,) = next(corpus.tracks for corpus in found.corpora if corpus.tracks)
    assert sorted(map(configuration, track.rows)) == [
        "small, epochs=2, select_on=loss, trial 3 of 8, sampler's seed 5",
        "small, trial 3 of 8",
    ]
    assert len(set(map(full_name, track.rows))) == 2
    assert r"epochs=2 select\_on=loss" in to_latex(found)


def test_tuned_rows_have_their_own_table_and_are_compared_with_the_tuned_control(board) -> None:
    board(
        *(small("finetune", 0.0), small("eacl", 0.1)),
        *(tuned("finetune", 0.3), tuned("eacl", 0.6, fixed=FIXED)),
    )
    plain, searched = rows(tables.results()), rows(tables.tuned())
    assert len(plain) == len(searched) == 2
    assert not any("tuned" in cell for row in plain for cell in row)
    for of_track, name in ((plain, 1), (searched, 0)):
        means = {row[name].split(",")[0]: row for row in of_track}
        eacl, control = means["EACL"], means["finetune"]
        assert control[-2:] == ["", ""]
        at = eacl.index(next(cell for cell in eacl if "±" in cell))
        less = float(eacl[at].split()[0]) - float(control[at].split()[0])
        assert float(eacl[-2].split()[0]) == pytest.approx(less, abs=0.011)
    assert "`epochs=2`, `select_on=loss`, tuned in 8 trials" in tables.tuned()
    # EACL was not run with its preset and the fixed settings, so there is nothing to compare.
    assert {row[0].split(",")[0]: bool(row[-3]) for row in searched} == {
        "finetune": True,
        "EACL": False,
    }
    found = next(row for row in searched if row[0].startswith("finetune"))
    control = next(row for row in plain if row[1].startswith("finetune"))
    less = float(found[4].split()[0]) - float(control[4].split()[0])
    assert float(found[-3].split()[0]) == pytest.approx(less, abs=0.011)


def test_a_search_that_its_preset_won_says_so() -> None:
    assert tables.minus_preset({"tuned": {"chosen": 0}}, {}, "meld") == "the preset won"


def test_each_row_of_a_method_is_compared_with_the_control(board) -> None:
    board(
        small("finetune"),
        small("eacl", 0.5),
        small("eacl", -0.2, overrides=["group_by_length=false"]),
    )
    less = {row[1]: float(row[-2].split()[0].replace("−", "-")) for row in rows(results())}
    assert less["EACL"] > 0 > less["EACL, `group_by_length=false`"]


def results() -> str:
    """The table of MELD without the control's own row, which has no difference."""
    lines = tables.results().splitlines()
    return "\n".join(line for line in lines if "the control |" not in line)


def test_variants_are_in_the_table_of_their_method_alone(board) -> None:
    board(small("finetune"), small("eacl", 0.4), small("eacl", 0.1, variant="no-angle"))
    assert [row[0] for row in rows(tables.ablations())] == ["the whole method", "no-angle"]
    assert "Parts of EACL" in tables.ablations()
    assert "no-angle" not in tables.results() + tables.published("meld")
    assert any("--variant no-angle" in command for command in tables.commands())


def test_one_command_makes_the_board_and_the_pages(board, tmp_path, monkeypatch, capsys) -> None:
    root = board(small("finetune"))
    page = tmp_path / "page.md"
    page.write_text("<!-- table: results -->\nold\n<!-- end of table -->\n", encoding="utf-8")
    monkeypatch.setattr(tables, "PAGES", [page])
    monkeypatch.setattr(tables, "PICTURE", tmp_path / "picture.svg")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    write_records(root, [small("eacl", 0.5)], ["meld"], 30)
    assert tables.main(["--check"]) == 1
    assert "leaderboard.json" in capsys.readouterr().out
    assert (tables.main([]), tables.main(["--check"])) == (0, 0)
    assert "EACL" in page.read_text(encoding="utf-8")
    assert "eacl" in (root / "leaderboard.json").read_text(encoding="utf-8")
