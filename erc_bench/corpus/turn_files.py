"""Reading files of turns in the usual formats, and the place of every turn.

The formats are CSV, TSV, JSON lines, JSON, Parquet, ConvoKit folders and Hugging Face data sets.
What the fields of a turn mean is not known here; see :mod:`erc_bench.corpus.own`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from erc_bench.corpus.text_files import (
    csv_table,
    expect,
    lines_of,
    parse_json,
    read_text,
    separator_of,
)
from erc_bench.errors import ErcBenchError, listed, quoted

Row = tuple[str, Mapping[str, Any]]
"""The place of a turn (``"talk.csv, line 7"``), and its fields."""

CONVOKIT = "utterances.jsonl"
"""The file in a ConvoKit folder that holds the turns."""

TABLES = (".csv", ".tsv", ".tab")

FORMS = "CSV, TSV, JSON lines (.jsonl), JSON, Parquet, or a ConvoKit folder"

TURN = ("text", "utterance", "content", "message", "speaker", "role")
"""An object in JSON that has one of these fields, not as a list, is a turn."""

TURNS = ("utterances", "turns", "messages", "dialogue")
"""Usual names of the field of a dialogue in JSON that holds its turns, the likeliest first."""

DIALOGUE, NUMBER = "(dialogue)", "(number)"
"""Fields that turns get if a file holds whole dialogues: the dialogue's id, or its number if it has
no id; and the turn's number in the dialogue."""


def rows_of(path: Path) -> list[Row]:
    """The turns of a file, in file order.

    Raises:
        ErcBenchError: the file is absent, damaged, in an unknown format, or holds no turn.
    """
    kind = path.suffix.lower()
    if path.is_dir():
        rows = _convokit(path)
    elif not path.is_file():
        raise ErcBenchError(f"There is no file {path}.")
    elif kind in TABLES or kind == ".txt":
        text = read_text(path)
        if kind == ".txt" and not separator_of(text):
            raise ErcBenchError(
                f"{path}, line 1: no line of column names, with tabs, commas, semicolons or | "
                f"between them. A file of turns is {FORMS}."
            )
        rows = table_rows(text, str(path))
    elif kind in (".jsonl", ".ndjson"):
        rows = _json_lines(path)
    elif kind == ".json":
        rows = _document(path)
    elif kind == ".parquet":
        rows = _parquet(path)
    else:
        raise ErcBenchError(f"{path} is not in a format that is read here: {FORMS}.")
    if not rows:
        raise ErcBenchError(f"{path} holds no turns.")
    return rows


def columns_of(rows: Iterable[Row]) -> list[str]:
    """The names of the fields of turns; those inside others have a dot (``meta.emotion``)."""
    return list(dict.fromkeys(name for _, row in rows for name in _names_in(row)))


def _names_in(fields: Mapping[str, Any]) -> Iterator[str]:
    for key, value in fields.items():
        if isinstance(value, Mapping):
            yield from (f"{key}.{inner}" for inner in _names_in(value))
        else:
            yield key


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """The value of a field, which may be inside another (``meta.emotion``); None if absent."""
    if column in row:
        return row[column]
    head, dot, rest = column.partition(".")
    inner = row.get(head) if dot else None
    return value_at(inner, rest) if isinstance(inner, Mapping) else None


def text_at(row: Mapping[str, Any], column: str, where: str) -> str:
    """A field as text without the blanks around it; empty if it holds nothing.

    Raises:
        ErcBenchError: it holds several values, or bytes that are not UTF-8.
    """
    value = value_at(row, column)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise ErcBenchError(
                f"{where}: {column!r} holds bytes that are not UTF-8 text, {quoted(value)}. Write "
                "the column as text."
            ) from error
    if isinstance(value, (list, Mapping)):
        inner = f": {listed(f'{column}.{key}' for key in value)}" if value else ""
        raise ErcBenchError(
            f"{where}: {column!r} holds several values, {quoted(value)}. Name one of them{inner}."
        )
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def check_places(places: Iterable[tuple[str, str, int | None]], remedy: str = "") -> None:
    """Raise if the names of dialogues do not tell them apart.

    Args:
        places: the place of each turn, its dialogue, and its number in the dialogue if it has one.
        remedy: a further sentence on what to do about a dialogue that continues after others.

    Raises:
        ErcBenchError: a dialogue continues after others and its turns have no numbers, or a
            dialogue has a number twice.
    """
    begun: dict[tuple[str, str], str] = {}
    back: dict[tuple[str, str], str] = {}
    numbered: dict[tuple[str, str, int], str] = {}
    before = None
    for where, dialogue, number in places:
        key = where.rpartition(", ")[0], dialogue  # within each file
        if key in begun and key != before:
            back.setdefault(key, where)
        begun.setdefault(key, where)
        before = key
        first = where if number is None else numbered.setdefault((*key, number), where)
        if key in back and (number is None or first != where):
            raise ErcBenchError(
                f"{back[key]}: the dialogue {quoted(dialogue)} continues after other dialogues; "
                f"it began in {begun[key]}. If it is one dialogue, put its turns together. If "
                "these are several, give each a name of its own in one column (for example "
                f"season, episode and scene).{remedy}"
            )
        if first != where:
            of = f" of the dialogue {quoted(dialogue)}" if dialogue else ""
            raise ErcBenchError(
                f"{where}: turn {number}{of} occurs twice, first in {first}. If another dialogue "
                "begins here, give it a name of its own; otherwise correct the numbers, or "
                "leave them out."
            )


