"""IEMOCAP: both its layouts from made-up files, its split, its counts."""

import json
import re
import shutil
from random import Random

import pytest
from iemocap_layout import DIALOGUES, turns_of, write_json_form, write_release

from erc_bench.corpus.conversation import SPLITS
from erc_bench.corpus.source import CorpusWarning
from erc_bench.datamodules.iemocap import DEV, IEMOCAP, IEMOCAP4, split_of
from erc_bench.errors import ErcBenchError


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path, monkeypatch):
    """Only the files that a test writes are found."""
    monkeypatch.delenv("ERC_BENCH_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def load(source, data_dir):
    with pytest.warns(CorpusWarning, match="has 5/2/2 dialogues"):
        return source.load(data_dir)


def test_the_releases_own_layout(tmp_path):
    write_release(tmp_path / "iemocap")
    corpus = load(IEMOCAP(), tmp_path)
    assert {s: len(corpus.splits[s]) for s in SPLITS} == {"train": 5, "dev": 2, "test": 2}
    dialogue = corpus.dialogues("test")[0]
    assert dialogue.id == "test-Ses05F_impro04"
    assert len(dialogue) == 10
    assert dialogue.utterances[3].id == "test-Ses05F_impro04-u3"
    names = [corpus.labels.names[u.label] for u in dialogue.utterances if u.label is not None]
    assert names == ["neutral", "neutral", "angry", "frustrated", "happy", "excited", "sad"]
    assert dialogue.labelled == (0, 1, 2, 3, 4, 5, 6)


def test_speakers_are_actors_and_have_first_names(tmp_path):
    write_release(tmp_path / "iemocap")
    corpus = load(IEMOCAP(), tmp_path)
    turns = [u for split in SPLITS for d in corpus.dialogues(split) for u in d.utterances]
    assert {(u.speaker[-1], u.name) for u in turns} == {("F", "Mary"), ("M", "James")}
    assert len({u.speaker for u in turns}) == 10
    dev, train = (
        {u.speaker for d in corpus.dialogues(split) for u in d.utterances}
        for split in ("dev", "train")
    )
    assert dev == {"Ses04_F", "Ses04_M"} <= train


def test_laughter_is_dropped(tmp_path):
    write_release(tmp_path / "iemocap")
    turns = load(IEMOCAP(), tmp_path).dialogues("dev")[0].utterances
    assert turns[3].text == "Nobody said always."
    assert (turns[4].text, turns[4].label) == ("", 3)


def test_both_layouts_give_the_same_corpus(tmp_path):
    write_release(tmp_path / "a" / "iemocap" / "IEMOCAP_full_release")
    write_json_form(tmp_path / "b" / "iemocap")
    for source in (IEMOCAP(), IEMOCAP4()):
        release, form = load(source, tmp_path / "a"), load(source, tmp_path / "b")
        assert release.digest == form.digest


def test_four_classes_merge_excited_and_leave_frustrated_unlabelled(tmp_path):
    write_release(tmp_path / "iemocap")
    corpus = load(IEMOCAP4(), tmp_path)
    dialogue = corpus.dialogues("test")[0]
    names = [corpus.labels.names[u.label] for u in dialogue.utterances if u.label is not None]
    assert names == ["neutral", "neutral", "angry", "happy", "happy", "sad"]
    assert dialogue.utterances[3].label is None


def test_the_split():
    assert len(DEV) == 20
    assert {split_of(name) for name in DEV} == {"dev"}
    assert split_of("Ses04F_impro01") == "train"
    assert split_of("Ses05M_script03_2") == "test"


def official_size(folder, labelled, turns=(6490, 1401, 2196)):
    """Write 151 dialogues with so many turns, and labelled turns, in train, dev and test."""
    folder.mkdir(parents=True)
    names = {
        "train": [f"Ses01F_impro{number:03}" for number in range(100)],
        "dev": sorted(DEV),
        "test": [f"Ses05M_impro{number:02}" for number in range(31)],
    }
    for split, sad, total in zip(SPLITS, labelled, turns, strict=True):
        dialogues = [[{"text": f"{name}.", "speaker": f"{name}_F"}] for name in names[split]]
        more = [{**dialogues[0][0], "text": f"{i}."} for i in range(total - len(dialogues))]
        dialogues[0] += [{**turn, "label": "sad"} for turn in more[:sad]] + more[sad:]
        (folder / f"{split}_data.json").write_text(json.dumps(dialogues), encoding="utf-8")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "labelled", [(4778, 980, 1622), (5163, 647, 1623)], ids=["JSON", "release"]
)
def test_a_complete_copy_has_one_of_the_known_counts(tmp_path, labelled):
    official_size(tmp_path / "iemocap", labelled)
    corpus = IEMOCAP().load(tmp_path)
    assert corpus.official
    counts = (sum(len(d.labelled) for d in corpus.dialogues(split)) for split in SPLITS)
    assert tuple(counts) == labelled


