"""``erc-bench predict``: a finished run's model on new dialogues, through the real command line."""

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
from erc_bench.errors import ErcBenchError
from erc_bench.inference.dialogue_files import read_dialogues, read_turns

__all__ = ["elsewhere"]

COMMON = ("epochs=1", "max_batches=3", "precision=float32")
SETTINGS = {
    "eacl": ("max_len=64", "stage2_epochs=1", "encoder_lr=0.003", "lr=0.003"),
    "finetune": ("max_len=64", "encoder_lr=0.003", "lr=0.003"),
    "sacl-lstm": ("lr=0.003", "features.epochs=1", "features.max_batches=2", "features.lr=0.003"),
    "speaker-mtl": ("max_len=32", "causal=true", "encoder_lr=0.003", "lr=0.005"),
    "spcl": ("max_len=64", "encoder_lr=0.003", "lr=0.003"),
}
"""Methods with settings by which they learn a little; ``causal`` limits one to past turns."""


def train(method: str, root: Path, encoder: str, *settings: str, dataset: str = "demo") -> None:
    argv = ["run", "--method", method, "--dataset", dataset, "--preset", "smoke", "--quiet"]
    chosen = [f"encoder={encoder}", *COMMON, *SETTINGS[method], *settings]
    assert main([*argv, "--leaderboard-dir", str(root), *chosen]) == 0


