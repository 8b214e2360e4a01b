"""A user's own corpus: every file format gives the same corpus, and every mistake is named."""

import csv
import json
import sys
from pathlib import Path

import pytest
from sklearn.metrics import f1_score
from test_cli import fails

from erc_bench.cli import main
from erc_bench.cli.common import corpus_name
from erc_bench.corpus.conversation import Corpus
from erc_bench.corpus.making import guess_columns, new_corpus, split_corpus, stratified
from erc_bench.corpus.own import OwnCorpus
from erc_bench.corpus.source import CorpusWarning
from erc_bench.corpus.turns import Turn
from erc_bench.errors import ErcBenchError
from erc_bench.inference.dialogue_files import read_dialogues
from erc_bench.inference.encoding import read_turns_of
from erc_bench.records.corpora import find_corpus, remember
from erc_bench.settings.experiment import resolve
from erc_bench.settings.registry import corpus_source

FIELDS = ("conv_id", "who", "utterance", "emotion", "msg_id", "part")
MOODS = ("calm", "annoyed", "angry")


def made(dialogues: int = 12, turns: int = 4) -> list[dict[str, str]]:
    """Rows of made-up dialogues; the second turn of each has no label."""
    return [
        {
            "conv_id": f"c{d}",
            "who": ("agent", "client")[t % 2],
            "utterance": f'Line {t} of talk {d}, "so to speak"',
            "emotion": "" if t == 1 else MOODS[(d + t) % 3],
            "msg_id": f"m{d}-{t}",
            "part": "train" if d < dialogues - 4 else ("valid" if d % 2 else "test"),
        }
        for d in range(dialogues)
        for t in range(turns)
    ]


