"""Read dialogues without labels from a file, a user's own corpus, or standard input.

JSON holds a list of turns ``[{"speaker": …, "text": …}, …]``, an object ``{"id": …, "utterances":
[turns]}``, or a list of several of either. Lines hold a turn each, as ``Speaker: text`` or as JSON,
or a dialogue each as JSON; empty lines are skipped. A turn may have a ``name``: the name of the
speaker in prompts, if it differs from the one in the corpus.

CSV, TSV (or a ``.txt`` file whose first line names columns), Parquet and a ConvoKit folder hold one
turn in each row. The columns of the dialogue, the speaker and the text are found by their names
(``dialogue``, ``conversation_id``, ``speaker``, ``text``, ``utterance`` …). Without a column for
the dialogue, all rows are one dialogue. The turns of a dialogue are in the order of their numbers
(``turn``, ``turn_id`` …), also in JSON; without numbers, they are in the order of the file. The
folder of a user's own corpus stands for all its dialogues.

:mod:`erc_bench.inference.transcript_lines` says which forms a line may have.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from erc_bench.corpus.conversation import Dialogue, Utterance
from erc_bench.corpus.making import NAMES, by_name, counting, guess_columns
from erc_bench.corpus.own import OwnCorpus
from erc_bench.corpus.text_files import (
    STANDARD_INPUT,
    as_whole,
    decoded,
    expect,
    field,
    lines_of,
    parse_json,
    read_given,
    separator_of,
    whole_number,
)
from erc_bench.corpus.turn_files import (
    CONVOKIT,
    TABLES,
    Row,
    check_places,
    rows_of,
    table_rows,
    text_at,
)
from erc_bench.corpus.turns import Turn
from erc_bench.errors import ErcBenchError, quoted
from erc_bench.inference.transcript_lines import (
    HEADER,
    bare_line,
    check_speaker,
    most_are_turns,
    speaker_and_text,
    speaker_heading,
    without_numbers,
    without_time,
)
from erc_bench.records.schema import Record


def read_dialogues(given: str) -> list[Dialogue]:
    """Read the dialogues of a file, or of standard input for ``-``; no turn has a label.

    Raises:
        ErcBenchError: the file can't be read, holds no turn, or something in it is not a turn; its
            place is named.
    """
    path = Path(given)
    if path.suffix.lower() in (*TABLES, ".parquet") or (path / CONVOKIT).is_file():
        return _of_rows(rows_of(path))
    if path.is_dir() or path.suffix.lower() in (".yaml", ".yml"):
        return _of_corpus(OwnCorpus(path))
    text, name = read_given(given)
    _check_format(text, name)
    if _is_table(text):
        return _of_rows(table_rows(text, name))
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
            dialogues = _of_lines(lines, name) if lines else []
    if not dialogues:
        raise ErcBenchError(
            f"{name} holds no turns. Give lines `Speaker: text`, or JSON: "
            '[{"speaker": "Ann", "text": "Hello."}].'
        )
    for key, count in Counter(d.id for d in dialogues).items():
        if count > 1:
            raise ErcBenchError(f"{name}: {count} dialogues have the id {key!r}.")
    return dialogues


def _check_format(text: str, name: str) -> None:
    """Refuse a text in another format than lines or JSON."""
    start = text.lstrip()[:2000]
    known = ""
    if start.startswith("{\\rtf"):
        known = "rich text (RTF). Save it as plain text, one turn per line"
    elif start.startswith("WEBVTT"):
        known = "subtitles (WebVTT), which need not say who speaks. Write one turn per line"
    elif re.match(r"\d+\s+\d+:\d\d:\d\d[,.]\d+ *-->", start):
        known = "subtitles (SRT), which need not say who speaks. Write one turn per line"
    elif re.match(r"(?i)<(?:!doctype|html|\?xml)\b", start):
        known = "HTML or XML. Save it as plain text, one turn per line"
    if known:
        raise ErcBenchError(f"{name} holds {known}, `Speaker: text`.")


_Spoken = tuple[Row, Utterance]
"""A turn's place and fields in the file, and the turn."""


def _grouped(spoken: list[_Spoken], columns: Mapping[str, str]) -> list[Dialogue]:
    """Group turns into dialogues, in the order of their first turns.

    If the turns have numbers, each dialogue is sorted by them.

    Args:
        spoken: the turns.
        columns: the known names of fields, by what they hold.
    """
    rows = [row for row, _ in spoken]
    called = by_name(rows)
    column = columns.get("dialogue") or next(
        (called[name] for name in NAMES["dialogue"] if name in called), ""
    )
    keys = [text_at(row, column, where) if column else "" for where, row in rows]
    named = any(keys)
    for (where, _), key in zip(rows, keys, strict=True):
        if named and not key:
            raise ErcBenchError(
                f"{where}: the dialogue is missing ({column!r} is empty), and other turns name "
                "theirs. Write it in every turn."
            )
    return _in_order(spoken, keys, columns)