@pytest.fixture(scope="module")
def made(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A leaderboard with a run of EACL on demo."""
    root = tmp_path_factory.mktemp("made") / "leaderboard"
    train("eacl", root, tiny_encoder)
    return root


@pytest.fixture
def root(made: Path, elsewhere: Path) -> Path:
    """A copy of ``made`` in the working folder."""
    return shutil.copytree(made, elsewhere / "leaderboard")


def turns_of(dialogue) -> list[dict]:
    return [{"speaker": u.speaker, "text": u.text, "name": u.name} for u in dialogue.utterances]


def predict(capsys, *argv: str) -> list[dict]:
    capsys.readouterr()
    assert main(["predict", *argv, "--json", "--quiet"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def given(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def record_of(root: Path, method: str) -> dict:
    (path,) = root.glob(f"records/*/{method}/*.json")
    return json.loads(path.read_text(encoding="utf-8"))


def equals_record(answers: list[dict], record: dict, dialogue) -> None:
    """Assert that the answers for a dialogue are those of the record, up to rounding."""
    test = record["predictions"]["test"]
    for i in dialogue.labelled:
        at = test["ids"].index(dialogue.utterances[i].id)
        shares = list(answers[i]["probabilities"].values())
        assert shares == pytest.approx(test["probabilities"][at], abs=2e-4)
        if sorted(shares)[-1] - sorted(shares)[-2] > 4e-4:
            assert answers[i]["label"] == record["labels"][test["predicted"][at]]


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(SETTINGS))
def test_predictions_for_a_dialogue_of_the_corpus_are_those_of_the_record(
    method: str, tiny_encoder: str, demo, elsewhere: Path, capsys, monkeypatch
) -> None:
    """If a method reads only past turns, its answers turn by turn are the same too."""
    root = elsewhere / "leaderboard"
    train(method, root, tiny_encoder)
    record = record_of(root, method)
    some = [demo.dialogues("test")[n] for n in (4, 0, 17)]
    several = [{"id": d.id, "utterances": turns_of(d)} for d in some]
    Path("several.json").write_text(json.dumps(several), encoding="utf-8")
    answers = predict(capsys, method, "several.json")
    assert [(a["dialogue"], a["turn"]) for a in answers] == [
        (d.id, n) for d in some for n in range(1, len(d) + 1)
    ]
    for dialogue in some:
        mine = [a for a in answers if a["dialogue"] == dialogue.id]
        assert [a["text"] for a in mine] == [u.text for u in dialogue.utterances]
        equals_record(mine, record, dialogue)
    if record["context"] == "past":
        lines = "".join(f"{u.speaker}: {u.text}\n" for u in some[0].utterances)
        given(lines, monkeypatch)
        streamed = predict(capsys, method, "--stream")
        assert [a["turn"] for a in streamed] == list(range(1, len(some[0]) + 1))
        equals_record(streamed, record, some[0])
    else:
        message = fails(capsys, "predict", method, "--stream")
        assert "reads the whole dialogue" in message
        assert "without --stream" in message
    if method == "sacl-lstm":
        monkeypatch.setenv("XDG_CACHE_HOME", str(elsewhere / "another"))
        message = fails(capsys, "predict", method, "several.json")
        assert "The fine-tuned encoder that these weights were trained on is not in" in message


@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_speakers_with_names_and_turns_without_a_label(
    tiny_encoder: str, elsewhere: Path, capsys
) -> None:
    """In IEMOCAP, prompts use other names than the corpus, and some turns are only context."""
    from iemocap_layout import write_release

    from erc_bench.settings.registry import corpus_source

    write_release(elsewhere / "data" / "iemocap")
    root = elsewhere / "leaderboard"
    argv = ("--data-dir", "data")
    train("spcl", root, tiny_encoder, *argv, dataset="iemocap")
    corpus = corpus_source("iemocap").load(elsewhere / "data")
    dialogue = corpus.dialogues("test")[1]
    Path("d.json").write_text(json.dumps(turns_of(dialogue)), encoding="utf-8")
    answers = predict(capsys, "spcl", "d.json")
    assert len(answers) == len(dialogue) > len(dialogue.labelled)
    equals_record(answers, record_of(root, "spcl"), dialogue)


def test_every_form_of_a_dialogue_gives_the_same(root: Path, capsys, monkeypatch) -> None:
    turns = [("Ann", "Well: I never!"), ("Bob", ""), ("Zoë", "Ça alors …")]
    objects = [{"speaker": s, "text": t} for s, t in turns]
    lines = "".join(f"{s} :  {t}\r\n\r\n" for s, t in turns)
    forms = {
        "list.json": json.dumps(objects),
        "object.json": json.dumps({"utterances": objects}),
        "lists.json": json.dumps([objects]),
        "list": json.dumps(objects, indent=1),
        "object": json.dumps({"utterances": objects}, indent=1),
        "lines.txt": lines,
        "marked.txt": "\ufeff" + lines,
        "lines.jsonl": "\n".join(map(json.dumps, objects)),
    }
    answers = []
    for name, text in forms.items():
        Path(name).write_bytes(text.encode())
        answers.append(predict(capsys, "eacl", name))
    given(lines, monkeypatch)
    answers.append(predict(capsys, "eacl"))
    given(forms["list"], monkeypatch)
    answers.append(predict(capsys, "eacl", "-"))
    given(forms["lines.jsonl"] + "\n", monkeypatch)
    answers.append(predict(capsys, "eacl", "--stream"))
    for each in answers:
        assert [(a["speaker"], a["text"]) for a in each] == turns
        assert all(a["dialogue"] == "dialogue-1" for a in each)
        for a, first in zip(each, answers[0], strict=True):
            assert a["probabilities"] == pytest.approx(first["probabilities"], abs=2e-4)


def test_a_dialogue_of_one_turn_and_an_empty_text(root: Path, capsys, monkeypatch) -> None:
    for line in ("Ann: Hello.", "Ann:", '{"speaker": "Ann", "text": ""}'):
        given(line, monkeypatch)
        (answer,) = predict(capsys, "eacl")
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-3)
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)


def test_the_output_without_json(root: Path, capsys, monkeypatch) -> None:
    lines = "Ann: I am [bold]so[/bold] happy.\nBob: Oh.\n"
    given(lines, monkeypatch)
    assert main(["predict", "eacl", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "I am [bold]so[/bold]" in out
    assert out.count(" %") == 6
    given(lines, monkeypatch)
    assert main(["predict", "eacl", "--stream", "--quiet"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_emotion_is_the_most_probable_one_before_rounding() -> None:
    from erc_bench.cli.dialogues import ranked
    from erc_bench.inference.model import Answer

    answer = Answer("d", 1, "Ann", "Hi.", "sadness", {"joy": 0.5, "sadness": 0.5})
    assert json.loads(answer.to_json())["label"] == "sadness"
    assert [text.plain for text in ranked(answer)] == ["sadness 50 %", "joy 50 %"]


def test_predicting_leaves_no_files(root: Path, cache: Path, capsys, elsewhere: Path) -> None:
    """No copy of a user's dialogues is kept in the working folder or in the cache."""
    before = files(elsewhere), files(cache)
    Path("d.txt").write_text("Ann: Nobody knows it but you.\n", encoding="utf-8")
    assert len(predict(capsys, "eacl", "d.txt")) == 1
    Path("d.txt").unlink()
    assert (files(elsewhere), files(cache)) == before


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("d.txt", "", ["holds no turns", "Speaker: text"]),
        ("d.txt", "\n \r\n", ["holds no turns"]),
        ("d.json", "[]", ["holds no turns"]),
        ("d.json", "", ["d.json, line 1: not valid JSON"]),
        ("d.json", "[[]]", ["d.json, dialogue 1: a dialogue without turns"]),
        ("d.json", '[{"speaker": "Ann", "text": "Hi."', ["line 1: not valid JSON"]),
        ("d.json", "Ann: Hi.", ["not valid JSON"]),
        ("d.json", '[{"speaker": "Ann"}]', ["turn 1", "no 'text' among speaker"]),
        ("d.json", '[{"speaker": 3, "text": "Hi."}]', ["turn 1, 'speaker'", "int instead of str"]),
        ("d.json", '["Hi."]', ["dialogue 1", "str instead of list"]),
        ("d.json", "3", ["int instead of list"]),
        ("d.json", '[[{"speaker": "A", "text": "a"}], null]', ["dialogue 2", "null instead of"]),
        ("d.json", '{"turns": []}', ["no 'utterances' among turns"]),
        ("d.json", '[{"speaker": " ", "text": "Hi."}]', ["turn 1: nobody speaks"]),
        ("d.json", '[{"speaker": "Ann", "text": "\\ud800"}]', ["half of a character"]),
        ("d.txt", "[Door opens]\nAnn: Hi.\n", ["d.txt, line 1", "'[Door opens]'"]),
        ("d.txt", "Ann: Hi.\nHello there\n", ["d.txt, line 2", "'Hello there'"]),
        ("d.txt", "Ann: Hi.\n: Hello\n", ["d.txt, line 2: nobody speaks"]),
        (
            "d.json",
            '[{"id": "x", "utterances": [{"speaker": "A", "text": "a"}]},'
            ' {"id": "x", "utterances": [{"speaker": "A", "text": "a"}]}]',
            ["2 dialogues have the id 'x'"],
        ),
    ],
)
def test_files_that_hold_no_dialogue_are_errors(name, text, words, root: Path, capsys) -> None:
    Path(name).write_text(text, encoding="utf-8")
    message = fails(capsys, "predict", "eacl", name)
    for word in words:
        assert word in message


