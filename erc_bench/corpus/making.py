"""Creating and splitting a user's own corpus, and exporting the turns of any corpus."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from erc_bench.corpus.conversation import SPLITS, Corpus
from erc_bench.corpus.own import NEEDED, ROLES, SHEET, OwnCorpus
from erc_bench.corpus.splits import ALIASES
from erc_bench.corpus.text_files import as_whole, lines_of, read_text
from erc_bench.corpus.turn_files import (
    DIALOGUE,
    Row,
    check_places,
    columns_of,
    hugging_face,
    rows_of,
    text_at,
)
from erc_bench.corpus.turns import Turn
from erc_bench.errors import ErcBenchError, did_you_mean, listed
from erc_bench.files import write_atomically

COUNTS = ("turn", "turn_id", "turn_number", "utterance_id", "utt_id")
"""Names of columns whose numbers can only be those of turns."""

NAMES = {
    "dialogue": (
        "dialogue", "dialogue_id", "dialog_id", "conversation_id", "conversation", "conv_id",
        "conv", "chat_id", "thread_id", "thread", "session_id", "session", "scene_id", "ticket",
        "call_id", "dia_id", "dialog",
    ),
    "speaker": ("speaker", "speaker_id", "who", "speaker_name", "user", "user_id", "author", "role",
                "agent", "sender", "from", "participant", "name"),
    "text": ("text", "utterance", "utt", "message", "sentence", "content", "transcript",
             "turn_text", "body", "dialog", "utterances"),
    "label": ("emotion", "label", "class", "sentiment", "emotion_label", "affect", "mood", "gold",
              "labels", "emotions", "meta.emotion", "meta.label", "meta.sentiment"),
    "id": ("id", "utterance_id", "utt_id", "message_id", "msg_id", "uid", "turn_id"),
    "turn": (*COUNTS, "position", "index", "order"),
    "split": ("split", "set", "part", "partition", "fold"),
}  # fmt: skip
"""Usual names of the columns of each role, the likeliest first."""

UNFIT = {
    "id": "has empty or repeated values",
    "turn": "does not number the turns of each dialogue",
    "label": "holds one value, or nearly as many as there are rows",
}
"""Why a column with a likely name is not used."""

SPLIT_FILE = "splits.csv"


@dataclass(frozen=True)
class Made:
    """A new ``corpus.yaml``."""

    path: Path
    guesses: Sequence[str]
    """The guesses that were made, one line each."""
    source: OwnCorpus


def new_corpus(
    folder: Path,
    files: Sequence[str],
    *,
    name: str = "",
    columns: Mapping[str, str] | None = None,
    force: bool = False,
) -> Made:
    """Write a ``corpus.yaml`` for files of turns.

    Args:
        folder: where ``corpus.yaml`` is written; created if need be.
        files: one file for all turns, or one for each split with the split in its name; or
            ``hf:NAME``.
        name: the name of the corpus; if it is empty, the folder's name.
        columns: the columns that are not to be guessed, by role.
        force: replace an existing ``corpus.yaml``.

    Raises:
        ErcBenchError: there is a ``corpus.yaml`` already, a file has an unknown format, a needed
            column is not found, the guessed dialogue column does not tell dialogues apart, or the
            name or the given columns can't be a corpus's. Nothing is written then.
    """
    path = folder / SHEET
    if path.exists() and not force:
        raise ErcBenchError(f"{path} is there already. Edit it, or replace it with --force.")
    places, rows = _places(folder, files)
    found, guesses = guess_columns(rows, columns or {})
    if "dialogue" not in (columns or {}):
        _check_dialogues(rows, found)
    name = name or re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._") or "mine"
    lines = [
        f"name: {_quoted(name)}",
        "# licence: internal",
        "# labels: [calm, angry]      # otherwise the labels found, sorted",
        "# metric: weighted_f1        # or macro_f1, accuracy, micro_f1 without LABEL",
        *places,
    ]
    split = found.pop("split", "")
    if split and not places[0].startswith("splits"):
        lines.append(f"split: {_quoted(split)}")
    listed_columns = ", ".join(f"{role}: {_quoted(column)}" for role, column in found.items())
    lines.append(f"columns: {{{listed_columns}}}")
    before = path.read_bytes() if path.exists() else None
    write_atomically(path, "\n".join(lines) + "\n")
    try:
        return Made(path, guesses, OwnCorpus(path))
    except ErcBenchError as error:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)
        raise ErcBenchError(f"{error} Nothing was written.") from error


def _places(folder: Path, files: Sequence[str]) -> tuple[list[str], list[Row]]:
    """The lines of ``corpus.yaml`` that say where the turns are, and the turns."""
    if len(files) == 1 and files[0].startswith("hf:"):
        name = files[0].removeprefix("hf:")
        here = Path(name).is_dir()
        there = hugging_face(str(Path(name).resolve()) if here else name, folder, None, None)
        shown = os.path.relpath(name, folder) if here else name
        splits = {ALIASES[s]: s for s in there if s in ALIASES} if len(there) > 1 else {}
        named = ", ".join(f"{split}: {_quoted(theirs)}" for split, theirs in splits.items())
        lines = [f"hf: {_quoted(shown)}", *([f"splits: {{{named}}}"] if named else [])]
        return lines, [row for rows in there.values() for row in rows]
    read = {file: rows_of(Path(file)) for file in files}
    rows = [row for of_file in read.values() for row in of_file]
    relative = {file: _quoted(Path(os.path.relpath(file, folder)).as_posix()) for file in files}
    if len(files) == 1:
        return [f"file: {relative[files[0]]}"], rows
    of_split: dict[str, str] = {}
    for file in files:
        words = re.split(r"[^a-z]+", Path(file).stem.lower())
        told = {ALIASES[word] for word in words if word in ALIASES}
        if len(told) != 1 or told & of_split.keys():
            raise ErcBenchError(
                f"With several files, each name must contain its split ({', '.join(SPLITS)}), each "
                f"split once. {file} does not. Rename it, or write {folder / SHEET} "
                "yourself: `splits: {train: …, dev: …, test: …}`."
            )
        of_split[told.pop()] = relative[file]
    named = ", ".join(f"{split}: {of_split[split]}" for split in SPLITS if split in of_split)
    return [f"splits: {{{named}}}"], rows


def _quoted(text: str) -> str:
    """A name in YAML's flow style, without quotes if YAML reads it as the same text."""
    import yaml

    if re.fullmatch(r"[\w./][\w./-]*", text) and yaml.safe_load(text) == text:
        return text
    return yaml.safe_dump(
        text, default_style='"', allow_unicode=True, width=sys.maxsize
    ).removesuffix("\n")


