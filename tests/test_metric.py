"""The metric of a corpus: it is computed as in scikit-learn and shown everywhere."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score
from synthetic_records import EMOTIONS, Method, record, store, stored, write_records

from erc_bench.cli import main
from erc_bench.corpus.conversation import Corpus, Dialogue, LabelSet, Metric, Utterance
from erc_bench.errors import ErcBenchError
from erc_bench.evaluation import metrics, statistics
from erc_bench.evaluation.slices import confusions
from erc_bench.leaderboard import read_board, rescore
from erc_bench.leaderboard.latex import to_latex
from erc_bench.leaderboard.tables import to_csv, to_markdown
from erc_bench.settings.experiment import resolve

NAMES = ["calm", "annoyed", "angry", "glad"]
OTHERS = [1, 2, 3]
KINDS = {
    "weighted_f1": lambda y, p: f1_score(y, p, labels=range(4), average="weighted"),
    "macro_f1": lambda y, p: f1_score(
        y, p, labels=sorted({*y, *p} - {-1}), average="macro", zero_division=0
    ),
    "accuracy": accuracy_score,
    "micro_f1 without calm": lambda y, p: f1_score(
        y, p, labels=OTHERS, average="micro", zero_division=0
    ),
}


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 3)), min_size=1, max_size=40))
@pytest.mark.parametrize("written", KINDS)
def test_every_metric_equals_scikit_learn(written, pairs) -> None:
    gold, predicted = map(list, zip(*pairs, strict=True))
    metric = Metric.of(written, NAMES)
    assert str(metric) == written
    wanted = pytest.approx(100 * KINDS[written](gold, predicted), abs=1e-4)
    tensors = torch.tensor(predicted), torch.tensor(gold)
    assert metrics.score(*tensors, NAMES, metric) == wanted
    counts = confusions(np.array(gold), np.array([predicted]), 4)
    assert statistics.score(counts, metric, NAMES)[0] == wanted
    scored = statistics.resampled_scores(
        gold, [predicted], range(len(gold)), 4, resamples=3, metric=metric, labels=NAMES
    )
    assert scored.values[0] == wanted
    assert metrics.evaluate(*tensors, NAMES, None, metric)[metric.name] == wanted


def test_resamples_are_scored_by_the_metric() -> None:
    """The score of every resample is scikit-learn's score of the utterances drawn."""
    rng = np.random.default_rng(0)
    gold, predicted = rng.integers(0, 4, (2, 60))
    dialogues = np.repeat(np.arange(12), 5)
    metric = Metric("micro_f1", "calm")
    scored = statistics.resampled_scores(
        gold, [predicted], dialogues, 4, resamples=5, metric=metric, labels=NAMES
    )
    for times, draw in zip(statistics._multiplicities(12, 5, 0), scored.draws[:, 0], strict=True):
        chosen = np.repeat(np.arange(60), times[dialogues].astype(int))
        wanted = KINDS[str(metric)](gold[chosen], predicted[chosen])
        assert draw == pytest.approx(100 * wanted)


def test_scores_by_different_metrics_are_not_compared() -> None:
    gold, runs, dialogues = np.arange(40) % 4, np.arange(40)[None] % 3, np.arange(40) // 4
    usual = statistics.resampled_scores(gold, runs, dialogues, 4)
    other = statistics.resampled_scores(gold, runs, dialogues, 4, metric=Metric("accuracy"))
    with pytest.raises(ValueError, match="not scored on the same"):
        statistics.compare(usual, other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weigted_f1", "Did you mean 'weighted_f1'"),
        ("micro_f1", "micro_f1 without LABEL"),
        ("accuracy without calm", "The others leave no label out"),
        ("micro_f1 without clam", "Did you mean 'calm'"),
    ],
)
def test_an_invalid_metric_is_an_error(text, message) -> None:
    with pytest.raises(ErcBenchError, match=message):
        Metric.of(text, NAMES)


