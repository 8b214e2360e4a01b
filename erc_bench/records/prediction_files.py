"""Read files of predictions made elsewhere.

The forms are JSON lines; a JSON array of objects; a JSON object by id, or of columns as pandas
writes it; and CSV with a header, separated by commas, semicolons or tabs. Each entry holds the id
of an utterance and its label, the name of an emotion. It may also hold probabilities: in JSON an
object ``probabilities`` by emotion, in CSV a column for each emotion. They are empty where there is
no answer.

The column of ids is found by its values. The labels are in ``label``, unless another column is
named like a prediction (``pred``, ``predicted_label``, …) and has other values. If that column
holds labels, it is read, and ``label`` counts as gold. Otherwise the user is asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erc_bench.corpus.conversation import LabelSet
from erc_bench.corpus.text_files import (
    MISSING,
    csv_table,
    expect,
    lines_of,
    odd_json,
    parse_json,
)
from erc_bench.errors import ErcBenchError, listed, quoted

ID_NAMES = ("id", "utterance_id", "utt_id", "uid", "")
"""Names of the column of ids, used if the values do not decide; pandas writes an empty name."""

ANSWER_WORDS = frozenset((
    "answer", "answers", "output", "outputs", "response", "responses", "reply", "hypothesis", "hyp",
    "completion", "completions", "generated", "generation", "yhat", "ypred",
))  # fmt: skip
"""Words in the names of columns of predictions; words that begin with ``pred`` count, too."""
GOLD_WORDS = frozenset((
    "gold", "true", "truth", "groundtruth", "target", "targets", "reference", "actual", "expected",
    "gt", "annotated",
))  # fmt: skip
FIGURE_WORDS = frozenset((
    "prob", "probs", "probability", "probabilities", "score", "scores", "confidence", "conf",
    "logit", "logits", "logprob", "logprobs", "time", "seconds", "tokens", "length", "correct",
))  # fmt: skip
"""Words in the names of columns with figures about the predictions."""

Row = tuple[str, dict[str, Any]]
"""An entry's place in the file (``"line 7"``), and its fields."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one utterance, as it is written in the file."""

    where: str
    """``"line 7"``"""
    id: str
    label: str
    """Empty if there is no answer."""
    probabilities: Mapping[str, Any] | None


@dataclass(frozen=True)
class PredictionFile:
    """The predictions in a file, and the column they were read from."""

    predictions: Sequence[Prediction]
    column: str
    others: tuple[str, ...]
    """The columns that hold neither ids nor predictions nor their probabilities."""
    notes: tuple[str, ...]
    """Notes for the user about the choice of the column."""


def read_predictions(
    text: str, name: str, labels: LabelSet, ids: Collection[str], column: str = ""
) -> PredictionFile:
    """Read the predictions from the contents of a file.

    Args:
        text: the file's contents.
        name: the file's name in errors.
        labels: the emotions of the corpus.
        ids: ids of the corpus's utterances, used to find the column of ids.
        column: the column that holds the predictions; empty = find it.

    Raises:
        ErcBenchError: an entry is not a prediction (it is named), or several columns may hold the
            predictions (they are named).
    """
    columns, rows = _rows(text, name)
    known = {label.casefold() for label in labels.names}
    all_ids = set(ids)
    if all_ids.intersection(columns) and "label" not in (c.strip().casefold() for c in columns):
        raise ErcBenchError(
            f"{name}: its first line is no header but a prediction ({listed(columns, 4)}). Put "
            "the names of the columns above it, `id,label`."
        )
    key = _id_column(columns, rows, all_ids)
    chosen, notes = _label_column(columns, rows, key, known, name, column)
    found = []
    for where, row in rows:
        if key is None or key not in row or chosen not in row:
            there = listed(k for k, value in row.items() if value is not None)
            raise ErcBenchError(
                f"{name}, {where}: a prediction needs an 'id' and a {column or 'label'!r}; found: "
                f"{there}."
            )
        if isinstance(row[chosen], dict | list):
            raise ErcBenchError(
                f"{name}, {where}: {chosen!r} holds {quoted(row[chosen])}, not a label. Give the "
                "label as a field of its own, beside the id."
            )
        answer = _answer(row[chosen], known)
        found.append(Prediction(where, _text(row[key]), answer, _shares(row, known)))
        if not isinstance(found[-1].probabilities, dict | None):
            raise ErcBenchError(f"{name}, {where}: 'probabilities' must be an object of emotions.")
    used = {*known, "probabilities"}
    others = (c for c in columns if c not in (key, chosen) and c.strip().casefold() not in used)
    return PredictionFile(found, chosen, tuple(others), notes)


