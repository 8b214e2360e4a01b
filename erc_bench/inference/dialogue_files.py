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

A time before or after the speaker, as in transcripts and chat exports, is left out. So are the
marks of lists, of Markdown and of chats (``1. Ann: …``, ``**Ann:** …``, ``<Ann> …``). So are line
numbers, if all lines have one (``1<TAB>Ann: …``, ``Turn 1 - Ann: …``). If the text before the colon
is not a speaker (a stage direction, a URL, a sentence), the line is an error.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from erc_bench.corpus.conversation import Dialogue, Utterance
from erc_bench.corpus.making import NAMES, by_name, counting, guess_columns
from erc_bench.corpus.own import OwnCorpus, Turn
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
from erc_bench.errors import ErcBenchError, quoted
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
    lines = _without_numbers(lines)
    first = _plain(lines[0][1])
    if _HEADER.fullmatch(first):
        raise ErcBenchError(
            f"{name}, line {lines[0][0]}: {quoted(first)} is a header, not a turn. Take it out."
        )
    if _heading(first) and not _most_are_turns([_plain(line) for _, line in lines[1:]]):
        return [dialogue("dialogue-1", _below_headings(lines, name))]
    timed = _without_time(first) != first
    spoken: list[_Spoken] = []
    for n, line in lines:
        where = f"{name}, line {n}"
        if line.lstrip().startswith("{"):
            value = parse_json(line, where)
            spoken.append(((where, value), _turn(value, where)))
            continue
        plain = _plain(line)
        if timed and _without_time(plain) == plain:
            raise ErcBenchError(
                f"{where}: no time stands before {quoted(plain, 40)}, as it does in the "
                "first line. If it continues the turn before, put them on one line."
            )
        spoken.append(((where, {}), turn_of_line(line, where)))
    names = {turn.speaker for _, turn in spoken}
    directed = {each: re.fullmatch(r"(.*?)\s*[(\[].*[)\]]", each) for each in names}
    times = Counter(match[1] for match in directed.values() if match)
    for (where, _), turn in spoken:
        match = directed[turn.speaker]
        if match and (match[1] in names or times[match[1]] > 1):
            raise ErcBenchError(
                f"{where}: {quoted(turn.speaker)} is {match[1]!r} with a stage "
                "direction, which would be another speaker. Put it after the colon or take it out."
            )
    return _grouped(spoken, {})