def write_csv(path: Path, rows: list[dict[str, str]], delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def read_csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def lines(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


SHEET = """\
name: helpdesk
file: talk.csv
split: part
columns: {dialogue: conv_id, speaker: who, text: utterance, label: emotion, id: msg_id}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A corpus in one CSV file."""
    (tmp_path / "corpus.yaml").write_text(SHEET, encoding="utf-8")
    write_csv(tmp_path / "talk.csv", made())
    return tmp_path


@pytest.fixture
def digest(folder: Path) -> str:
    return OwnCorpus(folder).load().digest


def test_a_csv_file(folder: Path) -> None:
    corpus = corpus_source(str(folder)).load()
    assert corpus.name == "helpdesk"
    assert corpus.labels.names == ("angry", "annoyed", "calm")
    assert {split: len(d) for split, d in corpus.contents.items()} == {
        "train": 8,
        "dev": 2,
        "test": 2,
    }
    first = corpus.dialogues("train")[0]
    assert [u.id for u in first.utterances] == [f"m0-{t}" for t in range(4)]
    assert first.labelled == (0, 2, 3)
    assert first.utterances[0].text == 'Line 0 of talk 0, "so to speak"'
    assert corpus_source(str(folder / "corpus.yaml")).load().digest == corpus.digest


def nested(rows: list[dict[str, str]]) -> list[dict]:
    dialogues: dict[str, dict] = {}
    for row in rows:
        talk = dialogues.setdefault(row["conv_id"], {"id": row["conv_id"], "turns": []})
        talk |= {"part": row["part"]}
        talk["turns"].append({k: row[k] for k in ("who", "utterance", "emotion", "msg_id")})
    return list(dialogues.values())


def convokit(folder: Path) -> str:
    (folder / "kit").mkdir()
    turns = [
        {
            "id": row["msg_id"],
            "conversation_id": row["conv_id"],
            "speaker": row["who"],
            "text": row["utterance"],
            "reply-to": None,
            "meta": {"emotion": row["emotion"] or None},
        }
        for row in made()
    ]
    (folder / "kit" / "utterances.jsonl").write_text(lines(turns), encoding="utf-8")
    parts = {row["conv_id"]: {"meta": {"part": row["part"]}} for row in made()}
    (folder / "kit" / "conversations.json").write_text(json.dumps(parts), encoding="utf-8")
    return (
        "name: helpdesk\nfile: kit\nsplit: conversation.part\n"
        "columns: {dialogue: conversation_id, speaker: speaker, text: text, label: meta.emotion, "
        "id: id}\n"
    )


def parquet(folder: Path) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{**row, "emotion": row["emotion"] or None} for row in made()]
    pq.write_table(pa.Table.from_pylist(rows), folder / "talk.parquet")
    return SHEET.replace("talk.csv", "talk.parquet")


def of_one_file(name: str, text: str):
    def write(folder: Path) -> str:
        (folder / name).write_text(text, encoding="utf-8")
        return SHEET.replace("talk.csv", name)

    return write


def per_split(folder: Path) -> str:
    for split, part in {"train": "train", "dev": "valid", "test": "test"}.items():
        write_csv(folder / f"{split}.tsv", [r for r in made() if r["part"] == part], "\t")
    return SHEET.replace(
        "file: talk.csv\nsplit: part", "splits: {train: train.tsv, valid: dev.tsv, test: test.tsv}"
    )


def numbered(folder: Path) -> str:
    rows = [{**row, "n": str(i % 4)} for i, row in enumerate(made())]
    # The dialogues keep their order; only the turns in each are reversed.
    ordered = sorted(rows, key=lambda row: (int(row["conv_id"][1:]), -int(row["n"])))
    write_csv(folder / "talk.csv", ordered)
    return SHEET.replace("id: msg_id", "id: msg_id, turn: n")


def data_set(folder: Path) -> str:
    """A Hugging Face data set with one dialogue per row and labels as numbers."""
    import datasets

    kinds = datasets.ClassLabel(names=[*MOODS, ""])
    features = datasets.Features(
        {
            "key": datasets.Value("string"),
            "who": datasets.List(datasets.Value("string")),
            "utterance": datasets.List(datasets.Value("string")),
            "msg_id": datasets.List(datasets.Value("string")),
            "emotion": datasets.List(kinds),
        }
    )
    splits: dict[str, list[dict]] = {}
    for talk in nested(made()):
        columns = {k: [turn[k] for turn in talk["turns"]] for k in talk["turns"][0]}
        splits.setdefault(talk["part"], []).append({"key": talk["id"], **columns})
    datasets.DatasetDict(
        {
            {"valid": "validation"}.get(part, part): datasets.Dataset.from_list(rows, features)
            for part, rows in splits.items()
        }
    ).save_to_disk(folder / "ds")
    return (
        "name: helpdesk\nhf: ds\nsplits: {train: train, dev: validation, test: test}\n"
        "columns: {dialogue: key, speaker: who, text: utterance, label: emotion, id: msg_id}\n"
    )


def structs(folder: Path) -> str:
    """A Hugging Face data set with one dialogue per row, whose turns are a list of structs."""
    import datasets

    kinds = datasets.ClassLabel(names=[*MOODS, ""])
    text = datasets.Value("string")
    turn = {"who": text, "utterance": text, "emotion": kinds, "msg_id": text}
    features = datasets.Features({"id": text, "part": text, "turns": datasets.List(turn)})
    datasets.Dataset.from_list(nested(made()), features).save_to_disk(folder / "ds")
    return (
        "name: helpdesk\nhf: ds\nsplit: part\ncolumns: {dialogue: id, speaker: turns.who, "
        "text: turns.utterance, label: turns.emotion, id: turns.msg_id}\n"
    )


def files_of_hub(folder: Path) -> str:
    """A folder that ``datasets`` reads as a data set: one JSON-lines file per split."""
    (folder / "hub").mkdir()
    for split, part in {"train": "train", "validation": "valid", "test": "test"}.items():
        rows = [row for row in made() if row["part"] == part]
        (folder / "hub" / f"{split}.jsonl").write_text(lines(rows), encoding="utf-8")
    return SHEET.replace("file: talk.csv\nsplit: part", "hf: hub")


FORMS = {
    "semicolons": of_one_file(
        "semi.csv", "\n".join(";".join(FIELDS) if row is None else ";".join(
            '"' + row[k].replace('"', '""') + '"' for k in FIELDS) for row in [None, *made()])
    ),
    "json lines": of_one_file("talk.jsonl", lines(made())),
    "json": of_one_file("talk.json", json.dumps(made())),
    "json of dialogues": lambda folder: of_one_file("d.json", json.dumps(nested(made())))(
        folder
    ).replace("dialogue: conv_id", "dialogue: id"),
    "a dialogue a line": lambda folder: of_one_file("d.jsonl", lines(nested(made())))(
        folder
    ).replace("dialogue: conv_id, ", ""),
    "parquet": parquet,
    "convokit": convokit,
    "a file a split": per_split,
    "numbered turns": numbered,
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_corpus(folder: Path, digest: str, form) -> None:
    (folder / "corpus.yaml").write_text(form(folder), encoding="utf-8")
    assert OwnCorpus(folder).load().digest == digest


@pytest.mark.slow
@pytest.mark.parametrize("form", [data_set, structs, files_of_hub])
def test_a_hugging_face_data_set_gives_the_same_corpus(folder: Path, digest: str, form) -> None:
    (folder / "corpus.yaml").write_text(form(folder), encoding="utf-8")
    assert OwnCorpus(folder).load().digest == digest


@pytest.mark.slow
def test_a_configuration_of_a_data_set_is_chosen_by_its_name(folder: Path, digest: str) -> None:
    (folder / "hub").mkdir()
    head = "configs:\n"
    for config, rows in (("short", made(9)), ("whole", made())):
        head += f"- config_name: {config}\n  data_files:\n"
        for split, part in {"train": "train", "validation": "valid", "test": "test"}.items():
            some = [row for row in rows if row["part"] == part]
            (folder / "hub" / f"{config}-{split}.jsonl").write_text(lines(some), encoding="utf-8")
            head += f"  - {{split: {split}, path: {config}-{split}.jsonl}}\n"
    (folder / "hub" / "README.md").write_text(f"---\n{head}---\n", encoding="utf-8")
    text = SHEET.replace("file: talk.csv\nsplit: part", "hf: hub\nconfig: whole")
    (folder / "corpus.yaml").write_text(text, encoding="utf-8")
    assert OwnCorpus(folder).load().digest == digest
    (folder / "corpus.yaml").write_text(text.replace("whole", "short"), encoding="utf-8")
    assert OwnCorpus(folder).load().digest != digest
    (folder / "corpus.yaml").write_text(text.replace("config: whole\n", ""), encoding="utf-8")
    with pytest.raises(ErcBenchError, match=r"short.*whole"):
        OwnCorpus(folder).load()


def test_a_file_of_dialogues_without_ids_is_split(folder: Path) -> None:
    (folder / "talk.jsonl").write_text(
        lines([talk["turns"] for talk in nested(made())]), encoding="utf-8"
    )
    columns = "{speaker: who, text: utterance, label: emotion, id: msg_id}"
    (folder / "corpus.yaml").write_text(
        f"name: helpdesk\nfile: talk.jsonl\ncolumns: {columns}\n", encoding="utf-8"
    )
    split_corpus(folder, dev=0.2, test=0.2)
    corpus = OwnCorpus(folder).load()
    assert sum(len(dialogues) for dialogues in corpus.contents.values()) == 12


@pytest.mark.slow
def test_a_data_set_of_dialogues_without_ids_is_split_again(folder: Path) -> None:
    (folder / "hub").mkdir()
    for split, part in {"train": "train", "validation": "valid", "test": "test"}.items():
        talks = [talk["turns"] for talk in nested(made()) if talk["part"] == part]
        columns = [{k: [turn[k] for turn in talk] for k in talk[0]} for talk in talks]
        (folder / "hub" / f"{split}.jsonl").write_text(lines(columns), encoding="utf-8")
    columns = "{speaker: who, text: utterance, label: emotion, id: msg_id}"
    (folder / "corpus.yaml").write_text(
        f"name: helpdesk\nhf: hub\ncolumns: {columns}\n", encoding="utf-8"
    )
    for force in (False, True):
        split_corpus(folder, dev=0.2, test=0.2, seed=1 + force, force=force)
        corpus = OwnCorpus(folder).load()
        assert sum(len(dialogues) for dialogues in corpus.contents.values()) == 12
        assert {len(d) for dialogues in corpus.contents.values() for d in dialogues} == {4}


@pytest.mark.slow
def test_a_data_set_that_can_not_be_fetched_is_one_error(folder: Path) -> None:
    sheet = SHEET.replace("file: talk.csv\nsplit: part", "hf: nobody/nothing")
    (folder / "corpus.yaml").write_text(sheet, encoding="utf-8")
    with pytest.raises(ErcBenchError, match=r"hf:nobody/nothing can't be had .*network"):
        OwnCorpus(folder).load()


def test_another_text_or_metric_changes_the_digest(folder: Path, digest: str) -> None:
    rows = made()
    rows[5]["utterance"] += "!"
    write_csv(folder / "talk.csv", rows)
    assert OwnCorpus(folder).load().digest != digest
    write_csv(folder / "talk.csv", made())
    (folder / "corpus.yaml").write_text(f"metric: accuracy\n{SHEET}", encoding="utf-8")
    assert OwnCorpus(folder).load().digest != digest


# --- mistakes


def edited(row: int, *, keep: bool = False, **changes: str):
    """Return an edit that changes one row; with ``keep``, earlier edits of the file stay."""

    def edit(folder: Path) -> None:
        rows = read_csv_rows(folder / "talk.csv") if keep else made()
        rows[row] |= changes
        write_csv(folder / "talk.csv", rows)

    return edit


def sheet(old: str, new: str):
    def edit(folder: Path) -> None:
        (folder / "corpus.yaml").write_text(SHEET.replace(old, new), encoding="utf-8")

    return edit


def raw(text: bytes):
    return lambda folder: (folder / "talk.csv").write_bytes(text)


LABELS = sheet("split: part", "split: part\nlabels: [calm, annoyed, angry]")


def both(*edits):
    def edit(folder: Path) -> None:
        for each in edits:
            each(folder)

    return edit


MISTAKES = {
    "no corpus.yaml": (lambda f: (f / "corpus.yaml").unlink(), r"corpus\.yaml.*data new"),
    "no YAML": (sheet("columns: {", "columns: [{"), r"corpus\.yaml, line \d: not valid YAML"),
    "an unknown key": (sheet("split:", "splitt:"), r"line 3: unknown key 'splitt'.*'split'"),
    "a key twice": (sheet("split:", "file: b\nsplit:"), r"line 3: the key 'file' occurs twice"),
    "two places": (sheet("split:", "hf: x\nsplit:"), "must say where the turns are"),
    "no place": (sheet("file: talk.csv\n", ""), "must say where the turns are"),
    "a metric that is none": (
        sheet("split:", "metric: f1\nsplit:"),
        r"line 3: There is no metric 'f1'",
    ),
    "a label left out that is none": (
        sheet("split:", "metric: micro_f1 without clam\nsplit:"),
        r"corpus\.yaml, line 3: .*'clam'.*Did you mean 'calm'",
    ),
    "labels that YAML reads otherwise": (
        sheet("split:", "labels: [yes, no]\nsplit:"),
        r"line 3: labels must be .*quotes",
    ),
    "no such file": (sheet("talk.csv", "tlak.csv"), r"no file .*tlak\.csv"),
    "a form that is not read": (sheet("talk.csv", "corpus.yaml"), "not in a format that is read"),
    "a column that is not there": (
        sheet("speaker: who", "speaker: whom"),
        r"talk\.csv, line 1: there is no column 'whom' for the speaker.*Did you mean 'who'",
    ),
    "an unknown label": (
        both(LABELS, edited(2, emotion="calmm")),
        r"talk\.csv, line 4: the label 'calmm' is not in the label set\. Did you mean 'calm'",
    ),
    **{
        f"the label {word}": (edited(3, emotion=word), rf"line 5: the label is '{word}'.*it empty")
        for word in ("nan", "None", "N/A", "-", "null")
    },
    "labels with other blanks": (
        both(edited(3, emotion="very  sad"), edited(5, emotion="very sad", keep=True)),
        r"line 7: the label 'very sad' differs from 'very  sad' \(.*line 5\) by its blanks",
    ),
    "a label with a character that is not seen": (
        edited(3, emotion="calm\u200b"),
        r"line 5: the label 'calm\\u200b' differs from 'calm' .*invisible",
    ),
    "labels in other capitals": (edited(3, emotion="Calm"), r"line \d+: the label .*capitals only"),
    "a turn without a speaker": (edited(1, who=" "), r"talk\.csv, line 3: nobody speaks"),
    "a turn without a text": (edited(1, utterance=""), r"talk\.csv, line 3: nothing is said"),
    "a turn of no dialogue": (edited(1, conv_id=""), r"talk\.csv, line 3: the dialogue is missing"),
    "a dialogue in two splits": (
        edited(3, part="test"),
        r"talk\.csv, line 5: the dialogue 'c0' is in test here and in train in .*line 2",
    ),
    "an unknown split": (edited(3, part="trian"), r"line 5: the split 'trian' is none of train"),
    "an id that occurs twice": (
        edited(6, msg_id="m0-0"),
        r"talk\.csv, line 8: the id 'm0-0' occurs twice, first in .*talk\.csv, line 2",
    ),
    "a dialogue's number written in two ways": (
        both(edited(0, conv_id="7"), edited(47, conv_id="7.0", keep=True)),
        r"line 49: the dialogue '7\.0' is '7' in .*line 2\. Write them alike",
    ),
    "two roles of a column": (
        sheet("text: utterance", "text: emotion"),
        r"corpus\.yaml, line 4: the column 'emotion' can't be both the text and the label",
    ),
    "a role twice": (
        sheet("text: utterance", "text: utterance, text: who"),
        r"line 4: the key 'text' occurs twice, first in line 4",
    ),
    "a split twice": (
        sheet("file: talk.csv\nsplit: part", "splits: {train: a.csv, train: b.csv}"),
        r"line 2: the key 'train' occurs twice",
    ),
    "a file of two splits": (
        sheet("file: talk.csv\nsplit: part", "splits: {train: talk.csv, test: ./talk.csv}"),
        r"line 2: train and test are both \./talk\.csv\. Every dialogue is of one split",
    ),
    "a number of a turn that is none": (
        both(sheet("id: msg_id", "turn: msg_id"), edited(0, msg_id="first")),
        r"line 2: turn must be a whole number, not 'first'",
    ),
    "a cut row": (
        raw(",".join(FIELDS).encode() + b"\nc0,agent,Hello,calm,m0,train\nc0,cli"),
        r"talk\.csv, line 3: 2 fields instead of 6.*truncated",
    ),
    "another encoding": (
        raw(",".join(FIELDS).encode() + b"\nc0,agent,Caf\xe9,calm,m0,train\n"),
        r"talk\.csv, line 2: byte 0xe9 is not UTF-8",
    ),
    "labels that are none": (sheet("label: emotion, id", "label"), "'msg_id' holds 48 differ"),
    "not split": (sheet("split: part\n", ""), r"not split.*erc-bench data split"),
    "a lost file of splits": (
        sheet("split: part", "split_file: splits.csv"),
        r"line \d+: there is no .*splits\.csv\. Split the corpus again: `erc-bench data split",
    ),
    "a name that is taken": (sheet("helpdesk", "meld"), "'meld' is the name of another corpus"),
    "a name that is no folder's": (sheet("helpdesk", "a/b"), r"line 1: 'a/b' can't be a corpus's"),
}


@pytest.mark.parametrize(("edit", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_by_file_and_line(folder: Path, edit, message: str) -> None:
    edit(folder)
    with pytest.raises(ErcBenchError, match=message) as caught:
        corpus_source(str(folder)).load()
    assert "\n" not in str(caught.value)


def test_the_error_for_an_unknown_corpus_says_how_to_name_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a folder of that name would be a corpus
    with pytest.raises(ErcBenchError, match=r"no corpus 'mine'.*One of your own.*data new"):
        corpus_source("mine")


def test_a_label_that_train_lacks_gives_a_warning(folder: Path) -> None:
    rows = made()
    test = next(row for row in rows if row["part"] == "test" and row["emotion"])
    test["emotion"] = "bored"
    write_csv(folder / "talk.csv", rows)
    with pytest.warns(CorpusWarning, match="no turn of train has the label 'bored', so no method"):
        OwnCorpus(folder).load()
    (folder / "corpus.yaml").write_text(
        SHEET + "labels: [angry, annoyed, calm, bored, sad]\n", encoding="utf-8"
    )
    with pytest.warns(CorpusWarning) as caught:
        OwnCorpus(folder).load()
    assert [str(w.message).partition(": ")[2] for w in caught] == [
        "no turn has the label 'sad'.",
        "no turn of train has the label 'bored', so no method can learn it.",
    ]


def test_labels_that_look_like_missing_values_may_be_declared(folder: Path) -> None:
    rows = [{**row, "emotion": row["emotion"].replace("calm", "none")} for row in made()]
    write_csv(folder / "talk.csv", rows)
    (folder / "corpus.yaml").write_text(
        f'labels: ["none", annoyed, angry]\n{SHEET}', encoding="utf-8"
    )
    assert OwnCorpus(folder).load().labels.names == ("none", "annoyed", "angry")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"utterance": "I donâ€™t"}, "40 utterances hold UTF-8 that was read as Windows-1252"),
        ({"utterance": "I don\ufffdt"}, "40 utterances hold a replacement character"),
        ({"utterance": "nan"}, "line 2: the text is 'nan', .* 40 in all"),
        ({"who": "None"}, "line 2: the speaker is 'None', .* 40 in all"),
    ],
)
def test_visible_damage_gives_a_warning(folder: Path, change, words: str) -> None:
    write_csv(folder / "talk.csv", [row | change for row in made()[:40]] + made()[40:])
    with pytest.warns(CorpusWarning, match=words):
        OwnCorpus(folder).load()


