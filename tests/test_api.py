"""The Python interface that ``import erc_bench`` offers."""

from pathlib import Path

import numpy as np
import pytest
import torch

import erc_bench
from erc_bench.api import _overrides
from erc_bench.corpus.conversation import Corpus, Dialogue, Utterance
from erc_bench.errors import ErcBenchError
from erc_bench.settings.experiment import resolve


@pytest.fixture(scope="module")
def finished(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    """The folder and the run of a quick training."""
    folder = tmp_path_factory.mktemp("api")
    settings = {"encoder": tiny_encoder, "max_batches": 2, "max_len": 32, "precision": "float32"}
    return folder, erc_bench.run(
        "finetune", "demo", preset="smoke", settings=settings, folder=folder
    )


def test_every_public_name_exists() -> None:
    assert dir(erc_bench) == sorted(erc_bench.__all__)
    assert all(hasattr(erc_bench, name) for name in erc_bench.__all__)
    with pytest.raises(AttributeError, match="no attribute 'load_corpse'"):
        _ = erc_bench.load_corpse


def test_a_text_among_the_settings_stays_a_text() -> None:
    texts = {"base_url": "", "revision": "0123", "encoder": "no"}
    config = resolve("prompt-lm", "demo", overrides=_overrides(texts)).config
    assert {name: getattr(config, name) for name in texts} == texts


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
    talk = folder / "talk.txt"
    talk.write_text("".join(f"{turn.speaker}: {turn.text}\n" for turn in turns), encoding="utf-8")
    assert [a.label for a in run.predict(str(talk))] == [answer.label for answer in answers]
    assert repr(run) == f"Run({str(run.path)!r})"


def test_wrong_dialogues_seeds_modes_and_folders_are_errors(finished, tmp_path) -> None:
    _, run = finished
    for given, said in (
        ([{"speaker": "Ilse", "text": "Hooray!"}], "Give a list of dialogues"),
        ([], "There is no dialogue"),
        (str(tmp_path / "talk.txt"), "talk.txt can't be read"),
    ):
        with pytest.raises(ErcBenchError, match=said):
            run.predict(given)
    for seed in ("a", -1):
        with pytest.raises(ErcBenchError, match="whole number from 0 on"):
            erc_bench.run("finetune", "demo", preset="smoke", seed=seed, folder=tmp_path)
    with pytest.raises(ErcBenchError, match=r"wandb=ofline is not .* Did you mean 'offline'"):
        erc_bench.run("finetune", "demo", preset="smoke", wandb="ofline", folder=tmp_path)
    with pytest.raises(ErcBenchError, match="There is no folder"):
        erc_bench.load_leaderboard(tmp_path / "none")


def test_encode_gives_the_states_that_a_run_classifies(finished, tiny_encoder: str) -> None:
    _, run = finished
    some = erc_bench.load_corpus("demo").dialogues("test")[3:6]
    encoded = erc_bench.encode(run, some)
    turns = [turn for dialogue in some for turn in dialogue.utterances]
    assert encoded.ids == [turn.id for turn in turns]
    assert encoded.vectors.shape == (len(turns), 32)
    assert encoded.about["model"]["digest"] == run.record.model.sha256
    with torch.no_grad():
        shares = run.model.method.eval().head(torch.from_numpy(encoded.vectors)).softmax(dim=1)
    for answer, row in zip(run.predict(some), shares, strict=True):
        assert list(answer.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-4)


def test_encode_by_a_run_keeps_turns_and_vectors_together(finished) -> None:
    """Whatever the order of a corpus's splits."""
    _, run = finished
    demo = erc_bench.load_corpus("demo")
    some = {split: demo.dialogues(split)[:1] for split in ("test", "train")}
    both = erc_bench.encode(run, Corpus.build("demo", demo.labels, some))
    alone = erc_bench.encode(run, some["test"])
    rows = [both.ids.index(i) for i in alone.ids]
    np.testing.assert_allclose(both.vectors[rows], alone.vectors, atol=1e-5)


def test_an_encoder_gives_vectors_of_dialogues(tiny_encoder: str) -> None:
    some = erc_bench.load_corpus("demo").dialogues("test")[:1]
    encoded = erc_bench.encode(tiny_encoder, some, settings={"max_len": 8})
    assert encoded.vectors.shape == (len(some[0]), 32)
    assert encoded.about["settings"]["max_len"] == 8


def test_the_leaderboard_is_a_table(finished) -> None:
    folder, run = finished
    table = erc_bench.load_leaderboard(folder)
    (row,) = table[table.corpus == "demo"].to_dict("records")
    assert row["kind"] == "tryout"
    assert row["weighted_f1"] == pytest.approx(run.record.metrics.test.weighted_f1, abs=0.005)
