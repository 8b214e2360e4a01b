"""Rows with different budgets are never ranked together; the expected best of a search."""

from __future__ import annotations

import csv
import io
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from synthetic_records import Method, record, write_records

from erc_bench.errors import ErcBenchError
from erc_bench.evaluation.budget import expected_best
from erc_bench.leaderboard import build, compare_methods, read_board
from erc_bench.leaderboard.page import picture
from erc_bench.leaderboard.tables import to_csv
from erc_bench.leaderboard.wording import budgets
from erc_bench.records.parsing import typed
from erc_bench.records.trials import Trial, write_trial

SPACE = {"lr": {"log": [1e-4, 1e-2]}}


@pytest.mark.parametrize("scores", [[3.0], [1.0, 2.0], [5.0, 1.0, 1.0, 0.0, 9.0, 4.0, 4.5]])
def test_the_expected_best_is_the_mean_over_all_subsets(scores: list[float]) -> None:
    brute = [
        sum(map(max, subsets)) / len(subsets)
        for n in range(1, len(scores) + 1)
        if (subsets := list(combinations(scores, n)))
    ]
    assert expected_best(scores) == pytest.approx(brute)


def test_the_expected_best_of_thousands_of_trials() -> None:
    expected = expected_best([50.0] * 3000)
    assert expected == pytest.approx([50.0] * 3000)


def test_the_expected_best_is_unbiased() -> None:
    """The expected best of two independent draws from 1 … 6 is 161/36."""
    pairs = [max(a, b) for a in range(1, 7) for b in range(1, 7)]
    triples = [
        expected_best([a, b, c])[1] for a in range(1, 7) for b in range(1, 7) for c in range(1, 7)
    ]
    assert sum(triples) / len(triples) == pytest.approx(sum(pairs) / len(pairs))


def tuned(trials: int, digest: str = "ab", **changes: Any) -> dict[str, Any]:
    """Fields of a record whose settings a search has chosen."""
    search = {"trials": trials, "sampler": "random", "sampler_seed": 0, "space": SPACE}
    search |= {"chosen": 3, "digest": digest * 32}
    return {"tuned": search, "overrides": ["lr=0.002"], **changes}


def trial(method: str, number: int, score: float | None, **changes: Any) -> Trial:
    """A made-up trial."""
    made = record(Method(method, preset="small"), "meld", 1, 20)
    dev = {**made["metrics"]["dev"], "weighted_f1": score} if score is not None else None
    return typed(
        {
            "study": f"{method}-study",
            "number": number,
            "outcome": "finished" if dev else "diverged",
            "method": method,
            "dataset": "meld",
            "dataset_digest": made["dataset_digest"],
            "preset": "small",
            "fixed": [],
            "drawn": [f"lr=0.00{number}"] if number else [],
            "config": {},
            "config_hash": f"{number:012}",
            "seed": 1_000_000 + number,
            "sampler": "random",
            "sampler_seed": 0,
            "space": SPACE,
            "selection": "dev weighted_f1",
            "encoder": made["encoder"],
            "dev": dev,
            **changes,
        },
        Trial,
    )