def test_a_file_that_holds_every_row_twice_gives_a_warning(folder: Path) -> None:
    (folder / "corpus.yaml").write_text(SHEET.replace(", id: msg_id", ""), encoding="utf-8")
    for rows in ([row for row in made() for _ in range(2)], made() + made()):
        write_csv(folder / "talk.csv", rows)
        with pytest.warns(CorpusWarning, match="every turn of train, dev, test occurs twice"):
            OwnCorpus(folder).load()


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_other_lists_of_objects_are_not_taken_for_turns(folder: Path, digest: str, form) -> None:
    """A list of turns is known by its name, and an object with a text is a turn."""

    def written(value: list[dict]) -> None:
        (folder / f"talk.{form}").write_text(
            lines(value) if form == "jsonl" else json.dumps(value), encoding="utf-8"
        )

    text = SHEET.replace("talk.csv", f"talk.{form}")
    (folder / "corpus.yaml").write_text(text, encoding="utf-8")
    written([{"annotations": [{"by": "x"}], **row} for row in made()])
    assert OwnCorpus(folder).load().digest == digest
    (folder / "corpus.yaml").write_text(text.replace("conv_id", "id"), encoding="utf-8")
    people = [{"name": "Ann"}, {"name": "Bo"}]
    written([{"participants": people, **talk} for talk in nested(made())])
    assert OwnCorpus(folder).load().digest == digest
    written([{"people": people, "turns": []}])
    with pytest.raises(ErcBenchError, match="a dialogue without turns"):
        OwnCorpus(folder).load()
    for several in ({"people": people, "lines": people}, {"lines": people, "people": people}):
        written([several])
        with pytest.raises(ErcBenchError, match=r"1: several lists .*'people'.*Name the right one"):
            OwnCorpus(folder).load()