def spoken(text: str | bytes, tmp_path: Path, name: str = "d.txt") -> list[list[tuple[str, str]]]:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return [[(u.speaker, u.text) for u in d.utterances] for d in read_dialogues(str(path))]


@pytest.mark.parametrize(
    "time",
    [
        "[00:01:02] ",
        "(0:01) ",
        "00:01:02.500 ",
        "21:15 - ",
        "12/31/20, 9:15 PM - ",
        "12/31/20, 9:15\u202fPM - ",
        "\u200e[31.12.20, 21:15:03] ",
        "2020-12-31T21:15:00Z ",
        "2020-12-31 21:15:00,123 | ",
        "Dec 31, 2020 9:15 PM - ",
        "Thursday, December 31, 2020 9:15 PM - ",
        "31 Dec 2020 21:15 ",
        "31/12/2020, 9:15 p. m. - ",
        "[12/31 9:15 PM] ",
        "[00:00.000 --> 00:02.500]  ",
        "1609449300 ",
    ],
)
def test_a_time_before_the_speaker_is_no_part_of_the_name(time, tmp_path) -> None:
    lines = f"{time}Ann: Hello: you!\n{time}Bob Lee: At 10:30.\n"
    assert spoken(lines, tmp_path) == [[("Ann", "Hello: you!"), ("Bob Lee", "At 10:30.")]]
    with pytest.raises(ErcBenchError, match="line 3: there is no time before 'and then: no'"):
        spoken(f"{lines}and then: no\n", tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "1: Hello.",
        "Speaker 2: Hello.",
        "Mr. Smith: Hello.",
        "Dr. J. R. Lee: Hello.",
        "Zoë : Hello.",
        "The Woman Behind The Counter: Hello.",
        "Ann (mother): Hello.",
    ],
)
def test_accepted_forms_of_a_speaker(line, tmp_path) -> None:
    assert spoken(f"Bob: see https://a.b/c: d\n{line}\n", tmp_path)[0] == [
        ("Bob", "see https://a.b/c: d"),
        (line.partition(":")[0].strip(), "Hello."),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("https://example.org/a: b", "a URL's"),
        ("see https://example.org", "a URL's"),
        ("[Door opens: wind]", "a stage direction"),
        ("(Ann enters): Hi.", "a stage direction"),
        ("*knocks*: Hi.", "a stage direction"),
        ("(laughs) well: Hi.", "a stage direction"),
        ("_Ann enters: slowly_", "a stage direction"),
        ("at 12:30 we left", "a time's.*Write the time as"),
        ("I left at 12:30: Hi.", "a time's"),
        ("1609449300: Ann: Hi.", "seconds since 1970"),
        ("Ann (00: Hi.", "a bracket or a quotation is open"),
        ('Ann changed the subject to "Trip: Rome"', "a message of the chat program"),
        ("Scene: A café.", "heading of a scene"),
        ("ACT ONE: Morning.", "heading of a scene"),
        ("Dialogue 2:", "heading of a dialogue.*a column `dialogue`"),
        ("7\tBob: Hi.", "there is a tab.*Take out the text before the tab"),
        ("INT. CAFE - DAY: Rain.", "heading of a scene"),
        ("mailto:ann@example.org", "a URL's"),
        ("C:\\Users: Hi.", "a path's"),
        ("00:00:01,000 --> 00:00:02,000", "a subtitle"),
        ("Well? I said: Hi.", "a sentence"),
        ("I have to tell you one thing: Hi.", "a sentence"),
        ("Ann (laughing): Hi.", "a stage direction"),
        ("12/31/20, 9:15 PM - Messages are encrypted.", "not `Speaker: text`"),
    ],
)
def test_lines_without_a_speaker_are_errors(line, words, tmp_path) -> None:
    with pytest.raises(ErcBenchError, match=rf"d\.txt, line 2: .*{words}"):
        spoken(f"Ann: Hello.\n{line}\n", tmp_path)


