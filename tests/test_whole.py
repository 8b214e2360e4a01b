"""The whole suite through its command line: a grid of all methods, and commands that read it.

The tests use real processes, the packaged encoder and the preset that is made for tests.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from erc_bench.records import store
from erc_bench.settings.registry import method_names

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

GRID = ("run", "--method", "all", "--dataset", "demo", "--seeds", "3", "--jobs", "2")
GRID += ("--preset", "smoke")
TALK = "Ann: I am so happy today!\nBob: Oh no, my bike is broken.\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the grid was run."""
    folder = tmp_path_factory.mktemp("whole")
    said = erc_bench(folder, *GRID)
    assert "± " in said
    return folder


def erc_bench(folder: Path, *words: str, given: str = "", **environment: str) -> str:
    """Run a command, which must succeed, and return its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "erc_bench.cli", *words],
        cwd=folder,
        input=given,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def records(folder: Path, method: str = "*") -> list[Path]:
    return sorted((folder / "leaderboard/records/demo").glob(f"{method}/*.json"))


def run_name(folder: Path, method: str) -> str:
    """Name of a method's run with seed 1."""
    path = next(p for p in records(folder, method) if p.stem.endswith("-seed1"))
    return store.run_name(path)


def test_the_grid_leaves_a_record_for_every_method_and_seed(folder: Path) -> None:
    found = {(p.parent.name, p.stem.rpartition("-")[2]) for p in records(folder)}
    assert found == {(m, f"seed{k}") for m in method_names() for k in (1, 2, 3)}
    before = {p: p.read_bytes() for p in records(folder)}
    erc_bench(folder, *GRID)
    assert {p: p.read_bytes() for p in records(folder)} == before


def test_the_leaderboard_shows_all_runs_and_is_then_up_to_date(folder: Path) -> None:
    erc_bench(folder, "leaderboard")
    files = [path for path in (folder / "leaderboard").iterdir() if path.is_file()]
    made = {path.name: path.read_text(encoding="utf-8") for path in files}
    assert all(f",{method}," in made["leaderboard.csv"] for method in method_names())
    assert made["README.md"].count("(smoke) |") == len(method_names())
    assert "<title>" in made["index.html"]
    (demo,) = json.loads(made["leaderboard.json"])["tryouts"]
    assert {row["method"]: row["seeds"] for t in demo["tracks"] for row in t["rows"]} == {
        method: [1, 2, 3] for method in method_names()
    }
    assert "up to date" in erc_bench(folder, "leaderboard", "--check")


def test_two_methods_are_compared_over_their_seeds(folder: Path) -> None:
    said = erc_bench(folder, "compare", "spcl", "finetune", "--dataset", "demo")
    assert "seeds are independent samples" in said


def test_a_run_can_be_shown_and_explained(folder: Path) -> None:
    name = run_name(folder, "eacl")
    record = json.loads(records(folder, "eacl")[0].read_text(encoding="utf-8"))
    shown = erc_bench(folder, "show", name)
    assert f"{record['metrics']['test']['weighted_f1']:.2f}" in shown
    assert "temperature: 0.1" in shown
    worst = erc_bench(folder, "explain", name).splitlines()[1].split()[0]
    assert worst in erc_bench(folder, "explain", name, "--dialogue", worst)


# One method of each kind; tests/test_prediction.py has more methods.
@pytest.mark.parametrize("method", ["eacl", "dag-erc", "prompt-lm"])
def test_a_run_predicts_new_dialogues(folder: Path, method: str) -> None:
    said = erc_bench(folder, "predict", run_name(folder, method), "--json", given=TALK)
    answers = [json.loads(line) for line in said.splitlines()]
    assert [answer["speaker"] for answer in answers] == ["Ann", "Bob"]
    for answer in answers:
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=0.001)


def test_external_predictions_get_the_same_score_and_rescore_changes_nothing(
    folder: Path,
) -> None:
    record = json.loads(records(folder, "spcl")[0].read_text(encoding="utf-8"))
    held = record["predictions"]["test"]
    with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
        for name, label in zip(held["ids"], held["predicted"], strict=True):
            file.write(json.dumps({"id": name, "label": record["labels"][label]}) + "\n")
    erc_bench(folder, *["score", "predictions.jsonl", "--dataset", "demo", "--name", "my-llm"])
    (scored,) = records(folder, "my-llm")
    outside = json.loads(scored.read_text(encoding="utf-8"))
    for figure in ("weighted_f1", "accuracy", "macro_f1", "per_class", "confusion"):
        assert outside["metrics"]["test"][figure] == record["metrics"]["test"][figure]
    assert outside["external"] is True
    before = {p: p.read_bytes() for p in records(folder)}
    erc_bench(folder, "rescore")
    assert {p: p.read_bytes() for p in records(folder)} == before
    scored.unlink()