def table_rows(text: str, name: str) -> list[Row]:
    """The turns of CSV or TSV text; ``name`` is what errors call it."""
    _, table = csv_table(text, name)
    return [(f"{name}, line {line}", row) for line, row in table]


def _json_lines(path: Path) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(lines_of(read_text(path)), 1):
        if line.strip():
            where = f"{path}, line {number}"
            value = parse_json(line, where)
            dialogue = [value] if isinstance(value, list) or _turns_in(value, where) else []
            rows += _dialogues(dialogue, where, number) or [(where, expect(value, dict, where))]
    return rows


def _document(path: Path) -> list[Row]:
    value = parse_json(read_text(path), str(path))
    several = expect(value, list, str(path))
    first = f"{path}, entry 1"
    if several and not isinstance(several[0], list) and not _turns_in(several[0], first):
        return [
            (f"{path}, entry {n}", expect(each, dict, f"{path}, entry {n}"))
            for n, each in enumerate(several, 1)
        ]
    return _dialogues(several, str(path))


def _turns_in(value: Any, where: str) -> str:
    """The field of a dialogue that holds its turns; empty if ``value`` is not a dialogue.

    It is one of :data:`TURNS`, else the only list of objects.

    Raises:
        ErcBenchError: it has another name, and there are several lists of objects.
    """
    if not isinstance(value, dict) or any(
        not isinstance(value.get(name, []), list) for name in TURN
    ):
        return ""
    lists = [k for k, v in value.items() if isinstance(v, list) and v and isinstance(v[0], dict)]
    named = [name for name in TURNS if name in lists or value.get(name) == []]
    if len(lists) > 1 and not named:
        raise ErcBenchError(
            f"{where}: several lists may be the turns of the dialogue, "
            f"{listed(map(repr, lists))}. Name the right one 'turns', or leave the others out."
        )
    return next(iter(named or lists), "")


def _dialogues(several: Sequence[Any], name: str, first: int = 1) -> list[Row]:
    """The turns of dialogues, each of which is a list of turns or an object that holds one.

    Dialogues without an id are numbered from ``first``.
    """
    rows: list[Row] = []
    for d, dialogue in enumerate(several, first):
        where = f"{name}, dialogue {d}" if len(several) > 1 else name
        shared: dict[str, Any] = {}
        turns = dialogue
        if isinstance(dialogue, dict):
            held = _turns_in(dialogue, where)
            if not held or not dialogue[held]:
                raise ErcBenchError(f"{where}: a dialogue without turns. Take it out.")
            turns = dialogue[held]
            shared = {k: v for k, v in dialogue.items() if k != held}
        ids = (shared.get(k) for k in ("id", "dialogue_id", "conversation_id"))
        key = next((given for given in ids if given is not None), d)
        for n, turn in enumerate(expect(turns, list, where), 1):
            fields = expect(turn, dict, f"{where}, turn {n}")
            added = {DIALOGUE: key, NUMBER: n}
            rows.append((f"{where}, turn {n}", {**shared, **fields, **added}))
    return rows


