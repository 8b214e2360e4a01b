"""Readers of files on made-up and damaged input.

A reader returns what was written, or an ErcBenchError says what is wrong. No other error is raised,
and nothing gets lost.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from iemocap_layout import write_json_form, write_release

from erc_bench.corpus.conversation import LabelSet
from erc_bench.corpus.text_files import decoded
from erc_bench.datamodules.emorynlp import EmoryNLP
from erc_bench.datamodules.emorynlp import parse_csv as parse_reduced
from erc_bench.datamodules.emorynlp import parse_json as parse_emorynlp
from erc_bench.datamodules.iemocap import IEMOCAP, read_json_form, read_release
from erc_bench.datamodules.meld import MELD, clean
from erc_bench.datamodules.meld import parse_csv as parse_meld
from erc_bench.errors import ErcBenchError
from erc_bench.inference.dialogue_files import read_dialogues, turn_of_line
from erc_bench.records.prediction_files import read_predictions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::erc_bench.corpus.source.CorpusWarning"),
]

fuzz = settings(
    max_examples=1000,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
EMOTIONS = st.sampled_from(MELD.labels.names)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
AWKWARD = st.text(st.sampled_from("ab ,;:\"'\\\n\r\t[]{}()0.%–é\u2028\x85\ufeff"), max_size=12)
ANY = TEXT | AWKWARD
# No zero bytes: a file that holds them is not text and is refused.
WRITTEN = ANY.map(lambda text: text.replace("\0", ""))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY, inner, max_size=4),
    max_leaves=12,
)


def read(reader: Callable[[Path], Any], data: bytes, name: str) -> Any:
    """Return what a reader makes of a file, or None if it refuses the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        return refused_or(lambda: reader(path))


def refused_or(action: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return action()
        except ErcBenchError as error:
            message = str(error)
    assert 10 < len(message) < 2000
    return None


def damaged(data: bytes, draw: st.DataObject) -> bytes:
    """The bytes with a few of them changed, put in, taken out, or cut off."""
    for _ in range(draw.draw(st.integers(1, 3))):
        start = draw.draw(st.integers(0, len(data)))
        stop = draw.draw(st.integers(start, min(len(data), start + 6)))
        data = data[:start] + draw.draw(st.binary(max_size=4)) + data[stop:]
    return data[: draw.draw(st.integers(0, len(data)))] if draw.draw(st.booleans()) else data


def as_csv(rows: list[dict[str, Any]], columns: list[str], end: str) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


ENDS = st.sampled_from(["\n", "\r\n"])
MELD_COLUMNS = ["Utterance_ID", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID"]
NUMBER = st.integers(0, 30)


@st.composite
def meld_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    numbers = draw(st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=8, unique=True))
    return [
        {
            "Dialogue_ID": d,
            "Utterance_ID": draw(st.sampled_from([f"{u}", f"{u}.0", f"00{u}"])),
            "Utterance": draw(WRITTEN),
            "Speaker": draw(WRITTEN),
            "Emotion": draw(EMOTIONS),
            "Sentiment": "",
        }
        for d, u in numbers
    ]


def meld_of(path: Path) -> Any:
    return parse_meld(path, "test", MELD.labels, "Emotion")


@fuzz
@given(rows=meld_rows(), end=ENDS)
def test_meld_reads_what_was_written(rows: list[dict[str, Any]], end: str) -> None:
    dialogues = read(meld_of, as_csv(rows, MELD_COLUMNS, end), "f.csv")
    assert dialogues is not None
    numbered = {(int(r["Dialogue_ID"]), int(float(r["Utterance_ID"]))): r for r in rows}
    read_back = [u for d in dialogues for u in d.utterances]
    assert [u.id for u in read_back] == [f"test-d{d}-u{u}" for d, u in sorted(numbered)]
    for u, (_, row) in zip(read_back, sorted(numbered.items()), strict=True):
        assert (u.speaker, u.text) == (clean(row["Speaker"]), clean(row["Utterance"]))
        assert MELD.labels.names[u.label or 0] == row["Emotion"]


@fuzz
@given(rows=meld_rows(), end=ENDS, draw=st.data())
def test_meld_refuses_or_reads_damaged_files(rows: Any, end: str, draw: st.DataObject) -> None:
    data = damaged(as_csv(rows, MELD_COLUMNS, end), draw)
    dialogues = read(meld_of, data, "f.csv")
    if dialogues is not None:
        table = list(csv.reader(io.StringIO(decoded(data, "f"), newline="")))
        assert sum(map(len, dialogues)) == sum(bool(row) for row in table[1:])


REDUCED_COLUMNS = ["Utterance", "Speaker", "Emotion", "Season", "Episode", "Scene_ID"]
NAMES = st.lists(WRITTEN, max_size=3)
EMORY = st.sampled_from(EmoryNLP.labels.names)


@st.composite
def emory_turns(draw: st.DrawFn) -> list[tuple[tuple[int, ...], list[str], str, str]]:
    places = st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(1, 9), NUMBER)
    numbers = draw(st.lists(places, min_size=1, max_size=8, unique=True))
    return [(n, draw(NAMES), draw(WRITTEN), draw(EMORY).capitalize()) for n in numbers]


