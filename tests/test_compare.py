"""Two methods on the same dialogues, or one and a published figure."""

import re

import numpy as np
import pytest
from rich.console import Console
from synthetic_records import Method, write_records

from erc_bench.errors import ErcBenchError
from erc_bench.leaderboard import compare_methods


def shown(comparison):
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    comparison.render(console)
    return console.export_text()


def test_compare_two_methods(written):
    found = compare_methods(written, "good", "bad", "emorynlp")
    assert found.result.difference > 3
    assert found.result.p < 0.05
    assert found.result.seeds == (1, 2, 3)
    text = shown(found)
    assert "good is better by" in text
    assert "Paired over dialogues and the seeds 1, 2, 3." in text
    assert "F1 surprise" in text
    back = compare_methods(written, "bad", "good", "emorynlp")
    assert back.result.difference == pytest.approx(-found.result.difference)
    same = compare_methods(written, "good", "equal", "meld", preset="paper")
    assert "can not be told apart" in shown(same)


@pytest.mark.parametrize(("a", "b"), [("good:small", "good"), ("good", "good:small")])
def test_compare_never_takes_a_configuration_for_its_own_other_side(written, a, b):
    found = compare_methods(written, a, b, "meld")
    presets = [side.configuration.split(",")[0] for side in (found.a, found.b)]
    assert sorted(presets) == ["paper", "small"]
    assert found.result.difference != 0


def test_compare_with_one_seed_says_so(written):
    found = compare_methods(written, "good:small", "bad:small", "meld")
    assert not found.result.covers_seeds
    assert "With one seed this says nothing about other seeds." in shown(found)
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


def test_compare_shows_overrides(tmp_path):
    changed = Method("a", changes={"overrides": ["temperature=1"]})
    write_records(tmp_path, [changed, Method("b"), Method("a", 0.2)])
    listed = r"a:\w+ \(preset paper, temperature=1, sup-simcse-roberta-large, 3 seeds\)"
    with pytest.raises(ErcBenchError, match=listed):
        compare_methods(tmp_path, "a", "b", "meld")
    found = compare_methods(tmp_path, f"a:{changed.config_hash}", "b", "meld")
    assert found.a.configuration == "paper, temperature=1, sup-simcse-roberta-large"


def test_compare_tells_predictions_made_elsewhere_by_the_names_of_their_encoders(tmp_path):
    write_records(
        tmp_path,
        [
            Method(name, 0.1, (0,), changes={"external": True, "encoder": {"name": encoder}})
            for name, encoder in (("e1", "roberta-large"), ("e2", "bert-base"))
        ],
    )
    found = compare_methods(tmp_path, "e1", "e2", "meld")
    assert "their encoders differ, roberta-large and bert-base." in found.caveats


def test_compare_takes_all_figures_from_the_paired_seeds(tmp_path):
    write_records(tmp_path, [Method("a", 0.3, seeds=(1, 2, 3)), Method("b", 0.1, seeds=(1, 3, 4))])
    (tmp_path / "records" / "meld" / "a" / "broken-seed9.json").write_text("{")
    found = compare_methods(tmp_path, "a", "b", "meld")
    assert found.a.seeds == found.b.seeds == [1, 3]
    means = [sum(side.values) / 2 for side in (found.a, found.b)]
    assert found.result.difference == pytest.approx(means[0] - means[1])
    text = shown(found)
    assert "a has further seeds, which are left out: 2." in text
    assert "b has further seeds, which are left out: 4." in text
    assert "skipped" in text
    assert "broken-seed9.json" in text


def test_compare_with_a_published_figure(tmp_path):
    write_records(tmp_path, [Method("spcl", 0.2)])
    found = compare_methods(tmp_path, "spcl", "lei2023instructerc", "meld")
    assert found.b.values == [69.15]
    assert found.result.difference == pytest.approx(np.mean(found.a.values) - 69.15)
    (differs,) = (c for c in found.caveats if c.startswith("what differs from lei2023instructerc:"))
    assert "selected on test" in differs
    assert "as published" in shown(found)


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
def test_compare_says_what_it_can_not_find(written, a, b, message):
    with pytest.raises(ErcBenchError, match=re.escape(message)):
        compare_methods(written, a, b, "meld")


def test_compare_without_a_record_says_which_there_are_or_what_makes_them(written):
    with pytest.raises(ErcBenchError, match=r"the preset 'smol'; there are some with .*paper"):
        compare_methods(written, "good", "bad", "meld", preset="smol")
    with pytest.raises(ErcBenchError, match="no record of 'god' on meld with the preset paper"):
        compare_methods(written, "god", "bad", "meld", preset="paper")
    with pytest.raises(ErcBenchError, match="--method eacl finetune --dataset iemocap-4 --preset"):
        compare_methods(written, "finetune", "eacl:small", "iemocap-4", preset="small")


def test_compare_names_records_that_could_not_be_read(tmp_path):
    (path, *_) = write_records(tmp_path, [Method("a", seeds=(1,))])
    path.write_text("{")
    with pytest.raises(
        ErcBenchError, match=f"to compare. skipped: .*{path.name} is not a readable"
    ):
        compare_methods(tmp_path, "a", "b", "meld")
