"""``erc-bench plot``: the contents of the pictures, and the errors if one can't be drawn."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_records import SMALL, Method, store, stored, write_records
from test_cli import elsewhere, fails
from test_own_corpus import SHEET, write_csv

import erc_bench
from erc_bench.cli import main
from erc_bench.evaluation.calibration import reliability_bins
from erc_bench.evaluation.metrics import evaluate
from erc_bench.evaluation.slices import facts_of, slices
from erc_bench.leaderboard.searches import SearchGroup, SearchRow
from erc_bench.plots.selection import of_run, of_runs
from erc_bench.plots.vectors import VectorMap, principal_axes, vectors_of_run

__all__ = ["elsewhere"]

figures = pytest.importorskip(
    "erc_bench.plots.figures", reason="Matplotlib is not installed: pip install 'erc-bench[plot]'"
)
CURVES = [
    {"epoch": 1, "dev/weighted_f1": 40.0, "train/loss": 1.5},
    {"epoch": 2, "dev/weighted_f1": 55.0, "train/loss": None},
    {"epoch": 3, "dev/weighted_f1": 50.0, "train/loss": 0.5},
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two methods, one with two presets and curves, one without probabilities."""
    folder = tmp_path_factory.mktemp("leaderboard")
    trained = {"training": {"epochs": 3, "best_epoch": 2, "curves": CURVES}}
    methods = [
        Method("eacl", 0.3, changes=trained),
        Method("eacl", 0.1, (1,), SMALL, "small"),
        Method("finetune", 0.0, (1, 2)),
    ]
    for path in write_records(folder, methods, ["meld"], 20):
        if path.parent.name == "finetune":
            made = stored(path)
            for split in made["predictions"].values():
                del split["probabilities"]
            store(path, made)
    return folder


def test_dots_are_the_scores_of_the_records(root: Path) -> None:
    shown = of_runs(root, "meld", [], None)
    scores = sorted(
        stored(path)["metrics"]["test"]["weighted_f1"] for path in root.rglob("*.json")
        if path.parent.name in ("eacl", "finetune")
    )  # fmt: skip
    axes = figures.seeds(shown).axes[0]
    dots = [x for line in axes.lines if line.get_marker() == "o" for x in line.get_xdata()]
    assert sorted(dots) == pytest.approx(scores)
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert sorted(name.split(" (")[0] for name in names) == ["EACL", "EACL", "finetune"]
    assert sum("small" in name for name in names) == 1


def test_records_of_a_further_folder_are_drawn_too(root: Path, tmp_path: Path) -> None:
    both = of_runs(tmp_path, "meld", [], None, [root])
    assert [c.values for c in both.configurations] == [
        c.values for c in of_runs(root, "meld", [], None).configurations
    ]


def test_curves_have_every_epoch_and_the_selected_one(root: Path) -> None:
    shown = of_runs(root, "meld", ["eacl:paper"], None)
    dev, loss = figures.curves(shown).axes
    lines = [line.get_ydata().tolist() for line in dev.lines]
    assert lines.count([40.0, 55.0, 50.0]) == 3 + 1  # the seeds, and their mean
    assert lines.count([55.0]) == 3
    assert np.isnan(loss.lines[0].get_ydata()[1])  # a loss that was not finite


def test_confusion_is_in_percent_of_the_gold_emotion(root: Path) -> None:
    shown = of_run(root, "eacl/seed2")
    shares = figures.confusion(shown).axes[0].images[0].get_array()
    counts = np.array(shown.configurations[0].first.metrics.test.confusion)
    rows = counts.sum(1) > 0
    np.testing.assert_allclose(shares[rows].sum(1), 100)
    np.testing.assert_allclose(shares[rows], 100 * counts[rows] / counts[rows].sum(1)[:, None])


def test_calibration_bins_are_those_of_scikit_learn() -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 500)
    right = rng.random(500) < confidence
    accuracy, mean = calibration.calibration_curve(right, confidence, n_bins=15)
    bins = reliability_bins(confidence, right)
    np.testing.assert_allclose(bins.accuracy, accuracy)
    np.testing.assert_allclose(bins.confidence, mean)
    assert bins.count.sum() == 500
    assert reliability_bins([0.0, 1.0], [False, True]).count.tolist() == [1, 1]


@pytest.mark.parametrize("decimals", [1, 2, 4])
def test_calibration_bins_give_the_calibration_error_of_a_record(decimals: int) -> None:
    """Also where probabilities lie at the ends of bins, as rounded ones do."""
    rng = np.random.default_rng(decimals)
    rows = rng.dirichlet([0.3, 0.3, 0.3], 400).round(decimals)
    gold, predicted = rng.integers(0, 3, 400), rows.argmax(axis=1)
    bins = reliability_bins(rows.max(axis=1), predicted == gold)
    error = 100 * (bins.count * abs(bins.accuracy - bins.confidence)).sum() / 400
    tensors = map(torch.from_numpy, (predicted, gold))
    figures = evaluate(*tensors, list("abc"), torch.from_numpy(rows).float())
    assert figures["calibration_error"] == pytest.approx(error, abs=1e-3)