def _in_order(
    spoken: list[_Spoken], keys: Sequence[str], columns: Mapping[str, str]
) -> list[Dialogue]:
    """Like :func:`_grouped`, for turns whose dialogues are known (``keys``)."""
    rows = [row for row, _ in spoken]
    numbers = _numbers(rows, columns)
    places = [(where, key, n) for (where, _), key, n in zip(rows, keys, numbers, strict=True)]
    check_places(places)
    by_dialogue: dict[str, list[tuple[int, Utterance]]] = {}
    for n, ((_, key, number), (_, turn)) in enumerate(zip(places, spoken, strict=True)):
        place = n if number is None else number
        by_dialogue.setdefault(key or "dialogue-1", []).append((place, turn))
    return [
        dialogue(key, [turn for _, turn in sorted(turns, key=lambda each: each[0])])
        for key, turns in by_dialogue.items()
    ]


def _numbers(rows: list[Row], columns: Mapping[str, str]) -> Sequence[int | None]:
    """The number of each turn in its dialogue; None for all turns if they have no numbers.

    Ids that are numbers (``utterance_id``) count only if they start at 0 or 1, since others may be
    in any order.
    """
    column = counting(rows, {role: name for role, name in columns.items() if role != "id"})
    texts = [text_at(row, column, where) if column else "" for where, row in rows]
    found = [number for text in texts if (number := as_whole(text)) is not None]
    is_id = column != columns.get("turn") and "turn" not in column.casefold()
    if not found or (is_id and min(found) > 1):
        return [None] * len(rows)
    return [
        whole_number(text, f"the turn's number, {column!r},", where)
        for text, (where, _) in zip(texts, rows, strict=True)
    ]


def _is_table(text: str) -> bool:
    """Whether the first line names columns of speakers and texts."""
    apart = separator_of(text)
    head = next(filter(str.strip, lines_of(text)), "").casefold()
    columns = {column.strip(' "') for column in head.split(apart)} if apart else set()
    return all(columns & set(NAMES[role]) for role in ("speaker", "text"))


def _of_rows(rows: list[Row]) -> list[Dialogue]:
    """The dialogues of a file whose rows are turns."""
    remedy = "Name the columns speaker and text."
    columns, _ = guess_columns(rows, {}, ("speaker", "text"), remedy)
    spoken = []
    for where, row in rows:
        of = {role: text_at(row, columns[role], where) for role in ("speaker", "text")}
        spoken.append(((where, row), _turn(of, where)))
    return _grouped(spoken, columns)


def _of_corpus(source: OwnCorpus) -> list[Dialogue]:
    """The dialogues of a corpus, split or not, without their labels."""
    by_dialogue: dict[str, list[Turn]] = {}
    for turn in source.turns(whole=True):
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
    """Whether a text is one JSON document, not a turn or a dialogue in each line."""
    start = text.lstrip()[:2]
    lines = [line for line in lines_of(text) if line.strip()]
    if len(lines) > 1 and _holds_dialogue(lines[0]):
        return False
    if start[:1] == "[":  # `[Door opens] Ann: …` is not JSON
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


def _of_lines(lines: list[tuple[int, str]], name: str) -> list[Dialogue]:
    """The dialogues in lines of text.

    In a chat export, a line without a time is an error, since it may belong to the turn before.
    """
    lines = without_numbers(lines)
    first = bare_line(lines[0][1])
    if HEADER.fullmatch(first):
        raise ErcBenchError(
            f"{name}, line {lines[0][0]}: {quoted(first)} is a header, not a turn. Take it out."
        )
    if speaker_heading(first) and not most_are_turns([bare_line(line) for _, line in lines[1:]]):
        return [dialogue("dialogue-1", _below_headings(lines, name))]
    timed = without_time(first) != first
    spoken: list[_Spoken] = []
    for n, line in lines:
        where = f"{name}, line {n}"
        if line.lstrip().startswith("{"):
            value = parse_json(line, where)
            spoken.append(((where, value), _turn(value, where)))
            continue
        plain = bare_line(line)
        if timed and without_time(plain) == plain:
            raise ErcBenchError(
                f"{where}: there is no time before {quoted(plain, 40)}, as it does in the "
                "first line. If it continues the turn before, put them on one line."
            )
        spoken.append(((where, {}), turn_of_line(line, where)))
    plain_lines = [(where, turn) for (where, fields), turn in spoken if not fields]
    names = {turn.speaker for _, turn in plain_lines}
    directed = {each: re.fullmatch(r"(.*?)\s*[(\[].*[)\]]", each) for each in names}
    times = Counter(match[1] for match in directed.values() if match)
    for where, turn in plain_lines:
        match = directed[turn.speaker]
        if match and (match[1] in names or times[match[1]] > 1):
            raise ErcBenchError(
                f"{where}: {quoted(turn.speaker)} is {match[1]!r} with a stage "
                "direction, which would be another speaker. Put it after the colon or take it out."
            )
    return _grouped(spoken, {})