def reduced_of(path: Path) -> Any:
    return parse_reduced(path, "dev", EmoryNLP.labels)


def emory_of(path: Path) -> Any:
    return parse_emorynlp(path, "dev", EmoryNLP.labels)


def expected_of(turns: Any) -> list[tuple[str, str, str]]:
    """Speaker, text and emotion in the order of the numbers."""
    return [
        (names[0] if names else "Unknown", text.strip(), emotion.lower())
        for _, names, text, emotion in sorted(turns)
    ]


def spoken(dialogues: Any) -> list[tuple[str, str, str]]:
    names = EmoryNLP.labels.names
    return [(u.speaker, u.text, names[u.label]) for d in dialogues for u in d.utterances]


@fuzz
@given(turns=emory_turns(), end=ENDS, draw=st.data())
def test_the_reduced_emorynlp(turns: Any, end: str, draw: st.DataObject) -> None:
    columns = ("Season", "Episode", "Scene_ID", "Utterance_ID")
    rows = [
        {"Utterance": text, "Speaker": repr(names), "Emotion": emotion}
        | dict(zip(columns, number, strict=True))
        for number, names, text, emotion in turns
    ]
    data = as_csv(rows, [*REDUCED_COLUMNS, "Utterance_ID"], end)
    dialogues = read(reduced_of, data, "f.csv")
    assert dialogues is not None
    assert spoken(dialogues) == expected_of(turns)
    read(reduced_of, damaged(data, draw), "f.csv")


@fuzz
@given(turns=emory_turns(), draw=st.data())
def test_the_official_emorynlp(turns: Any, draw: st.DataObject) -> None:
    scenes: dict[str, list[Any]] = {}
    for (season, episode, scene, number), names, text, emotion in turns:
        key = f"s{season:02}_e{episode:02}_c{scene:02}"
        turn = {"utterance_id": f"{key}_u{number:03}", "speakers": names}
        scenes.setdefault(key, []).append({**turn, "transcript": text, "emotion": emotion})
    held = [{"scene_id": key, "utterances": found} for key, found in scenes.items()]
    contents = {"episodes": [{"scenes": held[:2]}, {"scenes": held[2:]}]}
    data = json.dumps(contents, ensure_ascii=draw.draw(st.booleans())).encode()
    dialogues = read(emory_of, data, "f.json")
    assert dialogues is not None
    assert spoken(dialogues) == expected_of(turns)
    assert [d.id for d in dialogues] == [f"dev-d{i}" for i in range(len(scenes))]
    read(emory_of, damaged(data, draw), "f.json")


@fuzz
@given(
    scenes=st.lists(
        st.lists(st.tuples(WRITTEN, WRITTEN, EMORY), min_size=1, max_size=4), min_size=1, max_size=4
    ),
    draw=st.data(),
)
def test_the_flat_emorynlp(scenes: Any, draw: st.DataObject) -> None:
    flat = [[{"speaker": s, "text": t, "label": e} for s, t, e in scene] for scene in scenes]
    data = json.dumps(flat).encode()
    dialogues = read(emory_of, data, "f.json")
    assert dialogues is not None
    said = [(t.strip(), e) for scene in scenes for _, t, e in scene]
    assert [(t, e) for _, t, e in spoken(dialogues)] == said
    read(emory_of, damaged(data, draw), "f.json")