@pytest.mark.parametrize(
    ("line", "speaker"),
    [
        ("Ann (00:01:02): Well: hi", "Ann"),
        ("Ann [00:01:02]: Well: hi", "Ann"),
        ("Mary Ann 21:15: Well: hi", "Mary Ann"),
        ("Ann, [31 Dec 2020 at 21:15:03]: Well: hi", "Ann"),
        ("1. Ann: Well: hi", "Ann"),
        ("- Ann: Well: hi", "Ann"),
        ("• Ann: Well: hi", "Ann"),
        ("**Ann:** Well: hi", "Ann"),
        ("**Ann**: Well: hi", "Ann"),
        ("<Ann> Well: hi", "Ann"),
        ("[SPEAKER_00]: Well: hi", "SPEAKER_00"),
        ("21:15:03 From Ann to Everyone: Well: hi", "Ann"),
        ("A\u200bnn\u200e: Well: hi", "Ann"),
        ("Zoe\u0308: Well: hi", "Zoë"),
        ("Ann\uff1aWell: hi", "Ann"),
    ],
)
def test_marks_around_a_speaker_are_no_part_of_the_name(line, speaker, tmp_path) -> None:
    assert spoken(line, tmp_path) == [[(speaker, "Well: hi")]]


@pytest.mark.parametrize(
    "number",
    ["{}\t", "     {}\t", "{}: ", "L{}: ", "{} ", "Turn {} - ", "#{} ", "({}) ", "[{}] ", "{}. "],
)
def test_line_numbers_are_not_speakers(number, tmp_path) -> None:
    lines = ["Ann: Well: hi", "Bob 2: Oh.", "", "Ann: 3: what?"]
    text = "\n".join(f"{number}{line}".format(n) for n, line in enumerate(lines, 9))
    assert spoken(text, tmp_path) == [[("Ann", "Well: hi"), ("Bob 2", "Oh."), ("Ann", "3: what?")]]


