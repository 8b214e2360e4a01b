"""Records are written whole or not at all, and read with care."""

import json
from pathlib import Path

import pytest

from erc_bench.errors import ErcBenchError
from erc_bench.records.store import (
    RecordError,
    finished,
    read_record,
    record_files,
    record_path,
    write_record,
)
from erc_bench.settings.experiment import resolve

RECORD = {
    "schema": 1,
    "method": "eacl",
    "dataset": "demo",
    "config_hash": "0" * 12,
    "seed": 1,
    "labels": ["joy", "anger"],
    "metrics": {"dev": {"weighted_f1": 61.0}, "test": {"weighted_f1": 59}},
    "predictions": {},
}


def test_what_is_written_is_read_and_found(tmp_path: Path) -> None:
    experiment = resolve("eacl", "demo")
    path = record_path(tmp_path, experiment)
    assert finished(tmp_path, experiment) is None
    write_record(path, RECORD)
    assert finished(tmp_path, experiment) == RECORD
    assert list(record_files(tmp_path)) == [path]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        [],
        {"test": {"weighted_f1": 50.0}},
        {"test": {"weighted_f1": "50"}, "dev": {"weighted_f1": 50.0}},
        {"test": {"weighted_f1": 50.0}, "dev": {"weighted_f1": float("nan")}},
    ],
)
def test_a_record_without_its_scores_finishes_no_run(tmp_path: Path, metrics) -> None:
    experiment = resolve("eacl", "demo")
    path = record_path(tmp_path, experiment)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**RECORD, "metrics": metrics}))
    with pytest.raises(RecordError, match="--force") as caught:
        finished(tmp_path, experiment)
    assert str(path) in str(caught.value)


def test_a_failed_write_leaves_the_old_record_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "records" / "demo" / "eacl" / "r.json"
    write_record(path, RECORD)
    with pytest.raises(TypeError):
        write_record(path, {**RECORD, "metrics": object()})
    assert read_record(path) == RECORD
    assert [p.name for p in path.parent.iterdir()] == ["r.json"]


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "records").write_text("not a folder")
    with pytest.raises(ErcBenchError, match="--leaderboard-dir"):
        write_record(tmp_path / "records" / "demo" / "r.json", RECORD)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a readable record"),
        ("[]", "lacks"),
        ("\xff", "not a readable record"),
        (json.dumps({"schema": 1}), "lacks method, dataset"),
        (json.dumps({**RECORD, "schema": 99}), "Upgrade"),
    ],
)
def test_a_broken_record_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(RecordError, match=words) as caught:
        read_record(path)
    assert str(path) in str(caught.value)