def test_dialogues_whose_id_is_null_are_numbered(folder: Path) -> None:
    talks = [{"id": None, "turns": talk["turns"]} for talk in nested(made())]
    (folder / "talk.jsonl").write_text(lines(talks), encoding="utf-8")
    source = new_corpus(folder, [str(folder / "talk.jsonl")], force=True).source
    assert len({turn.dialogue for turn in source.turns(whole=True)}) == 12


@pytest.mark.parametrize("ids", [("a", "a"), (None, 1)])
def test_two_dialogues_with_the_same_id_are_not_merged(folder: Path, ids) -> None:
    talks = nested(made())
    for talk, given in zip(talks, ids, strict=False):
        talk["id"] = given
        if given is None:
            del talk["id"]
    (folder / "talk.json").write_text(json.dumps(talks), encoding="utf-8")
    (folder / "corpus.yaml").write_text(
        "name: helpdesk\nfile: talk.json\nsplit: part\n"
        "columns: {speaker: who, text: utterance, label: emotion}\n",
        encoding="utf-8",
    )
    with pytest.raises(ErcBenchError, match=r"dialogue 2, turn 1: the dialogue .* occurs twice"):
        OwnCorpus(folder).load()
    (folder / "talk.json").write_text(
        json.dumps([*talks[2:], {"id": "e", "turns": []}]), encoding="utf-8"
    )
    with pytest.raises(ErcBenchError, match=r"dialogue 11: a dialogue without turns"):
        OwnCorpus(folder).load()


@pytest.mark.parametrize("known", ["timestamp", "reply-to"])
def test_convokit_utterances_are_read_in_the_order_they_were_spoken(
    folder: Path, digest: str, known
) -> None:
    (folder / "corpus.yaml").write_text(convokit(folder), encoding="utf-8")
    path = folder / "kit" / "utterances.jsonl"
    turns = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for n, turn in enumerate(turns):
        turn[known] = n if known == "timestamp" else (turns[n - 1]["id"] if n % 4 else None)
    backwards = [turn for d in range(0, 48, 4) for turn in turns[d : d + 4][::-1]]
    path.write_text(lines(backwards), encoding="utf-8")
    assert OwnCorpus(folder).load().digest == digest
    mixed = [turns[n] for t in range(4) for n in range(t, 48, 4)]  # the conversations interleaved
    path.write_text(lines(mixed), encoding="utf-8")
    assert OwnCorpus(folder).load().digest == digest