SCORES: dict[str, list[float | None]] = {"a": [50.0, 53.0, None, 51.0], "b": [52.0, 51.0, 55.0]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of two methods, untuned and tuned in 20 trials, one also in 8; and trials."""
    folder = tmp_path_factory.mktemp("budgets")
    rows = [Method("a", 0.2), Method("b", 0.0)]
    # A search may choose the preset itself: the same settings, seeds and weights, another budget.
    twin = {"config_hash": rows[0].config_hash, "overrides": []}
    rows += [Method("a", 0.2, changes=tuned(20) | twin), Method("b", 0.4, changes=tuned(20))]
    rows += [Method("b", 0.9, (7, 8, 9), changes=tuned(8, "cd", context="past"))]
    write_records(folder, rows, ["meld"], 60)
    for method, scores in SCORES.items():
        for number, score in enumerate(scores):
            made = trial(method, number, score)
            path = folder / "tuning" / "meld" / method / f"study-data-trial{number:03}.json"
            write_trial(path, made)
    return folder


def test_a_track_holds_one_budget(root: Path) -> None:
    board = read_board(root)
    assert board.skipped == []
    (meld,) = (corpus for corpus in board.corpora if corpus.name == "meld")
    tracks = {track.budget: [row.method for row in track.rows] for track in meld.tracks}
    assert {budget: sorted(rows) for budget, rows in tracks.items()} == {
        "": ["a", "b"],
        "random search, 20 trials": ["a", "b"],
        "random search, 8 trials": ["b"],
    }
    alone = next(track for track in meld.tracks if "8 trials" in track.budget)
    assert [row.rank for row in alone.rows] == [None]
    for track in meld.tracks:
        assert {row.tuned and row.tuned["trials"] for row in track.rows} == {
            int(track.budget.split()[2]) if track.budget else None
        }


def test_page_readme_and_csv_state_the_budget(root: Path) -> None:
    build(root)
    page, readme = (
        (root / "index.html").read_text(encoding="utf-8"),
        (root / "README.md").read_text(encoding="utf-8"),
    )
    for text in (page, readme):
        assert "each row tuned: random search, 20 trials" in text
        assert "trial 3 of 20" in text
    rows = csv.DictReader(io.StringIO(to_csv(read_board(root))))
    assert sorted(row["trials"] for row in rows if row["kind"] == "ours") == [
        "",
        "",
        "20",
        "20",
        "8",
    ]


def test_compare_takes_equal_budgets_or_says_that_they_differ(root: Path) -> None:
    plain = compare_methods(root, "a", "b", "meld")
    assert "trials" not in plain.a.configuration + plain.b.configuration
    searched = compare_methods(root, "a:tuned", "b", "meld")
    assert "20 trials" in searched.a.configuration
    assert "20 trials" in searched.b.configuration
    assert not any("search budgets differ" in caveat for caveat in searched.caveats)
    unlike = compare_methods(root, "a:paper", "b:cdcd", "meld")
    assert any("random search, 8 trials" in caveat for caveat in unlike.caveats)
    with pytest.raises(ErcBenchError, match="several configurations"):
        compare_methods(root, "b:tuned", "b:tuned", "meld")


def test_searches_are_listed_beside_the_tracks(root: Path) -> None:
    (meld,) = (corpus for corpus in read_board(root).corpora if corpus.name == "meld")
    (group,) = meld.searches
    assert [row.method for row in group.rows] == ["b", "a"]
    b, a = group.rows
    assert (b.trials, b.failed, b.preset_score, b.best, b.chosen) == (3, 0, 52.0, 55.0, 2)
    assert b.settings == ["lr=0.002"]
    assert (a.trials, a.failed, a.best) == (4, 1, 53.0)
    assert a.expected == pytest.approx(expected_best([50.0, 53.0, 0.0, 51.0]), abs=1e-4)
    assert budgets(group) == [1, 2, 4]


def test_every_search_of_a_method_is_listed_with_its_overrides(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    fixed = {"study": "other", "fixed": ["features.per_seed=true"]}
    for number, made in enumerate([trial("a", 0, 50.0), trial("a", 0, 60.0, **fixed)]):
        folder = tmp_path / "tuning" / "meld" / "a"
        write_trial(folder / f"study{number}-data-trial000.json", made)
    (meld,) = (corpus for corpus in read_board(tmp_path).corpora if corpus.searches)
    (group,) = meld.searches
    assert [row.name for row in group.rows] == ["a, features.per_seed=true", "a"]
    assert [curve.title for curve in picture(group).curves] == [row.name for row in group.rows]


@pytest.mark.parametrize(("score", "shown"), [(None, "| 2 | 1 | failed |"), (0, "| 1 | 0 | – |")])
def test_a_trial_0_without_a_result_did_not_fail(
    tmp_path: Path, score: float | None, shown: str
) -> None:
    (tmp_path / "records").mkdir()
    folder = tmp_path / "tuning" / "meld" / "a"
    if score is None:
        write_trial(folder / "study-data-trial000.json", trial("a", 0, None))
    write_trial(folder / "study-data-trial001.json", trial("a", 1, 50.0))
    build(tmp_path)
    assert shown in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_searches_of_a_further_folder_are_listed_once(root: Path, tmp_path: Path) -> None:
    (alone,) = (c for c in read_board(root).corpora if c.searches)
    for folders in ((tmp_path, [root]), (root, [root])):
        (found,) = (c for c in read_board(*folders).corpora if c.searches)
        assert found.searches == alone.searches


def test_the_picture_has_a_curve_and_a_separate_name_for_every_method(root: Path) -> None:
    (meld,) = (corpus for corpus in read_board(root).corpora if corpus.name == "meld")
    drawn = picture(meld.searches[0])
    assert [curve.title for curve in drawn.curves] == ["b", "a"]
    assert [len(curve.dots) for curve in drawn.curves] == [3, 4]
    heights = [float(curve.label) for curve in drawn.curves]
    assert heights[1] - heights[0] >= 12
    for curve in drawn.curves:  # more trials have a better best, and higher means a smaller y
        ys = [float(y) for _, y in curve.dots]
        assert ys == sorted(ys, reverse=True)
    build(root)
    page = (root / "index.html").read_text(encoding="utf-8")
    assert page.count("<polyline") == 2
    assert "E best of 4" in page


def test_damaged_trials_are_left_out_and_reported(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "tuning" / "meld" / "a" / "study-data-trial000.json"
    write_trial(path, trial("a", 0, 50.0))
    path.with_name("study-data-trial001.json").write_text("{}", encoding="utf-8")
    (tmp_path / "records").mkdir()
    board = read_board(tmp_path)
    (skipped,) = board.skipped
    assert "trial001.json" in skipped.reason
