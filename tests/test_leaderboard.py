"""The leaderboard: rows, tracks and ranks from records, and the files written from them."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score
from synthetic_records import (
    BAD,
    GOOD,
    SIZE,
    SMALL,
    Method,
    older,
    record,
    store,
    stored,
    write_records,
)

from erc_bench.cli import main
from erc_bench.evaluation import NO_ANSWER
from erc_bench.evaluation.statistics import compare
from erc_bench.leaderboard import (
    Built,
    build,
    check,
    compare_methods,
    latex,
    read_board,
    rescore,
)
from erc_bench.leaderboard.cache import Cache
from erc_bench.leaderboard.decoding import dialogues_of
from erc_bench.leaderboard.page import recall
from erc_bench.leaderboard.runs import read_runs
from erc_bench.leaderboard.tracks import make_track
from erc_bench.records.store import read_record

NAMES = ("README.md", "index.html", "leaderboard.csv", "leaderboard.json")


@pytest.fixture
def root(written, tmp_path):
    """A copy of the made-up leaderboard that a test may change."""
    return shutil.copytree(written, tmp_path / "leaderboard")


def tracks(root, corpus="meld"):
    found = read_board(root)
    return {t.encoder: t for c in found.corpora if c.name == corpus for t in c.tracks}


def ranks(track):
    return {row.method: row.rank for row in track.rows}


def contents(root):
    return {name: (root / name).read_bytes() for name in NAMES}


# --- rows, tracks, ranks


def test_each_configuration_is_a_row_with_a_value_for_each_seed(written):
    row = next(r for r in tracks(written)[GOOD.encoder].rows if r.method == "good")
    made = [record(GOOD, "meld", seed, SIZE) for seed in GOOD.seeds]
    of_seed = [
        100
        * f1_score(
            r["predictions"]["test"]["gold"],
            r["predictions"]["test"]["predicted"],
            average="weighted",
        )
        for r in made
    ]
    assert row.seeds == [1, 2, 3]
    assert row.values == pytest.approx(of_seed, abs=1e-4)
    assert row.mean == pytest.approx(np.mean(of_seed), abs=1e-4)
    assert row.sd == pytest.approx(np.std(of_seed, ddof=1), abs=1e-4)
    assert row.seed_interval[0] < row.mean < row.seed_interval[1]
    assert row.interval[0] < row.mean < row.interval[1]
    for name in ("accuracy", "macro_f1"):
        stored = np.mean([r["metrics"]["test"][name] for r in made])
        assert getattr(row, name) == pytest.approx(stored, abs=1e-4)
    assert np.sum(row.confusion) == pytest.approx(len(made[0]["predictions"]["test"]["gold"]))
    assert {s["kind"] for s in row.slices} == {"emotion", "position", "length", "speaker", "text"}
    assert row.cost["peak_memory_mib"] == pytest.approx(9003.5)  # the largest of three


def test_methods_that_can_not_be_told_apart_share_a_rank(written):
    for corpus in ("meld", "emorynlp"):
        track = tracks(written, corpus)[GOOD.encoder]
        assert ranks(track) == {"good": 1, "equal": 1, "bad": 3}
        assert [row.mean for row in track.rows] == sorted(
            (r.mean for r in track.rows), reverse=True
        )
        for pair in track.pairs:
            names = {track.rows[pair.first].method, track.rows[pair.second].method}
            assert pair.shown_better == (names != {"good", "equal"})
            assert pair.p <= pair.p_holm


def test_a_track_has_one_encoder_and_rows_of_one_seed_are_not_ranked(written):
    found = tracks(written)
    assert list(found) == [GOOD.encoder, SMALL, ""]
    assert ranks(found[SMALL]) == {"good": None, "bad": None}
    assert [row.unranked for row in found[SMALL].rows] == ["nothing to be ranked with", "one seed"]
    assert [row.external for row in found[""].rows] == [True]
    assert found[""].rows[0].context == "unknown"


def test_all_seeds_of_both_rows_count_whatever_their_numbers(tmp_path):
    a = [Method("a", 0.5, (1, 2, 3)), Method("a", 0.4, (7, 8))]
    write_records(tmp_path, [*a, Method("b", 0.0, (1, 2, 3, 4))], ["meld"], SIZE)
    (track,) = tracks(tmp_path).values()
    (pair,) = track.pairs
    first, second = track.rows
    assert (first.method, len(first.seeds), len(second.seeds)) == ("a", 5, 4)
    assert pair.difference == pytest.approx(first.mean - second.mean, abs=1e-3)
    assert pair.shown_better
    assert ranks(track) == {"a": 1, "b": 2}


def test_rows_whose_difference_is_not_significant_share_a_rank(tmp_path):
    write_records(tmp_path, [Method("a", 0.08), Method("b"), Method("c")], dialogues=SIZE)
    (track,) = tracks(tmp_path).values()
    assert 0.05 < min(pair.p_holm for pair in track.pairs) < 0.5
    assert not any(pair.shown_better for pair in track.pairs)
    assert set(ranks(track).values()) == {1}


def test_an_unranked_row_is_left_out_of_the_holm_correction(tmp_path):
    methods = [Method("a", 0.5), Method("b", 0.0), Method("c", -0.5, seeds=(1,))]
    write_records(tmp_path, methods, dialogues=SIZE)
    (track,) = tracks(tmp_path).values()
    ranked, *others = track.pairs
    assert ranked.p_holm == ranked.p  # the only pair of the ranking
    assert [(pair.p_holm, pair.shown_better) for pair in others] == [(None, False)] * 2
    assert max(pair.p for pair in others) < 0.05
    assert ranks(track) == {"a": 1, "b": 2, "c": None}


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ({"ab": 0.0167, "ac": 0.0166, "bc": 1.0}, [1, 2, 2]),
        ({"ab": 0.0251, "ac": 0.016, "bc": 0.3}, [1, 1, 2]),
        ({"ab": 0.025, "ac": 0.016, "bc": 0.3}, [1, 2, 2]),
        ({"ab": 0.02, "ac": 0.016, "bc": 0.05}, [1, 2, 3]),
        ({"ab": 0.02, "ac": 0.0167, "bc": 0.05}, [1, 1, 1]),
    ],
)
def test_ranks_need_p_values_of_at_most_0_05_after_holm(tmp_path, monkeypatch, p_values, expected):
    """Of three pairs, the smallest p must be at most 0.05 / 3, the next 0.05 / 2, the last 0.05."""
    write_records(tmp_path, [Method("a", 0.9), Method("b", 0.3), Method("c", -0.3)], dialogues=60)
    runs, _ = read_runs(tmp_path, Cache(tmp_path))
    given = iter(p_values[pair] for pair in ("ab", "ac", "bc"))
    place = "erc_bench.leaderboard.tracks.compare"
    monkeypatch.setattr(place, lambda a, b, **_: replace(compare(a, b), p=next(given)))
    track = make_track(runs, [], {name: name for name in "abc"})
    assert [row["method"] for row in track["rows"]] == ["a", "b", "c"]
    assert [row["rank"] for row in track["rows"]] == expected


def test_a_run_whose_record_names_no_corpus_counts_once(tmp_path):
    """Its repetition has another file name, because the corpus is a part of it."""
    write_records(tmp_path, [Method("a", 0.3, (1, 2))])
    first, _ = sorted(tmp_path.rglob("*.json"))
    store(first.with_name("again-seed1.json"), stored(first) | {"dataset_digest": ""})
    runs, (skipped,) = read_runs(tmp_path, Cache(tmp_path))
    assert sorted(run.seed for run in runs) == [1, 2]
    assert "holds the same run as" in skipped.reason


def test_runs_with_different_further_corpora_are_different_rows(tmp_path):
    further = [{"further_corpora": {"mine": digest * 64}} for digest in "ab"]
    write_records(tmp_path, [Method("a", 0.3, (1, 2), changes=further[0])])
    for path in tmp_path.rglob("*-seed1.json"):
        store(path.with_name("other-seed1.json"), stored(path) | further[1])
    board = read_board(tmp_path)
    assert board.skipped == []
    (track,) = board.corpora[0].tracks
    assert sorted(row.seeds for row in track.rows) == [[1], [1, 2]]


def test_a_frozen_encoder_has_no_fine_tuning_to_be_left_out(tmp_path):
    encoder = {"encoder": {"name": SMALL, "digest": "e", "vectors": "v"}}
    for method, epochs in (("frozen", 0), ("tuned", 4)):
        config = {"config": {"features": {"epochs": epochs}}}
        write_records(tmp_path, [Method(method, 0.3, (1, 2), changes=encoder | config)])
    rows = {row.method: row for row in tracks(tmp_path)[SMALL].rows}
    assert not any("fine-tuning" in note for note in rows["frozen"].notes)
    notes = [note for note in rows["tuned"].notes if "fine-tuning" in note]
    assert len(notes) == 2  # their spread, and their time


def test_a_cached_track_knows_the_corpus_that_other_tracks_tell(tmp_path):
    """A record without the digest of its corpus gets the most frequent one on its test set."""
    for method in ("a", "b"):
        write_records(tmp_path, [Method(method, 0.3, (1, 2))])
    for path in (tmp_path / "records" / "meld" / "a").iterdir():
        store(path, stored(path) | {"dataset_digest": ""})
    assert {row.rank for row in tracks(tmp_path)[GOOD.encoder].rows} == {1}
    others = {"dataset_digest": "c" * 64}
    write_records(tmp_path, [Method("c", 0.3, (1, 2, 3), SMALL, changes=others)])
    cached = tracks(tmp_path)[GOOD.encoder]
    shutil.rmtree(tmp_path / ".cache")
    assert cached == tracks(tmp_path)[GOOD.encoder]
    assert {row.method: row.unranked for row in cached.rows} == {
        "a": "another copy of the corpus",
        "b": "nothing to be ranked with",
    }


def test_the_confusion_of_a_page_is_of_all_utterances_with_a_gold_label(tmp_path):
    """Half of the utterances have no answer, so no share exceeds the recall."""
    write_records(tmp_path, [Method("a", 0.9, (1,))])
    (path,) = tmp_path.rglob("*.json")
    made = stored(path)
    test = made["predictions"]["test"]
    for i in range(0, len(test["gold"]), 2):
        test["predicted"][i], test["probabilities"][i] = NO_ANSWER, None
    store(path, made)
    rescore(tmp_path)
    (row,) = tracks(tmp_path)[GOOD.encoder].rows
    shares = recall(row.confusion, [each["support"] for each in row.per_class])
    for i, (cells, of_label) in enumerate(zip(shares, row.per_class, strict=True)):
        assert float(cells[i]["share"]) == pytest.approx(of_label["recall"], abs=0.5)
    build(tmp_path)
    assert "The missing percent are utterances without an answer." in (
        tmp_path / "index.html"
    ).read_text(encoding="utf-8")


def test_an_utterance_without_an_answer_counts_as_wrong_and_is_noted(tmp_path):
    write_records(tmp_path, [Method("a", 0.3, (1, 2)), Method("b", 0.3, (1, 2))], dialogues=60)
    runs, _ = read_runs(tmp_path, Cache(tmp_path))
    silent = []
    for run in runs:
        predicted = np.array(run.predicted)
        predicted[::5] = NO_ANSWER
        silent.append(replace(run, predicted=predicted.tolist()) if run.method == "b" else run)
    track = make_track(silent, [], {name: name for name in "ab"})
    whole, row = track["rows"]
    assert (whole["method"], row["method"]) == ("a", "b")
    mine = [r for r in silent if r.method == "b"]
    labels = sorted(set(mine[0].gold) | {c for r in mine for c in r.predicted if c != NO_ANSWER})
    for name, average in (("mean", "weighted"), ("macro_f1", "macro")):
        f1 = [f1_score(r.gold, r.predicted, labels=labels, average=average) for r in mine]
        assert row[name] == pytest.approx(100 * np.mean(f1), abs=1e-3)
    right = [np.mean(np.array(r.gold) == r.predicted) for r in mine]
    assert row["accuracy"] == pytest.approx(100 * np.mean(right), abs=1e-3)
    assert np.shape(row["confusion"]) == (7, 7)
    share = 100 * np.mean([r.predicted.count(NO_ANSWER) / len(r.gold) for r in mine])
    note = f"{share:.2f} % of its utterances have no answer, which counts as wrong"
    assert (whole["notes"], row["notes"]) == ([], [note])
    assert np.sum(row["confusion"]) == pytest.approx(len(mine[0].gold) * (1 - share / 100))
    assert track["pairs"][0]["difference"] == pytest.approx(whole["mean"] - row["mean"], abs=1e-3)


def test_a_row_without_another_to_rank_against_has_no_rank(tmp_path):
    write_records(tmp_path, [GOOD, Method("bad", 0.0, (4,))], ["meld"], SIZE)
    (track,) = tracks(tmp_path).values()
    assert [(row.rank, row.unranked) for row in track.rows] == [
        (None, "nothing to be ranked with"),
        (None, "one seed"),
    ]


def made(seed, device="CPU", commit="a", vectors="v", **fine_tuning):
    """A run of a method whose record names its device, commit and vectors."""
    encoder = {"name": SMALL, "digest": "e", "vectors": vectors}
    changes = {
        "encoder": encoder | ({"fine_tuning": fine_tuning} if fine_tuning else {}),
        "environment": {"device": device, "git_commit": commit, "precision": "32-true"},
    }
    return Method("good", 0.5, (seed,), SMALL, "small", changes=changes)


def test_vectors_that_differ_by_seed_on_purpose_are_not_noted(tmp_path):
    runs = [made(1), made(2, vectors="w"), made(3, vectors="x")]
    for run in runs:
        run.changes["config"] = {"features": {"per_seed": True}}
    write_records(tmp_path, runs, ["meld"], SIZE)
    (track,) = tracks(tmp_path).values()
    assert not [note for note in track.rows[0].notes if "vectors" in note]
    write_records(tmp_path, [replace(runs[2], seeds=[3], changes=runs[1].changes)], ["meld"], SIZE)
    (track,) = tracks(tmp_path).values()
    assert "its seeds were made with 2 sets of utterance vectors" in track.rows[0].notes
    for run in runs:  # a method from elsewhere may use the name for something else
        run.changes["config"] = {"features": "words"}
    write_records(tmp_path, runs, ["meld"], SIZE)
    (track,) = tracks(tmp_path).values()
    assert "its seeds were made with 3 sets of utterance vectors" in track.rows[0].notes


def test_a_row_notes_how_its_seeds_differ(tmp_path):
    write_records(tmp_path, [made(1), made(2)], ["meld"], SIZE)
    (track,) = tracks(tmp_path).values()
    shared = "all its seeds read the same utterance vectors, so "
    without = "its training time is without the fine-tuning of its encoder"
    assert [note[: len(shared)] for note in track.rows[0].notes[:1]] == [shared]
    assert track.rows[0].notes[1:] == [without]
    assert track.rows[0].cost["fit_seconds"] > 0
    write_records(tmp_path, [made(2, vectors="")], ["meld"], SIZE)  # no digest of vectors
    (track,) = tracks(tmp_path).values()
    assert track.rows[0].notes == [without]
    write_records(tmp_path, [made(2)], ["meld"], SIZE)
    write_records(tmp_path, [made(3, "GPU", "b", "w")], ["meld"], SIZE)
    (track,) = tracks(tmp_path).values()
    assert track.rows[0].seeds == [1, 2, 3]
    assert track.rows[0].notes == [
        "its seeds were made with 2 sets of utterance vectors",
        "its seeds were made with 2 commits of the code",
        "its seeds were made with 2 kinds of device",
    ]
    assert track.rows[0].cost["fit_seconds"] is None
    build(tmp_path)
    assert "- good (small): its seeds were made with 2 commits of the code." in (
        tmp_path / "README.md"
    ).read_text("utf-8")
    assert "2 commits of the code" in (tmp_path / "index.html").read_text("utf-8")
    write_records(tmp_path, [Method("bad", 0, (1, 2, 3), SMALL, "small")], ["meld"], SIZE)
    compared = compare_methods(tmp_path, "good", "bad", "meld")
    assert "good: its seeds were made with 2 commits of the code." in compared.caveats


def test_seeds_with_different_numbers_of_runs_at_once_have_no_mean_time(tmp_path):
    shared = {"device": "GPU", "precision": "bf16-mixed"}
    runs = [
        Method("good", 0.5, (seed,), changes={"environment": {**shared, "runs_at_once": seed}})
        for seed in (1, 2)
    ]
    write_records(tmp_path, runs, ["meld"], SIZE)
    (track,) = tracks(tmp_path).values()
    assert track.rows[0].devices == ["GPU"]
    assert track.rows[0].notes == ["its seeds were made with 2 numbers of runs at a time"]
    assert track.rows[0].cost["fit_seconds"] is None
    assert track.rows[0].cost["peak_memory_mib"] > 0


@pytest.mark.parametrize(
    ("at_once", "note"),
    [
        (4, ["its seeds were trained 4 at a time, which slows each of them down"]),
        (1, []),
        ("unknown → 4", []),
    ],
)
def test_a_row_notes_that_its_seeds_were_trained_at_the_same_time(tmp_path, at_once, note):
    environment = {"device": "GPU", "runs_at_once": at_once}
    runs = [Method("good", 0.5, (s,), changes={"environment": environment}) for s in (1, 2)]
    write_records(tmp_path, runs, ["meld"], SIZE)
    (track,) = tracks(tmp_path).values()
    assert track.rows[0].notes == note
    assert track.rows[0].cost["fit_seconds"] > 0


def test_a_row_notes_that_its_seeds_were_trained_at_different_speeds(tmp_path):
    training = {"epochs": 8, "fit_seconds": 100.0, "peak_memory_mib": 9.0, "parameters": 5}
    runs = [
        Method("good", 0.5, (seed,), changes={"training": {**training, "utterances_per_second": p}})
        for seed, p in ((1, 17.6), (2, 34.2))
    ]
    write_records(tmp_path, runs, ["meld"], SIZE)
    (track,) = tracks(tmp_path).values()
    (note,) = track.rows[0].notes
    assert note.startswith("its seeds were trained at 18 to 34 utterances/s")


def test_training_time_includes_the_fine_tuning_of_the_encoder(tmp_path):
    write_records(tmp_path, [made(1)], ["meld"], SIZE)
    (track,) = tracks(tmp_path).values()
    alone = track.rows[0].cost["fit_seconds"]
    write_records(tmp_path, [made(1, git_commit="a", seconds=50.0)], ["meld"], SIZE)
    (track,) = tracks(tmp_path).values()
    assert track.rows[0].cost["fit_seconds"] == pytest.approx(alone + 50)
    assert track.rows[0].notes == []


def test_another_copy_of_the_corpus_is_another_row(root):
    folder = next((root / "records/meld/equal").glob("*.json")).parent
    for file in folder.glob("*.json"):
        store(file, {**stored(file), "dataset_digest": "f" * 64})
    track = tracks(root)[GOOD.encoder]
    assert ranks(track) == {"good": 1, "equal": None, "bad": 2}
    assert {r.method: r.unranked for r in track.rows}["equal"] == "another copy of the corpus"
    compared = compare_methods(root, "good:paper", "equal", "meld")
    assert any("their copies of the corpus differ" in caveat for caveat in compared.caveats)
    build(root)
    assert "- equal: not ranked, another copy of the corpus." in (root / "README.md").read_text(
        encoding="utf-8"
    )
    lines = [line for line in latex(root)[0].splitlines() if line.startswith("equal &")]
    assert [line.count("--") for line in lines] == [1]  # ranked on EmoryNLP alone


def test_a_copy_that_is_not_the_release_is_marked_wherever_it_is_shown(root):
    """Even if most rows use that copy, rows are ranked on the release."""
    for name in ("equal", "bad"):
        for file in (root / f"records/meld/{name}").glob("*.json"):
            made = {"dataset_digest": "f" * 64, "dataset_official": False}
            store(file, {**stored(file), **made})
    rows = {row.method: row for row in tracks(root)[GOOD.encoder].rows}
    assert rows["good"].title == "good"
    assert rows["equal"].title == "equal, copy ffffffff"
    assert rows["equal"].unranked == rows["bad"].unranked == "another copy of the corpus"
    assert any("not the official release" in note for note in rows["equal"].notes)
    build(root)
    for name in ("README.md", "index.html"):
        assert "equal, copy ffffffff" in (root / name).read_text(encoding="utf-8")
    assert "copy ffffffff" not in latex(root)[0]  # the LaTeX table has no rows on other copies
    compared = compare_methods(root, "good:paper", "equal", "meld")
    assert compared.b.configuration.endswith("copy ffffffff")


def test_other_weights_of_the_same_encoder_have_their_own_heading(root):
    for file in (root / "records/meld/equal").glob("*.json"):
        record = stored(file)
        store(file, {**record, "encoder": {**record["encoder"], "digest": "f" * 64}})
    build(root)
    assert f"\n### {GOOD.encoder} (weights ffffffff)\n" in (root / "README.md").read_text(
        encoding="utf-8"
    )


def test_the_same_seed_on_two_copies_is_two_runs(root):
    file = next((root / "records/meld/equal").glob("*-seed1.json"))
    other = file.with_name(file.name.replace("-seed1", "-ffffffff-seed1"))
    store(other, {**stored(file), "dataset_digest": "f" * 64, "dataset_official": False})
    board = read_board(root)
    assert not board.skipped
    titles = [row.title for row in tracks(root)[GOOD.encoder].rows]
    assert {"equal", "equal, copy ffffffff"} <= set(titles)


def test_a_record_without_a_corpus_digest_counts_as_the_usual_copy(root):
    file = next((root / "records/meld/equal").glob("*.json"))
    old = stored(file)
    del old["dataset_digest"]
    store(file, old)
    assert ranks(tracks(root)[GOOD.encoder]) == {"good": 1, "equal": 1, "bad": 3}


def test_differences_from_a_published_row_say_whose_they_are(tmp_path):
    changed = {"overrides": ["temperature=1"]}
    write_records(tmp_path, [Method("spcl", 0.2, encoder=SMALL, preset="small", changes=changed)])
    (track,) = tracks(tmp_path).values()
    assert track.rows[0].published["differs"] == [
        "ours: preset small, temperature=1",
        "theirs: encoder sup-simcse-roberta-large",
    ]


def test_tryouts_are_never_in_the_ranking(written):
    found = read_board(written)
    assert "demo" not in {corpus.name for corpus in found.corpora}
    assert all(r.preset != "smoke" for c in found.corpora for t in c.tracks for r in t.rows)
    assert [(c.name, [r.method for t in c.tracks for r in t.rows]) for c in found.tryouts] == [
        ("demo", ["bad"]),
        ("meld", ["good"]),
    ]
    for corpus in found.tryouts:
        assert not corpus.published
        assert all(row.rank is None for track in corpus.tracks for row in track.rows)


@pytest.mark.parametrize("change", [lambda names: [*names, "bored"], lambda names: names[::-1]])
def test_a_row_of_another_label_set_keeps_its_own_label_names(root, change):
    for file in (root / "records/meld/equal").iterdir():
        changed = stored(file)
        predictions = changed["predictions"]["test"]
        names = change(changed["labels"])
        for kind in ("gold", "predicted"):
            predictions[kind] = [names.index(changed["labels"][c]) for c in predictions[kind]]
        store(file, {**changed, "labels": names})
    row = next(r for r in tracks(root)[GOOD.encoder].rows if r.method == "equal")
    assert row.unranked == "another test set"
    build(root)
    page = (root / "index.html").read_text(encoding="utf-8")
    matrix = "".join(rf'<th scope="col"><span>{name[:4]}</span></th>' for name in names)
    assert page.count(matrix) == 1


def test_another_test_set_is_not_ranked(root):
    path = next((root / "records/meld/equal").glob("*.json")).parent
    for file in path.iterdir():
        changed = stored(file)
        for key in ("ids", "gold", "predicted", "probabilities", "dialogue"):
            changed["predictions"]["test"][key] = changed["predictions"]["test"][key][:-1]
        facts = changed["predictions"]["test"]["facts"]
        changed["predictions"]["test"]["facts"] = {k: v[:-1] for k, v in facts.items()}
        store(file, changed)
    rescore(root)
    track = tracks(root)[GOOD.encoder]
    assert ranks(track) == {"good": 1, "equal": None, "bad": 2}
    assert {r.method: r.unranked for r in track.rows}["equal"] == "another test set"


def test_the_published_figure_stands_beside_ours_and_is_not_ranked(tmp_path):
    write_records(
        tmp_path, [Method("spcl", 0.2), Method("eacl", 0.1), Method("sacl-lstm", context="full")]
    )
    rows = {row.method: row for row in tracks(tmp_path)[GOOD.encoder].rows}
    spcl = rows["spcl"].published
    assert spcl["weighted_f1"] == 67.25
    assert spcl["difference"] == pytest.approx(rows["spcl"].mean - 67.25, abs=1e-3)
    assert spcl["interval"][0] < spcl["difference"] < spcl["interval"][1]
    assert spcl["differs"] == []
    assert rows["eacl"].published["differs"] == ["theirs: selected on test", "not known: seeds"]
    assert rows["sacl-lstm"].published["differs"] == ["theirs: encoder roberta-large"]
    assert rows["spcl"].title == "SPCL-CL"
    assert set(ranks(tracks(tmp_path)[GOOD.encoder])) == {"spcl", "eacl", "sacl-lstm"}


def test_a_figure_on_another_release_is_not_shown_beside_our_rows(tmp_path):
    write_records(tmp_path, [Method("sacl-lstm")], ["emorynlp", "emorynlp-reduced"])
    full, reduced = (tracks(tmp_path, c) for c in ("emorynlp", "emorynlp-reduced"))
    assert full[GOOD.encoder].rows[0].published is None
    assert reduced[GOOD.encoder].rows[0].published["weighted_f1"] == 39.65


# --- the files


def test_same_input_same_bytes(root, tmp_path):
    assert {p.name for p in build(root).paths} == set(NAMES)
    first = contents(root)
    build(root)
    assert contents(root) == first
    shutil.rmtree(root / ".cache")
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    build(moved)
    assert contents(moved) == first


def test_check_lists_stale_files(root):
    assert {path.name for path in check(root).paths} == set(NAMES)
    build(root)
    assert check(root).paths == []
    (root / "README.md").write_text("edited", encoding="utf-8")
    assert check(root).paths == [root / "README.md"]
    build(root)
    write_records(root, [Method("new", 0.1)], dialogues=SIZE)
    assert {path.name for path in check(root).paths} == set(NAMES)


def test_a_site_leaves_the_leaderboard_as_it_is(root, tmp_path, capsys):
    build(root)
    before = contents(root)
    words = ["leaderboard", "--leaderboard-dir", str(root), "--site"]
    assert main([*words, str(tmp_path / "site")]) == 0
    assert contents(root) == before
    pages = {path.stem for path in (tmp_path / "site").glob("runs/*/*/*.html")}
    assert pages == {path.stem for path in (root / "records").rglob("*.json")}
    assert main([*words, str(root)]) == 2
    assert "folder of the leaderboard itself" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([*words, str(tmp_path / "file")]) == 2
    assert "Name a folder for the site" in capsys.readouterr().err


def test_a_changed_record_is_seen(root):
    before = tracks(root)[GOOD.encoder]
    path = root / f"records/meld/good/{GOOD.config_hash}-seed1.json"
    changed = stored(path)
    test = changed["predictions"]["test"]
    test["predicted"] = test["gold"]
    store(path, changed)
    rescore(root)
    after = tracks(root)[GOOD.encoder]
    assert max(max(row.values) for row in before.rows) < 100
    assert max(max(row.values) for row in after.rows) == 100


def test_a_damaged_cache_does_no_harm(root):
    build(root)
    first = contents(root)
    for path in (root / ".cache").glob("*.json"):
        path.write_text("{", encoding="utf-8")
    build(root)
    assert contents(root) == first


def test_the_cache_holds_no_more_than_is_used_and_git_ignores_it(root):
    build(root)
    before = set((root / ".cache").iterdir())
    shutil.rmtree(root / "records" / "emorynlp")
    build(root)
    assert set((root / ".cache").iterdir()) < before
    assert (root / ".cache" / ".gitignore").read_text(encoding="utf-8") == "*\n"


def test_a_full_disk_leaves_no_part_of_a_cached_value(tmp_path):
    resource = pytest.importorskip("resource", reason="only Unix limits the size of files")
    cache = Cache(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, hard))
    try:
        cache.write("large", "x" * (1 << 13))
        cache.write("small", "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in cache.folder.iterdir()} == {".gitignore", "small.json"}
    assert (cache.read("large"), cache.read("small")) == (None, "x")


def test_the_files_hold_what_the_board_holds(root):
    build(root)
    data = json.loads((root / "leaderboard.json").read_text(encoding="utf-8"))
    assert [c["name"] for c in data["corpora"]][:2] == ["meld", "iemocap"]
    assert "NaN" not in (root / "leaderboard.json").read_text(encoding="utf-8")
    with (root / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    ours = {
        (r["corpus"], r["method"]): r
        for r in rows
        if r["kind"] == "ours" and "simcse" in r["encoder"]
    }
    assert ours["meld", "bad"]["rank"] == "3"
    assert {r["kind"] for r in rows} == {"ours", "external", "tryout", "published"}
    assert all(r["rank"] == "" for r in rows if r["kind"] != "ours")
    text = (root / "README.md").read_text(encoding="utf-8")
    assert text.index("## MELD") < text.index("## EmoryNLP") < text.index("## Try-outs")
    assert "They are not a benchmark" in text
    assert str(root) not in text + (root / "index.html").read_text(encoding="utf-8")


def test_an_empty_folder_still_gives_the_published_rows(tmp_path):
    built = build(tmp_path)
    assert built.skipped == []
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "InstructERC" in page
    assert "There are no runs on MELD yet" in page
    assert "erc-bench run --method all --dataset meld" in (tmp_path / "README.md").read_text(
        encoding="utf-8"
    )
    assert (
        "\\citep{xue2024bioserc} & 69.83$^{\\ddagger}$ & 71.19$^{\\ddagger}$ &"
        in latex(tmp_path)[0]
    )
    assert check(tmp_path).paths == []


def test_latex_is_a_booktabs_table(root):
    write_records(root, [Method("a_b&c", 0.5, changes={"overrides": ["x_y=5%"]})], dialogues=SIZE)
    text, _ = latex(root)
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert [text.count(rule) for rule in (r"\toprule", r"\bottomrule", r"\end{tabular}")] == [
        1,
        1,
        1,
    ]
    assert all(line.count(" & ") == 2 for line in body if "multicolumn" not in line)
    assert "EACL \\citep{yu2024eacl} & 67.12$^{\\dagger}$ & 40.24" in text
    assert r"a\_b\&c (x\_y=5\%)" in text
    assert r"\textbf{" in next(line for line in body if line.startswith("good &"))
    assert r"\textbf{" not in next(line for line in body if line.startswith("bad &"))
    assert "demo" not in "".join(body).lower()
    assert "% Demo is left out: not a benchmark" in text


# --- older and broken records


def test_a_record_of_schema_1_is_read_without_slices(tmp_path):
    write_records(tmp_path, [GOOD], dialogues=80)
    write_records(tmp_path, [BAD], dialogues=80)
    for path in (tmp_path / "records/meld/bad").iterdir():
        store(path, older(stored(path)))
    track = tracks(tmp_path)[GOOD.encoder]
    assert ranks(track) == {"good": 1, "bad": 2}
    assert [bool(row.slices) for row in track.rows] == [True, False]
    assert build(tmp_path).skipped == []


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["test-d0-u0", "test-d0-u1", "test-d3-u0"], [0, 0, 1]),
        (["s01_e02_c03_u001", "s01_e02_c03_u002", "s01_e02_c04_u001"], [0, 0, 1]),
        (["a-1", "b-1", "a-2"], None),
        (["a-1", "what"], None),
    ],
)
def test_dialogues_from_ids(ids, expected):
    assert dialogues_of(ids) == expected


def test_without_dialogues_nothing_is_ranked(tmp_path):
    write_records(tmp_path, [GOOD])
    for path in (tmp_path / "records/meld/good").iterdir():
        old = older(stored(path))
        old["predictions"]["test"]["ids"] = [
            f"{i}" for i, _ in enumerate(old["predictions"]["test"]["ids"])
        ]
        store(path, old)
    row = tracks(tmp_path)[GOOD.encoder].rows[0]
    assert (row.rank, row.unranked, row.interval) == (None, "the dialogues are not known", None)
    assert row.seed_interval is not None


def nested_dialogues(made):
    test = made["predictions"]["test"]
    changed = {**test, "dialogue": [[number] for number in test["dialogue"]]}
    return json.dumps({**made, "predictions": {"test": changed}})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda r: "{", "is not a readable record"),
        (lambda r: "[1, 2]", "is not a record"),
        (lambda r: json.dumps({**r, "schema": 99}), "has schema 99"),
        (lambda r: json.dumps({**r, "schema": "two"}), "its schema is 'two'"),
        (lambda r: json.dumps({k: v for k, v in r.items() if k != "labels"}), "lacks labels"),
        (lambda r: json.dumps({**r, "labels": ["joy", "anger"]}), "something else than classes"),
        (lambda r: json.dumps({**r, "predictions": {}}), "$.predictions.test: it is not there"),
        (lambda r: json.dumps({**r, "metrics": {"test": {"weighted_f1": 99.0}}}), "rescore"),
        (lambda r: json.dumps({**r, "metrics": None}), "damaged record: $.metrics: Expected"),
        (lambda r: json.dumps({**r, "seed": 1}), "holds the same run as"),
        (lambda r: json.dumps({**r, "seed": math.inf}), "is not a readable record"),
        (lambda r: json.dumps({**r, "seed": None}), "damaged record: $.seed: Expected `int`"),
        (lambda r: "[" * 200_000, "is not a readable record"),
        (nested_dialogues, "$.predictions.test.dialogue[0]: Expected `int`, got `array`"),
    ],
)
def test_a_broken_record_is_named_and_left_out(tmp_path, damage, reason):
    paths = write_records(tmp_path, [GOOD])
    paths[1].write_text(damage(stored(paths[1])), encoding="utf-8")
    built = build(tmp_path)
    file = paths[1].relative_to(tmp_path).as_posix()
    assert [s.file for s in built.skipped] == [file]
    assert reason in built.skipped[0].reason
    assert file in built.skipped[0].reason
    assert str(tmp_path) not in built.skipped[0].reason
    assert tracks(tmp_path)[GOOD.encoder].rows[0].seeds == [1, 3]
    assert built.skipped[0].reason in (tmp_path / "README.md").read_text(encoding="utf-8")


# --- rescore


def test_rescore_finds_nothing_to_change_in_sound_records(written):
    found = rescore(written)
    assert found.records == len(list((written / "records").glob("*/*/*.json")))
    assert (found.changed, found.broken) == ([], [])


def test_rescore_puts_metrics_right_and_names_what_is_broken(root):
    files = sorted((root / "records/meld/good").glob("*.json"))
    truth = stored(files[0])
    wrong = json.loads(json.dumps(truth))
    wrong["metrics"]["test"]["weighted_f1"] = 99.0
    wrong["metrics"]["dev"]["per_class"]["joy"]["f1"] = 1.0
    wrong["metrics"]["test"]["speaker_accuracy"] = 12.5
    store(files[0], wrong)
    files[1].write_text("{", encoding="utf-8")
    short = stored(files[2])
    short["predictions"]["test"]["probabilities"] = [[0.5, 0.5]]
    store(files[2], short)
    found = rescore(root)
    assert [c.file for c in found.changed] == [files[0].relative_to(root).as_posix()]
    assert found.changed[0].figures[0].startswith("dev per_class")
    assert found.changed[0].figures[1].startswith("test weighted_f1 99.0000 → ")
    assert [b.file for b in found.broken] == [f.relative_to(root).as_posix() for f in files[1:3]]
    assert str(root) not in found.broken[0].reason
    fixed = stored(files[0])
    assert fixed["metrics"]["test"].pop("speaker_accuracy") == 12.5
    for split in ("dev", "test"):
        for name in ("weighted_f1", "accuracy", "macro_f1"):
            assert fixed["metrics"][split][name] == pytest.approx(
                truth["metrics"][split][name], abs=1e-3
            )
    assert fixed["metrics"]["dev"]["per_class"]["joy"]["f1"] == pytest.approx(
        truth["metrics"]["dev"]["per_class"]["joy"]["f1"], abs=1e-3
    )
    assert files[1].read_text(encoding="utf-8") == "{"


@pytest.mark.parametrize("metrics", [None, {}, [], {"test": {"weighted_f1": "99", "own": 1.5}}])
def test_rescore_makes_metrics_that_are_missing_and_drops_nothing(tmp_path, metrics):
    (path,) = write_records(tmp_path, [Method("a", seeds=(1,))])
    truth = {**stored(path), "trials": {"number": 30}}
    store(path, {**truth, "metrics": metrics})
    assert [c.file for c in rescore(tmp_path).changed] == ["records/meld/a/" + path.name]
    found = read_record(path)
    assert found.metrics.test.extra == (
        {"own": 1.5} if isinstance(metrics, dict) and metrics else {}
    )
    for split, of_split in found.metrics.items():
        f1 = truth["metrics"][split]["weighted_f1"]
        assert of_split.weighted_f1 == pytest.approx(f1, abs=1e-3)
    rest = {**stored(path), "metrics": None}
    assert (rest, list(rest)) == ({**truth, "metrics": None}, list(truth))
    assert build(tmp_path).skipped == []


# --- cost


@pytest.mark.timed
@pytest.mark.slow
def test_a_thousand_records_in_ten_seconds(tmp_path):
    encoders = ("one", "two", "three")
    methods = [
        Method(f"m{i:02}", 0.02 * i, range(1, 6), encoders[i % 3], seed_sd=0.03) for i in range(50)
    ]
    corpora = ("meld", "emorynlp", "iemocap", "iemocap-4")
    assert len(write_records(tmp_path, methods, corpora, 280)) == 1000
    assert seconds_of_a_core(tmp_path, 0) < 10
    assert check(tmp_path) == Built([], [])
    assert (
        len(
            json.loads((tmp_path / "leaderboard.json").read_text(encoding="utf-8"))["corpora"][0][
                "tracks"
            ]
        )
        == 3
    )
    write_records(tmp_path, [Method("new", 0.3, (1, 2), "one")], ["meld"], 280)
    assert seconds_of_a_core(tmp_path, 1, "--check") < 5
    assert len(check(tmp_path).paths) == 4


def seconds_of_a_core(root, code, *arguments):
    """Return the CPU seconds of ``erc-bench leaderboard``, which do not depend on other load.

    NumPy gets one thread, because its waiting threads would use CPU time too.
    """
    command = [sys.executable, "-m", "erc_bench.cli", "leaderboard", "--leaderboard-dir", str(root)]
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    start = os.times()
    done = subprocess.run([*command, *arguments], env=os.environ | one_thread)
    end = os.times()
    assert done.returncode == code
    return end.children_user + end.children_system - start.children_user - start.children_system
