"""The published figures that are shown beside ours."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from erc_bench.errors import ErcBenchError
from erc_bench.leaderboard.cache import Cache
from erc_bench.leaderboard.published import PublishedRow, read_published
from erc_bench.leaderboard.rows import unlike
from erc_bench.leaderboard.runs import read_runs

ROOT = Path(__file__).parent.parent
SOME = {"weighted_f1": 60}


def test_published_values():
    rows = {
        (row.key, corpus): row.weighted_f1
        for corpus, rows in read_published(ROOT / "leaderboard").rows.items()
        for row in rows
    }
    expected = {
        "yu2024eacl": (67.12, 70.41, 40.24),
        "song2022spcl": (67.25, 69.74, 40.94),
        "hu2023sacl": (66.45, 69.22, None),
        "li2020speaker": (61.90, None, 35.92),
        "majumder2019dialoguernn": (57.03, 62.75, None),
        "ghosal2020cosmic": (65.21, 65.28, 38.11),
        "shen2021dagerc": (63.65, 68.03, 39.02),
        "lee2022compm": (66.52, 66.33, 37.37),
        "kim2021emoberta": (65.61, 67.42, None),
        "li2022cogbart": (64.81, 66.18, 39.04),
        "lei2023instructerc": (69.15, 71.39, 41.37),
        "xue2024bioserc": (69.83, 71.19, 41.68),
        # As quoted by others.
        "dialoguernn-roberta": (65.30, 64.65, 37.54),
        "dagerc-again": (63.36, 66.53, 38.29),
        "kim2021emoberta-past": (64.55, 68.57, None),
        "bioserc-7b": (68.72, 69.02, 41.44),
        "lora-7b": (68.7, 68.5, None),
        "prc-emo": (70.44, 71.95, None),
        "laerc-s": (69.27, 72.40, 42.08),
        "dialoguellm": (71.90, 69.93, 40.05),
        "dialoguemmt": (64.74, None, None),
        "chatgpt": (65.07, 53.38, 37.00),
        "gpt-4o": (61.7, None, None),
    }
    for key, values in expected.items():
        for corpus, value in zip(("meld", "iemocap", "emorynlp"), values, strict=True):
            assert rows.pop((key, corpus), None) == value
    assert rows == {
        ("hu2023sacl", "emorynlp-reduced"): 39.65,
        ("hu2023sacl", "iemocap-4"): 80.74,
        ("hu2023sacl", "mosei-sentiment"): 25.95,
    }


def test_seeds_selection_and_sources_of_published_rows(tmp_path):
    published = read_published(tmp_path)
    meld = {row.method: row for row in published.rows["meld"]}
    assert (meld["SPCL-CL"].seeds, meld["SACL-LSTM"].seeds, meld["EACL"].seeds) == (3, 5, None)
    assert meld["InstructERC"].selection == "test"
    assert meld["SACL-LSTM"].per_class["fear"] == 26.23
    assert meld["Speaker-MTL"].accuracy == 62.45
    for row in published.all():
        quoted = row.note.startswith("quoted") and not row.paper
        assert quoted or re.fullmatch(r"arXiv:\d{4}\.\d{5}", row.paper)
        assert row.link == ("" if quoted else f"https://arxiv.org/abs/{row.paper[6:]}")


def test_unlike_names_release_context_and_modality(written):
    run = next(r for r in read_runs(written, Cache(written))[0] if r.method == "good")
    row = PublishedRow("x", "X", "meld", 60, seeds=1, encoder=run.encoder, selection="dev")
    alike = replace(row, release=True, context=run.context, modality="text")
    assert unlike(replace(run, preset="paper"), alike) == []
    other = replace(row, release=False, context="full", modality="multimodal")
    reasons = unlike(replace(run, preset="paper"), other)
    assert reasons == ["theirs: another release, context full, multimodal"]
    assert [r.measured_on for r in (row, alike, other)] == [
        "not checked",
        "this one",
        "another",
    ]


@pytest.mark.parametrize(
    ("sheet", "message"),
    [
        ({"paper": {}}, "unknown key 'paper'. Did you mean 'papers'"),
        ({"papers": {"x": {"method": "X"}}}, "papers.x needs a method and results"),
        ({"papers": {"x": {"method": "X", "results": {"meld": {"f1": 3}}}}}, "unknown key 'f1'"),
        (
            {"papers": {"x": {"method": "X", "results": {"meld": {"weighted_f1": 670}}}}},
            "percentage",
        ),
        (
            {
                "papers": {
                    "x": {"method": "X", "context": "none", "results": {"meld": {"weighted_f1": 6}}}
                }
            },
            "context must be past or full, not 'none'",
        ),
        (
            {"papers": {"x": {"method": "X", "seeds": 0, "results": {"meld": {"weighted_f1": 6}}}}},
            "seeds must be a whole number",
        ),
        (["x"], "must be a mapping"),
        ({"corpora": {"meld": {"title": 5}}}, "corpora.meld: title must be text, not 5"),
        (
            {"papers": {"x": {"method": "X", "release": "maybe", "results": {"meld": SOME}}}},
            "release must be true or false or left out, not 'maybe'",
        ),
        (
            {"papers": {"x": {"method": "X", "paper": 5, "results": {"meld": SOME}}}},
            "paper must be text, not 5",
        ),
        (
            {"papers": {"x": {"method": "X", "results": {"meld": {**SOME, "per_class": None}}}}},
            "per_class must be a mapping, not None",
        ),
        (
            {"papers": {"x": {"method": "X", "results": {"meld": {"weighted_f1": True}}}}},
            "weighted_f1 must be a number or left out, not True",
        ),
    ],
)
def test_a_wrong_entry_of_published_yaml_is_named(tmp_path, sheet, message):
    (tmp_path / "published.yaml").write_text(yaml.safe_dump(sheet), encoding="utf-8")
    with pytest.raises(ErcBenchError, match=re.escape(message)):
        read_published(tmp_path)