# --- which column is which


def by_name(rows: Sequence[Row]) -> dict[str, str]:
    """The columns of rows, by their names in the form of :data:`NAMES`."""
    return {
        column.strip().casefold().replace(" ", "_").replace("-", "_"): column
        for column in columns_of(rows)
    }


def counting(rows: Sequence[Row], found: Mapping[str, str]) -> str:
    """The column that numbers the turns of each dialogue, or is named as if it did.

    Empty if there is none, or if it has another role already.
    """
    if "turn" in found:
        return found["turn"]
    there = by_name(rows)
    free = (there[name] for name in COUNTS if name in there)
    return next((column for column in free if column not in found.values()), "")


def _check_dialogues(rows: Sequence[Row], found: Mapping[str, str]) -> None:
    """Raise if a guessed dialogue column does not tell dialogues apart."""
    dialogue, column = found.get("dialogue", DIALOGUE), counting(rows, found)
    numbers = [as_whole(text_at(row, column, where)) if column else None for where, row in rows]
    counted = None not in numbers
    option = shlex.quote(f"dialogue={dialogue}")
    check_places(
        (
            (where, text_at(row, dialogue, where), number if counted else None)
            for (where, row), number in zip(rows, numbers, strict=True)
        ),
        f" If they are one after all: `--columns {option}`. The files of a corpus that "
        "`erc-bench data list` names are read as `--dataset NAME`.",
    )


def guess_columns(
    rows: Sequence[Row],
    given: Mapping[str, str],
    needed: Sequence[str] = NEEDED,
    remedy: str = "",
) -> tuple[dict[str, str], list[str]]:
    """Guess the column of each role, by names and values.

    Args:
        rows: the turns.
        given: the columns that are not to be guessed, by role.
        needed: the roles that must be found.
        remedy: what to do if a needed role is not found; if empty, the option ``--columns``.

    Returns:
        The columns by role, and the guesses, one line each.

    Raises:
        ErcBenchError: a given column does not exist, or a needed one is not found.
    """
    there = columns_of(rows)
    shown = [column for column in there if not column.startswith("(")]
    for role, column in given.items():
        if role not in (*ROLES, "split"):
            raise ErcBenchError(
                f"A column can't be {role!r}." + did_you_mean(role, (*ROLES, "split"))
            )
        if column not in there:
            raise ErcBenchError(f"There is no column {column!r}." + did_you_mean(column, shown))
    found: dict[str, str] = dict(given)
    guesses = []
    called = by_name(rows)
    empty = []
    for role in (*ROLES, "split"):
        if role in found:
            continue
        named = [called[name] for name in NAMES[role] if name in called]
        free = [column for column in named if column not in found.values()]
        fitting = next((column for column in free if _fits(role, column, found, rows)), None)
        if fitting is not None:
            found[role] = fitting
            guesses.append(f"{role}: the column {fitting!r}")
        elif free and role in UNFIT:
            first = "" if role == "label" else _first_unfit(role, free[0], found, rows)
            guesses.append(f"{role}: no column; {free[0]!r} {UNFIT[role]}{first}")
        elif free and role in needed:
            for where, row in rows:
                text_at(row, free[0], where)  # raises if it holds no text
            empty.append(f"{free[0]!r} is empty")
    if "dialogue" in needed and "dialogue" not in found and DIALOGUE in there:
        guesses.append("dialogue: each entry of the file")
        needed = [role for role in needed if role != "dialogue"]
    missing = [role for role in needed if role not in found]
    if missing:
        shown_free = listed(repr(c) for c in shown if c not in found.values())
        columns = " ".join(f"{role}=COLUMN" for role in missing)
        raise ErcBenchError(
            f"{rows[0][0].partition(', line ')[0]}: it can't be told which column holds the "
            f"{' and the '.join(missing)}; {', '.join(empty) or f'found: {shown_free}'}. "
            f"{remedy or f'Name it: --columns {columns}.'}"
        )
    return {role: found[role] for role in (*ROLES, "split") if role in found}, guesses