@pytest.mark.parametrize(
    ("labelled", "turns", "message"),
    [
        ((4778, 980, 1600), (6490, 1401, 2196), "has 4778/980/1600 labelled turns of"),
        ((5000, 758, 1622), (6490, 1401, 2196), "has 5000/758/1622 labelled turns of"),
        ((4778, 980, 1622), (6490, 1401, 2000), r"2000 in train.*turns of 6490/1401/2196, the"),
    ],
)
def test_a_complete_copy_with_other_counts_is_an_error(tmp_path, labelled, turns, message):
    official_size(tmp_path / "iemocap", labelled, turns)
    with pytest.raises(ErcBenchError, match=message):
        IEMOCAP().load(tmp_path)


def test_notes_tell_of_shared_speakers_and_lines(tmp_path):
    write_release(tmp_path / "iemocap")
    source = IEMOCAP()
    notes = source.notes(load(source, tmp_path))
    assert notes[0] == "dev shares its 2 speakers with 1 train dialogues"
    assert notes[1].startswith("scripted test utterances seen in train: 85.7 % (6 of 7)")
    assert notes[2].startswith("improvised test utterances seen in train: 85.7 % (6 of 7)")


def test_it_is_never_downloaded(tmp_path):
    with pytest.raises(
        ErcBenchError, match=r"iemocap/Session1.* is missing.*SAIL.*--data-dir.*demo"
    ):
        IEMOCAP().prepare(tmp_path)
    (status,) = IEMOCAP().status(tmp_path)
    assert status.state == "missing"
    assert "USC SAIL" in status.source


def broken_release(tmp_path, kind, change):
    write_release(tmp_path / "iemocap")
    path = tmp_path / "iemocap" / "Session2" / "dialog" / kind / "Ses02F_impro02.txt"
    path.write_bytes(change(path.read_bytes()))
    return path


BROKEN_RELEASE = {
    "cut transcript": ("transcriptions", lambda b: b[:200], r"line \d: not `turn"),
    "empty transcript": ("transcriptions", lambda b: b"", "has no utterances"),
    "cut ratings": ("EmoEvaluation", lambda b: b[:80], r"line \d: not `\[start"),
    "not UTF-8": ("transcriptions", lambda b: b[:20] + b"\xff" + b[20:], "line 1: byte 0xff"),
}


@pytest.mark.filterwarnings("ignore::erc_bench.corpus.source.CorpusWarning")
@pytest.mark.parametrize(("kind", "change", "message"), BROKEN_RELEASE.values(), ids=BROKEN_RELEASE)
def test_a_broken_release_is_named_by_file(tmp_path, kind, change, message):
    broken_release(tmp_path, kind, change)
    with pytest.raises(ErcBenchError, match=rf"Ses02F_impro02.*{message}"):
        IEMOCAP().load(tmp_path)


def transcript_of(tmp_path, kind="transcriptions"):
    return tmp_path / "iemocap" / "Session2" / "dialog" / kind / "Ses02F_impro02.txt"