def test_pictures_are_means_over_seeds(tmp_path: Path) -> None:
    # The calibration error of each of these seeds differs from the mean.
    write_records(tmp_path, [Method("eacl", 0.3, (1, 2, 5))], ["meld"], 20)
    records = [stored(path) for path in sorted(tmp_path.rglob("*.json"))]
    tests = [record["predictions"]["test"] for record in records]
    shown = of_runs(tmp_path, "meld", [], None)
    counts = np.mean([record["metrics"]["test"]["confusion"] for record in records], axis=0)
    rows = counts.sum(1) > 0
    shares = figures.confusion(shown).axes[0].images[0].get_array()
    np.testing.assert_allclose(shares[rows], 100 * (counts / counts.sum(1, keepdims=True))[rows])
    axes = figures.reliability(shown).axes[0]
    errors = [record["metrics"]["test"]["calibration_error"] for record in records]
    assert f"ECE {np.mean(errors):.1f} %" in [text.get_text() for text in axes.texts]
    pooled = [max(row) for test in tests for row in test["probabilities"]]
    right = [g == p for t in tests for g, p in zip(t["gold"], t["predicted"], strict=True)]
    bins = reliability_bins(pooled, right)
    (dots,) = axes.collections
    wanted = 100 * np.stack([bins.confidence, bins.accuracy], axis=1)
    np.testing.assert_allclose(dots.get_offsets(), wanted)
    (line,) = figures.parts_of_test(shown).axes[0].lines
    facts = facts_of({name: np.array(column) for name, column in tests[0]["facts"].items()})
    parts = slices(tests[0]["gold"], [test["predicted"] for test in tests], facts, 7)
    np.testing.assert_allclose(
        line.get_xdata(), [part.score for part in parts if part.score is not None]
    )


def test_axes_say_what_is_drawn_and_nothing_is_cut_off(root: Path) -> None:
    shown = of_run(root, "eacl/seed2")
    reliability, confusion = figures.reliability(shown), figures.confusion(shown)
    axes = reliability.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Confidence, %", "Share correct, %")
    assert "Predicted" in confusion.get_supxlabel()
    assert "Gold" in confusion.get_supylabel()
    for figure in (reliability, confusion, figures.curves(shown)):
        figure.draw_without_rendering()
        inside = figure.bbox
        for text in figure.texts:
            box = text.get_window_extent()
            assert inside.x0 <= box.x0
            assert box.x1 <= inside.x1, text.get_text()


def test_parts_of_the_test_set_are_named_in_words(root: Path) -> None:
    axes = figures.parts_of_test(of_run(root, "eacl/seed2")).axes[0]
    names = {label.get_text() for label in axes.get_yticklabels()}
    assert {"first turn", "turns 2–5", "up to 3 words", "speaker's emotion changes"} <= names
    assert not any(":" in name or "_" in name for name in names)


def test_runs_without_probabilities_are_named(root: Path, tmp_path: Path, capsys) -> None:
    file = tmp_path / "reliability.svg"
    words = ["plot", "reliability", str(file), "--leaderboard-dir", str(root)]
    assert main([*words, "--dataset", "meld"]) == 0
    assert "left out of finetune" in capsys.readouterr().err
    assert main([*words, "--dataset", "meld", "--method", "finetune"]) == 2
    assert "hold no probabilities: there is nothing to draw" in capsys.readouterr().err


def test_searches_are_drawn_by_number_of_trials() -> None:
    row = SearchRow(
        "eacl", "EACL", "s", [], 3, 0, 50.0, False, 58.0, 2, ["lr=1"], [51.0, 56.0, 58.0]
    )
    failed = SearchRow("spcl", "SPCL", "s", [], 1, 1, None, True, None, None, [], [0.0])
    axes = figures.trials("MELD", [SearchGroup("a/b", "", "small", [row, failed])]).axes[0]
    (line,) = axes.lines
    assert line.get_xydata().tolist() == [[1, 51.0], [2, 56.0], [3, 58.0]]
    assert axes.get_title() == "MELD, b, small"