@fuzz
@given(value=JSON, draw=st.data())
def test_json_of_any_shape_is_emorynlp_or_refused(value: Any, draw: st.DataObject) -> None:
    key = draw.draw(st.sampled_from(["episodes", "data", "scenes"]))
    for made in (value, [value], [[value]], {key: value}, {key: [{"scenes": [value]}]}):
        read(emory_of, json.dumps(made).encode(), "f.json")


SPOKEN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=30)
CODES = st.sampled_from(["ang", "hap", "neu", "xxx", "sur"])


@fuzz
@given(
    turns=st.lists(st.tuples(st.sampled_from("FM"), SPOKEN, CODES), min_size=1, max_size=6),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    before=st.sampled_from(["", " ", "\t", "\ufeff"]),
    draw=st.data(),
)
def test_the_release_of_iemocap(turns: Any, end: str, before: str, draw: st.DataObject) -> None:
    dialogue = "Ses03F_impro07"
    names = [f"{dialogue}_{sex}{i:03}" for i, (sex, _, _) in enumerate(turns)]
    transcript = [
        f"{before}{name} [00{i}.1000-00{i}.9000]:{text}"
        for i, (name, (_, text, _)) in enumerate(zip(names, turns, strict=True))
    ]
    ratings = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    for i, (name, (_, _, code)) in enumerate(zip(names, turns, strict=True)):
        ratings.append(f"{before}[{i}.1000 - {i}.9000]\t{name}\t{code}\t[2.5000, 2.5000, 2.5000]")
    files = {
        "transcriptions": end.join(transcript).encode(),
        "EmoEvaluation": end.join(ratings).encode(),
    }

    def read_it() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            for kind, data in files.items():
                path = Path(folder) / "Session3" / "dialog" / kind / f"{dialogue}.txt"
                path.parent.mkdir(parents=True)
                path.write_bytes(data)
            return read_release(Path(folder))

    invisible = " \t\ufeff\u200b\xa0"
    found = refused_or(read_it)
    assert found is not None
    read_back = [(t.sex, t.text.strip(invisible), t.code) for t in found[dialogue]]
    assert read_back == [(sex, text.strip(invisible), code) for sex, text, code in turns]
    kind = draw.draw(st.sampled_from(list(files)))
    files[kind] = damaged(files[kind], draw)
    found = refused_or(read_it)
    assert found is None or len(found[dialogue]) <= len(turns) + 3