def test_the_corpus_digest_depends_on_a_metric_other_than_the_default() -> None:
    dialogue = Dialogue(
        "d", (Utterance("d-0", "Ann", "Hello.", 0), Utterance("d-1", "Bo", "Hi", 1))
    )
    splits = {"test": [dialogue]}
    labels = LabelSet(tuple(NAMES))
    usual = Corpus.build("c", labels, splits)
    assert Corpus.build("c", labels, splits, metric=Metric()).digest == usual.digest
    other = Corpus.build("c", labels, splits, metric=Metric("accuracy"))
    assert other.digest != usual.digest


def test_selection_uses_the_metric_of_the_corpus_or_the_loss() -> None:
    assert resolve("finetune", "meld").config.select_on == "weighted_f1"
    assert resolve("finetune", "dailydialog").config.select_on == "micro_f1"
    assert resolve("sacl-lstm", "meld").config.select_on == "loss"
    by_loss = resolve("finetune", "dailydialog", overrides=["select_on=loss"])
    assert by_loss.config.select_on == "loss"
    for name, wrong in (("dailydialog", "weighted_f1"), ("meld", "micro_f1")):
        with pytest.raises(ErcBenchError, match=f"select_on={wrong}.*{name} is judged by"):
            resolve("finetune", name, overrides=[f"select_on={wrong}"])


METRIC = "micro_f1 without neutral"


def micro(split) -> float:
    """scikit-learn's micro-F1 without neutral, in percent, of one split of a record."""
    others = [c for c, name in enumerate(EMOTIONS) if name != "neutral"]
    return 100 * f1_score(split["gold"], split["predicted"], labels=others, average="micro")


@pytest.fixture
def judged(tmp_path):
    """A leaderboard of two methods on a corpus whose metric is micro-F1 without neutral."""
    for method in (Method("a", 0.5, (1, 2)), Method("b", -0.3, (1, 2))):
        for seed in method.seeds:
            made = record(method, "small-talk", seed, 40)
            made |= {"metric": METRIC, "selection": "dev micro_f1"}
            for split, predictions in made["predictions"].items():
                made["metrics"][split]["micro_f1"] = micro(predictions)
            folder = tmp_path / "records" / "small-talk" / method.name
            store(folder / f"{method.config_hash}-seed{seed}.json", made)
    return tmp_path


def test_the_leaderboard_shows_and_ranks_by_the_metric_of_the_corpus(judged, capsys) -> None:
    (board,) = (c for c in read_board(judged).corpora if c.name == "small-talk")
    (track,) = board.tracks
    records = [stored(judged / name) for row in track.rows for name in row.records]
    assert [v for row in track.rows for v in row.values] == pytest.approx(
        [micro(r["predictions"]["test"]) for r in records], abs=1e-3
    )
    assert track.rows[0].dev_score == pytest.approx(
        np.mean([micro(r["predictions"]["dev"]) for r in records[:2]]), abs=1e-3
    )
    whole = read_board(judged)
    text = to_markdown(whole)
    assert "Micro-F1 without neutral" in text
    assert "dev micro-F1" in text
    assert "dialogues · judged by micro-F1 without neutral" in text
    assert "Micro-F1 without neutral on test in percent" in to_latex(whole)
    rows = [row for row in csv.DictReader(io.StringIO(to_csv(whole))) if row["kind"] == "ours"]
    assert {row["metric"] for row in rows} == {METRIC}
    assert float(rows[0]["score"]) == pytest.approx(track.rows[0].mean, abs=0.01)
    weighted = np.mean([r["metrics"]["test"]["weighted_f1"] for r in records[:2]])
    assert float(rows[0]["weighted_f1"]) == pytest.approx(weighted, abs=0.01)
    folder = ["--leaderboard-dir", str(judged)]
    assert main(["compare", "a", "b", "--dataset", "small-talk", *folder]) == 0
    out = capsys.readouterr().out
    assert "micro-F1" in out
    assert "weighted-F1" not in out
    assert f"{track.rows[0].mean:.2f}" in out
    assert main(["show", "a/small-talk/seed1", *folder]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "F1" in line]
    assert "micro-F1 without neutral" in lines[0]