@pytest.mark.parametrize(
    ("form", "head"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")]
)
def test_files_are_the_same_each_time(root: Path, tmp_path: Path, form: str, head: bytes) -> None:
    files = [tmp_path / f"{name}.{form}" for name in "ab"]
    for file in files:
        where = ["--run", "eacl/seed2", "--leaderboard-dir", str(root)]
        assert main(["plot", "slices", str(file), *where]) == 0
    assert files[0].read_bytes().startswith(head)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == files  # no temporary file stays


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seeds", "a.jpg", "--dataset", "meld"], "must end in .png, .svg or .pdf"),
        (["seed", "a.png", "--dataset", "meld"], "Did you mean"),
        (["seeds", "a.png"], "--dataset"),
        (["seeds", "a.png", "--dataset", "melt"], "Did you mean 'meld'?"),
        (["seeds", "a.png", "--dataset", "meld", "--preset", "smal"], "Did you mean 'small'?"),
        (["seeds", "a.png", "--dataset", "meld", "--method", "ecal"], "Did you mean 'eacl'?"),
        (["seeds", "a.png", "--dataset", "meld", "--run", "eacl"], "not both"),
        (["seeds", "a.png", "--run", "eacl"], "can mean several runs"),
        (["trials", "a.png", "--dataset", "meld"], "erc-bench tune"),
        (["trials", "a.png", "--dataset", "meld", "--method", "eacl:small"], "give 'eacl'"),
        (["trials", "a.png", "--run", "eacl/seed2"], "A run has no trials"),
        (["curves", "a.png", "--dataset", "meld", "--method", "finetune"], "hold no curves"),
        (["seeds", "here/a.png", "--run", "eacl/seed2"], "can't be written"),
    ],
)
def test_mistakes_are_errors_of_one_line(
    root: Path, tmp_path: Path, capsys, monkeypatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").touch()
    assert main(["plot", *words, "--leaderboard-dir", str(root)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_without_matplotlib_the_extra_is_named(root: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    words = ["plot", "seeds", str(tmp_path / "a.png"), "--dataset", "meld"]
    assert main([*words, "--leaderboard-dir", str(root)]) == 2
    assert "pip install 'erc-bench[plot]'" in capsys.readouterr().err


def test_principal_axes_are_those_of_scikit_learn() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 8)) @ rng.normal(size=(8, 8))
    means, axes, explained = principal_axes(vectors)
    pca = decomposition.PCA(2).fit(vectors)
    np.testing.assert_allclose(explained, 100 * pca.explained_variance_ratio_)
    np.testing.assert_allclose(np.abs((vectors - means) @ axes), np.abs(pca.transform(vectors)))


def test_vectors_are_drawn_by_emotion_with_their_anchors() -> None:
    gold, points = np.array([0, 1, 1]), np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    anchors = np.array([[0.5, 1.5], [3.0, 4.0]])
    made = VectorMap("EACL", ["joy", "anger"], gold, points, anchors, (60.0, 20.0))
    axes = figures.vectors(made).axes[0]
    assert [each.get_offsets().tolist() for each in axes.collections] == [
        [[0, 1]],
        [[2, 3], [4, 5]],
    ]
    assert [line.get_xydata().tolist()[0] for line in axes.lines] == anchors.tolist()


def test_vectors_need_a_run_and_its_model(root: Path, tmp_path: Path, capsys) -> None:
    words = ["plot", "vectors", str(tmp_path / "a.png"), "--leaderboard-dir", str(root)]
    assert main([*words, "--dataset", "meld"]) == 2
    assert "name it with --run" in capsys.readouterr().err


def half_labelled(demo, folder: Path) -> str:
    """A corpus of the demo's first dialogues; every second turn of each has no label."""
    rows = [
        {
            "conv_id": dialogue.id,
            "who": u.speaker,
            "utterance": u.text,
            "emotion": "" if turn % 2 else demo.labels.names[u.label],
            "msg_id": u.id,
            "part": split,
        }
        for split in ("train", "dev", "test")
        for dialogue in demo.dialogues(split)[:30]
        for turn, u in enumerate(dialogue.utterances)
    ]
    folder.mkdir()
    (folder / "corpus.yaml").write_text(SHEET, encoding="utf-8")
    write_csv(folder / "talk.csv", rows)
    return str(folder)


@pytest.mark.slow
def test_the_vectors_of_a_run_are_drawn_and_need_its_model(
    tiny_encoder: str, demo, elsewhere: Path, capsys
) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    settings = {"encoder": tiny_encoder, "max_batches": 2, "max_len": 32, "precision": "float32"}
    settings |= {"stage2_epochs": 1}
    corpus = half_labelled(demo, elsewhere / "half-labelled")
    run = erc_bench.run("eacl", corpus, preset="smoke", settings=settings, folder="mine")
    made = vectors_of_run(Path("mine"), "eacl", "test")
    dialogues = erc_bench.load_corpus(corpus).dialogues("test")
    turns = [u for d in dialogues for u in d.utterances]
    labelled = np.array([u.label is not None for u in turns])
    assert not labelled.all()
    assert made.gold.tolist() == [u.label for u in turns if u.label is not None]

    def unit(vectors: np.ndarray) -> np.ndarray:
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    states = unit(erc_bench.encode(run, dialogues).vectors[labelled])
    pca = decomposition.PCA(2).fit(states)
    anchors = unit(run.model.method.anchors().detach().numpy())
    for ours, theirs in ((made.points, states), (made.anchors, anchors)):
        np.testing.assert_allclose(np.abs(ours), np.abs(pca.transform(theirs)), atol=1e-4)
    words = ["plot", "vectors", "a.png", "--run", "eacl", "--leaderboard-dir", "mine"]
    assert main([*words, "--quiet"]) == 0
    capsys.readouterr()
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    (weights,) = Path("mine").rglob("model*.ckpt")
    weights.unlink()
    Path("a.png").unlink()
    assert "The model of this run is not here" in fails(capsys, *words)
    assert not Path("a.png").exists()