@pytest.mark.parametrize("before", [" ", "\t", "\ufeff", " \xa0"])
def test_blanks_before_a_turn_do_not_matter(tmp_path, before):
    for name in ("a", "b"):
        write_release(tmp_path / name / "iemocap")
    for kind in ("transcriptions", "EmoEvaluation"):
        path = transcript_of(tmp_path / "b", kind)
        lines = path.read_text(encoding="utf-8").split("\n")
        path.write_text("\n".join(before + line for line in lines), encoding="utf-8")
    assert load(IEMOCAP(), tmp_path / "b").digest == load(IEMOCAP(), tmp_path / "a").digest


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends_do_not_matter(tmp_path, end):
    for name in ("a", "b"):
        write_release(tmp_path / name / "iemocap")
    for kind in ("transcriptions", "EmoEvaluation"):
        path = transcript_of(tmp_path / "b", kind)
        path.write_bytes(path.read_bytes().replace(b"\n", end.encode()))
    assert load(IEMOCAP(), tmp_path / "b").digest == load(IEMOCAP(), tmp_path / "a").digest


def shuffled(lines):
    return Random(1).sample(lines, len(lines))


@pytest.mark.parametrize("move", [lambda lines: lines[::-1], sorted, shuffled])
def test_lines_in_another_order_are_refused(tmp_path, move):
    write_release(tmp_path / "iemocap")
    path = transcript_of(tmp_path)
    path.write_text("\n".join(move(path.read_text(encoding="utf-8").split("\n"))), encoding="utf-8")
    words = r"Ses02F_impro02\.txt, line \d+: the turn starts at \d.* not in the order in which"
    with pytest.raises(ErcBenchError, match=words):
        IEMOCAP().load(tmp_path)


@pytest.mark.parametrize(
    "move",
    [
        lambda lines: [line for i in range(0, 10, 2) for line in lines[i : i + 2][::-1]],
        lambda lines: [re.sub(r"\[000", "[900", lines[0]), *lines[1:]],
        lambda lines: [re.sub(r"\[[\d.-]+\]", "[ - ]", line) for line in lines],
    ],
    ids=["both speak at once", "one wrong time", "no times"],
)
def test_turns_a_little_out_of_order_stay_where_they_are(tmp_path, move):
    write_release(tmp_path / "iemocap")
    path = transcript_of(tmp_path)
    lines = move(path.read_text(encoding="utf-8").split("\n")[:10])
    path.write_text("\n".join(lines), encoding="utf-8")
    dialogue = next(d for d in load(IEMOCAP(), tmp_path).dialogues("train") if "02F" in d.id)
    said = [line.partition("]: ")[2].replace("[LAUGHTER]", "").split() for line in lines]
    assert [u.text.split() for u in dialogue.utterances] == said


@pytest.mark.parametrize(
    ("text", "message"), [("", "have no text"), ("Hello.", "90 of 90 utterances have the same")]
)
def test_texts_that_are_gone_are_warned_about(tmp_path, text, message):
    write_release(tmp_path / "iemocap")
    for path in (tmp_path / "iemocap").glob("Session*/dialog/transcriptions/Ses*.txt"):
        path.write_text(
            re.sub(r"\]: .*", f"]: {text}", path.read_text(encoding="utf-8")), encoding="utf-8"
        )
    with pytest.warns(CorpusWarning, match=message):
        assert not IEMOCAP().load(tmp_path).official


@pytest.mark.parametrize("rename", [str.upper, str.lower])
def test_capitals_in_names_of_files_do_not_matter(tmp_path, rename):
    for name in ("a", "b"):
        write_release(tmp_path / name / "iemocap")
    session = tmp_path / "b" / "iemocap" / "Session2"
    for path in sorted(session.rglob("[!.]*"), reverse=True):
        path.rename(path.with_name(rename(path.name)))
    assert load(IEMOCAP(), tmp_path / "b").digest == load(IEMOCAP(), tmp_path / "a").digest


def test_a_dialogue_in_two_files_is_refused(tmp_path):
    write_release(tmp_path / "iemocap")
    path = transcript_of(tmp_path)
    other = path.with_name(path.name.upper())
    if other.exists():
        pytest.skip("names are the same in capitals here")
    shutil.copyfile(path, other)
    with pytest.raises(ErcBenchError, match=r"SES02F_IMPRO02\.TXT are one dialogue"):
        IEMOCAP().load(tmp_path)


@pytest.mark.parametrize("place", [".", "IEMOCAP_full_release"])
def test_a_warning_says_which_of_two_copies_is_read(tmp_path, place):
    write_release(tmp_path / "iemocap")
    write_json_form(tmp_path / "iemocap" / place)
    with pytest.warns(CorpusWarning) as caught:
        IEMOCAP().load(tmp_path)
    words = (
        r"Session1 … Session5 was read; .*\{train,dev,test\}_data\.json is there too and was not"
    )
    assert any(re.search(words, str(warning.message)) for warning in caught)


