"""EmoryNLP: the official and the flat JSON, the reduced CSV, and files that are broken."""

import json
import shutil

import pytest
from real_data import real_data

from erc_bench.corpus.conversation import SPLITS
from erc_bench.datamodules.emorynlp import EmoryNLP, EmoryNLPReduced, parse_csv, parse_json
from erc_bench.errors import ErcBenchError

TURNS = [
    (["Ann Lee"], " Morning. ", "Neutral"),
    (["Bo"], "Is it?", "Mad"),
    (["Ann Lee", "Bo"], "Ha!", "Joyful"),
    (["Cy Young", "Bo"], "Stop it.", "Powerful"),
    (["Cy Young"], "Please.", "Scared"),
    (["Cy Young Jr."], "Dad!", "Sad"),
]


@pytest.fixture(scope="module")
def emorynlp_dir():
    return real_data("emorynlp")


def official(turns):
    utterances = [
        {"utterance_id": f"u{i}", "speakers": speakers, "transcript": text, "emotion": emotion}
        for i, (speakers, text, emotion) in enumerate(turns)
    ]
    return {"episodes": [{"scenes": [{"scene_id": "s01_e01_c01", "utterances": utterances}]}]}


def flat(turns):
    return [[{"text": t, "speaker": " ".join(s), "label": e} for s, t, e in turns]]


def read(tmp_path, contents):
    path = tmp_path / "made_up.json"
    path.write_text(contents if isinstance(contents, str) else json.dumps(contents))
    return parse_json(path, "test", EmoryNLP.labels)


def test_the_real_corpus(emorynlp_dir):
    corpus = EmoryNLP().load(emorynlp_dir)
    assert {split: len(corpus.splits[split]) for split in SPLITS} == {
        "train": 713,
        "dev": 99,
        "test": 85,
    }
    speakers = {u.speaker for d in corpus.dialogues("test") for u in d.utterances}
    assert "Ross Geller" in speakers
    assert not any("Ross Geller" in s for s in speakers if s != "Ross Geller")


def test_both_forms_give_the_same_corpus(emorynlp_dir, tmp_path, monkeypatch):
    monkeypatch.delenv("ERC_BENCH_DATA", raising=False)
    shutil.copytree(emorynlp_dir / "emorynlp" / "flat", tmp_path / "emorynlp" / "flat")
    mixed, flat_only = EmoryNLP().prepare(emorynlp_dir), EmoryNLP().prepare(tmp_path)
    assert mixed["test"].name == "emotion-detection-tst.json"
    assert flat_only["test"].name == "test_data.json"
    assert EmoryNLP().load(emorynlp_dir).digest == EmoryNLP().load(tmp_path).digest


def test_the_real_reduced_corpus(emorynlp_dir):
    corpus = EmoryNLPReduced().load(emorynlp_dir)
    assert corpus.splits["test"].num_rows == 79
    first = corpus.dialogues("test")[0].utterances[0]
    assert (first.id, first.speaker) == ("test-s01_e01_c04_u001", "Ross Geller")


def test_the_official_form(tmp_path):
    (dialogue,) = read(tmp_path, official([*TURNS, ([], "Who?", "Peaceful")]))
    assert [u.speaker for u in dialogue.utterances] == [
        "Ann Lee",
        "Bo",
        "Ann Lee",
        "Cy Young",
        "Cy Young",
        "Cy Young Jr.",
        "Unknown",
    ]
    assert dialogue.utterances[0].text == "Morning."
    assert [u.label for u in dialogue.utterances] == [2, 1, 0, 4, 6, 5, 3]
    assert dialogue.utterances[3].id == "test-d0-u3"


def test_the_flat_form_gives_the_same_dialogues(tmp_path):
    assert read(tmp_path, flat(TURNS)) == read(tmp_path, official(TURNS))


BROKEN = {
    "unknown label": (official([(["Ann"], "Hi", "Angry")]), "utterance 0: the label 'angry'"),
    "unknown label, flat": (flat([(["Ann"], "Hi", "Bored")]), "utterance 0: the label 'bored'"),
    "empty scene": (official([]), "dialogue 0: the dialogue has no utterances"),
    "empty dialogue, flat": ([[]], "dialogue 0: the dialogue has no utterances"),
    "no episodes": ({"season": 1}, "JSON of the wrong shape, no 'episodes' among season"),
    "a list of numbers": ([1, 2], "dialogue 0: JSON of the wrong shape, int instead of list"),
    "a text": ('"hello"', "JSON of the wrong shape, str instead of list"),
    "no label": ([[{"text": "Hi", "speaker": "Ann"}]], "no 'label' among text, speaker"),
    "a speaker that is no list": (
        {
            "episodes": [
                {
                    "scenes": [
                        {
                            "scene_id": "s01_e02_c03",
                            "utterances": [
                                {"speakers": "Ann", "transcript": "Hi", "emotion": "Sad"}
                            ],
                        }
                    ]
                }
            ]
        },
        "scene s01_e02_c03, 'speakers': JSON of the wrong shape, str instead of list",
    ),
    "truncated": ('[\n[{"text": "Hi", "spea', "line 2: not valid JSON .* truncated"),
}


@pytest.mark.parametrize(("contents", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named_by_place(tmp_path, contents, message):
    with pytest.raises(ErcBenchError, match=rf"made_up\.json.*{message}"):
        read(tmp_path, contents)


HEADER = "Utterance,Speaker,Emotion,Scene_ID,Utterance_ID,Season,Episode,Start_Time,End_Time\n"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("Hi,['Ann'],Sad,4,1,1,x,0,0\n", "line 2: Episode must be a whole number, not 'x'"),
        ("Hi,Ann,Sad,4,1,1,2,0,0\n", "line 2: the speaker must be a list"),
        ("Hi,['Ann'],Blue,4,1,1,2,0,0\n", "line 2: the label 'blue'"),
        ("Hi,['Ann'],Sad,4,1,1,2,0,0\n" * 2, "line 3: utterance 1 of its scene stands twice"),
    ],
    ids=["no number", "no list", "unknown label", "duplicate id"],
)
def test_a_broken_reduced_file_is_named_by_line(tmp_path, rows, message):
    path = tmp_path / "made_up.csv"
    path.write_text(HEADER + rows)
    with pytest.raises(ErcBenchError, match=rf"made_up\.csv, {message}"):
        parse_csv(path, "dev", EmoryNLP.labels)


def test_the_reduced_form_takes_the_first_of_several_speakers(tmp_path):
    path = tmp_path / "made_up.csv"
    path.write_text(
        HEADER + "\"Hi, you\",\"['Ann', 'Bo']\",Sad,4,1,1,2,0,0\nHo,[],Mad,4,3,1,2,0,0\n"
    )
    (dialogue,) = parse_csv(path, "dev", EmoryNLP.labels)
    assert [u.speaker for u in dialogue.utterances] == ["Ann", "Unknown"]
    assert [u.id for u in dialogue.utterances] == ["dev-s01_e02_c04_u001", "dev-s01_e02_c04_u003"]
