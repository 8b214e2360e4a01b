"""What ``import erc_bench`` offers."""

from pathlib import Path

import pytest

import erc_bench
from erc_bench.corpus.conversation import Dialogue, Utterance


@pytest.fixture(scope="module")
def finished(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    """The folder and the run of a quick training."""
    folder = tmp_path_factory.mktemp("api")
    settings = {"encoder": tiny_encoder, "max_batches": 2, "max_len": 32, "precision": "float32"}
    return folder, erc_bench.run(
        "finetune", "demo", preset="smoke", settings=settings, folder=folder
    )


def test_everything_that_is_offered_is_there() -> None:
    assert set(erc_bench.__all__) <= set(dir(erc_bench)) | {
        name for name in erc_bench.__all__ if hasattr(erc_bench, name)
    }
    with pytest.raises(AttributeError, match="no attribute 'load_corpse'"):
        _ = erc_bench.load_corpse


def test_a_run_is_done_once_and_found_again(finished) -> None:
    folder, run = finished
    assert run.record.overrides[1] == "max_batches=2"
    again = erc_bench.load_run("finetune/demo", folder=folder)
    assert again.path == run.path
    assert again.record == run.record


def test_a_run_predicts_dialogues(finished) -> None:
    folder, run = finished
    turns = (Utterance("a", "Ilse", "Hooray, it is lovely!"), Utterance("b", "Oskar", "I see."))
    answers = erc_bench.predict("finetune/demo", [Dialogue("d", turns)], folder=folder)
    assert [answer.speaker for answer in answers] == ["Ilse", "Oskar"]
    assert {answer.label for answer in answers} <= set(run.record.labels)
    assert erc_bench.predict(run, [Dialogue("d", turns)]) == answers


def test_the_leaderboard_is_a_table(finished) -> None:
    folder, run = finished
    table = erc_bench.load_leaderboard(folder)
    (row,) = table[table.corpus == "demo"].to_dict("records")
    assert row["kind"] == "trial"
    assert row["weighted_f1"] == pytest.approx(run.record.metrics.test.weighted_f1, abs=0.005)
