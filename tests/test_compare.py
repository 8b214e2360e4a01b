"""Comparisons of two methods on the same dialogues, or of one with a published figure."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from synthetic_records import SMALL, Method, store, stored, write_records

from erc_bench.errors import ErcBenchError
from erc_bench.evaluation import NO_ANSWER
from erc_bench.evaluation.statistics import compare
from erc_bench.leaderboard import build, check, compare_methods, comparing, read_board
from erc_bench.leaderboard.ablations import ablations_of
from erc_bench.leaderboard.cache import Cache
from erc_bench.leaderboard.runs import read_runs

ENCODER = {"name": SMALL, "digest": "e"}


def of_method(root, name):
    """The runs of a method, in the order of their seeds."""
    runs, _ = read_runs(root, Cache(root))
    return sorted((r for r in runs if r.method == name), key=lambda r: r.seed)


def shown(comparison):
    console = Console(width=120, record=True, file=io.StringIO())
    comparison.render(console)
    return console.export_text()


def test_compare_two_methods(written):
    found = compare_methods(written, "good", "bad", "emorynlp")
    assert found.result.difference > 3
    assert found.result.p < 0.05
    assert found.result.paired_seeds == ()
    text = shown(found)
    assert "good is better by" in text
    assert "Paired over dialogues; seeds are independent samples." in text
    assert "F1 surprise" in text
    back = compare_methods(written, "bad", "good", "emorynlp")
    assert back.result.difference == pytest.approx(-found.result.difference)
    same = compare_methods(written, "good", "equal", "meld", preset="paper")
    assert "can't be told apart" in shown(same)


@pytest.mark.parametrize(("a", "b"), [("good:small", "good"), ("good", "good:small")])
def test_compare_never_compares_a_configuration_with_itself(written, a, b):
    found = compare_methods(written, a, b, "meld")
    presets = [side.configuration.split(",")[0] for side in (found.a, found.b)]
    assert sorted(presets) == ["paper", "small"]
    assert found.result.difference != 0


def test_compare_with_one_seed_says_so(written):
    found = compare_methods(written, "good:small", "bad:small", "meld")
    assert not found.result.covers_seeds
    assert found.verdict.endswith("With one seed of bad:small this does not cover seeds.")
    external = compare_methods(written, "my-llm", "good:paper", "meld")
    assert any("encoders differ" in caveat for caveat in external.caveats)


def test_compare_names_the_settings_in_which_two_configurations_differ(tmp_path):
    settings = {"encoder": "one", "epochs": 8, "features": {"lr": 1e-4, "epochs": 3}}
    other = {"encoder": "two", "epochs": 8, "features": {"lr": 2e-5, "epochs": 3}}
    one = Method("a", seeds=(1,), preset="small", changes={"config": settings})
    two = Method("a", seeds=(1,), preset="base", changes={"config": other})
    write_records(tmp_path, [one, two, Method("b", seeds=(1,), preset="base")])
    found = compare_methods(tmp_path, "a:small", "a:base", "meld")
    assert "their settings differ, features.lr 0.0001 and 2e-05." in found.caveats
    found = compare_methods(tmp_path, "a:small", "b", "meld")
    assert not any("settings" in caveat for caveat in found.caveats)


def test_compare_accepts_overrides_as_names(tmp_path):
    changed = Method("a", changes={"overrides": ["temperature=1"]})
    # The made-up hash depends only on the names in ``changes``: ``attempt`` makes it another.
    more = Method("a", changes={"overrides": ["temperature=1", "lr=0.1"], "attempt": "2"})
    write_records(tmp_path, [changed, Method("b"), Method("a", 0.2)])
    found = compare_methods(tmp_path, "a:temperature=1", "a", "meld")
    assert found.a.configuration == "paper, temperature=1, sup-simcse-roberta-large"
    assert found.b.configuration == "paper, sup-simcse-roberta-large"
    by_hash = compare_methods(tmp_path, f"a:{changed.config_hash}", "a", "meld")
    assert by_hash.result.difference == found.result.difference
    write_records(tmp_path, [more])
    found = compare_methods(tmp_path, "a:temperature=1", "a:paper:lr=0.1:temperature=1", "meld")
    assert found.a.configuration == "paper, temperature=1, sup-simcse-roberta-large"
    assert found.b.configuration == "paper, temperature=1, lr=0.1, sup-simcse-roberta-large"
    listed = r"a:temperature=1:lr=0.1 \(preset paper, temperature=1, lr=0.1, .*, 3 seeds\)"
    third = {"overrides": ["lr=0.1", "dropout=0"], "created": "today"}
    write_records(tmp_path, [Method("a", changes=third)])
    with pytest.raises(ErcBenchError, match=listed):
        compare_methods(tmp_path, "a:lr=0.1", "b", "meld")
    with pytest.raises(ErcBenchError, match=r"Did you mean 'temperature=1'"):
        compare_methods(tmp_path, "a:temperature=2", "b", "meld")


def test_compare_reads_further_folders(tmp_path):
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    write_records(mine, [Method("a"), Method("b")])
    write_records(theirs, [Method("b"), Method("c", 0.3)])
    with pytest.raises(ErcBenchError, match="no record of 'c'"):
        compare_methods(mine, "c", "a", "meld")
    found = compare_methods(mine, "c", "a", "meld", further=[theirs])
    alone = compare_methods(theirs, "c", "b", "meld")
    assert found.a.values == alone.a.values
    assert not [caveat for caveat in found.caveats if "skipped" in caveat]
    build(mine, [theirs])
    assert "../theirs/records/meld/c" in (mine / "leaderboard.json").read_text(encoding="utf-8")
    assert not check(mine, [theirs]).paths
    assert check(mine).paths


def test_compare_names_the_encoders_of_external_predictions(tmp_path):
    write_records(
        tmp_path,
        [
            Method(name, 0.1, (0,), changes={"external": True, "encoder": {"name": encoder}})
            for name, encoder in (("e1", "roberta-large"), ("e2", "bert-base"))
        ],
    )
    found = compare_methods(tmp_path, "e1", "e2", "meld")
    assert "their encoders differ, roberta-large and bert-base." in found.caveats


def test_compare_uses_all_seeds_of_both(tmp_path):
    write_records(tmp_path, [Method("a", 0.3, seeds=(1, 2, 3)), Method("b", 0.1, seeds=(3, 4))])
    (tmp_path / "records" / "meld" / "a" / "broken-seed9.json").write_text("{", encoding="utf-8")
    found = compare_methods(tmp_path, "a", "b", "meld")
    assert (found.a.seeds, found.b.seeds) == ([1, 2, 3], [3, 4])
    difference = np.mean(found.a.values) - np.mean(found.b.values)
    assert found.result.difference == pytest.approx(difference)
    assert found.result.covers_seeds
    text = shown(found)
    assert "skipped" in text
    assert "broken-seed9.json" in text


def test_compare_pairs_a_variant_with_the_whole_method(tmp_path):
    write_records(
        tmp_path,
        [
            Method("eacl", 0.3, seeds=(1, 2, 3)),
            Method("eacl", 0.1, seeds=(2, 3, 4), changes={"variant": "no-angle"}),
            Method(
                "eacl", 0.1, seeds=(3, 4), changes={"variant": "no-contrastive", "attempt": "x"}
            ),
        ],
    )
    found = compare_methods(tmp_path, "eacl", "eacl:no-angle", "meld")
    assert found.a.seeds == found.b.seeds == [2, 3]
    assert found.result.paired_seeds == (2, 3)
    difference = np.mean(found.a.values) - np.mean(found.b.values)
    assert found.result.difference == pytest.approx(difference)
    text = shown(found)
    assert "Paired over dialogues and over seeds 2, 3." in text
    assert "seeds that only one of them has are left out, 1, 4." in text
    assert "a variant shares its initial weights" in text
    (ablation,), _ = ablations_of(tmp_path, "eacl", "meld")
    (row,) = (row for row in ablation.variants if row.name == "no-angle")
    assert row.difference == pytest.approx(-found.result.difference)
    assert row.p == pytest.approx(found.result.p)
    (track,) = read_board(tmp_path).corpora[0].tracks
    names = [each.variant for each in track.rows]
    (pair,) = (p for p in track.pairs if {names[p.first], names[p.second]} == {"", "no-angle"})
    assert pair.p == pytest.approx(found.result.p, abs=1e-3)
    # One common seed gives no spread of differences, and two variants share nothing.
    for other in ("eacl", "eacl:no-angle"):
        apart = compare_methods(tmp_path, other, "eacl:no-contrastive", "meld")
        assert apart.result.paired_seeds == ()


def test_two_sides_with_the_same_predictions_have_no_detectable_difference(tmp_path):
    write_records(tmp_path, [Method("a", 0.3, seeds=(1,))])
    (path,) = tmp_path.rglob("*.json")
    other = stored(path) | {"method": "b"}
    store(tmp_path / "records" / "meld" / "b" / path.name, other)
    found = compare_methods(tmp_path, "a", "b", "meld")
    assert "They have the same score on every resample of the dialogues." in found.verdict
    assert "would have been found" not in found.verdict


def test_copies_of_a_corpus_and_weights_of_an_encoder_are_named_by_their_digests(tmp_path):
    copy, weights = "c0ffee00" + "0" * 56, "beef0000" + "0" * 56
    write_records(
        tmp_path,
        [
            Method(name, ability, changes=changes)
            for name, ability in (("a", 0.3), ("b", 0.1))
            for changes in ({}, {"dataset_digest": copy, "dataset_official": False})
        ],
    )
    with pytest.raises(ErcBenchError, match="can mean several configurations"):
        compare_methods(tmp_path, "a", "b", "meld")
    found = compare_methods(tmp_path, f"a:{copy[:8]}", "b", "meld")
    assert "copy c0ffee00" in found.a.configuration
    assert "copy c0ffee00" in found.b.configuration
    other = tmp_path / "weights"
    changes = {"encoder": {"name": SMALL, "digest": weights}}
    encoders = [{}, {"encoder": ENCODER}, changes]
    write_records(other, [Method(n, 0.2, changes=each) for n in "ab" for each in encoders])
    for path in other.rglob("*.json"):  # the settings are the same: only the weights differ
        made = stored(path) | {"config_hash": "0" * 12}
        store(path.with_name(f"{made['encoder']['digest'][:4]}-{path.name}"), made)
        path.unlink()
    with pytest.raises(ErcBenchError, match="several configurations") as error:
        compare_methods(other, "a", "b", "meld")
    assert f"a:{weights[:8]} " in str(error.value)
    found = compare_methods(other, f"a:{weights[:8]}", "b", "meld")
    assert not any("encoders differ" in caveat for caveat in found.caveats)


@pytest.mark.parametrize(
    ("theirs", "paired"),
    [
        ({1: "v", 2: "w", 3: "x"}, (1, 2, 3)),
        ({1: "w", 2: "v", 3: "x"}, ()),  # the encoders of other seeds
        ({1: "v", 2: "w"}, ()),  # one side has a further seed
    ],
)
def test_seeds_that_read_the_same_fine_tuned_encoder_are_paired(tmp_path, theirs, paired):
    def reading(name, by_seed):
        return [
            Method(name, 0.2, (seed,), changes={"encoder": ENCODER | {"vectors": vectors}})
            for seed, vectors in by_seed.items()
        ]

    ours = reading("a", {1: "v", 2: "w", 3: "x"})
    write_records(tmp_path, [*ours, *reading("b", theirs)])
    found = compare_methods(tmp_path, "a", "b", "meld")
    assert found.result.paired_seeds == paired
    note = "seeds are paired, because both read the same fine-tuned encoder in each seed."
    assert (note in found.caveats) == bool(paired)
    (track,) = read_board(tmp_path).corpora[0].tracks
    (pair,) = track.pairs
    assert pair.p == pytest.approx(found.result.p, abs=1e-3)
    sides = (comparing.resampled(of_method(tmp_path, name)) for name in "ab")
    by_hand = compare(*sides, paired_seeds=bool(paired))
    assert found.result.interval == by_hand.interval


def test_a_search_is_named_by_the_settings_of_all_its_trials(tmp_path):
    search = {"trials": 8, "sampler": "random", "sampler_seed": 0, "space": {"lr": {}}}
    search |= {"chosen": 1, "digest": "ab" * 32}
    own, other = "features.per_seed=true", {"tuned": search | {"digest": "cd" * 32}}
    write_records(
        tmp_path,
        [
            Method("a", 0.1),
            Method("a", 0.3, changes={"tuned": search, "overrides": ["lr=0.1"]}),
            Method("a", 0.5, changes=other | {"overrides": [own, "lr=0.2"], "attempt": "x"}),
        ],
    )
    found = compare_methods(tmp_path, f"a:tuned:{own}", "a:tuned", "meld")
    assert found.a.configuration != found.b.configuration
    assert (own in found.a.configuration, own in found.b.configuration) == (True, False)
    assert compare_methods(tmp_path, f"a:{own}", "a:paper", "meld").a.values == found.a.values
    against = compare_methods(tmp_path, "a:tuned", "a:paper", "meld")
    assert against.a.values == found.b.values
    assert "tuned" not in against.b.configuration
    with pytest.raises(ErcBenchError, match=f"Did you mean 'tuned:{own}'"):
        compare_methods(tmp_path, f"a:tuned:{own}x", "a", "meld")


def test_a_preset_name_means_untuned_settings_and_a_method_name_equal_budgets(tmp_path):
    search = {"trials": 8, "sampler": "random", "sampler_seed": 0, "space": {"lr": {}}}
    search = {"tuned": search | {"chosen": 1, "digest": "ab" * 32}, "overrides": ["lr=0.1"]}
    rows = [Method("a", 0.3, changes=search), Method("b", 0.1), Method("b", 0.2, changes=search)]
    write_records(tmp_path, rows)
    of_preset = compare_methods(tmp_path, "a:tuned", "b:paper", "meld")
    assert "lr=0.1" not in of_preset.b.configuration
    assert any("their search budgets differ" in each for each in of_preset.caveats)
    for name in ("b", "b:tuned"):
        assert "lr=0.1" in compare_methods(tmp_path, "a:tuned", name, "meld").b.configuration
    only_tuned = compare_methods(tmp_path, "a:paper", "b:tuned", "meld").a
    assert "lr=0.1" in only_tuned.configuration


def test_seeds_are_not_paired_if_all_read_one_encoder(tmp_path):
    changes = {"encoder": ENCODER | {"vectors": "v"}}
    write_records(tmp_path, [Method(name, 0.2, changes=changes) for name in "ab"])
    assert compare_methods(tmp_path, "a", "b", "meld").result.paired_seeds == ()


def test_compare_says_which_share_has_no_answer(tmp_path, monkeypatch):
    write_records(tmp_path, [Method("a", 0.3), Method("b", 0.3)])
    runs, _ = read_runs(tmp_path, Cache(tmp_path))
    silent = [
        replace(r, predicted=[NO_ANSWER, *r.predicted[1:]]) if r.method == "b" else r for r in runs
    ]
    monkeypatch.setattr(comparing, "read_runs", lambda *_: (silent, []))
    found = compare_methods(tmp_path, "a", "b", "meld")
    share = f"{100 / len(runs[0].gold):.2f} %"
    assert f"b: {share} of its utterances have no answer, which counts as wrong." in found.caveats
    assert found.b.per_class.keys() == found.a.per_class.keys()


def test_compare_with_a_published_figure(tmp_path):
    write_records(tmp_path, [Method("spcl", 0.2)])
    found = compare_methods(tmp_path, "spcl", "lei2023instructerc", "meld")
    assert found.b.values == [69.15]
    assert found.result.difference == pytest.approx(np.mean(found.a.values) - 69.15)
    (differs,) = (c for c in found.caveats if "lei2023instructerc differ (" in c)
    assert "selected on test" in differs
    assert "as published" in shown(found)
    assert "Resampled over dialogues; the published figure is not paired." in shown(found)


def test_beside_a_published_figure_a_method_means_the_row_that_was_not_tuned(tmp_path):
    search = {"trials": 8, "sampler": "random", "sampler_seed": 0, "space": {"lr": {}}}
    search = {"tuned": search | {"chosen": 1, "digest": "ab" * 32}, "overrides": ["lr=0.1"]}
    write_records(tmp_path, [Method("spcl", 0.3, changes=search), Method("spcl", 0.1)])
    for name, tuned in (("spcl", False), ("spcl:paper", False), ("spcl:tuned", True)):
        found = compare_methods(tmp_path, name, "lei2023instructerc", "meld")
        assert ("tuned" in name) == tuned == ("random search" in found.a.configuration)


def test_an_error_names_rows_by_their_preset_or_tuned(written):
    with pytest.raises(ErcBenchError, match="example good:paper") as error:
        compare_methods(written, "good", "lei2023instructerc", "meld")
    assert "good:small (preset small" in str(error.value)


def test_compare_of_one_seed_with_a_published_figure_names_the_figure(tmp_path):
    write_records(tmp_path, [Method("spcl", 0.2, seeds=(1,))])
    found = compare_methods(tmp_path, "spcl", "lei2023instructerc", "meld")
    assert found.verdict.startswith("This run and the published figure differ")


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("god", "bad", "There is no record of 'god' on meld. Did you mean 'good'"),
        ("good:large", "bad", "No configuration of 'good' on meld is 'large'"),
        ("good", "good", "can mean several configurations"),
        ("my-llm", "my-llm", "are the same runs"),
        ("my-llm", "good", "can mean several configurations; say which, for example"),
        ("song2022spcl", "good:paper", "song2022spcl is a published figure: name it second"),
        ("good:paper", "song2022spcl:x", "is a published figure; it has no configuration 'x'"),
    ],
)
def test_compare_names_what_it_can_not_find(written, a, b, message):
    with pytest.raises(ErcBenchError, match=re.escape(message)):
        compare_methods(written, a, b, "meld")


def test_compare_without_a_record_names_other_presets_or_the_command_to_run(written):
    with pytest.raises(ErcBenchError, match=r"the preset 'smol'. There are records with .*paper"):
        compare_methods(written, "good", "bad", "meld", preset="smol")
    with pytest.raises(ErcBenchError, match="no record of 'god' on meld with the preset paper"):
        compare_methods(written, "god", "bad", "meld", preset="paper")
    with pytest.raises(ErcBenchError, match="--method eacl finetune --dataset iemocap-4 --preset"):
        compare_methods(written, "finetune", "eacl:small", "iemocap-4", preset="small")


def test_compare_names_records_that_could_not_be_read(tmp_path):
    (path, *_) = write_records(tmp_path, [Method("a", seeds=(1,))])
    path.write_text("{", encoding="utf-8")
    with pytest.raises(
        ErcBenchError, match=f"to compare. skipped: .*{path.name} is not a readable"
    ):
        compare_methods(tmp_path, "a", "b", "meld")