# --- data new, split, export


def test_new_guesses_the_columns_and_says_so(tmp_path: Path, capsys) -> None:
    write_csv(tmp_path / "talk.csv", made())
    target = tmp_path / "new corpus"
    assert main(["data", "new", str(target), str(tmp_path / "talk.csv")]) == 0
    said = capsys.readouterr().out
    for role, column in zip(("dialogue", "speaker", "text", "label", "id", "split"), FIELDS,
                            strict=True):  # fmt: skip
        assert f"guessed, {role}: the column {column!r}" in said
    assert f"  erc-bench data stats '{target}'\n" in said
    corpus = OwnCorpus(target).load()
    assert corpus.name == "new-corpus"
    assert len(corpus.dialogues("train")) == 8
    assert main(["data", "new", str(target), str(tmp_path / "talk.csv")]) == 2
    assert "there already" in capsys.readouterr().err


@pytest.mark.skipif(sys.getfilesystemencoding() != "utf-8", reason="a file is named with an emoji")
@pytest.mark.parametrize("name", ["2024_10", "010", "1e3", "on", "null", "2024-10-01", "a.b", "No"])
def test_names_that_yaml_reads_otherwise_are_quoted(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name} 😀.csv"
    write_csv(path, [{**row, name: str(n)} for n, row in enumerate(made())])
    made_ = new_corpus(tmp_path / name, [str(path)], columns={"turn": name})
    assert made_.source.name == name
    assert made_.source.columns["turn"] == name
    assert [turn.number for turn in made_.source.turns()] == list(range(48))


def test_a_corpus_file_with_a_mistake_is_not_left_behind(tmp_path: Path) -> None:
    write_csv(tmp_path / "talk.csv", made())
    file, sheet = [str(tmp_path / "talk.csv")], tmp_path / "new" / "corpus.yaml"
    for options in ({"name": "my corpus"}, {"columns": {"speaker": "who", "text": "who"}}):
        with pytest.raises(ErcBenchError, match=r"can't be .*\. Nothing was written\.$"):
            new_corpus(tmp_path / "new", file, **options)
        assert not sheet.exists()
    new_corpus(tmp_path / "new", file)
    text = sheet.read_text(encoding="utf-8")
    with pytest.raises(ErcBenchError, match="Nothing was written"):
        new_corpus(tmp_path / "new", file, name="my corpus", force=True)
    assert sheet.read_text(encoding="utf-8") == text


def test_new_says_what_is_wrong_before_anything_is_split(tmp_path: Path, capsys) -> None:
    rows = made()
    rows[5]["msg_id"] = rows[4]["msg_id"]
    write_csv(tmp_path / "twice.csv", rows)
    assert main(["data", "new", str(tmp_path / "a"), str(tmp_path / "twice.csv")]) == 0
    said = capsys.readouterr().out
    assert "id: no column; 'msg_id' has empty or repeated values (" in said
    assert "occurs again in" in said
    capitals = [{**row, "emotion": row["emotion"].upper()} for row in made()[:4]] + made()[4:]
    nameless = [{("tag" if k == "emotion" else k): v for k, v in row.items()} for row in made()]
    for name, wrong, message in (
        ("capitals", capitals, "by its capitals only"),
        ("nameless", nameless, "no column is named for labels"),
    ):
        write_csv(tmp_path / f"{name}.csv", wrong)
        folder = tmp_path / name
        assert main(["data", "new", str(folder), str(tmp_path / f"{name}.csv")]) == 2
        assert message in capsys.readouterr().err
        sheet = (folder / "corpus.yaml").read_text(encoding="utf-8")
        (folder / "corpus.yaml").write_text(sheet.replace("split: part\n", ""), encoding="utf-8")
        with pytest.raises(ErcBenchError, match=message):
            split_corpus(folder, dev=0.2, test=0.2)
    assert main(["data", "new", str(tmp_path / "MELD"), str(tmp_path / "twice.csv")]) == 2
    assert "'MELD' is the name of another corpus" in capsys.readouterr().err
    assert not (tmp_path / "MELD").exists()


def test_a_column_dialog_holds_the_text_if_another_names_the_dialogue() -> None:
    turns = [("c1", "A", "Hi."), ("c1", "B", "Hello."), ("c2", "A", "Bye.")]
    for columns in (("conv_id", "who", "dialog"), ("dialog", "who", "utt")):
        rows = [("x.csv, line 2", dict(zip(columns, turn, strict=True))) for turn in turns]
        found, _ = guess_columns(rows, {})
        assert (found["dialogue"], found["speaker"], found["text"]) == columns