def test_a_turn_twice_is_scored_once(tmp_path):
    write_release(tmp_path / "a" / "iemocap")
    write_release(tmp_path / "b" / "iemocap")
    path = transcript_of(tmp_path / "b")
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join([*lines[:4], lines[2], *lines[4:]]), encoding="utf-8")
    with pytest.warns(CorpusWarning) as caught:
        corpus = IEMOCAP().load(tmp_path / "b")
    assert re.search(r"Ses02F_impro02\.txt, line 5: the turn .* twice", str(caught[0].message))
    assert corpus.digest == load(IEMOCAP(), tmp_path / "a").digest


DAMAGED_RELEASE = {
    "a turn twice with another text": (
        "transcriptions",
        lambda lines: [*lines[:3], lines[2] + " Yes.", *lines[3:]],
        r"line 4: the turn Ses02F_impro02_M002 is already in line 3, with another text",
    ),
    "a remark before a turn": (
        "transcriptions",
        lambda lines: [*lines[:2], "> " + lines[2], *lines[3:]],
        r"line 3: not `turn \[start-end\]: text` but '> Ses02F",
    ),
    "a turn without its name": (
        "transcriptions",
        lambda lines: [*lines[:2], lines[2].partition(" ")[2], *lines[3:]],
        r"line 3: not `turn",
    ),
    "a turn lost": (
        "transcriptions",
        lambda lines: [*lines[:2], *lines[3:]],
        r"Ses02F_impro02_M002 is rated, and .*transcriptions.* has no such turn",
    ),
    "a turn of another dialogue": (
        "transcriptions",
        lambda lines: [*lines[:2], lines[2].replace("02F", "03F"), *lines[3:]],
        r"line 3: 'Ses03F_impro02_M002' is a turn of another dialogue",
    ),
    "no ratings": ("EmoEvaluation", lambda lines: [], r"rates no turn of Ses02F_impro02"),
    "a header alone": ("EmoEvaluation", lambda lines: lines[:1], r"rates no turn of"),
    "half of the ratings": (
        "EmoEvaluation",
        lambda lines: lines[: len(lines) // 2],
        r"has no rating of \d of the 10 turns",
    ),
    "an unknown category": (
        "EmoEvaluation",
        lambda lines: [line.replace("\tang\t", "\tanger\t") for line in lines],
        r"line \d+: 'anger' is no category of the annotators.*Did you mean 'ang'",
    ),
    "two categories": (
        "EmoEvaluation",
        lambda lines: [*lines, next(x for x in lines if "\tang\t" in x).replace("ang", "sad")],
        r"line \d+: Ses02F_impro02_M002 is sad here and ang in line \d+",
    ),
}


@pytest.mark.filterwarnings("ignore::erc_bench.corpus.source.CorpusWarning")
@pytest.mark.parametrize(
    ("kind", "change", "message"), DAMAGED_RELEASE.values(), ids=DAMAGED_RELEASE
)
def test_damage_to_a_release_is_never_ignored(tmp_path, kind, change, message):
    write_release(tmp_path / "iemocap")
    path = transcript_of(tmp_path, kind)
    path.write_text(
        "\n".join(change(path.read_text(encoding="utf-8").split("\n"))), encoding="utf-8"
    )
    with pytest.raises(ErcBenchError, match=rf"Ses02F_impro02\.txt.*{message}"):
        IEMOCAP().load(tmp_path)


@pytest.mark.parametrize(
    "copy",
    [
        "Session2/dialog/transcriptions/Ses02F_impro02 (1).txt",
        "Session2/dialog/transcriptions/Ses02F_impro02 copy.txt",
        "Session2/dialog/transcriptions/Ses02F_impro02_copy.txt",
        "Session3/dialog/transcriptions/Ses02F_impro02.txt",
    ],
)
def test_a_second_copy_of_a_file_doubles_no_dialogue(tmp_path, copy):
    write_release(tmp_path / "iemocap")
    shutil.copyfile(transcript_of(tmp_path), tmp_path / "iemocap" / copy)
    with pytest.raises(ErcBenchError, match=r"(?s)Ses02F_impro02.*second copy, remove it"):
        IEMOCAP().load(tmp_path)


@pytest.mark.parametrize(
    "place",
    [".", "IEMOCAP", "IEMOCAP_full_release", "Iemocap/full", "IEMOCAP/IEMOCAP_full_release"],
)
@pytest.mark.parametrize("write", [write_release, write_json_form])
def test_the_corpus_is_found_near_its_place(tmp_path, write, place):
    write(tmp_path / "user" / place)
    load(IEMOCAP(), tmp_path / "user")
    load(IEMOCAP(), tmp_path / "user" / place)  # the corpus's own folder is given


def test_an_error_says_why_a_copy_can_not_be_used(tmp_path):
    write_release(tmp_path / "mine")
    write_release(tmp_path / "yours")
    with pytest.raises(ErcBenchError, match=r"several copies, .*mine and .*yours\. Put") as caught:
        IEMOCAP().load(tmp_path)
    assert "SAIL" not in str(caught.value)
    for name in ("mine", "yours"):
        shutil.rmtree(tmp_path / name)
    (tmp_path / "IEMOCAP_full_release.tar.gz").touch()
    with pytest.raises(ErcBenchError, match=r"IEMOCAP_full_release\.tar\.gz is still packed"):
        IEMOCAP().load(tmp_path)
    (tmp_path / "IEMOCAP_full_release.tar.gz").unlink()
    (tmp_path / "IEMOCAP" / "Session1" / "sentences").mkdir(parents=True)
    with pytest.raises(ErcBenchError, match=r"IEMOCAP/Session1 has no folder dialog"):
        IEMOCAP().load(tmp_path)


@pytest.mark.filterwarnings("ignore::erc_bench.corpus.source.CorpusWarning")
def test_a_copy_that_is_not_complete_is_not_official(tmp_path):
    write_release(tmp_path / "iemocap")
    assert not IEMOCAP().load(tmp_path).official


def test_missing_ratings_are_named(tmp_path):
    broken_release(tmp_path, "EmoEvaluation", lambda b: b).unlink()
    with pytest.raises(ErcBenchError, match=r"EmoEvaluation/Ses02F_impro02\.txt can't be read"):
        IEMOCAP().load(tmp_path)


BROKEN_JSON = {
    "a foreign speaker": ([[{"text": "Hi", "speaker": "Ann"}]], "speaker 'Ann' is not like"),
    "an empty dialogue": ([[]], "dialogue 0: no utterances"),
    "no text": ([[{"speaker": "Ses01F_impro01_F"}]], "no 'text' among speaker"),
    "a dialogue twice": (
        [[{"text": "Hi", "speaker": "Ses01F_impro01_F"}]] * 2,
        "dialogue 1: dialogue Ses01F_impro01 occurs twice",
    ),
    "an unknown category": (
        [[{"text": "Hi", "speaker": "Ses01F_impro01_F", "label": "angry"}]],
        "dialogue 0, utterance 0: 'angry' is no category .*Did you mean 'ang'",
    ),
    "a turn of another dialogue": (
        [[{"text": "Hi", "speaker": f"Ses01F_impro0{n}_F"} for n in (1, 2)]],
        "utterance 1: Ses01F_impro02_F speaks in another dialogue",
    ),
    "an object": ({"data": []}, "JSON of the wrong shape, dict instead of list"),
}


@pytest.mark.parametrize(("contents", "message"), BROKEN_JSON.values(), ids=BROKEN_JSON)
def test_a_broken_json_form_is_named_by_place(tmp_path, contents, message):
    folder = write_json_form(tmp_path / "iemocap")
    (folder / "train_data.json").write_text(json.dumps(contents), encoding="utf-8")
    with pytest.raises(ErcBenchError, match=rf"train_data\.json.*{message}"):
        IEMOCAP().load(tmp_path)


def test_the_made_up_layout_is_as_documented():
    assert {name[4] for name in DIALOGUES} == set("12345")
    assert (
        sum(code in ("hap", "sad", "neu", "ang", "exc", "fru") for _, _, code in turns_of("S")) == 7
    )