def _text(value: Any) -> str:
    return str(value).strip()


def _answer(value: Any, known: Collection[str]) -> str:
    """The label in a value; empty if the value means that there is no answer.

    A word such as ``none`` is a label if it is among the ``known`` ones, in lower case.
    """
    text = "" if value is None else _text(value)
    return "" if text.casefold() in MISSING.difference(known) else text


def _shares(row: Mapping[str, Any], known: set[str]) -> Any:
    """The probabilities of an entry: its ``probabilities``, or its columns named by an emotion.

    None if it has none, or if all of them are empty.
    """
    found = row.get("probabilities")
    if found is None:
        found = {name: v for name, v in row.items() if name.strip().casefold() in known}
    if isinstance(found, dict) and not any(_answer(value, ()) for value in found.values()):
        return None
    return found


# --- which column is which


def _id_column(columns: Sequence[str], rows: Sequence[Row], ids: set[str]) -> str | None:
    """The column with the most ids of the corpus; if no column has any, it is chosen by name."""
    hits = {c: sum(_text(row[c]) in ids for _, row in rows if c in row) for c in columns}
    by_name = [c for name in ID_NAMES for c in columns if c.strip().casefold() == name]
    order = [*by_name, *(c for c in columns if c not in by_name)]
    best = max(order, key=lambda c: hits[c], default=None)
    return best if best is not None and hits[best] else next(iter(by_name), None)


def _label_column(
    columns: Sequence[str],
    rows: Sequence[Row],
    key: str | None,
    known: set[str],
    name: str,
    asked: str,
) -> tuple[str, tuple[str, ...]]:
    """The column that holds the predictions, and notes for the user about the choice."""
    if asked:
        if asked not in columns:
            raise ErcBenchError(f"{name}: there is no column {asked!r}; found: {listed(columns)}.")
        return asked, ()

    def values(c: str) -> list[str]:
        return [_answer(row.get(c), known).casefold() for _, row in rows]

    def share(c: str) -> float:
        """The share of a column's values that are labels, without the empty ones."""
        given = [value for value in values(c) if value]
        return sum(value in known for value in given) / len(given) if given else 0.0

    usual = next((c for c in columns if c.strip().casefold() == "label"), None)
    others = [c for c in columns if c not in (usual, key)]
    mention = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, known))})(?!\w)")

    def said(c: str) -> list[str]:
        """The label that each value is or mentions; empty if it mentions none or several."""
        named = (set(mention.findall(value)) for value in values(c))
        return [found.pop() if len(found) == 1 else "" for found in named]

    if usual is not None:  # a column with the same answers, even in sentences, is no alternative
        own = values(usual)
        others = [
            c for c in others if values(c) != own and (said(c) != own or _words(c) & GOLD_WORDS)
        ]
    named = [c for c in others if _may_answer(c, rows)]
    if len({tuple(values(c)) for c in named}) == 1 and (usual is None or share(named[0]) >= 0.5):
        beside = f", and {usual!r} was left alone as the gold label" if usual else ""
        return named[0], (f"the predictions were read from {named[0]!r}{beside}",)

    def telling(c: str) -> bool:
        """Whether a column holds labels or sentences with one, whatever its name."""
        filled = [x for x, value in zip(said(c), values(c), strict=True) if value]
        return bool(filled) and sum(map(bool, filled)) >= 0.8 * len(filled)

    possible = named or [
        c
        for c in others
        if c.strip().casefold() not in known and not _words(c) & GOLD_WORDS and telling(c)
    ]
    if usual is not None and not possible:
        return usual, ()
    problem = f"the column 'label' is missing; found: {listed(columns)}."
    if known.intersection(c.strip().casefold() for c in columns):
        problem += " If the first line is no header, put `id,label` above it."
    if usual is not None or named:
        places = [*([usual] if usual else []), *possible]
        candidates = listed(map(repr, places))
        problem = f"the columns {candidates} all hold labels of the corpus."
        if any(share(c) < 1 for c in places):
            first = next((row[c] for c in possible for _, row in rows if row.get(c)), "")
            such = f", such as {quoted(first)}" if first != "" else ""
            problem = f"the predictions may be in any of {candidates}{such}."
    hint = f" Say which holds the predictions: --column {possible[-1]}." if possible else ""
    raise ErcBenchError(f"{name}, line 1: {problem}{hint}")