@pytest.fixture(scope="module")
def iemocap(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both layouts of a made-up IEMOCAP."""
    root = tmp_path_factory.mktemp("iemocap")
    write_release(root / "release" / "iemocap")
    write_json_form(root / "json" / "iemocap")
    return {"release": root / "release", "json": root / "json"}


@settings(fuzz, suppress_health_check=[*HealthCheck])
@given(draw=st.data(), form=st.sampled_from(["release", "json"]))
def test_a_damaged_iemocap(iemocap: dict[str, Path], draw: st.DataObject, form: str) -> None:
    """A damaged file is read or refused with an ErcBenchError."""
    root = iemocap[form]
    files = sorted(p for p in root.rglob("*") if p.is_file() and not p.name.startswith("."))
    path = draw.draw(st.sampled_from(files))
    data = path.read_bytes()
    try:
        path.write_bytes(damaged(data, draw))
        refused_or(lambda: IEMOCAP().parse({"folder": root / "iemocap"}))
    finally:
        path.write_bytes(data)


@fuzz
@given(value=JSON)
def test_json_of_any_shape_is_iemocap_or_refused(value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for made in (value, [value], [[value]], [[{"speaker": "Ses01F_impro01_F", "text": value}]]):
            for split in ("train", "dev", "test"):
                (Path(folder) / f"{split}_data.json").write_text(json.dumps(made), encoding="utf-8")
            refused_or(lambda: read_json_form(Path(folder)))


LABELS = LabelSet(("anger", "joy", "neutral"))
IDS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
SAID = st.dictionaries(IDS, st.sampled_from(LABELS.names), min_size=1, max_size=6)


def in_form(said: dict[str, str], form: str) -> tuple[str, str]:
    """Return the name and the text of a file with predictions in one of the forms."""
    objects = [{"id": key, "label": label} for key, label in said.items()]
    if form == "lines":
        return "p.jsonl", "\n".join(map(json.dumps, objects))
    if form == "array":
        return "p.json", json.dumps(objects)
    if form == "columns":
        columns = {"id": dict(enumerate(said)), "label": dict(enumerate(said.values()))}
        return "p.json", json.dumps(columns)
    if form == "by id":
        return "p.json", json.dumps(said)
    apart = ";" if form == "semicolons" else ","
    rows = [("id", "label"), *said.items()]
    return "p.csv", "\r\n".join(apart.join(row) for row in rows)


@fuzz
@given(said=SAID, form=st.sampled_from(["lines", "array", "columns", "by id", "csv", "semicolons"]))
def test_predictions_are_read_as_written(said: dict[str, str], form: str) -> None:
    if form == "by id" and {key.casefold() for key in said} & {"id", "label", "uid"}:
        return  # such a key marks one prediction, not an object of predictions
    name, text = in_form(said, form)
    file = read_predictions(text, name, LABELS, list(said))
    assert {p.id: p.label for p in file.predictions} == said
    assert len(file.predictions) == len(said)


@fuzz
@given(
    said=SAID,
    form=st.sampled_from(["lines", "array", "columns", "by id", "csv", "semicolons"]),
    draw=st.data(),
)
def test_damaged_predictions(said: dict[str, str], form: str, draw: st.DataObject) -> None:
    name, text = in_form(said, form)
    data = damaged(text.encode(), draw)
    refused_or(lambda: read_predictions(decoded(data, name), name, LABELS, list(said)).predictions)


@fuzz
@given(value=JSON, ids=st.lists(ANY, max_size=3), column=st.sampled_from(["", "label", "x"]))
def test_any_json_is_predictions_or_refused(value: Any, ids: list[str], column: str) -> None:
    for made in (value, [value], [{"id": value, "label": value}], {"id": value, "label": value}):
        for name in ("p.json", "p.jsonl", "p", "p.csv"):
            text = json.dumps(made)
            refused_or(
                lambda text=text, name=name: read_predictions(text, name, LABELS, ids, column)
            )


def turns_in(path: Path) -> list[tuple[str, str]]:
    return [(u.speaker, u.text) for d in read_dialogues(str(path)) for u in d.utterances]


@fuzz
@given(
    turns=st.lists(st.tuples(WRITTEN, WRITTEN), min_size=1, max_size=5),
    form=st.sampled_from(["array", "object", "lines", "dialogue a line"]),
    draw=st.data(),
)
def test_dialogues_as_json(turns: Any, form: str, draw: st.DataObject) -> None:
    objects = [{"speaker": speaker, "text": text} for speaker, text in turns]
    text, name = {
        "array": (json.dumps(objects), "d.json"),
        "object": (json.dumps({"id": "a", "utterances": objects}, indent=1), "d"),
        "lines": ("\n".join(map(json.dumps, objects)), "d.jsonl"),
        "dialogue a line": ("\n".join(json.dumps([each]) for each in objects), "d.jsonl"),
    }[form]
    found = read(turns_in, text.encode(), name)
    assert found == (turns if all(speaker.strip() for speaker, _ in turns) else None)
    read(turns_in, damaged(text.encode(), draw), name)


@fuzz
@given(
    turns=st.lists(st.tuples(SPOKEN, SPOKEN), min_size=1, max_size=5),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    time=st.sampled_from(["", "[00:01:02] ", "12/31/20, 9:15 PM - "]),
)
def test_dialogues_as_lines(turns: Any, end: str, time: str) -> None:
    """No character of a turn gets lost, except the time before it."""
    lines = [f"{time}{speaker}: {text}" for speaker, text in turns]
    found = read(turns_in, end.join(lines).encode(), "d.txt")
    if found is not None and not any(line.lstrip().startswith(("{", "[{")) for line in lines):
        assert len(found) == len(turns)
        for (speaker, text), line in zip(found, lines, strict=True):
            # Invisible characters are left out, and the speaker is normalised (NFC).
            bare = re.sub("[\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]", "", line).strip()
            assert bare.endswith(text)
            before = unicodedata.normalize("NFC", bare[: len(bare) - len(text)])
            assert speaker in before


@fuzz
@given(value=JSON)
def test_any_json_is_dialogues_or_refused(value: Any) -> None:
    for made in (value, [value], [[value]], {"utterances": value}, [{"utterances": [value]}]):
        for name in ("d.json", "d.jsonl", "d"):
            read(turns_in, json.dumps(made).encode(), name)


@fuzz
@given(line=ANY)
def test_any_line_is_a_turn_or_refused(line: str) -> None:
    refused_or(lambda: turn_of_line(line, "here"))