def test_a_published_figure_of_another_metric_is_not_shown_beside_runs(judged, capsys) -> None:
    """Published figures on a corpus that the suite does not know are weighted-F1."""
    paper = "x: {method: X, implemented_as: a, results: {small-talk: {weighted_f1: 80}}}"
    (judged / "published.yaml").write_text(f"papers: {{{paper}}}", encoding="utf-8")
    (board,) = (c for c in read_board(judged).corpora if c.name == "small-talk")
    assert board.published == []
    assert [row.published for track in board.tracks for row in track.rows] == [None, None]
    argv = ["compare", "a", "x", "--dataset", "small-talk", "--leaderboard-dir", str(judged)]
    assert main(argv) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "x reports weighted-F1 on small-talk" in said
    assert "judged by micro-F1 without neutral" in said


def test_rescore_adds_a_missing_metric_to_a_record(judged) -> None:
    path = next(judged.glob("records/*/a/*.json"))
    made = stored(path)
    right = made["metrics"]["test"].pop("micro_f1")
    store(path, made)
    board = read_board(judged)
    assert "rescore" in board.skipped[0].reason
    assert "micro-F1 without neutral" in board.skipped[0].reason
    assert len(rescore(judged).changed) == 1
    assert stored(path)["metrics"]["test"]["micro_f1"] == pytest.approx(right, abs=1e-3)
    assert not read_board(judged).skipped


def test_records_without_a_metric_use_weighted_f1(tmp_path) -> None:
    (path,) = write_records(tmp_path, [Method("a", seeds=(1,))], dialogues=12)
    made = stored(path)
    assert "metric" not in made
    (corpus,) = (c for c in read_board(tmp_path).corpora if c.tracks)
    assert corpus.metric == "weighted_f1"
    assert corpus.tracks[0].rows[0].mean == pytest.approx(
        made["metrics"]["test"]["weighted_f1"], abs=1e-3
    )
    store(path, {**made, "metric": "micro_f1 without nobody"})
    (skipped,) = read_board(tmp_path).skipped
    assert "$.metric" in skipped.reason


def test_score_prints_the_metric_of_the_corpus(tmp_path, monkeypatch, capsys) -> None:
    """The table printed for external predictions begins with the metric."""
    from erc_bench.datamodules.demo import Demo

    monkeypatch.setattr(Demo, "metric", Metric("micro_f1", "neutral"))
    corpus = Demo().load()
    asked = [d.utterances[i] for d in corpus.dialogues("test") for i in d.labelled]
    rng = np.random.default_rng(0)
    said = [u.label if rng.random() < 0.6 else int(rng.integers(7)) for u in asked]
    file = tmp_path / "p.jsonl"
    names = corpus.labels.names
    lines = [{"id": u.id, "label": names[c]} for u, c in zip(asked, said, strict=True)]
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    argv = ["score", str(file), "--dataset", "demo", "--name", "other"]
    assert main([*argv, "--leaderboard-dir", str(tmp_path)]) == 0
    first = next(line for line in capsys.readouterr().out.splitlines() if "F1" in line)
    others = [c for c, name in enumerate(names) if name != "neutral"]
    wanted = f1_score([u.label for u in asked], said, labels=others, average="micro")
    assert "micro-F1 without neutral" in first
    assert f"{100 * wanted:.2f}" in first


def test_published_rows_are_shown_by_the_metric_of_the_corpus(tmp_path) -> None:
    """The corpus has no runs yet."""
    (tmp_path / "published.yaml").write_text(
        "papers: {x: {method: X, results: {dailydialog: {micro_f1: 59.5, weighted_f1: 80}}}}",
        encoding="utf-8",
    )
    board = read_board(tmp_path)
    assert "| Method | Micro-F1 without neutral |" in to_markdown(board)
    assert "| X | 59.50 |" in to_markdown(board)
    (tmp_path / "published.yaml").write_text(
        "papers: {x: {method: X, results: {dailydialog: {weighted_f1: 80}}}}", encoding="utf-8"
    )
    with pytest.raises(ErcBenchError, match="micro_f1 must be a percentage, not None"):
        read_board(tmp_path)