def _words(column: str) -> set[str]:
    """The words in the name of a column; ``modelOutput`` has two."""
    return {word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", column)}


def _called_answer(column: str) -> bool:
    words = _words(column)
    return bool(words & ANSWER_WORDS) or any(word.startswith("pred") for word in words)


def _may_answer(column: str, rows: Sequence[Row]) -> bool:
    """Whether a column is named like a prediction and does not hold figures about it."""
    words = _words(column)
    if words & (GOLD_WORDS | FIGURE_WORDS):
        return False
    if not _called_answer(column):
        return False
    values = [_text(row.get(column)) for _, row in rows]
    return not any(re.fullmatch(r"-?\d*\.\d+(?:e-?\d+)?", value) for value in values)


# --- forms of files


def _rows(text: str, name: str) -> tuple[list[str], list[Row]]:
    """The columns and the entries of a file in any form."""
    kind = Path(name).suffix.lower()
    text = _without_comments(text)
    start = text.lstrip()[:1]
    lined = kind in (".jsonl", ".ndjson")
    if lined or kind == ".json" or (kind not in (".csv", ".tsv") and start in ("{", "[")):
        rows = _document(text, name, lined) if start in ("{", "[") else None
        rows = _json_lines(text, name) if rows is None else rows
        found = list(dict.fromkeys(key for _, row in rows for key in row))
        return found if len(found) > 1 else ["id", "label"], rows
    columns, table = csv_table(text, name)
    if len(columns) == 1 or (columns and not (columns[0] or columns[-1])):
        raise ErcBenchError(
            f"{name}, line 1: {quoted(lines_of(text.lstrip())[0].strip())} is no header of a table "
            "of ids and labels. Separate the fields by commas, tabs or semicolons, or give JSON."
        )
    return columns, [(f"line {number}", dict(row)) for number, row in table]


def _without_comments(text: str) -> str:
    """The text with comments (``# …``) at its top replaced by empty lines."""
    lines = lines_of(text)
    for n, line in enumerate(lines):
        if re.match(r"\s*#\s*[^\s,;]", line):
            lines[n] = ""
        elif line.strip():
            return text if n == 0 else "\n".join(lines)
    return text


def _json_lines(text: str, name: str) -> list[Row]:
    rows = []
    for number, line in enumerate(lines_of(text), 1):
        if line.strip():
            where = f"{name}, line {number}"
            try:
                rows.append((f"line {number}", expect(parse_json(line, where), dict, where)))
            except ErcBenchError as error:
                cause = error.__cause__
                if isinstance(cause, ValueError) and not isinstance(cause, json.JSONDecodeError):
                    raise  # an object, and the error says what is wrong in it
                why = odd_json(line, cause) if isinstance(cause, json.JSONDecodeError) else ""
                raise ErcBenchError(
                    f"{where}: every line must be a JSON object with an id and a label, but this "
                    f"one is not ({quoted(line.strip())}){why}."
                ) from error
    return rows


def _document(text: str, name: str, lined: bool) -> list[Row] | None:
    """The entries of a JSON document; None if the text is JSON lines."""
    filled = [line for line in lines_of(text) if line.strip()]
    if len(filled) > 1:
        try:
            if isinstance(json.loads(filled[0]), dict):
                return None
        except (ValueError, RecursionError):
            pass
    try:
        value = parse_json(text, name)
    except ErcBenchError:
        if lined:
            return None
        raise
    entries = _entries(value, name)
    unit = "line" if entries == [value] else "entry"
    return [(f"{unit} {n}", row) for n, row in enumerate(entries, 1)]


def _entries(value: Any, name: str) -> list[dict[str, Any]]:
    """The entries of a JSON document, whatever its form."""
    if isinstance(value, list):
        return [expect(each, dict, f"{name}, entry {n}") for n, each in enumerate(value, 1)]
    if not isinstance(value, dict):
        raise ErcBenchError(
            f"{name}: this JSON holds one {type(value).__name__}, not predictions; give an array "
            'of objects, [{"id": …, "label": …}, …].'
        )
    held = list(value.values())
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        return _table(value["columns"], value["data"], name)
    names = {key.strip().casefold() for key in value}
    if names & set(ID_NAMES) and "label" in names and not isinstance(held[0], dict | list):
        return [value]  # a single prediction, whatever else it holds
    lists = {key: each for key, each in value.items() if _of_dicts(each)}
    if len(lists) == 1 or (lists and len(lists) == len(value)):
        return [row for each in lists.values() for row in each]
    if lists:
        raise ErcBenchError(
            f"{name}: it holds several lists of objects, {listed(map(repr, lists))}. Give the one "
            "with the predictions alone."
        )
    nested = [key for key, each in value.items() if isinstance(each, dict) and _called_answer(key)]
    if len(nested) == 1 and not names & set(ID_NAMES):
        return _entries(value[nested[0]], name)
    if len(held) > 1 and all(isinstance(column, list) for column in held):
        lengths = {len(column) for column in held}
        if len(lengths) > 1:
            if not names & {*ID_NAMES, "label"}:
                raise ErcBenchError(
                    f"{name}: an object of lists, one for each of {listed(map(repr, value), 3)}, "
                    'without ids. Give each label the id of its utterance: {"id": …, "label": …}.'
                )
            raise ErcBenchError(f"{name}: its columns differ in length: {listed(sorted(lengths))}.")
        return [dict(zip(value, row, strict=True)) for row in zip(*held, strict=True)]
    if held and all(isinstance(each, dict) for each in held):
        return _of_objects(value, name)
    names = {key.strip().casefold() for key in value}
    if names & set(ID_NAMES) or "label" in names:
        return [value]  # a single prediction
    if any(isinstance(each, dict | list) for each in held):
        raise ErcBenchError(
            f"{name}: an object by id must hold a label for each id, but "
            f"{quoted(next(iter(value)))} or another holds something else."
        )
    return [{"id": key, "label": label} for key, label in value.items()]


def _of_dicts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(e, dict) for e in value)


def _of_objects(value: Mapping[str, dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The entries of an object of objects: columns by row, as from pandas, or entries by id."""
    if any(key.strip().casefold() in ID_NAMES for key in value) and len(value) > 1:
        rows = list(next(iter(value.values())))
        for key, column in value.items():
            if list(column) != rows and set(column) != set(rows):
                raise ErcBenchError(
                    f"{name}: its columns have other rows, {quoted(key)} {len(column):,} and "
                    f"{quoted(next(iter(value)))} {len(rows):,}."
                )
        return [{key: column[row] for key, column in value.items()} for row in rows]
    return [{"": key, **entry} for key, entry in value.items()]


def _table(columns: list[Any], data: list[Any], name: str) -> list[dict[str, Any]]:
    """The entries of separate columns and rows, as pandas writes with ``orient="split"``."""
    for n, row in enumerate(data, 1):
        if len(expect(row, list, f"{name}, entry {n}")) != len(columns):
            raise ErcBenchError(f"{name}, entry {n}: {len(row)} values for {len(columns)} columns.")
    return [dict(zip(map(str, columns), row, strict=True)) for row in data]