def _fits(role: str, column: str, found: Mapping[str, str], rows: Sequence[Row]) -> bool:
    """Whether the values of a column fit the role that its name suggests."""
    if role in ("id", "turn"):
        return bool(rows) and not _first_unfit(role, column, found, rows)
    try:
        values = [text_at(row, column, where) for where, row in rows]
    except ErcBenchError:
        return False
    filled = [value for value in values if value]
    different = len(set(filled))
    if role == "split":
        return bool(filled) and all(value.lower() in ALIASES for value in filled)
    if role == "label":
        return 1 < different <= max(2, len(filled) // 2)
    return bool(filled)


def _first_unfit(role: str, column: str, found: Mapping[str, str], rows: Sequence[Row]) -> str:
    """The first row whose value is not an id or a turn number, as ``" (…)"`` to end a message with.

    Ids must be unique, and turn numbers must be unique in their dialogue. Empty if all rows fit.
    """
    dialogue = found.get("dialogue", DIALOGUE) if role == "turn" else ""
    seen: set[object] = set()
    for where, row in rows:
        try:
            value = text_at(row, column, where)
        except ErcBenchError:
            value = ""
        key: object = value
        if role == "turn":  # unique in a dialogue of one file
            key = as_whole(value), text_at(row, dialogue, where), where.rpartition(", ")[0]
        if not value or (role == "turn" and as_whole(value) is None):
            return f" ({where} has {value!r})"
        if key in seen:
            return f" ({value!r} occurs again in {where})"
        seen.add(key)
    return ""


# --- a split


@dataclass(frozen=True)
class Split:
    """A split of a corpus that was written to a file."""

    path: Path
    dialogues: Mapping[str, int]
    """The number of dialogues of each split."""
    labels: Mapping[str, Mapping[str, int]]
    """The number of utterances of each label, by split."""


def split_corpus(
    folder: Path, *, dev: float, test: float, seed: int = 1, force: bool = False
) -> Split:
    """Split a user's own corpus by dialogue, stratified by label.

    The split of each dialogue is written to ``splits.csv``, and ``corpus.yaml`` gets a line that
    names this file.

    Args:
        folder: the folder of the corpus.
        dev: share of the labelled utterances; ``test`` likewise. The rest is train.
        seed: the seed of the random order.
        force: replace the split that an earlier call wrote.

    Raises:
        ErcBenchError: the corpus is split already, the shares are not possible, or there are too
            few dialogues or labels. Nothing is written then.
    """
    if not (dev >= 0 and test >= 0 and 0 < dev + test < 1):
        raise ErcBenchError(
            f"--dev {dev:g} and --test {test:g} must be 0 or more and together between 0 and 1, so "
            "that train gets the rest."
        )
    source = OwnCorpus(folder)
    own = source.sheet.get("split_file")
    if "splits" in source.sheet or "split" in source.sheet or (own and not force):
        how = next(key for key in ("splits", "split", "split_file") if key in source.sheet)
        remedy = " (--force splits it again)" if own else f"; take `{how}` out to split it here"
        raise ErcBenchError(f"{source.path}: it is split already, by `{how}`{remedy}.")
    shares = {"train": 1 - dev - test, "dev": dev, "test": test}
    shares = {split: share for split, share in shares.items() if share}
    turns = source.turns(whole=True)
    source.labels_of(turns)
    if len({turn.dialogue for turn in turns}) < len(shares):
        raise ErcBenchError(f"{source.path}: there are fewer dialogues than splits.")
    assigned = stratified(turns, shares, seed)
    labels = {split: Counter[str]() for split in shares}
    for turn in turns:
        if turn.label:
            labels[assigned[turn.dialogue]][turn.label] += 1
    if bare := [split for split, counts in labels.items() if not counts]:
        raise ErcBenchError(
            f"{source.path}: no turn of {' and of '.join(bare)} would have a label, since too few "
            "dialogues have any. Label more dialogues, give larger shares, or leave a split out "
            "(`--dev 0`)."
        )
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("dialogue", "split"))
    writer.writerows(assigned.items())
    note = f"# erc-bench data split --dev {dev:g} --test {test:g} --seed {seed}\n"
    text = "\n".join(lines_of(read_text(source.path)))
    if own:
        text = re.sub(r"# erc-bench data split [^\n]*\n", note, text)
    else:
        text = text.rstrip("\n") + f"\n{note}split_file: {SPLIT_FILE}\n"
    if not _says_split_file(text):
        raise ErcBenchError(
            f"`split_file: {SPLIT_FILE}` can't be added to {source.path}. Add it yourself, then "
            "give the command again with --force. Nothing was written."
        )
    path = source.folder / (str(own) if own else SPLIT_FILE)
    write_atomically(path, out.getvalue())
    write_atomically(source.path, text)
    return Split(path, Counter(assigned.values()), labels)