def _without_numbers(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Remove line numbers from lines (``1<TAB>Ann: …``, ``L1: Ann: …``).

    They are removed if every line has one, each is greater than the one before, and most are
    followed by a turn. A line that holds only its number is removed.
    """
    seen = [_INVISIBLE.sub("", line).strip() for _, line in lines]
    found = [match for line in seen if not _TIME.match(line) and (match := _NUMBER.match(line))]
    numbers = [int(match[1]) for match in found]
    if len(found) < len(lines) or any(b <= a for a, b in pairwise(numbers)):
        return lines
    bare = [
        (n, match.string[match.end() :])
        for (n, _), match in zip(lines, found, strict=True)
        if match.end() < len(match.string)
    ]
    is_count = len(bare) > 1 and _most_are_turns([_plain(line) for _, line in bare])
    return bare if is_count else lines


def _most_are_turns(lines: list[str]) -> bool:
    """Whether most lines are turns with a speaker; lines of only speaker and time do not count."""
    below = [_parts(line) for line in lines if not _heading(line)]
    turns = sum(bool(colon) and not _no_speaker(who, text) for who, colon, text in below)
    return turns > len(below) / 2


def _below_headings(lines: list[tuple[int, str]], name: str) -> list[Utterance]:
    """The turns of a transcript with the speaker and the time on a line above the text."""
    said: list[tuple[str, int, list[str]]] = []
    for n, line in lines:
        speaker = _heading(_plain(line))
        if speaker:
            said.append((speaker, n, []))
        else:
            said[-1][2].append(line.strip())
    turns = []
    for speaker, n, texts in said:
        where = f"{name}, line {n}"
        _check_speaker(speaker, "", speaker, where)
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
    plain = _plain(line)
    speaker, colon, text = _parts(plain)
    if not colon:
        table = " A table needs a line above it that names its columns." if "\t" in line else ""
        raise ErcBenchError(
            f"{where}: not `Speaker: text` but {quoted(line.strip(), 40)}; every line must be a "
            f"turn and name its speaker.{table}"
        )
    _check_speaker(speaker, text, line, where)
    return _turn({"speaker": speaker, "text": text.strip()}, where)


_INVISIBLE = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_HEADER = re.compile(
    r"(?:speaker|name|role|user|who|author|sender)\s*[:\uff1a]\s*(?:text|utterance|message|content|line)",
    re.IGNORECASE,
)
_LIST = re.compile(r"(?:\d{1,4}[.)]|[-\u2013\u2014\u2022\u2023\u00b7])\s+(?=\S)")
_NUMBER = re.compile(
    r"[(\[#]?(?:(?:line|turn|utterance|no\.?|nr\.?)\s*|[ltu])?(\d{1,6})[)\]]?"
    r"\s*[:.|\u2013\u2014-]?(?:\s+|$)",
    re.IGNORECASE,
)
_TAGS = ("a", "b", "br", "div", "em", "font", "i", "p", "span", "strong", "u", "v")
_MARKED = re.compile(  # **Ann:** hi, **Ann**: hi, *Ann:* hi
    r"(?:(\*\*|__)([^*_:]+)(?::\s*\1|\1\s*:)|([*_])([^*_:]+):\s*\3)(?![*_])"
)
_IRC = re.compile(r"<\s*([^<>:/]+?)\s*>\s+")
_BRACKETED = re.compile(r"\[\s*([^\W_a-z][^\[\]:\s]*(?: [^\W_a-z][^\[\]:\s]*)?)\s*\]\s*:")
_ZOOM = re.compile(r"From\s+(\S.*?)\s+to\s+\S.*", re.IGNORECASE)

_CLOCK = (
    r"\d{1,2}[:.h]\d{2}(?:[:.]\d{2}(?:[.,]\d{1,6})?|[.,]\d{3})?"
    r"(?:\s*[AaPp]\.?\s?[Mm]\b\.?)?"
)
_DAY = r"(?:(?:[^\W\d_]+day|[^\W\d_]+tag|Mon|Tue|Wed|Thu|Fri|Sat|Sun)\.?,?\s+)?"
_MONTH = r"[^\W\d_]{3,10}\.?"
_DATE = (
    rf"{_DAY}(?:\d{{4}}[-/.]\d{{1,2}}[-/.]\d{{1,2}}"
    r"|\d{1,2}[-/.]\s?\d{1,2}(?:[-/.]\s?\d{2,4}\.?)?"
    rf"|{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+\d{{4}}"
    rf"|\d{{1,2}}(?:st|nd|rd|th|\.)?\s+(?:de\s+)?{_MONTH},?\s+(?:de\s+)?\d{{4}})"
)
_ZONE = r"(?:\s?(?:Z|UTC|GMT))?(?:[+-]\d{2}:?\d{2})?"
_RANGE = r"\s*(?:-{1,2}>|[-\u2013])\s*"
_MOMENT = (
    rf"(?:(?:{_DATE}(?:,?\s+|T)(?:at\s+|um\s+)?)?{_CLOCK}{_ZONE}(?:{_RANGE}{_CLOCK})?"
    r"|\d+(?:\.\d+)?s?\s*-{1,2}>\s*\d+(?:\.\d+)?s?"
    r"|1\d{9}(?:\d{3})?(?:\.\d+)?(?![\d:\uff1a]))"  # seconds or milliseconds since 1970
)
_TIME = re.compile(
    rf"(?P<open>[\[(<])?\s*{_MOMENT}\s*(?(open)[\])>])\s*(?:[-\u2013\u2014|]\s+)?(?=\S)"
)
_NAME = r"(?P<name>[^\s:\uff1a\[(<](?:[^:\uff1a\[(<]*?[^\s,:\uff1a\[(<])?)"
_TIME_BEHIND = re.compile(
    rf"(?=.*\d:\d|.*1\d{{9}}){_NAME}(?:,?\s*(?=[\[(<])|,?\s+)(?P<open>[\[(<])?\s*{_MOMENT}\s*(?(open)[\])>])\s*"
    r"(?P<colon>[:\uff1a]?)(?P<text>.*)"
)
_PREPOSITIONS = frozenset((
    "about", "after", "around", "at", "before", "by", "from", "is", "it's", "since", "till", "to",
    "until", "um", "was",
))  # fmt: skip


def _plain(line: str) -> str:
    """A line without invisible characters, and without the mark of a list at its start."""
    line = _INVISIBLE.sub("", line).strip()
    return (
        line if _TIME.match(line) else _LIST.sub("", line, count=1) if _LIST.match(line) else line
    )


def _behind(line: str) -> re.Match[str] | None:
    """Match a line with a time after the speaker, ``Ann (00:01:02): …``."""
    match = _TIME_BEHIND.fullmatch(line)
    if match is None or match["name"].split()[-1].lower() in _PREPOSITIONS:
        return None
    return match


def _heading(line: str) -> str:
    """The speaker of a line of only speaker and time, ``Ann, [31 Dec 2020 21:15]:``, or ""."""
    match = None if _TIME.match(line) else _behind(line)
    return match["name"] if match and not match["text"].strip() else ""


def _without_time(line: str) -> str:
    """A line without its time: ``[0:01:02] Ann: …``, ``31.12.20, 21:15 - Ann: …``, ``Ann 9:15: …``.

    A number that is not a time stays: ``1: Hello.`` is a turn of speaker 1.
    """
    match = _TIME.match(line)
    if match is not None and re.match(r"[\s\])>|\u2013\u2014-]", line[match.end() - 1 :]):
        return line[match.end() :]
    match = _behind(line)
    return f"{match['name']}:{match['text']}" if match and match["colon"] else line


def _parts(line: str) -> tuple[str, str, str]:
    """Speaker, colon and text of a line; the colon is empty if the line has none."""
    bare = _without_time(line)
    marked = _MARKED.match(bare)
    if marked:
        return (marked[2] or marked[4]).strip(), ":", bare[marked.end() :]
    irc = _IRC.match(bare)
    if irc and irc[1].lower().split()[0] not in _TAGS:
        return irc[1], ":", bare[irc.end() :]
    bracketed = _BRACKETED.match(bare)
    if bracketed:
        return bracketed[1], ":", bare[bracketed.end() :]
    speaker, colon, text = re.fullmatch(r"([^:\uff1a]*)([:\uff1a]?)(.*)", bare, re.DOTALL).groups()  # type: ignore[union-attr]
    zoom = _ZOOM.fullmatch(speaker.strip())
    speaker = zoom[1] if zoom else speaker.strip()
    return unicodedata.normalize("NFC", speaker), colon, text


def _check_speaker(speaker: str, text: str, line: str, where: str) -> None:
    doubt = _no_speaker(speaker, text)
    if doubt:
        remedy = "Take the line out"
        if "time" in doubt:
            remedy = "Write the time as `[00:01:02] Ann: text` or leave it out"
        elif "heading of a dialogue" in doubt:
            remedy = "Write several dialogues as a table with a column `dialogue`"
        elif "tab" in doubt:
            remedy = "Take out the text before the tab"
        raise ErcBenchError(
            f"{where}: {doubt}, so this is not `Speaker: text`: {quoted(line.strip(), 40)}. "
            f'{remedy}, or give the turn as JSON, {{"speaker": …, "text": …}}, where a speaker '
            "can have any name."
        )


_SCHEMES = r"(?:mailto|tel|sms|news|urn|data|file|javascript|magnet|skype|xmpp|sip|about)"
_SCREENPLAY = re.compile(
    r"(?:scene|act|chapter|episode)(?:\s+\S+)?|(?:setting|stage directions?|title|synopsis)"
    r"|(?:int|ext)(?:[./]| .* - ).*|(?:smash )?(?:cut|fade|dissolve)s? (?:to|in|out)\b.*",
    re.IGNORECASE,
)
_DIALOGUE = re.compile(
    r"(?:dialog(?:ue)?|conversation|session|chat|call|transcript)\s*#?\d+", re.IGNORECASE
)
_SYSTEM = re.compile(
    r".*\S (?:(?:has |have |was |were )?(?:added|removed|left|joined|changed|created|deleted|"
    r"pinned|renamed|invited)|set the|started a|missed|turned o(?:n|ff))\b.*|.*\bencrypted\b.*"
)
_PAIRS = ("()", "[]", "{}", "<>", "\u201c\u201d", "\u00ab\u00bb")


def _no_speaker(speaker: str, text: str) -> str:
    """Why the text before the first colon of a line can't be a speaker; empty if it can."""
    if text.startswith("//") and re.search(r"(?:^|\W)[A-Za-z][A-Za-z0-9+.-]*$", speaker):
        return "the first colon is a URL's"
    if re.search(rf"(?:^|\W){_SCHEMES}$", speaker, re.IGNORECASE) and text[:1].strip():
        return "the first colon is a URL's"
    if re.fullmatch(r"(?:.*\W)?[A-Za-z]", speaker) and text[:1] in tuple("\\/"):
        return "the first colon is a path's"
    if speaker[:1] in tuple("[({<*#>|~") or (speaker[:1] == "_" and text.endswith("_")):
        return f"it begins with {speaker[:1]!r}, as a stage direction or a remark does"
    if re.search(r"-->", f"{speaker}:{text}"):
        return "it is the time of a subtitle"
    if re.search(r"\d$", speaker) and re.match(r"\d", text):
        return "the first colon is a time's"
    if re.fullmatch(r"1\d{9}(?:\d{3})?(?:\.\d+)?", speaker):
        return "the text before the first colon is a time, seconds since 1970"
    if _SCREENPLAY.fullmatch(speaker):
        return "this is the heading of a scene"
    if _DIALOGUE.fullmatch(speaker):
        return "this is the heading of a dialogue"
    if "\t" in speaker:
        return "a tab stands before the first colon"
    if _SYSTEM.fullmatch(speaker):
        return "this is a message of the chat program"
    odd = any(speaker.count(pair[0]) != speaker.count(pair[1]) for pair in _PAIRS)
    if odd or speaker.count('"') % 2:
        return "a bracket or a quotation is open before the first colon"
    if re.search("[!?…]", speaker) or len(speaker.split()) > 6:
        return "the text before the first colon is a sentence"
    return ""


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