def _below_headings(lines: list[tuple[int, str]], name: str) -> list[Utterance]:
    """The turns of a transcript with the speaker and the time on a line above the text."""
    said: list[tuple[str, int, list[str]]] = []
    for n, line in lines:
        speaker = speaker_heading(bare_line(line))
        if speaker:
            said.append((speaker, n, []))
        else:
            said[-1][2].append(line.strip())
    turns = []
    for speaker, n, texts in said:
        where = f"{name}, line {n}"
        check_speaker(speaker, "", speaker, where)
        turns.append(_turn({"speaker": speaker, "text": " ".join(texts)}, where))
    return turns


def read_turns() -> Iterator[Utterance]:
    """Yield the turns of standard input, each as soon as its line is there.

    If a line that is not a turn is typed at a terminal, the error is printed and the next line is
    read.

    Raises:
        ErcBenchError: a line is not a turn, and standard input is not a terminal.
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
    """Check that the model of a run can answer turn by turn.

    Raises:
        ErcBenchError: it also reads later turns, or a file is given instead of standard input.
    """
    if record.context != "past":
        raise ErcBenchError(
            f"--stream answers before the next turn is known, but {record.method!r} reads the "
            "whole dialogue: a later turn would change its answer to an earlier one. Give it whole "
            "dialogues without --stream, or use a run of a method whose context is past "
            "(`erc-bench methods`)."
        )
    if given != "-":
        raise ErcBenchError(
            f"--stream reads standard input line by line, not {given!r}: leave the file out."
        )


def dialogue(name: str, turns: list[Utterance]) -> Dialogue:
    """Make a dialogue of turns; its name begins their ids."""
    return Dialogue(
        name,
        tuple(
            Utterance(f"{name}-u{i}", turn.speaker, turn.text, name=turn.name)
            for i, turn in enumerate(turns)
        ),
    )


def turn_of_line(line: str, where: str) -> Utterance:
    """Parse a turn from one line, ``Speaker: text`` or a JSON object."""
    if line.lstrip().startswith("{"):
        return _turn(parse_json(line, where), where)
    plain = bare_line(line)
    speaker, colon, text = speaker_and_text(plain)
    if not colon:
        table = " A table needs a line above it that names its columns." if "\t" in line else ""
        raise ErcBenchError(
            f"{where}: not `Speaker: text` but {quoted(line.strip(), 40)}; every line must be a "
            f"turn and name its speaker.{table}"
        )
    check_speaker(speaker, text, line, where)
    return _turn({"speaker": speaker, "text": text.strip()}, where)


def _dialogues(value: Any, name: str) -> list[Dialogue]:
    """Every dialogue of a JSON document."""
    if isinstance(value, dict):
        return [_dialogue(value, "dialogue-1", name)]
    several = expect(value, list, name)
    if several and isinstance(several[0], dict) and "utterances" not in several[0]:
        rows = [(f"{name}, turn {n}", each) for n, each in enumerate(several, 1)]
        return _grouped([((where, each), _turn(each, where)) for where, each in rows], {})
    return [
        _dialogue(each, f"dialogue-{n}", f"{name}, dialogue {n}")
        for n, each in enumerate(several, 1)
    ]


def _dialogue(value: Any, key: str, where: str) -> Dialogue:
    """One dialogue of a JSON document: a list of turns, or an object that holds one."""
    if isinstance(value, dict):
        given = value.get("id")
        key = key if given is None else str(given)
        value = field(value, "utterances", list, where)
    rows = [(f"{where}, turn {n}", each) for n, each in enumerate(expect(value, list, where), 1)]
    if not rows:
        raise ErcBenchError(f"{where}: a dialogue without turns.")
    spoken = [((place, each), _turn(each, place)) for place, each in rows]
    return _in_order(spoken, [key] * len(rows), {})[0]


def _turn(value: Any, where: str) -> Utterance:
    speaker, text = field(value, "speaker", str, where), field(value, "text", str, where)
    name = field(value, "name", str, where) if "name" in value else ""
    if not speaker.strip():
        raise ErcBenchError(f"{where}: nobody speaks; every turn has a speaker.")
    try:
        f"{speaker}{text}{name}".encode()
    except UnicodeEncodeError as error:
        raise ErcBenchError(f"{where}: it holds half of a character ({error.reason}).") from error
    return Utterance("turn", speaker, text, name=name)
