"""Dialogues that nobody has labelled, from a file or standard input.

As JSON: a list of turns ``[{"speaker": …, "text": …}, …]``, an object ``{"id": …, "utterances":
[turns]}``, or a list of several of either. As lines: ``Speaker: text``, or a turn as JSON; empty
lines are passed over. A turn may have a ``name``, where prompts call the speaker otherwise than
the corpus does.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from erc_bench.corpus.conversation import Dialogue, Utterance
from erc_bench.corpus.text_files import (
    STANDARD_INPUT,
    decoded,
    expect,
    field,
    parse_json,
    read_given,
)
from erc_bench.errors import ErcBenchError
from erc_bench.records.schema import Record


def read_dialogues(given: str) -> list[Dialogue]:
    """The dialogues in a file, ``-`` being standard input; no turn has a label.

    Raises:
        ErcBenchError: it can't be read, holds no turn, or something in it is none; its place is
            named.
    """
    text, name = read_given(given)
    if Path(name).suffix.lower() == ".json" or _is_document(text):
        dialogues = _dialogues(parse_json(text, name), name)
    else:
        lines = enumerate(text.split("\n"), 1)
        turns = [turn_of_line(line, f"{name}, line {n}") for n, line in lines if line.strip()]
        dialogues = [dialogue("dialogue-1", turns)] if turns else []
    if not dialogues:
        raise ErcBenchError(
            f"{name} holds no turns. Give lines `Speaker: text`, or JSON: "
            '[{"speaker": "Ann", "text": "Hello."}].'
        )
    for key, count in Counter(d.id for d in dialogues).items():
        if count > 1:
            raise ErcBenchError(f"{name}: {count} dialogues have the id {key!r}.")
    return dialogues


def _is_document(text: str) -> bool:
    """Whether text is one JSON document rather than a turn a line."""
    start = text.lstrip()[:2]
    if start[:1] == "[":  # `[Door opens] Ann: …` is none
        return start[1:] in ("", "{", "[", "]") or start[1:].isspace()
    first = text.lstrip().partition("\n")[0]
    return start[:1] == "{" and not ('"speaker"' in first and '"utterances"' not in first)


def read_turns() -> Iterator[Utterance]:
    """The turns of standard input, each as soon as its line is there."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        text = decoded(line, STANDARD_INPUT, number)
        if text.strip():
            yield turn_of_line(text, f"{STANDARD_INPUT}, line {number}")


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
    speaker, colon, text = line.partition(":")
    if not colon:
        raise ErcBenchError(
            f"{where}: not `Speaker: text` but {line.strip()[:40]!r}; every line is a turn and "
            "says whose."
        )
    return _turn({"speaker": speaker.strip(), "text": text.strip()}, where)


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
