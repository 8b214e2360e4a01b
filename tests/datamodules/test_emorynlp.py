"""EmoryNLP: the official and the flat JSON, the reduced CSV, and files that are broken."""

import csv
import json
import shutil
from random import Random

import pytest
from places import committed_records
from real_data import real_data

from erc_bench.corpus.conversation import SPLITS
from erc_bench.corpus.release import Release
from erc_bench.corpus.source import CorpusWarning
from erc_bench.datamodules.emorynlp import (
    NUMBERS,
    EmoryNLP,
    EmoryNLPReduced,
    parse_csv,
    parse_json,
)
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
    path.write_text(
        contents if isinstance(contents, str) else json.dumps(contents), encoding="utf-8"
    )
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


def changed(emorynlp_dir, folder, change, form="flat"):
    """Write a copy of one form with changed dialogues; returns its data folder."""
    (folder / "emorynlp" / form).mkdir(parents=True)
    for path in (emorynlp_dir / "emorynlp" / form).iterdir():
        made = change(json.loads(path.read_text(encoding="utf-8")))
        (folder / "emorynlp" / form / path.name).write_text(
            json.dumps(made, indent=1), encoding="utf-8"
        )
    return folder


def swapped(dialogues):
    """Swap two dialogues with the same number of turns."""
    a, b = [i for i, dialogue in enumerate(dialogues) if len(dialogue) == 12][:2]
    dialogues[a], dialogues[b] = dialogues[b], dialogues[a]
    return dialogues


@pytest.mark.parametrize(
    "order",
    [
        lambda dialogues: dialogues[::-1],
        lambda dialogues: Random(2).sample(dialogues, len(dialogues)),
        lambda dialogues: [turns[::-1] for turns in dialogues],
        swapped,
    ],
    ids=["reversed", "shuffled", "turns reversed", "two swapped"],
)
def test_a_flat_file_in_another_order_is_refused(emorynlp_dir, tmp_path, order):
    """It has no numbers, so that an id would name another utterance."""
    folder = changed(emorynlp_dir, tmp_path, order)
    with pytest.raises(ErcBenchError, match=r"order.*data doctor"):
        EmoryNLP().load(folder)


def test_damaged_text_in_a_flat_file_is_named(emorynlp_dir, tmp_path):
    def without(dialogues):
        return [[{**t, "text": t["text"].replace("'", "")} for t in d] for d in dialogues]

    folder = changed(emorynlp_dir, tmp_path, without)
    with pytest.warns(CorpusWarning, match="utterances have lost an apostrophe, such as"):
        corpus = EmoryNLP().load(folder)
    assert not corpus.official


def test_another_spelling_of_the_same_json_is_the_official_corpus(emorynlp_dir, tmp_path):
    folder = changed(emorynlp_dir, tmp_path, lambda dialogues: dialogues)
    with pytest.warns(CorpusWarning, match="the same as from the official one"):
        corpus = EmoryNLP().load(folder)
    assert (corpus.digest, corpus.official) == (EmoryNLP.official.digest, True)


def test_scenes_out_of_order_are_put_in_order(emorynlp_dir, tmp_path):
    path = emorynlp_dir / "emorynlp" / "official" / "emotion-detection-dev.json"
    contents = json.loads(path.read_text(encoding="utf-8"))
    for episode in contents["episodes"]:
        for scene in episode["scenes"]:
            scene["utterances"].reverse()
        episode["scenes"].reverse()
    contents["episodes"].reverse()
    (tmp_path / "made_up.json").write_text(json.dumps(contents), encoding="utf-8")
    with pytest.warns(CorpusWarning, match="is not in the order of utterance_id"):
        found = parse_json(tmp_path / "made_up.json", "dev", EmoryNLP.labels)
    assert found == parse_json(path, "dev", EmoryNLP.labels)


def test_a_reduced_file_out_of_order_is_put_in_order(emorynlp_dir, tmp_path):
    folder = tmp_path / "emorynlp" / "reduced"
    folder.mkdir(parents=True)
    for path in (emorynlp_dir / "emorynlp" / "reduced").iterdir():
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        numbers = [i for i, name in enumerate(rows[0]) if name in NUMBERS]
        for row in rows[1:]:
            for i in numbers:
                row[i] = f"{row[i]}.0"
        with (folder / path.name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([rows[0], *rows[:0:-1]])
    with pytest.warns(CorpusWarning) as caught:
        corpus = EmoryNLPReduced().load(tmp_path)
    assert "not in the order of Season, Episode, Scene_ID, Utterance_ID" in str(caught[0].message)
    assert (corpus.digest, corpus.official) == (EmoryNLPReduced.official.digest, True)


def test_the_digests_are_those_of_the_committed_records(emorynlp_dir):
    for source in (EmoryNLP(), EmoryNLPReduced()):
        records = committed_records(source.name)
        digests = {
            json.loads(path.read_text(encoding="utf-8"))["dataset_digest"] for path in records
        }
        corpus = source.load(emorynlp_dir)
        assert digests == {corpus.digest}
        assert Release.of(corpus) == source.official


def test_ids_of_the_release_give_the_order_and_are_checked(tmp_path):
    contents = official(TURNS)
    utterances = contents["episodes"][0]["scenes"][0]["utterances"]
    for i, turn in enumerate(utterances):
        turn["utterance_id"] = f"s01_e01_c01_u{12 - i:03}"
    with pytest.warns(CorpusWarning, match=r"first 1/1/1/12 before 1/1/1/11"):
        (dialogue,) = read(tmp_path, contents)
    assert [u.text for u in dialogue.utterances] == [t.strip() for _, t, _ in TURNS[::-1]]
    for change, message in (("s01_e01_c01_u012", "occurs twice"), ("u7", "is no id like")):
        utterances[1]["utterance_id"] = change
        with pytest.raises(ErcBenchError, match=f"{change}' {message}"):
            read(tmp_path, contents)
    utterances[1]["utterance_id"] = "s01_e01_c02_u001"
    with pytest.raises(ErcBenchError, match=r"scene s01_e01_c01: .* is a turn of another scene"):
        read(tmp_path, contents)


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
        ("Hi,['Ann'],Sad,4,1,1,2,0,0\n" * 2, "line 3: utterance 1 of its scene occurs twice"),
    ],
    ids=["no number", "no list", "unknown label", "duplicate id"],
)
def test_a_broken_reduced_file_is_named_by_line(tmp_path, rows, message):
    path = tmp_path / "made_up.csv"
    path.write_text(HEADER + rows, encoding="utf-8")
    with pytest.raises(ErcBenchError, match=rf"made_up\.csv, {message}"):
        parse_csv(path, "dev", EmoryNLP.labels)


def test_the_reduced_form_takes_the_first_of_several_speakers(tmp_path):
    path = tmp_path / "made_up.csv"
    path.write_text(
        HEADER + "\"Hi, you\",\"['Ann', 'Bo']\",Sad,4,1,1,2,0,0\nHo,[],Mad,4,3,1,2,0,0\n",
        encoding="utf-8",
    )
    (dialogue,) = parse_csv(path, "dev", EmoryNLP.labels)
    assert [u.speaker for u in dialogue.utterances] == ["Ann", "Unknown"]
    assert [u.id for u in dialogue.utterances] == ["dev-s01_e02_c04_u001", "dev-s01_e02_c04_u003"]