def _parquet(path: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise ErcBenchError(f"{path} can't be read as Parquet: {reason}") from error
    return [(f"{path}, row {n}", row) for n, row in enumerate(table, 1)]


def _convokit(folder: Path) -> list[Row]:
    """The turns of a ConvoKit corpus, each with its conversation's ``meta`` as ``conversation``.

    The turns of a conversation are put together, each after the one that it replies to. If all have
    a time, they are sorted by time, since the files of some corpora begin with the last turn.
    """
    path = folder / CONVOKIT
    if not path.is_file():
        raise ErcBenchError(f"{folder} is not a ConvoKit folder: there is no {path}.")
    conversations: dict[str, Any] = {}
    beside = folder / "conversations.json"
    if beside.is_file():
        conversations = expect(parse_json(read_text(beside), str(beside)), dict, str(beside))
    by_conversation: dict[str, list[Row]] = {}
    for where, row in _json_lines(path):
        key = row.get("conversation_id", row.get("root"))
        speaker = row.get("speaker", row.get("user"))
        if isinstance(speaker, Mapping):
            speaker = speaker.get("id")
        about = conversations.get(str(key), {})
        about = about.get("meta", about) if isinstance(about, dict) else {}
        row = {**row, "conversation_id": key, "speaker": speaker, "conversation": about}
        by_conversation.setdefault(str(key), []).append((where, row))
    return [row for turns in by_conversation.values() for row in _as_spoken(turns)]


def _as_spoken(turns: list[Row]) -> list[Row]:
    """The turns of a ConvoKit conversation in the order in which they were spoken."""
    waiting = {str(row.get("id", n)): (n, row) for n, (_, row) in enumerate(turns)}
    order: list[int] = []
    for key in list(waiting):
        chain = []
        while key in waiting:  # back to the first turn, or to one that is in order already
            n, row = waiting.pop(key)
            chain.append(n)
            key = str(row.get("reply-to", row.get("reply_to")))
        order += reversed(chain)
    if len(order) < len(turns):
        return turns  # ids occur twice, which is reported later
    times = [_time(row.get("timestamp")) for _, row in turns]
    if not any(map(math.isnan, times)):
        order.sort(key=lambda n: times[n])
    return [turns[n] for n in order]


def _time(value: Any) -> float:
    """The time of a turn as a number; NaN if it is not a number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def hugging_face(
    name: str, folder: Path, revision: str | None, config: str | None
) -> dict[str, list[Row]]:
    """The splits of a Hugging Face data set, from the hub, its cache, or a folder.

    A row is a turn. If a field holds a list, a row is a dialogue, and each such field has a value
    for every turn. Class numbers become class names.

    Args:
        name: the name of the data set, or of a folder in ``folder``.
        folder: where the corpus's own files are.
        revision: a commit, branch or tag.
        config: the configuration, if there are several.

    Raises:
        ErcBenchError: the data set can't be loaded.
    """
    import datasets
    from datasets.utils import disable_progress_bars, enable_progress_bars

    local = folder / name
    where = str(local) if local.is_dir() else f"hf:{name}"
    disable_progress_bars()
    try:
        if any((local / kept).is_file() for kept in ("dataset_dict.json", "state.json")):
            found = datasets.load_from_disk(str(local))
        else:
            given = str(local) if local.is_dir() else name
            found = datasets.load_dataset(given, name=config, revision=revision)
    except Exception as error:  # the library raises whatever its parts do
        reason = (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
        raise ErcBenchError(
            f"The data set {where} can't be had ({reason}). Check its name, revision and the "
            "network. Without a network it must be in the Hugging Face cache, or be a folder "
            "beside corpus.yaml."
        ) from error
    finally:
        enable_progress_bars()
    splits = found if isinstance(found, dict) else {"train": found}
    return {split: list(_of_data_set(rows, f"{where}, {split}")) for split, rows in splits.items()}


def _of_data_set(rows: Any, where: str) -> Iterator[Row]:
    for n, row in enumerate(rows, 1):
        row = _named(row, rows.features)
        lists = [key for key, value in row.items() if isinstance(value, list)]
        place = f"{where}, row {n}"
        if not lists:
            yield place, row
            continue
        lengths = {len(row[key]) for key in lists}
        if len(lengths) > 1:
            raise ErcBenchError(
                f"{place}: the lists {listed(lists)} have {listed(sorted(lengths))} values; a row "
                "that is a dialogue has one value for each turn."
            )
        for t in range(lengths.pop()):
            turn = {key: row[key][t] if key in lists else row[key] for key in row}
            yield f"{place}, turn {t + 1}", {**turn, DIALOGUE: n, NUMBER: t + 1}


def _named(value: Any, kind: Any) -> Any:
    """A value of a data set with class names for class numbers; ``kind`` is its feature."""
    kind = kind[0] if isinstance(kind, list) else getattr(kind, "feature", kind)
    if isinstance(value, list):
        return [_named(each, kind) for each in value]
    if isinstance(value, dict) and isinstance(kind, dict):
        return {key: _named(inner, kind.get(key)) for key, inner in value.items()}
    names = getattr(kind, "names", None)
    if names is None:
        return value
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None