def test_a_numbered_line_that_is_no_turn_is_named(tmp_path) -> None:
    with pytest.raises(ErcBenchError, match=r"line 2: not `Speaker: text` but '\[Door opens\]'"):
        spoken("1\tAnn: Hi.\n2\t[Door opens]\n3\tBob: Oh.\n", tmp_path)


@pytest.mark.parametrize(
    ("text", "speakers"),
    [
        ("1: Hi.\n2: Oh.\n", ["1", "2"]),
        ("1: So: hi.\n2: Oh: no.\n1: Well: yes.\n", ["1", "2", "1"]),
        ("L1: Hi.\nL2: Oh: no.\n", ["L1", "L2"]),
        ("Speaker 1: So: hi.\nSpeaker 2: Oh: no.\n", ["Speaker 1", "Speaker 2"]),
        ("1:05 Ann: Hi.\n2:10 Bob: Oh.\n", ["Ann", "Bob"]),
    ],
)
def test_numbers_that_are_speakers_or_times(text, speakers, tmp_path) -> None:
    assert [speaker for speaker, _ in spoken(text, tmp_path)[0]] == speakers


def test_speaker_and_time_on_a_line_of_their_own(tmp_path) -> None:
    for said in ("{0}, [31 Dec 2020 at 21:15:03]:", "{0}  0:03"):
        text = f"{said.format('Ann')}\nHi: you\nand you\n\n{said.format('Bob Lee')}\nOh.\n"
        assert spoken(text, tmp_path) == [[("Ann", "Hi: you and you"), ("Bob Lee", "Oh.")]]
    with pytest.raises(ErcBenchError, match="line 1: the first colon is a time's"):
        spoken("Meeting 10:30\nAnn: Hi.\nBob: Oh.\n", tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ann (laughing): Hi.\nAnn (crying): Oh.\n", "'Ann' with a stage direction"),
        ("Speaker: Text\nAnn: Hi.\n", "line 1: .* is a header"),
        ("WEBVTT\n\n00:01.000 --> 00:02.000\nAnn: Hi.\n", "WebVTT"),
        ("1\n00:00:01,000 --> 00:00:02,000\nAnn: Hi.\n", "SRT"),
        ("{\\rtf1\\ansi Ann: Hi.}", "RTF"),
    ],
)
def test_files_that_are_not_plain_turns_are_errors(text, words, tmp_path) -> None:
    with pytest.raises(ErcBenchError, match=words):
        spoken(text, tmp_path)


def test_speakers_in_json_have_no_stage_directions(tmp_path) -> None:
    path = tmp_path / "talk.jsonl"
    speakers = ["Ann (agent)", "Ann (client)", "Ann"]
    path.write_text(
        "".join(json.dumps({"speaker": s, "text": "Hi."}) + "\n" for s in speakers),
        encoding="utf-8",
    )
    (dialogue,) = read_dialogues(str(path))
    assert [turn.speaker for turn in dialogue.utterances] == speakers