def test_a_field_two_levels_down_is_a_column(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    keys = ("conv_id", "who", "utterance")
    rows = [{k: r[k] for k in keys} | {"meta": {"ann": {"mood": r["emotion"]}}} for r in made()]
    path.write_text(lines(rows), encoding="utf-8")
    made_ = new_corpus(tmp_path, [str(path)], columns={"label": "meta.ann.mood"})
    assert {turn.label for turn in made_.source.turns()} == {"", *MOODS}
    for column, message in {
        "meta.ann": r"'meta\.ann' holds several values, .*Name one of them: meta\.ann\.mood",
        "meta.an.mood": r"no column 'meta\.an\.mood' .*Did you mean 'meta\.ann\.mood'",
    }.items():
        (tmp_path / "corpus.yaml").write_text(
            f"name: x\nfile: talk.jsonl\ncolumns: {{dialogue: conv_id, speaker: who, "
            f"text: utterance, label: {column}}}\n",
            encoding="utf-8",
        )
        with pytest.raises(ErcBenchError, match=message):
            OwnCorpus(tmp_path).turns()


def test_a_column_that_can_not_be_guessed_must_be_named(tmp_path: Path) -> None:
    rows = [{("x1" if k == "who" else k): v for k, v in row.items()} for row in made()]
    write_csv(tmp_path / "talk.csv", rows)
    with pytest.raises(ErcBenchError, match=r"holds the speaker;.*speaker=COLUMN"):
        new_corpus(tmp_path / "new", [str(tmp_path / "talk.csv")])
    given = {"speaker": "x1"}
    made_ = new_corpus(tmp_path / "new", [str(tmp_path / "talk.csv")], columns=given)
    assert made_.source.load().dialogues("train")[0].utterances[1].speaker == "client"


def test_a_column_that_does_not_tell_dialogues_apart_is_refused(tmp_path: Path) -> None:
    talk = tmp_path / "talk.csv"
    scenes = [{"scene_id": row["conv_id"][-1], **row} for row in made(24)]
    for row in scenes:
        del row["conv_id"], row["part"]
    write_csv(talk, scenes)
    with pytest.raises(ErcBenchError, match=r"line 42: the dialogue '0' continues .*data list"):
        new_corpus(tmp_path, [str(talk)])
    given = {"dialogue": "scene_id"}
    assert new_corpus(tmp_path, [str(talk)], columns=given).source.turns()[0].dialogue == "0"
    numbered = [{"turn": str(n % 4), **row} for n, row in enumerate(made())]
    numbered[3]["turn"] = "1"
    write_csv(talk, numbered)
    with pytest.raises(ErcBenchError, match=r"line 5: turn 1 of the dialogue 'c0' occurs twice"):
        new_corpus(tmp_path, [str(talk)], force=True)


def test_turn_numbers_that_pandas_wrote_as_floats_are_read(tmp_path: Path) -> None:
    rows = [{"turn": f"{3 - n % 4}.0", **row} for n, row in enumerate(made())]
    write_csv(tmp_path / "talk.csv", rows)
    source = new_corpus(tmp_path, [str(tmp_path / "talk.csv")]).source
    assert source.columns["turn"] == "turn"
    assert source.load().dialogues("train")[0].utterances[0].id == "m0-3"


def test_numbers_that_count_within_a_dialogue_are_turns_not_ids() -> None:
    rows = [
        (f"f, line {n}", {"Dialogue_ID": str(n // 3), "Utterance_ID": str(n % 3), "Speaker": "A",
                          "Utterance": "Hm", "Emotion": "joy" if n % 2 else "fear"})
        for n in range(12)
    ]  # fmt: skip
    found, _ = guess_columns(rows, {})
    assert found == {
        "dialogue": "Dialogue_ID",
        "speaker": "Speaker",
        "text": "Utterance",
        "label": "Emotion",
        "turn": "Utterance_ID",
    }


def test_a_split_is_by_dialogue_stratified_and_written_down(folder: Path) -> None:
    write_csv(folder / "talk.csv", made(90))
    (folder / "corpus.yaml").write_text(
        SHEET.replace("split: part\n", "") + "# my remark\n", encoding="utf-8"
    )
    done = split_corpus(folder, dev=0.1, test=0.2, seed=1)
    corpus = OwnCorpus(folder).load()
    assert {s: len(d) for s, d in corpus.contents.items()} == done.dialogues
    for split, share in {"train": 0.7, "dev": 0.1, "test": 0.2}.items():
        for mood in MOODS:
            assert done.labels[split][mood] == pytest.approx(90 * share, abs=3)
    text = (folder / "corpus.yaml").read_text(encoding="utf-8")
    assert "# my remark" in text
    assert "--dev 0.1 --test 0.2 --seed 1" in text
    with pytest.raises(ErcBenchError, match=r"split already.*--force"):
        split_corpus(folder, dev=0.1, test=0.1)
    before = corpus.digest
    split_corpus(folder, dev=0.1, test=0.2, seed=1, force=True)
    assert OwnCorpus(folder).load().digest == before
    split_corpus(folder, dev=0.1, test=0.2, seed=2, force=True)
    assert OwnCorpus(folder).load().digest != before
    assert (folder / "corpus.yaml").read_text(encoding="utf-8").count("erc-bench data split") == 1


def test_a_split_without_a_label_is_refused_before_anything_is_written(
    folder: Path, capsys
) -> None:
    rows = [row | ({} if row["conv_id"] == "c0" else {"emotion": ""}) for row in made()]
    write_csv(folder / "talk.csv", rows)
    text = SHEET.replace("split: part\n", "")
    (folder / "corpus.yaml").write_text(text, encoding="utf-8")
    message = fails(capsys, "data", "split", str(folder), "--dev", "0.3", "--test", "0.3")
    assert "no turn of dev and of test would have a label" in message
    assert not (folder / "splits.csv").exists()
    assert (folder / "corpus.yaml").read_text(encoding="utf-8") == text


def test_a_sheet_in_braces_is_left_alone(folder: Path) -> None:
    columns = "{dialogue: conv_id, speaker: who, text: utterance, label: emotion}"
    text = f"{{name: helpdesk, file: talk.csv, columns: {columns}}}"
    (folder / "corpus.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(
        ErcBenchError, match=r"`split_file: splits\.csv` can't be added to .*yourself.*--force"
    ):
        split_corpus(folder, dev=0.2, test=0.2)
    assert (folder / "corpus.yaml").read_text(encoding="utf-8") == text
    assert not (folder / "splits.csv").exists()
    text = text.replace("talk.csv", "talk.csv, split_file: splits.csv")
    (folder / "corpus.yaml").write_text(text, encoding="utf-8")
    split_corpus(folder, dev=0.2, test=0.2, force=True)
    assert len(OwnCorpus(folder).load().contents) == 3


def test_a_sheet_in_utf16_is_split(folder: Path) -> None:
    text = SHEET.replace("split: part\n", "").replace("\n", "\r\n")
    (folder / "corpus.yaml").write_bytes(text.encode("utf-16"))
    split_corpus(folder, dev=0.2, test=0.2)
    assert len(OwnCorpus(folder).load().contents) == 3


def test_rare_labels_are_spread_over_all_splits() -> None:
    turns = [
        Turn("", None, f"d{d}", "A", "x", "rare" if d % 20 == 0 and t == 0 else "usual", "", None)
        for d in range(200)
        for t in range(3)
    ]
    shares = {"train": 0.8, "dev": 0.1, "test": 0.1}
    found = stratified(turns, shares, 3)
    rare = [found[turn.dialogue] for turn in turns if turn.label == "rare"]
    assert (rare.count("train"), rare.count("dev"), rare.count("test")) == (8, 1, 1)


def test_a_dialogue_added_after_the_split_is_an_error(folder: Path) -> None:
    (folder / "corpus.yaml").write_text(SHEET.replace("split: part\n", ""), encoding="utf-8")
    split_corpus(folder, dev=0.2, test=0.2)
    write_csv(folder / "talk.csv", made(13))
    with pytest.raises(ErcBenchError, match=r"'c12' is not in .*splits\.csv"):
        OwnCorpus(folder).load()


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_labels_for_exported_utterances_are_scored(
    folder: Path, tmp_path: Path, capsys, form
) -> None:
    assert main(["data", "export", str(folder), "--format", form, "--labels"]) == 0
    printed = capsys.readouterr().out
    path = tmp_path / f"p.{form}"
    if form == "csv":
        rows = list(csv.DictReader(printed.splitlines()))
        asked = [row for row in rows if row["asked"] == "true"]
    else:
        rows = [json.loads(line) for line in printed.splitlines()]
        asked = [row for row in rows if row["asked"]]
    corpus = OwnCorpus(folder).load()
    test = [u for d in corpus.dialogues("test") for u in d.utterances]
    assert [(row["id"], row["text"]) for row in rows] == [(u.id, u.text) for u in test]
    assert len(asked) == 6
    said = [MOODS[i % 3] for i, _ in enumerate(asked)]
    write_csv(path.with_suffix(".csv"), [
        {"id": row["id"], "label": label} for row, label in zip(asked, said, strict=True)
    ])  # fmt: skip
    store = ["--leaderboard-dir", str(tmp_path / "lb")]
    argv = ["score", str(path.with_suffix(".csv")), "--dataset", str(folder), "--name", "llm"]
    assert main([*argv, *store]) == 0
    wanted = f1_score([row["gold"] for row in asked], said, average="weighted", labels=MOODS)
    assert f"{100 * wanted:.2f}" in capsys.readouterr().out
    assert (tmp_path / "lb" / "records" / "helpdesk" / "llm").is_dir()


def test_an_exported_text_with_line_breaks_is_read_back_equal(folder: Path, capsys) -> None:
    texts = ["one\ntwo", "one\rtwo", "one\r\n\r\ntwo", 'one,\n"two"']
    rows = [row | {"utterance": texts[n % 4]} for n, row in enumerate(made())]
    write_csv(folder / "talk.csv", rows)
    (folder / "corpus.yaml").write_text(SHEET, encoding="utf-8")
    corpus = OwnCorpus(folder).load()
    assert "one\rtwo" in {u.text for d in corpus.dialogues("test") for u in d.utterances}
    main(["data", "export", str(folder), "--format", "csv"])
    (folder / "test.csv").write_bytes(capsys.readouterr().out.encode())
    again = read_dialogues(str(folder / "test.csv"))
    assert [[u.text for u in d.utterances] for d in again] == [
        [u.text for u in d.utterances] for d in corpus.dialogues("test")
    ]


# --- corpora that a store remembers by name


def test_a_store_remembers_where_a_corpus_is(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "lb"
    with pytest.raises(ErcBenchError, match="no corpus 'helpdesk'"):
        find_corpus("helpdesk", root)
    remember(root, OwnCorpus(folder))
    assert find_corpus("helpdesk", root).name == "helpdesk"
    assert find_corpus("demo", root).name == "demo"
    with pytest.raises(ErcBenchError, match="Did you mean 'helpdesk'"):
        find_corpus("hlepdesk", root)
    (folder / "corpus.yaml").rename(folder / "other.yaml")
    with pytest.raises(ErcBenchError, match=r"'helpdesk' was at .*corpus\.yaml.*--dataset"):
        find_corpus("helpdesk", root)


def test_a_folder_with_the_name_of_a_remembered_corpus(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the corpus only if it holds a corpus.yaml."""
    root = tmp_path / "lb"
    (tmp_path / "cwd" / "helpdesk").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "cwd")
    for find in (find_corpus, corpus_name):
        with pytest.raises(ErcBenchError, match=r"no file helpdesk/corpus\.yaml.*data new"):
            find("helpdesk", root)
    remember(root, OwnCorpus(folder))
    assert find_corpus("helpdesk", root).loaded_by == str(folder / "corpus.yaml")
    assert corpus_name("helpdesk", root) == "helpdesk"
    assert read_turns_of("helpdesk", root).name == "helpdesk"
    with pytest.raises(ErcBenchError, match="helpdesk"):
        read_turns_of("./helpdesk", root)
    Path("helpdesk", "corpus.yaml").write_text(
        SHEET.replace("name: helpdesk", "name: other"), encoding="utf-8"
    )
    assert find_corpus("helpdesk", root).name == "other"
    assert corpus_name("helpdesk", root) == "other"


def test_the_settings_are_those_of_a_built_in_corpus(folder: Path) -> None:
    experiment = resolve("finetune", str(folder), preset="small")
    assert (experiment.dataset, experiment.corpus) == ("helpdesk", str(folder / "corpus.yaml"))
    assert experiment.hash == resolve("finetune", "meld", preset="small").hash
    (folder / "corpus.yaml").write_text(f"metric: micro_f1 without calm\n{SHEET}", encoding="utf-8")
    assert resolve("finetune", str(folder)).config.select_on == "micro_f1"


# --- predict


def test_predict_reads_tables_and_corpora(folder: Path, tmp_path: Path) -> None:
    by_csv = read_dialogues(str(folder / "talk.csv"))
    assert [d.id for d in by_csv] == [f"c{d}" for d in range(12)]
    assert [u.text for u in by_csv[1].utterances][2] == 'Line 2 of talk 1, "so to speak"'
    by_corpus = read_dialogues(str(folder))
    assert [[u.text for u in d.utterances] for d in by_corpus] == [
        [u.text for u in d.utterances] for d in by_csv
    ]
    plain = tmp_path / "plain.csv"
    plain.write_text("speaker,text\nAnn,Hello.\nBo,Hi.\n", encoding="utf-8")
    (only,) = read_dialogues(str(plain))
    assert [(u.speaker, u.label) for u in only.utterances] == [("Ann", None), ("Bo", None)]
    plain.write_text("speaker,txt\nAnn,Hello.\n", encoding="utf-8")
    with pytest.raises(
        ErcBenchError, match=r"told which column holds the text; .* Name the columns"
    ):
        read_dialogues(str(plain))
    plain.write_text("speaker,text\nAnn,Hello.\n,Hi.\n", encoding="utf-8")
    with pytest.raises(ErcBenchError, match=r"plain\.csv, line 3: nobody speaks"):
        read_dialogues(str(plain))
    plain.write_text("speaker,text\n,Hello.\n", encoding="utf-8")
    with pytest.raises(ErcBenchError, match=r"holds the speaker; 'speaker' is empty\. Name the"):
        read_dialogues(str(plain))


def told(path: Path) -> list[list[str]]:
    return [[u.text for u in d.utterances] for d in read_dialogues(str(path))]


def test_predict_reads_the_bytes_of_parquet_as_text(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "d.parquet"
    table = {"dialogue": [1, 1, 2], "speaker": [b"a", b"b", b"c"], "text": [b"x", b"y", b"z"]}
    pq.write_table(pa.table(table), path)
    assert told(path) == [["x", "y"], ["z"]]
    assert read_dialogues(str(path))[0].utterances[0].speaker == "a"
    pq.write_table(pa.table({**table, "text": [b"x", b"\xff", b"z"]}), path)
    with pytest.raises(ErcBenchError, match=r"row 2: 'text' holds bytes that are not UTF-8 text"):
        told(path)
    pq.write_table(pa.table({**table, "dialogue": [1.0, 1.0, None]}), path)
    with pytest.raises(ErcBenchError, match=r"row 3: the dialogue is missing"):
        told(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "1,1,Ann,a\n,2,Bo,b\n2,1,Cy,c\n",
            r"line 3: the dialogue is missing \('scene_id' is",
        ),
        ("1,1,Ann,a\n2,1,Bo,b\n1,1,Cy,c\n", r"line 4: the dialogue '1' continues .*line 2\."),
        ("1,,Ann,a\n2,,Bo,b\n1,,Cy,c\n", r"line 4: the dialogue '1' continues .*line 2\."),
        ("1,1,Ann,a\n1,2,Bo,b\n1,1.0,Cy,c\n", r"line 4: turn 1 of the dialogue '1' occurs twice"),
        ("1,1,Ann,a\n1,,Bo,b\n", r"line 3: the turn's number, 'turn', must be .* not ''"),
    ],
)
def test_rows_without_a_clear_place_in_a_dialogue_are_errors(tmp_path: Path, text, words) -> None:
    path = tmp_path / "d.csv"
    path.write_text(f"scene_id,turn,speaker,text\n{text}", encoding="utf-8")
    with pytest.raises(ErcBenchError, match=words):
        told(path)


def test_numbers_put_the_rows_of_a_dialogue_in_order(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text(
        "dialogue,turn,speaker,text\n1,2.0,A,b\n2,1.0,A,c\n1,1.0,B,a\n", encoding="utf-8"
    )
    assert told(path) == [["a", "b"], ["c"]]
    for name in ("turn_id", "Utterance_ID"):  # in one dialogue, so they could also be ids
        path.write_text(f"{name},speaker,text\n1,A,b\n0,B,a\n", encoding="utf-8")
        assert told(path) == [["a", "b"]]
    path.write_text("utterance_id,speaker,text\n731,A,a\n42,B,b\n", encoding="utf-8")
    assert told(path) == [["a", "b"]]
    path.write_text(",speaker,text\n0,A,a\n1,B,b\n", encoding="utf-8")  # the index of pandas
    assert told(path) == [["a", "b"]]


# --- from training to predictions


@pytest.mark.slow
def test_every_command_takes_a_users_own_corpus(
    folder: Path, demo: Corpus, tiny_encoder: str, tmp_path: Path, capsys
) -> None:
    """run, explain, leaderboard, predict: the corpus by its folder first, by its name later."""
    (folder / "corpus.yaml").write_text(f"metric: micro_f1 without calm\n{SHEET}", encoding="utf-8")
    # The encoder knows the words of these texts.
    known = [u.text for d in demo.dialogues("train") for u in d.utterances]
    write_csv(
        folder / "talk.csv",
        [{**row, "utterance": text} for row, text in zip(made(24), known, strict=False)],
    )
    store = ["--leaderboard-dir", str(tmp_path / "lb")]
    small = [f"encoder={tiny_encoder}", "epochs=1", "max_batches=2", "max_len=32"]
    options = ["--preset", "small", "--wandb", "off", *small, *store]
    argv = ["run", "--method", "finetune", "--dataset", str(folder), *options]
    assert main([*argv, "--seeds", "2", "--jobs", "1"]) == 0
    assert "micro-F1 without calm, mean" in capsys.readouterr().out
    assert main(["run", "--method", "finetune", "--dataset", "helpdesk", *options]) == 0
    assert "Finished before" in capsys.readouterr().out
    path = next((tmp_path / "lb" / "records" / "helpdesk" / "finetune").glob("*seed1.json"))
    record = json.loads(path.read_text(encoding="utf-8"))
    assert (record["metric"], record["selection"]) == ("micro_f1 without calm", "dev micro_f1")
    test = record["predictions"]["test"]
    others = [c for c, name in enumerate(record["labels"]) if name != "calm"]
    wanted = f1_score(test["gold"], test["predicted"], labels=others, average="micro")
    assert record["metrics"]["test"]["micro_f1"] == pytest.approx(100 * wanted, abs=1e-3)
    assert "dev/micro_f1" in record["training"]["curves"][0]
    assert main(["explain", "finetune/seed1", *store]) == 0
    assert "c2" in capsys.readouterr().out
    assert main(["leaderboard", *store]) == 0
    assert "Micro-F1 without calm" in (tmp_path / "lb" / "README.md").read_text(encoding="utf-8")
    assert main(["predict", "finetune/seed1", str(folder / "talk.csv"), "--json", *store]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()[-96:]]
    assert {answer["dialogue"] for answer in answers} == {f"c{d}" for d in range(24)}


# --- encodings and separators

TABLE = ["dialogue", "speaker", "text", "d1", "Ann", "Hello there.", "d1", "Bo", "Yes: tomorrow."]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    ("ending", "apart"),
    [(".txt", "\t"), (".txt", ";"), (".tsv", "\t"), (".tsv", ","), (".csv", "|"), (".tab", "\t")],
)
def test_a_table_is_recognised_by_its_header(
    tmp_path: Path, ending: str, apart: str, encoding: str
) -> None:
    lines = [apart.join(TABLE[n : n + 3]) for n in (0, 3, 6)]
    file = tmp_path / f"talk{ending}"
    file.write_bytes("\r\n".join(["", *lines, ""]).encode(encoding))
    said = [("Ann", "Hello there."), ("Bo", "Yes: tomorrow.")]
    (dialogue,) = read_dialogues(str(file))
    assert [(turn.speaker, turn.text) for turn in dialogue.utterances] == said
    made = new_corpus(tmp_path / "mine", [str(file)])
    assert [(turn.speaker, turn.text) for turn in made.source.turns(whole=True)] == said


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [
        ("Ann: Hello.\nBo: Hi.\n", "utf-8", "no line of column names"),
        ("dialogue\tspeaker\ttext\nd\tAnn\tcafé\n", "latin-1", "line 2: byte 0xe9 is not UTF-8"),
        ("dialogue\tspeaker\ttext\nd\tAnn\tHi\n", "utf-16-le", "UTF-16 without a byte-order mark"),
    ],
)
def test_a_file_that_is_not_a_table_is_an_error(
    tmp_path: Path, text: str, encoding: str, said: str
) -> None:
    file = tmp_path / "talk.txt"
    file.write_bytes(text.encode(encoding))
    with pytest.raises(ErcBenchError, match=said):
        new_corpus(tmp_path / "mine", [str(file)])
