"""Dialogues that nobody has labelled, from a file, a corpus of one's own, or standard input.

As JSON: a list of turns ``[{"speaker": …, "text": …}, …]``, an object ``{"id": …, "utterances":
[turns]}``, or a list of several of either. As lines: ``Speaker: text``, or a turn as JSON, or a
dialogue a line as JSON; empty lines are passed over. A turn may have a ``name``, where prompts call
the speaker otherwise than the corpus does.

As CSV, TSV or Parquet, or a ConvoKit folder: a turn a row. Which columns hold the dialogue, the
speaker and the text is told by their names (``dialogue``, ``conversation_id``, ``speaker``,
``text``, ``utterance`` …); without a column for it, all rows are one dialogue. The folder of a
corpus of one's own stands for all its dialogues.

A time before the speaker, as subtitles and chat exports have it, is left out. What is no speaker
(a stage direction, a URL, a sentence) is an error rather than a turn of somebody.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from erc_bench.corpus.conversation import Dialogue, Utterance
from erc_bench.corpus.making import guess_columns
from erc_bench.corpus.own import OwnCorpus, Turn
from erc_bench.corpus.text_files import (
    STANDARD_INPUT,
    decoded,
    expect,
    field,
    lines_of,
    parse_json,
    read_given,
)
from erc_bench.corpus.turn_files import CONVOKIT, rows_of, text_at
from erc_bench.errors import ErcBenchError, quoted
from erc_bench.records.schema import Record


def read_dialogues(given: str) -> list[Dialogue]:
    """The dialogues in a file, ``-`` being standard input; no turn has a label.

    Raises:
        ErcBenchError: it can't be read, holds no turn, or something in it is none; its place is
            named.
    """
    path = Path(given)
    if path.suffix.lower() in (".csv", ".tsv", ".parquet") or (path / CONVOKIT).is_file():
        return _of_table(path)
    if path.is_dir() or path.suffix.lower() in (".yaml", ".yml"):
        return _of_corpus(OwnCorpus(path))
    text, name = read_given(given)
    if Path(name).suffix.lower() == ".json" or _is_document(text):
        dialogues = _dialogues(parse_json(text, name), name)
    else:
        lines = [(n, line) for n, line in enumerate(lines_of(text), 1) if line.strip()]
        if lines and _holds_dialogue(lines[0][1]):
            dialogues = [
                _dialogue(parse_json(line, where), f"dialogue-{i}", where)
                for i, (n, line) in enumerate(lines, 1)
                for where in [f"{name}, line {n}"]
            ]
        else:
            dialogues = [dialogue("dialogue-1", _turns(lines, name))] if lines else []
    if not dialogues:
        raise ErcBenchError(
            f"{name} holds no turns. Give lines `Speaker: text`, or JSON: "
            '[{"speaker": "Ann", "text": "Hello."}].'
        )
    for key, count in Counter(d.id for d in dialogues).items():
        if count > 1:
            raise ErcBenchError(f"{name}: {count} dialogues have the id {key!r}.")
    return dialogues


def _of_table(path: Path) -> list[Dialogue]:
    """The dialogues of a file with a turn a row."""
    rows = rows_of(path)
    columns, _ = guess_columns(rows, {}, ("speaker", "text"))
    by_dialogue: dict[str, list[tuple[int, Utterance]]] = {}
    for n, (where, row) in enumerate(rows):
        of = {role: text_at(row, column, where) for role, column in columns.items()}
        turn = _turn({"speaker": of["speaker"], "text": of["text"]}, where)
        place = int(of["turn"]) if "turn" in of else n
        by_dialogue.setdefault(of.get("dialogue", "dialogue-1"), []).append((place, turn))
    return [
        dialogue(key, [turn for _, turn in sorted(turns, key=lambda each: each[0])])
        for key, turns in by_dialogue.items()
    ]


def _of_corpus(source: OwnCorpus) -> list[Dialogue]:
    """The dialogues of a corpus, split or not, without their labels."""
    by_dialogue: dict[str, list[Turn]] = {}
    for turn in source.unsplit():
        by_dialogue.setdefault(turn.dialogue, []).append(turn)
    return [
        dialogue(
            key,
            [
                Utterance("turn", turn.speaker, turn.text)
                for turn in sorted(turns, key=lambda turn: turn.number or 0)
            ],
        )
        for key, turns in by_dialogue.items()
    ]


def _is_document(text: str) -> bool:
    """Whether text is one JSON document rather than a turn or a dialogue a line."""
    start = text.lstrip()[:2]
    lines = [line for line in lines_of(text) if line.strip()]
    if len(lines) > 1 and _holds_dialogue(lines[0]):
        return False
    if start[:1] == "[":  # `[Door opens] Ann: …` is none
        return start[1:] in ("", "{", "[", "]") or start[1:].isspace()
    return start[:1] == "{" and not ('"speaker"' in lines[0] and '"utterances"' not in lines[0])


def _holds_dialogue(line: str) -> bool:
    """Whether a line is a dialogue as JSON."""
    if line.lstrip()[:1] not in ("{", "["):
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) or "utterances" in value


def _turns(lines: list[tuple[int, str]], name: str) -> list[Utterance]:
    """The turns of lines; of a chat export a line without a time is a part of the turn before."""
    timed = bool(_without_time(lines[0][1]) != lines[0][1].strip())
    turns = []
    for n, line in lines:
        where = f"{name}, line {n}"
        if timed and not line.lstrip().startswith("{") and _without_time(line) == line.strip():
            raise ErcBenchError(
                f"{where}: no time stands before {quoted(line.strip(), 40)}, as it does in the "
                "first line. If it goes on with the turn before, put them on one line."
            )
        turns.append(turn_of_line(line, where))
    names = {turn.speaker for turn in turns}
    for (n, _), turn in zip(lines, turns, strict=True):
        directed = re.fullmatch(r"(.*?)\s*[(\[].*[)\]]", turn.speaker)
        if directed and directed[1] in names:
            raise ErcBenchError(
                f"{name}, line {n}: {quoted(turn.speaker)} is {directed[1]!r} with a stage "
                "direction, which would be another speaker. Put it behind the colon or take it out."
            )
    return turns


def read_turns() -> Iterator[Utterance]:
    """The turns of standard input, each as soon as its line is there.

    A line that is no turn ends them, except where somebody types: there it is said, and the next
    line is read.

    Raises:
        ErcBenchError: a line is no turn, and no terminal is typed at.
    """
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = decoded(line, STANDARD_INPUT, number)
            if text.strip():
                yield turn_of_line(text, f"{STANDARD_INPUT}, line {number}")
        except ErcBenchError as error:
            if not sys.stdin.isatty():
                raise
            print(error, file=sys.stderr)  # with --quiet too


def check_stream(record: Record, given: str) -> None:
    """Whether the model of a run can answer turn by turn.

    Raises:
        ErcBenchError: it reads later turns as well, or a file is given instead of standard input.
    """
    if record.context != "past":
        raise ErcBenchError(
            f"--stream answers before the next turn is known, and {record.method!r} reads the "
            "whole dialogue: a later turn would change its answer to an earlier one. Give it whole "
            "dialogues without --stream, or take a run of a method whose context is past "
            "(`erc-bench methods`)."
        )
    if given != "-":
        raise ErcBenchError(
            f"--stream reads standard input line by line, not {given!r}: leave the file out."
        )


def dialogue(name: str, turns: list[Utterance]) -> Dialogue:
    """A dialogue of turns, which get their ids by it."""
    return Dialogue(
        name,
        tuple(
            Utterance(f"{name}-u{i}", turn.speaker, turn.text, name=turn.name)
            for i, turn in enumerate(turns)
        ),
    )


def turn_of_line(line: str, where: str) -> Utterance:
    """A turn from one line, ``Speaker: text`` or a JSON object."""
    if line.lstrip().startswith("{"):
        return _turn(parse_json(line, where), where)
    speaker, colon, text = _without_time(line).partition(":")
    if not colon:
        raise ErcBenchError(
            f"{where}: not `Speaker: text` but {quoted(line.strip(), 40)}; every line is a turn "
            "and says whose."
        )
    doubt = _no_speaker(speaker.strip(), text)
    if doubt:
        raise ErcBenchError(
            f"{where}: {doubt}, so this is not `Speaker: text`: {quoted(line.strip(), 40)}. Take "
            "the line out, or give the turn as JSON, "
            '{"speaker": …, "text": …}, where any speaker will do.'
        )
    return _turn({"speaker": speaker.strip(), "text": text.strip()}, where)


_CLOCK = r"\d{1,2}[:.h]\d{2}(?:[:.]\d{2}(?:[.,]\d{1,6})?)?(?:[\s\u202f]*[AaPp]\.?[Mm]\b\.?)?"
_DATE = r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\s?\d{1,2}[-/.]\s?\d{2,4}\.?)"
_ZONE = r"(?:Z|[+-]\d{2}:?\d{2})?"
_TIME = re.compile(
    rf"[\u200e\u200f]*(?P<open>[\[(<])?\s*(?:{_DATE}(?:,?\s+|T)(?:at\s+)?)?{_CLOCK}{_ZONE}\s*"
    r"(?(open)[\])>])\s*(?:[-–—|]\s+)?(?=\S)"
)


def _without_time(line: str) -> str:
    """A line without the time at its start, ``[00:01:02] Ann: …`` or ``31.12.20, 21:15 - Ann: …``.

    A number that is no time stays: ``1: Hello.`` is a turn of speaker 1.
    """
    line = line.strip()
    match = _TIME.match(line)
    if match is None or not re.match(r"[\s\])>|–—-]", line[match.end() - 1 :]):
        return line
    return line[match.end() :]


def _no_speaker(speaker: str, text: str) -> str:
    """Why what stands before the first colon of a line can not be a speaker; empty if it can."""
    if text.startswith("//") and re.search(r"(?:^|\W)[A-Za-z][A-Za-z0-9+.-]*$", speaker):
        return "the first colon is a URL's"
    if speaker[:1] in tuple("[({<*#>|~"):
        return f"it begins with {speaker[:1]!r}, as a stage direction or a remark does"
    if re.search(r"-->", f"{speaker}:{text}"):
        return "it is the time of a subtitle"
    if re.fullmatch(r"[\d\s/.,-]*\d", speaker) and re.match(r"\d\d\b", text):
        return "the first colon is a time's"
    if re.search("[!?…]", speaker) or len(speaker.split()) > 6:
        return "what stands before the first colon is a sentence"
    return ""


def _dialogues(value: Any, name: str) -> list[Dialogue]:
    """Every dialogue of a JSON document."""
    if isinstance(value, dict):
        return [_dialogue(value, "dialogue-1", name)]
    several = expect(value, list, name)
    if several and isinstance(several[0], dict) and "utterances" not in several[0]:
        return [_dialogue(several, "dialogue-1", name)]
    return [
        _dialogue(each, f"dialogue-{n}", f"{name}, dialogue {n}")
        for n, each in enumerate(several, 1)
    ]


def _dialogue(value: Any, key: str, where: str) -> Dialogue:
    """One dialogue of a JSON document: a list of turns, or an object that holds one."""
    if isinstance(value, dict):
        key = str(value.get("id", key))
        value = field(value, "utterances", list, where)
    turns = [
        _turn(each, f"{where}, turn {n}") for n, each in enumerate(expect(value, list, where), 1)
    ]
    if not turns:
        raise ErcBenchError(f"{where}: a dialogue without turns.")
    return dialogue(key, turns)


def _turn(value: Any, where: str) -> Utterance:
    speaker, text = field(value, "speaker", str, where), field(value, "text", str, where)
    name = field(value, "name", str, where) if "name" in value else ""
    if not speaker.strip():
        raise ErcBenchError(f"{where}: nobody speaks; every turn has a speaker.")
    try:
        f"{speaker}{text}{name}".encode()
    except UnicodeEncodeError as error:
        raise ErcBenchError(f"{where}: half of a character is no text ({error.reason}).") from error
    return Utterance("turn", speaker, text, name=name)
