"""``erc-bench score``: predictions made elsewhere, through the real command line."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import elsewhere, fails, files

from erc_bench.cli import main
from erc_bench.corpus.conversation import Corpus, Dialogue, LabelSet, Utterance
from erc_bench.corpus.text_files import decoded
from erc_bench.errors import ErcBenchError
from erc_bench.evaluation.slices import recorded_facts
from erc_bench.records.external import match
from erc_bench.records.prediction_files import read_predictions

__all__ = ["elsewhere"]


@pytest.fixture(scope="module")
def answers(demo: Corpus) -> dict[str, list[tuple[str, str]]]:
    """The ids and labels of each split, last utterance first; every seventh label is wrong."""
    names = demo.labels.names
    found = {}
    for split in ("dev", "test"):
        turns = [d.utterances[i] for d in demo.dialogues(split) for i in d.labelled]
        said = [
            (u.id, names[(u.label + (i % 7 == 0)) % len(names)])
            for i, u in enumerate(turns)
            if u.label is not None
        ]
        found[split] = said[::-1]
    return found


def write(path: str, rows, end: str = "\n") -> str:
    text = end.join(json.dumps({"id": name, "label": label}) for name, label in rows) + end
    Path(path).write_bytes(text.encode())
    return path


def score(file: str, *options: str) -> list[str]:
    return ["score", file, "--dataset", "demo", "--name", "my-llm", *options]


def stored(folder: Path) -> dict:
    (path,) = (folder / "leaderboard" / "records" / "demo" / "my-llm").glob("*.json")
    return json.loads(path.read_text(encoding="utf-8"))


def given(text: str | bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    data = text.encode() if isinstance(text, str) else text
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_file_of_predictions_is_scored_and_stored(answers, demo, elsewhere, capsys) -> None:
    file = write("predictions.jsonl", answers["test"])
    assert main(score(file, "--context", "full", "--encoder", "an LLM")) == 0
    out = capsys.readouterr().out
    record = stored(elsewhere)
    assert f"{record['metrics']['test']['weighted_f1']:.2f}" in out
    n = len(answers["test"])
    right = n - len(range(0, n, 7))
    assert record["metrics"]["test"]["accuracy"] == pytest.approx(100 * right / n, abs=1e-4)
    assert "calibration_error" not in record["metrics"]["test"]
    test = record["predictions"]["test"]
    turns = [d.utterances[i] for d in demo.dialogues("test") for i in d.labelled]
    assert test["ids"] == [u.id for u in turns]
    assert test["gold"] == [u.label for u in turns]
    assert {k: test[k] for k in ("dialogue", "facts")} == recorded_facts(demo, "test")
    assert record["external"] is True
    assert (record["selection"], record["context"]) == ("unknown", "full")
    assert record["dataset_digest"] == demo.digest
    assert record["encoder"] == {"name": "an LLM", "digest": ""}


def test_every_form_gives_the_same(answers, elsewhere, capsys, monkeypatch) -> None:
    """CSV, JSON lines with another key and case, a byte-order mark, Windows line ends, and `-`."""
    rows = answers["test"]
    objects = [json.dumps({"utterance_id": i, "label": f" {x.upper()}", "n": 1}) for i, x in rows]
    lines = "\r\n\r\n".join(objects)
    table = "n,label,id\n" + "".join(f"{n},{x},{i}\n" for n, (i, x) in enumerate(rows))
    for name, data in {
        "a.jsonl": b"\xef\xbb\xbf" + lines.encode(),
        "b.csv": b"\xef\xbb\xbf" + table.replace("\n", "\r\n").encode(),
        "c.txt": table.replace("label,id", "label,utterance_id").encode(),
        "d": lines.encode(),
    }.items():
        (elsewhere / name).write_bytes(data)
        assert main(score(name, "--leaderboard-dir", f"of-{name}")) == 0
        given(data, monkeypatch)
        assert main(score("-", "--leaderboard-dir", f"piped-{name}")) == 0
    made = [
        json.loads(p.read_text(encoding="utf-8"))
        for p in elsewhere.glob("*/records/demo/my-llm/*.json")
    ]
    assert len(made) == 8
    for each in made:
        assert {**each, "created": ""} == {**made[0], "created": ""}


def test_probabilities(answers, demo, elsewhere, capsys) -> None:
    names = demo.labels.names
    rows = [(i, x, {n: 0.70004 if n == x else 0.04999 for n in names}) for i, x in answers["test"]]
    with (elsewhere / "p.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", *(n.upper() for n in reversed(names))])
        writer.writerows([i, x, *(p[n] for n in reversed(names))] for i, x, p in rows)
    objects = [json.dumps({"id": i, "label": x, "probabilities": p}) for i, x, p in rows]
    (elsewhere / "p.jsonl").write_text("\n".join(objects), encoding="utf-8")
    assert main(score("p.csv")) == 0
    of_csv = stored(elsewhere)
    assert main(score("p.jsonl", "--force")) == 0
    of_json = stored(elsewhere)
    assert of_csv["predictions"] == of_json["predictions"]
    (first, *_) = of_json["predictions"]["test"]["probabilities"]
    assert sorted(set(first)) == [0.05, 0.7]
    wrong = 100 * len(range(0, len(rows), 7)) / len(rows)
    error = of_json["metrics"]["test"]["calibration_error"]
    assert error == pytest.approx(abs(100 - wrong - 70), abs=1e-3)


def test_an_utterance_without_an_answer_has_no_probabilities(answers, demo, elsewhere) -> None:
    names = demo.labels.names
    rows = [(i, x, {n: 0.7 if n == x else 0.05 for n in names}) for i, x in answers["test"]]
    (name, *_), rows = rows[-1], rows[:-1]  # the first utterance of test
    with (elsewhere / "p.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", *names])
        writer.writerows([[i, x, *(p[n] for n in names)] for i, x, p in rows])
        writer.writerow([name, ""] + [""] * len(names))
    assert main(score("p.csv")) == 0
    of_csv = stored(elsewhere)
    test = of_csv["predictions"]["test"]
    assert (test["predicted"][0], test["probabilities"][0]) == (-1, None)
    assert None not in test["probabilities"][1:]
    figures = of_csv["metrics"]["test"]
    assert figures["no_answer"] == pytest.approx(100 / (len(rows) + 1))
    assert 0 < figures["calibration_error"] < 100
    objects = [{"id": i, "label": x, "probabilities": p} for i, x, p in rows]
    for nothing in (None, dict.fromkeys(names)):
        last = {"id": name, "label": None, "probabilities": nothing}
        lines = [json.dumps(each) for each in (*objects, last)]
        (elsewhere / "p.jsonl").write_text("\n".join(lines), encoding="utf-8")
        assert main(score("p.jsonl", "--force")) == 0
        assert stored(elsewhere)["predictions"] == of_csv["predictions"]
    assert main(["rescore", "--leaderboard-dir", "leaderboard"]) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: {**p, "joy": 0.9}, ["3 with wrong probabilities", "line 1", "shares of 1"]),
        (lambda p: {k: v for k, v in p.items() if k != "joy"}, ["not a number for each of"]),
        (lambda p: {**p, "joy": "much"}, ["not a number for each of"]),
        (lambda p: {**p, "joy": 10**400}, ["not a number for each of"]),
        (lambda p: {**p, "joy": float("nan")}, ["shares of 1"]),
        (lambda p: {**p, "joy": p["anger"], "anger": p["joy"]}, ["'anger' has more"]),
        (lambda p: dict.fromkeys(p), ["3 without probabilities", "line 1"]),
        (lambda p: None, ["3 without probabilities", "line 1"]),
        (lambda p: [1.0], ["line 1", "must be an object"]),
    ],
)
def test_wrong_probabilities(change, words, answers, demo, elsewhere, capsys) -> None:
    lines = []
    for n, (name, label) in enumerate((i, "joy") for i, _ in answers["test"]):
        p = {each: 0.4 if each == label else 0.1 for each in demo.labels.names}
        lines.append({"id": name, "label": label, "probabilities": change(p) if n < 3 else p})
    (elsewhere / "p.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    message = fails(capsys, *score("p.jsonl"))
    for word in words:
        assert word in message
    assert files(elsewhere) == ["p.jsonl"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[:-3], ["3 ids missing, the first 'test-d0-u0'"]),
        (lambda rows: rows[1:], ["1 id missing"]),
        (
            lambda rows: [*rows, *rows[:2]],
            ["2 ids doubled, the first", "(line 1 and line 522)"],
        ),
        (
            lambda rows: [*rows, ("tset-d0-u0", "joy"), ("x", "joy")],
            ["2 ids unknown, the first 'tset-d0-u0' (line 522, like 'test-d0-u0')"],
        ),
        (lambda rows: [*rows, ("dev-d0-u0", "joy")], ["of dev: --split"]),
        (
            lambda rows: [(i, "happy" if n < 4 else x) for n, (i, x) in enumerate(rows)],
            [
                "4 labels not in the label set, the first 'happy' (line 1",
                "labels are anger, disgust",
            ],
        ),
        (
            lambda rows: [*rows[1:], (rows[0][0], "suprise")],
            ["1 label not in", "like 'surprise'"],
        ),
        (
            lambda rows: [*rows[2:], ("x", 3), rows[-1]],
            ["2 ids missing", "1 id doubled", "1 id unknown", "1 label not"],
        ),
        (lambda rows: [], ["521 ids missing"]),
    ],
)
def test_predictions_that_do_not_fit_are_counted(change, words, answers, elsewhere, capsys) -> None:
    file = write("predictions.jsonl", change(answers["test"]))
    message = fails(capsys, *score(file))
    assert "predictions.jsonl does not fit test of demo" in message
    for word in words:
        assert word in message
    assert files(elsewhere) == ["predictions.jsonl"]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("p.jsonl", b"not json\n", ["p.jsonl, line 1: every line must be a JSON object"]),
        ("p.jsonl", b'{"id": "a", "label": "joy"}\n{"id": "b", "la', ["line 2"]),
        ("p.jsonl", b'["a", "joy"]', ["entry 1", "str instead of dict"]),
        ("p.jsonl", b'{"id": "a", "label": "joy"}\n["b", "joy"]\n', ["line 2: every line"]),
        ("p.json", b'[{"id": "a", "label": "joy"}', ["line 1: not valid JSON", "truncated"]),
        ("p.json", b"3", ["every line must be a JSON object"]),
        ("p.json", b'{"a": "joy", "a": "fear"}', ["the key 'a' occurs twice"]),
        ("p.json", b'{"id": ["a", "b"], "label": ["joy"]}', ["its columns differ in length: 1, 2"]),
        ("p.json", b'{"id": {"0": "a"}, "label": {"1": "joy"}}', ["its columns have other rows"]),
        ("p.json", b'{"a": "joy", "b": ["fear"]}', ["an object by id must hold a label for each"]),
        ("p.json", b'{"columns": ["id", "label"], "data": [["a"]]}', ["1 values for 2 columns"]),
        ("p.csv", "id,label\na,joy\n".encode("utf-16-le"), ["looks like UTF-16 without a byte"]),
        ("p.csv", b"\xff\xfei", ["says UTF-16, but its bytes are not"]),
        ("p.csv", b"id,label\na,jo\0y\n", ["line 2: a zero byte"]),
        ("p.jsonl", b'{"label": "joy"}', ["line 1", "needs an 'id'", "found: label"]),
        ("p.jsonl", b'{"id": "a"}', ["needs an 'id' and a 'label'"]),
        ("p.csv", b"id,emotion\na,joy\n", ["line 1", "'label' is missing", "id, emotion"]),
        ("p.csv", b"number,label\na,joy\n", ["line 2", "needs an 'id'"]),
        ("p.csv", b"id,label\na,joy\nb", ["line 3: 1 fields instead of 2", "truncated"]),
        ("p.csv", b'id,label\na,"joy\n', ["p.csv, line 2"]),
        ("p.csv", b"id,label\na,\xff\n", ["p.csv, line 2", "0xff is not UTF-8"]),
        ("p.csv", b"", ["'label' is missing; found: nothing"]),
        ("p", b"", ["'label' is missing; found: nothing"]),
        ("p.csv", b"id,label\n", ["521 ids missing"]),
    ],
)
def test_broken_files_are_named_by_line(name, data, words, elsewhere, capsys) -> None:
    (elsewhere / name).write_bytes(data)
    message = fails(capsys, *score(name))
    for word in words:
        assert word in message
    assert files(elsewhere) == [name]


def forms(rows) -> dict[str, str | bytes]:
    """One set of predictions in the forms that programs write."""
    objects = [{"id": name, "label": label} for name, label in rows]
    numbered = {str(n): each for n, each in enumerate(objects)}
    lines = "".join(f"{name},{label}\n" for name, label in rows)
    return {
        "array.json": json.dumps(objects),
        "array.txt": json.dumps(objects, indent=1),
        "array.jsonl": json.dumps(objects),
        "by-id.json": json.dumps(dict(rows)),
        "objects-by-id.json": json.dumps({name: {"label": label} for name, label in rows}),
        "index.json": json.dumps(numbered),
        "columns.json": json.dumps(
            {key: {n: each[key] for n, each in numbered.items()} for key in ("id", "label")}
        ),
        "lists.json": json.dumps({key: [e[key] for e in objects] for key in ("label", "id")}),
        "split.json": json.dumps(
            {"columns": ["id", "label"], "index": [*range(len(rows))], "data": [*map(list, rows)]}
        ),
        "wrapped.json": json.dumps({"predictions": objects}),
        "pandas.csv": ",id,label\n"
        + "".join(f"{n},{name},{label}\n" for n, (name, label) in enumerate(rows)),
        "excel.csv": "id;label\n" + lines.replace(",", ";"),
        "tabs.tsv": "id\tlabel\n" + lines.replace(",", "\t"),
        "old-mac.csv": ("id,label\n" + lines).replace("\n", "\r"),
        "powershell.csv": ("id,label\r\n" + lines.replace("\n", "\r\n")).encode("utf-16"),
        "capitals.csv": "ID,Label\n" + lines,
        "numbered.csv": "id,utterance_id,label\n"
        + "".join(f"{n},{name},{label}\n" for n, (name, label) in enumerate(rows)),
        "other-name.csv": "utt,label\n" + lines,
        "answer.csv": "id,gold,pred\n"
        + "".join(f"{name},neutral,{label}\n" for name, label in rows),
        "gold-in-label.csv": "id,label,Prediction\n"
        + "".join(f"{name},neutral,{label}\n" for name, label in rows),
        "answer.jsonl": "".join(
            json.dumps({"id": name, "response": f"I think {label}.", "label": label}) + "\n"
            for name, label in rows
        ),
    }


def test_every_form_that_programs_write_is_read(answers, demo) -> None:
    ids = [u.id for d in demo.dialogues("test") for u in d.utterances]
    for name, data in forms(answers["test"]).items():
        text = decoded(data, name) if isinstance(data, bytes) else data
        file = read_predictions(text, name, demo.labels, ids)
        assert [(p.id, p.label) for p in file.predictions] == answers["test"], name
        assert bool(file.notes) == (name in ("answer.csv", "gold-in-label.csv")), name


def test_gold_labels_are_not_scored_in_the_place_of_answers(answers, demo, elsewhere, capsys):
    gold = {u.id: demo.labels.names[u.label] for d in demo.dialogues("test") for u in d.utterances}
    rows = answers["test"]
    said = "".join(f"{name},{gold[name]},{label}\n" for name, label in rows)
    (elsewhere / "both.csv").write_text("id,label,pred\n" + said, encoding="utf-8")
    assert main(score("both.csv")) == 0
    taken = capsys.readouterr().err
    assert "note: both.csv: the predictions were read from 'pred', and 'label' was left" in taken
    n = len(rows)
    accuracy = 100 * (n - len(range(0, n, 7))) / n
    assert stored(elsewhere)["metrics"]["test"]["accuracy"] == pytest.approx(accuracy, abs=1e-4)
    assert main(score("both.csv", "--column", "label", "--force", "--quiet")) == 0
    perfect = capsys.readouterr().err
    assert "both.csv: every label on test is the gold one" in perfect
    assert stored(elsewhere)["metrics"]["test"]["accuracy"] == 100
    (elsewhere / "two.csv").write_text("id,label,gpt\n" + said, encoding="utf-8")
    message = fails(capsys, *score("two.csv", "--force"))
    assert "the columns 'label', 'gpt' all hold labels of the corpus" in message
    assert "--column gpt" in message
    own_words = "".join(f"{name},{gold[name]},I feel so {n}\n" for n, (name, _) in enumerate(rows))
    (elsewhere / "words.csv").write_text("id,label,gpt\n" + own_words, encoding="utf-8")
    message = fails(capsys, *score("words.csv", "--force"))
    assert "every label on test in the column 'label' is the gold one" in message
    assert "There is also: gpt. Say which holds the predictions: --column label" in message
    three = "".join(f"{name},{gold[name]},{label},joy\n" for name, label in rows)
    (elsewhere / "three.csv").write_text("id,label,pred,y_pred\n" + three, encoding="utf-8")
    assert "'label', 'pred', 'y_pred'" in fails(capsys, *score("three.csv", "--force"))
    assert "no column 'prde'" in fails(capsys, *score("both.csv", "--force", "--column", "prde"))


def test_predictions_stored_as_two_seeds_are_pointed_out(answers, elsewhere, capsys):
    rows = [f"{name},{label}\n" for name, label in answers["test"]]
    (elsewhere / "one.csv").write_text("sep=,\nid,label\n" + "".join(rows), encoding="utf-8")
    assert main(score("one.csv")) == 0
    assert "those of seed" not in capsys.readouterr().err
    assert main(score("one.csv", "--seed", "2")) == 0
    assert "the predictions on test are those of seed 1 (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (b"id label\na joy\n", "'id label' is no header of a table"),
        (b"| id | label |\n| a | joy |\n", "'| id | label |' is no header of a table"),
        (b'id,label\na,"joy\nb,joy\n', "a double quote opens a field above, and none closes it"),
        (b"PK\x03\x04\x14\0\6\0", "a ZIP archive, such as an Excel workbook"),
        (b"\x1f\x8b\x08\0\xff", "compressed by gzip"),
        (b"\x80\x04]\x94", "no text but a pickle"),
    ],
)
def test_an_error_says_what_a_file_is_that_is_not_a_table(contents, said, elsewhere, capsys):
    (elsewhere / "some.csv").write_bytes(contents)
    assert said in fails(capsys, *score("some.csv"))


EMOTIONS = LabelSet(("anger", "joy", "neutral"))
GOLD = {"a": "joy", "b": "anger", "c": "neutral", "d": "joy"}
SAID = dict(zip(GOLD, ("joy", "joy", "neutral", "anger"), strict=True))


def beside(gold: str, column: str, said) -> str:
    """JSON lines of the gold labels and a column made from the predictions."""
    rows = ({"id": k, gold: GOLD[k], column: said(n, SAID[k])} for n, k in enumerate(GOLD))
    return "\n".join(map(json.dumps, rows))


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("pred", lambda n, x: f"The emotion is {x}."),
        ("pred", lambda n, x: f"{x.title()}."),
        ("prediction", lambda n, x: EMOTIONS.names.index(x)),
        ("model_output", lambda n, x: x if n == 0 else f"{x}ful"),
        ("predictedLabel", lambda n, x: None),
        ("output", lambda n, x: {"label": x}),
        ("gpt", lambda n, x: f"{x.title()}."),
        ("gpt", lambda n, x: x),
    ],
)
def test_a_column_of_answers_that_may_not_be_labels_must_be_chosen(column, said) -> None:
    """Gold labels beside them must not be scored in their place."""
    with pytest.raises(ErcBenchError, match=rf"'label', '{column}'.* --column {column}"):
        read_predictions(beside("label", column, said), "p.jsonl", EMOTIONS, list(GOLD))


def test_an_unambiguous_column_is_chosen() -> None:
    def chosen(text: str) -> str:
        return read_predictions(text, "p.jsonl", EMOTIONS, list(GOLD)).column

    assert chosen(beside("label", "predictedLabel", lambda n, x: x)) == "predictedLabel"
    assert chosen(beside("gold", "pred", lambda n, x: f"It is {x}.")) == "pred"
    assert chosen(beside("label", "pred_probability", lambda n, x: 0.5)) == "label"
    assert chosen(beside("label", "response", lambda n, x: f"It is {[*GOLD.values()][n]}")) == (
        "label"
    )
    text = beside("label", "output", lambda n, x: {"label": x})
    with pytest.raises(ErcBenchError, match=r"line 1: 'output' holds .* not a label"):
        read_predictions(text, "p.jsonl", EMOTIONS, list(GOLD), "output")


def test_a_list_of_predictions_is_found_in_a_larger_object() -> None:
    rows = [{"id": k, "label": label} for k, label in SAID.items()]
    for value in (
        {"model": "x", "n": 4, "predictions": rows},
        {"schema": {"fields": []}, "data": [{"index": n, **row} for n, row in enumerate(rows)]},
        {"dialogue 1": rows[:1], "dialogue 2": rows[1:]},
        {"model": "x", "predictions": SAID},
    ):
        file = read_predictions(json.dumps(value), "p.json", EMOTIONS, list(GOLD))
        assert {p.id: p.label for p in file.predictions} == SAID
    text = "# by a model\n# of mine\nid,label\n" + "".join(f"{k},{x}\n" for k, x in SAID.items())
    file = read_predictions(text, "p.csv", EMOTIONS, list(GOLD))
    assert {p.id: p.label for p in file.predictions} == SAID


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "p.jsonl",
            '{"id": "a", "label": "\\ud83d"}\n{"id": "b", "label": "joy"}',
            "half of a char",
        ),
        ("p.jsonl", '{"id": "a", "label": "joy"},\n', "no comma behind the last entry"),
        ("p.json", '[{"id": "a", "label": "joy"},]', "no comma behind the last entry"),
        ("p.json", '[{"id": "a", "label": "joy",}]', "no comma behind the last entry"),
        ("p.json", '[{"id": "a", "label": "joy"} // x\n]', "JSON has no comments"),
        ("p.json", "[{'id': 'a', 'label': 'joy'}]", "double quotes, not single"),
        ("p.json", '[{"id": "a", "label": "jo', "the file looks truncated"),
        ("p.json", '{"d1": ["joy", "joy"], "d2": ["joy"]}', "an object of lists.*id of its utt"),
        (
            "p.json",
            '{"n": 1, "x": [{"id": "a"}], "y": [{"id": "a"}]}',
            "several lists of objects, 'x', 'y'",
        ),
        ("p.csv", "a,joy\nb,joy\n", "first line is no header but a prediction"),
        ("p.csv", "x,joy\ny,joy\n", "If the first line is no header"),
        ("p.csv", "id,label\na,joy\n# more\nb,joy\n", "line 3: .*CSV has no comments"),
        ("p.csv", "id,label\na,joy,\n", "line 2: .*ends with one separator more"),
        ("p.csv", "id,label\na,joy,x\n", "line 2: .*must be in double quotes"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(name, text, words) -> None:
    with pytest.raises(ErcBenchError, match=words):
        read_predictions(text, name, EMOTIONS, list(GOLD))


@pytest.mark.parametrize("word", ["nan", "NaN", "", "None", "null"])
def test_a_missing_value_is_no_answer(word, answers, demo) -> None:
    """A missing value is not mapped to a label that is spelt like it."""
    rows = answers["test"]
    text = "id,label\n" + f"{rows[0][0]},{word}\n"
    text += "".join(f"{name},{label}\n" for name, label in rows[1:])
    ids = [name for name, _ in rows]
    file = read_predictions(text, "p.csv", demo.labels, ids)
    held = match(file.predictions, demo, ["test"], "p.csv")["test"]
    assert held.predicted[held.ids.index(rows[0][0])] == -1
    assert held.predicted.count(-1) == 1
    nothing = read_predictions("id,label\n" + f"{rows[0][0]},{word}\n", "p.csv", demo.labels, ids)
    with pytest.raises(ErcBenchError, match="there is no answer at all"):
        match(nothing.predictions, demo, ["test"], "p.csv")


def corpus_of(*labels: str) -> Corpus:
    """A corpus whose test set has one turn of each label, ``u0``, ``u1`` …"""
    turns = tuple(Utterance(f"u{n}", "Ann", "Hello.", n) for n in range(len(labels)))
    return Corpus.build("odd", LabelSet(labels), {"test": [Dialogue("d", turns)]})


def test_a_label_that_looks_like_a_missing_value_is_an_answer() -> None:
    odd = corpus_of("joy", "none")
    text = "id,label\nu0,nan\nu1,None\n"
    file = read_predictions(text, "p.csv", odd.labels, ["u0", "u1"])
    assert match(file.predictions, odd, ["test"], "p.csv")["test"].predicted == [-1, 1]


def test_labels_that_differ_by_case_are_told_apart() -> None:
    odd = corpus_of("US", "us")
    text = "id,label,US,us\nu0,us,0.3,0.7\nu1,US,0.8,0.2\n"
    file = read_predictions(text, "p.csv", odd.labels, ["u0", "u1"])
    held = match(file.predictions, odd, ["test"], "p.csv")["test"]
    assert held.predicted == [1, 0]
    assert held.probabilities == [[0.3, 0.7], [0.8, 0.2]]
    unclear = read_predictions(text.replace(",us,0.3", ",Us,0.3"), "p.csv", odd.labels, ["u0"])
    with pytest.raises(ErcBenchError, match="1 label not in the label set, the first 'Us'"):
        match(unclear.predictions, odd, ["test"], "p.csv")


@pytest.mark.parametrize(
    "change",
    [
        lambda i, n: {f"x{i}": "joy"},
        lambda i, n: {"id": i, "label": "blah " * 9000},
        lambda i, n: {"id": "blah " * 9000, "label": "joy"},
        lambda i, n: {f"column {k}": k for k in range(2000)},
    ],
)
def test_errors_stay_short(change, answers, elsewhere, capsys) -> None:
    objects = [change(name, n) for n, (name, _) in enumerate(answers["test"][:50])]
    (elsewhere / "p.jsonl").write_text("\n".join(map(json.dumps, objects)), encoding="utf-8")
    assert len(fails(capsys, *score("p.jsonl"))) < 1000


def test_a_missing_file_a_folder_and_an_unreadable_file_are_errors(
    answers, elsewhere, capsys
) -> None:
    assert "nowhere.csv can't be read: No such file" in fails(capsys, *score("nowhere.csv"))
    (elsewhere / "folder").mkdir()
    assert "folder can't be read: Is a directory" in fails(capsys, *score("folder"))
    closed = elsewhere / "closed.jsonl"
    closed.touch(mode=0)
    if not os.access(closed, os.R_OK):  # root may read everything
        assert "closed.jsonl can't be read" in fails(capsys, *score("closed.jsonl"))
    else:
        assert "521 ids missing" in fails(capsys, *score("closed.jsonl"))


def test_names_that_are_refused(answers, elsewhere, capsys) -> None:
    file = write("p.jsonl", answers["test"])
    for name in ("eacl", "EACL", "sacl-lstm"):
        message = fails(capsys, "score", file, "--dataset", "demo", "--name", name)
        assert f"--name {name!r} is a method of this suite" in message
    for name in ("../x", "a/b", "a:b", "", ".x", "a b"):
        message = fails(capsys, "score", file, "--dataset", "demo", f"--name={name}")
        assert "letters, digits" in message
    assert "'demo'" in fails(capsys, "score", file, "--dataset", "demmo", "--name", "x")
    argv = ["score", file, "--dataset", "demo", "--name"]
    assert "is a published row's" in fails(capsys, *argv, "song2022spcl")
    assert files(elsewhere) == ["p.jsonl"]
    assert main(score(file)) == 0
    capsys.readouterr()
    assert "differs from 'my-llm'" in fails(capsys, *argv, "My-LLM")


def test_a_name_and_seed_are_stored_once(answers, elsewhere, capsys) -> None:
    file = write("p.jsonl", answers["test"])
    other = write("q.jsonl", [(i, "joy") for i, _ in answers["test"]])
    assert main(score(file)) == 0
    before = stored(elsewhere)
    capsys.readouterr()
    message = fails(capsys, *score(other))
    for word in ("'my-llm'", "--force", "--seed", "--name", "seed1.json"):
        assert word in message
    assert stored(elsewhere) == before
    assert "another --context" in fails(capsys, *score(other, "--seed", "2", "--context", "past"))
    assert main(score(other, "--force", "--encoder", "a newer one")) == 0
    assert stored(elsewhere)["predictions"] != before["predictions"]
    capsys.readouterr()
    assert "--seed" in fails(capsys, *score(other, "--seed", "one"))


def test_dev_alone_is_scored_but_not_stored(answers, elsewhere, capsys) -> None:
    dev = write("dev.jsonl", answers["dev"])
    assert main(score(dev, "--split", "dev")) == 0
    assert "Not stored" in capsys.readouterr().out
    assert files(elsewhere) == ["dev.jsonl"]
    both = write("both.jsonl", [*answers["test"], *answers["dev"]])
    assert main(score(both, "--split", "dev", "test")) == 0
    assert list(stored(elsewhere)["predictions"]) == ["dev", "test"]
    capsys.readouterr()
    assert f"{len(answers['dev'])} ids unknown" in fails(capsys, *score(both, "--force"))


@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_ids_of_turns_without_a_label(elsewhere, capsys) -> None:
    from iemocap_layout import write_release

    from erc_bench.settings.registry import corpus_source

    write_release(elsewhere / "data" / "iemocap")
    corpus = corpus_source("iemocap").load(elsewhere / "data")
    everything = [u.id for d in corpus.dialogues("test") for u in d.utterances]
    argv = ["score", "p.jsonl", "--dataset", "iemocap", "--name", "x", "--data-dir", "data"]
    write("p.jsonl", [(name, "angry") for name in everything])
    message = fails(capsys, *argv)
    assert "6 ids unknown" in message
    assert "a turn without a label, which is never scored: leave it out" in message
    labelled = [d.utterances[i].id for d in corpus.dialogues("test") for i in d.labelled]
    write("p.jsonl", [(name, "angry") for name in labelled])
    assert main([*argv, "--quiet"]) == 0


@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_a_corpus_without_a_train_split_is_scored(elsewhere, capsys) -> None:
    """IEMOCAP with session 5 alone has only a test split."""
    from iemocap_layout import write_release

    from erc_bench.settings.registry import corpus_source

    write_release(elsewhere / "data" / "iemocap")
    for number in "1234":
        shutil.rmtree(elsewhere / "data" / "iemocap" / f"Session{number}")
    corpus = corpus_source("iemocap").load(elsewhere / "data")
    assert list(corpus.contents) == ["test"]
    labelled = [d.utterances[i].id for d in corpus.dialogues("test") for i in d.labelled]
    write("p.jsonl", [(name, "angry") for name in labelled])
    argv = ["score", "p.jsonl", "--dataset", "iemocap", "--name", "x", "--data-dir", "data"]
    assert main([*argv, "--quiet"]) == 0
    capsys.readouterr()
    assert "iemocap has no dev here" in fails(capsys, *argv, "--force", "--split", "dev")


def test_a_path_with_brackets_is_printed_whole(answers, elsewhere, capsys) -> None:
    file = write("p.jsonl", answers["test"])
    folder = "a [bold]name[/] :smile: [1]"
    assert main([*score(file), "--leaderboard-dir", folder]) == 0
    assert f"Record: {folder}/records/demo/my-llm/" in capsys.readouterr().out
    assert main(["show", "my-llm", "--leaderboard-dir", folder]) == 0
    shown = "".join(capsys.readouterr().out.split())  # a table breaks a line between words
    assert f"{folder}/records/demo".replace(" ", "") in shown
    assert main(["leaderboard", "--leaderboard-dir", folder]) == 0
    assert f"{folder}/index.html\n" in capsys.readouterr().out


def test_the_leaderboard_and_other_commands_read_the_record(answers, elsewhere, capsys) -> None:
    """Stored as a benchmark's record, it is shown as external and never ranked."""
    from synthetic_records import Method, write_records

    from erc_bench.leaderboard import read_board

    root = elsewhere / "leaderboard"
    file = write("p.jsonl", answers["test"])
    for seed in ("1", "2"):
        assert main(score(file, "--seed", seed, "--encoder", "An-LLM-7B")) == 0
    assert main(["leaderboard"]) == 0
    (tryout,) = read_board(root).tryouts
    assert [(r.method, r.external, r.unranked) for t in tryout.tracks for r in t.rows] == [
        ("my-llm", True, "tryout")
    ]
    # The same on a corpus that is a benchmark.
    for path in sorted((root / "records" / "demo" / "my-llm").iterdir()):
        record = {**json.loads(path.read_text(encoding="utf-8")), "dataset": "meld"}
        target = root / "records" / "meld" / "my-llm" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(record), encoding="utf-8")
    write_records(root, [Method("good", 0.5)], ["meld"], 60)
    (track,) = (
        t for c in read_board(root).corpora if c.name == "meld" for t in c.tracks if not t.encoder
    )
    (row,) = track.rows
    assert (row.rank, row.unranked, row.encoder) == (None, "selection unknown", "An-LLM-7B")
    assert row.seeds == [1, 2]
    assert row.slices
    assert main(["leaderboard"]) == 0
    assert ",external," in (root / "leaderboard.csv").read_text(encoding="utf-8")
    assert '"unranked": "selection unknown"' in (root / "leaderboard.json").read_text(
        encoding="utf-8"
    )
    capsys.readouterr()
    assert main(["leaderboard", "--latex"]) == 0
    (line,) = (row for row in capsys.readouterr().out.splitlines() if "my-llm" in row)
    assert r"\textbf" not in line
    text = (root / "README.md").read_text(encoding="utf-8")
    assert "### Predictions made elsewhere" in text
    assert "my-llm (An-LLM-7B, external)" in text
    assert "selection unknown" in (root / "index.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["rescore"]) == 0
    assert "Records re-scored from their predictions: 7." in capsys.readouterr().out
    assert main(["score", file, "--dataset", "demo", "--name", "other", "--quiet"]) == 0
    assert main(["compare", "my-llm", "other", "--dataset", "demo"]) == 0
    assert "my-llm was predicted elsewhere" in capsys.readouterr().out


@pytest.mark.slow
def test_the_program_scores_standard_input(answers, elsewhere) -> None:
    lines = "".join(f'{{"id": "{i}", "label": "{x}"}}\n' for i, x in answers["test"])
    command = [sys.executable, "-m", "erc_bench.cli", *score("-", "--quiet")]
    done = subprocess.run(command, input=lines, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "weighted-F1" in done.stdout
    again = subprocess.run(command, input=lines, capture_output=True, text=True)
    assert again.returncode == 2
    assert "--force" in again.stderr