def _says_split_file(text: str) -> bool:
    """Whether text is YAML that names a file of splits."""
    import yaml

    try:
        sheet = yaml.safe_load(text)
    except yaml.YAMLError:
        return False
    return isinstance(sheet, dict) and "split_file" in sheet


def stratified(turns: Sequence[Turn], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Assign every dialogue to a split, so that every split gets about its share of every label.

    Dialogues with rare labels are assigned first; otherwise the order is random. Each dialogue goes
    to the split where the χ² distance of labels and dialogues from their shares grows the least or
    falls the most.
    """
    names = sorted({turn.label for turn in turns if turn.label})
    dialogues = list(dict.fromkeys(turn.dialogue for turn in turns))
    row = {name: d for d, name in enumerate(dialogues)}
    counts = np.zeros((len(dialogues), len(names) + 1))
    counts[:, -1] = 1  # the number of dialogues is balanced too
    for turn in turns:
        if turn.label:
            counts[row[turn.dialogue], names.index(turn.label)] += 1
    totals = counts.sum(0)
    rarest = np.where(counts > 0, totals, np.inf).min(1)
    order = np.random.default_rng(seed).permutation(len(dialogues))
    order = order[np.argsort(rarest[order], kind="stable")]
    wanted = np.outer(list(shares.values()), totals)
    so_far = np.zeros_like(wanted)
    chosen = np.zeros(len(dialogues), dtype=int)
    for d in order:
        added = ((so_far + counts[d] - wanted) ** 2 - (so_far - wanted) ** 2) / wanted
        chosen[d] = added.sum(1).argmin()
        so_far[chosen[d]] += counts[d]
    for split in range(len(shares)):  # a split without a dialogue gets one of the largest
        if not (chosen == split).any():
            chosen[np.flatnonzero(chosen == np.bincount(chosen).argmax())[-1]] = split
    return {name: list(shares)[chosen[d]] for d, name in enumerate(dialogues)}


# --- for predictions made elsewhere

FIELDS = ("id", "dialogue", "turn", "speaker", "text", "asked")


def export(corpus: Corpus, split: str, form: str, *, labels: bool = False) -> Iterator[str]:
    """Yield every turn of a split as a line of JSON, or of CSV after a line of column names.

    ``asked`` says whether the turn is scored; other turns are context. ``labels`` adds ``gold``.
    ``erc-bench score`` reads the predictions for the ids.

    Raises:
        ErcBenchError: the corpus has no such split.
    """
    if split not in corpus.contents:
        raise ErcBenchError(
            f"{corpus.name} has no split {split!r}." + did_you_mean(split, corpus.contents)
        )
    fields = [*FIELDS, *(["gold"] if labels else [])]
    if form == "csv":
        yield ",".join(fields)
    for dialogue in corpus.contents[split]:
        for number, u in enumerate(dialogue.utterances, 1):
            asked = u.label is not None
            values = [u.id, dialogue.id, number, u.name, u.text, asked]
            values += [corpus.labels.names[u.label] if u.label is not None else ""] * labels
            if form == "csv":
                out = io.StringIO()
                csv.writer(out, lineterminator="\r\n").writerow(  # quotes texts with \r or \n
                    [str(v).lower() if isinstance(v, bool) else v for v in values]
                )
                yield out.getvalue().removesuffix("\r\n")
            else:
                yield json.dumps(dict(zip(fields, values, strict=True)), ensure_ascii=False)