def test_turns_that_name_their_dialogue(tmp_path) -> None:
    turns = [{"dialogue_id": n // 2, "speaker": "Ann", "text": str(n)} for n in range(4)]
    held = [[("Ann", "0"), ("Ann", "1")], [("Ann", "2"), ("Ann", "3")]]
    assert spoken("\n".join(map(json.dumps, turns)), tmp_path, "d.jsonl") == held
    assert spoken(json.dumps(turns), tmp_path, "d.json") == held
    for n, turn in enumerate(turns):  # as pandas writes them, the last turn first
        turn |= {"dialogue_id": float(n // 2), "turn": 3.0 - n}
    held = [dialogue[::-1] for dialogue in held]
    assert spoken("\n".join(map(json.dumps, turns)), tmp_path, "d.jsonl") == held
    assert spoken(json.dumps(turns), tmp_path, "d.json") == held
    assert spoken(json.dumps([turns[:2], turns[2:]]), tmp_path, "d.json") == held


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ([{"dialogue": "a"}, {}], "2: the dialogue is missing"),
        ([{"dialogue": "a"}, {"dialogue": None}], "2: the dialogue is missing"),
        (
            [{"dialogue": "a"}, {"dialogue": "b"}, {"dialogue": "a"}],
            "3: the dialogue 'a' continues",
        ),
        ([{"turn": 1}, {"turn": 1}], "2: turn 1 occurs twice"),
        ([{"turn": 1}, {}], "2: the turn's number, 'turn', must be a whole number, not ''"),
    ],
)
def test_turns_without_a_clear_place_in_a_dialogue_are_errors(turns, words, tmp_path) -> None:
    spoken_ones = [{"speaker": "Ann", "text": "Hi.", **turn} for turn in turns]
    with pytest.raises(ErcBenchError, match=rf"d\.json, turn {words}"):
        spoken(json.dumps(spoken_ones), tmp_path, "d.json")
    with pytest.raises(ErcBenchError, match=rf"d\.jsonl, line {words}"):
        spoken("\n".join(map(json.dumps, spoken_ones)), tmp_path, "d.jsonl")


def test_line_ends_encodings_and_one_dialogue_per_line(tmp_path) -> None:
    turns = [("Ann", "Hi.\u2028Really\x0c"), ("Bob", "Oh.")]
    for end in ("\n", "\r\n", "\r"):
        assert spoken(end.join(": ".join(t) for t in turns), tmp_path) == [
            [("Ann", "Hi.\u2028Really"), ("Bob", "Oh.")]
        ]
    objects = [{"speaker": s, "text": t} for s, t in turns]
    for lines in (
        [{"id": "a", "utterances": objects}, {"id": "b", "utterances": objects[:1]}],
        [objects, objects[:1]],
    ):
        text = "\n".join(map(json.dumps, lines))
        assert spoken(text, tmp_path, "d.jsonl") == [turns, turns[:1]]
    text = json.dumps([{"id": None, "utterances": objects}, {"id": None, "utterances": objects}])
    assert spoken(text, tmp_path, "d.json") == [turns, turns]
    assert spoken("Ann: Hi.\n".encode("utf-16"), tmp_path) == [[("Ann", "Hi.")]]
    with pytest.raises(ErcBenchError, match="looks like UTF-16 without"):
        spoken("Ann: Hi.\n".encode("utf-16-be"), tmp_path)


def test_files_that_can_not_be_read(root: Path, elsewhere: Path, capsys, monkeypatch) -> None:
    assert "nowhere.json can't be read" in fails(capsys, "predict", "eacl", "nowhere.json")
    (elsewhere / "folder").mkdir()
    assert "no file folder/corpus.yaml" in fails(capsys, "predict", "eacl", "folder")
    Path("d.txt").write_bytes(b"Ann: Hi.\nBob: \xff\n")
    assert "d.txt, line 2: byte 0xff" in fails(capsys, "predict", "eacl", "d.txt")
    assert "leave the file out" in fails(capsys, "predict", "eacl", "d.txt", "--stream")


def test_a_bad_line_ends_a_stream_after_the_answers_before_it(
    root: Path, capsys, monkeypatch
) -> None:
    given("Ann: Hi.\nHello\nBob: Hi.\n", monkeypatch)
    assert main(["predict", "eacl", "--stream", "--json", "--quiet"]) == 2
    streams = capsys.readouterr()
    assert len(streams.out.splitlines()) == 1
    assert "standard input, line 2" in streams.err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals")
def test_a_bad_line_typed_at_a_terminal_does_not_end_reading(
    capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyboard, terminal = os.openpty()
    os.write(keyboard, b"Ann: Hi.\nHello\nBob: Hello.\n\x04")
    with open(terminal, encoding="utf-8") as typed:
        monkeypatch.setattr(sys, "stdin", typed)
        turns = [(turn.speaker, turn.text) for turn in read_turns()]
    os.close(keyboard)
    assert turns == [("Ann", "Hi."), ("Bob", "Hello.")]
    assert "standard input, line 2: not `Speaker: text`" in capsys.readouterr().err


def test_a_run_without_its_model(root: Path, demo, capsys) -> None:
    Path("d.txt").write_text("Ann: Hi.\n", encoding="utf-8")
    (weights,) = root.glob("runs/demo/eacl/*/model-*.ckpt")
    predict_it = ("predict", "eacl", "d.txt")
    data = weights.read_bytes()
    weights.write_bytes(data[:1000])
    message = fails(capsys, *predict_it)
    assert f"{weights.name} is damaged or another run's" in message
    assert "--force" in message
    weights.unlink()
    message = fails(capsys, *predict_it)
    assert "The model of this run is not here" in message
    assert weights.name in message
    rows = [d.utterances[i].id for d in demo.dialogues("test") for i in d.labelled]
    Path("p.csv").write_text(
        "id,label\n" + "".join(f"{name},joy\n" for name in rows), encoding="utf-8"
    )
    assert main(["score", "p.csv", "--dataset", "demo", "--name", "my-llm", "--quiet"]) == 0
    capsys.readouterr()
    assert "there is no model" in fails(capsys, "predict", "my-llm", "d.txt")


def test_a_record_that_does_not_fit_its_model_is_an_error(
    root: Path, capsys, tiny_encoder: str
) -> None:
    Path("d.txt").write_text("Ann: Hi.\n", encoding="utf-8")
    (path,) = root.glob("records/demo/eacl/*.json")
    record = json.loads(path.read_text(encoding="utf-8"))

    def message(**values) -> str:
        path.write_text(json.dumps({**record, **values}), encoding="utf-8")
        return fails(capsys, "predict", "eacl", "d.txt")

    config = record["config"]
    assert "no setting 'tempersture'" in message(config={**config, "tempersture": 1})
    assert "'batch_size'" in message(config={**config, "batch_size": "many"})
    assert "does not fit EACL as it is now" in message(config={**config, "projection_size": 7})
    assert "something else than classes 0…5" in message(labels=record["labels"][:-1])
    assert "another encoder" in message(encoder={"name": "x", "digest": "0" * 64})
    assert "damaged record: $.encoder: it does not say which" in message(encoder=None)
    assert "There is no encoder 'gone'" in message(config={**config, "encoder": "gone"})
    del config["temperature"]
    path.write_text(json.dumps({**record, "config": config}), encoding="utf-8")
    assert main(["predict", "eacl", "d.txt", "--json"]) == 0
    assert "older than the setting temperature" in capsys.readouterr().err


@pytest.mark.slow
def test_a_stream_is_answered_line_by_line(root: Path) -> None:
    """The program prints each answer before the next line is written."""
    command = [sys.executable, "-m", "erc_bench.cli", "predict", "eacl", "--stream", "--json"]
    with subprocess.Popen(
        [*command, "--quiet"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ.copy(),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for number, text in enumerate(("Hi.", "Oh, really?", "What a surprise!"), 1):
            process.stdin.write(f"Ann: {text}\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            assert (answer["turn"], answer["text"]) == (number, text)
        process.stdin.close()
        assert process.wait(60) == 0, process.stderr.read()
