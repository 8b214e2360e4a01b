"""Making a corpus of one's own: its ``corpus.yaml``, a split; and exporting any corpus's turns."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from erc_bench.corpus.conversation import SPLITS, Corpus
from erc_bench.corpus.own import ALIASES, NEEDED, ROLES, SHEET, OwnCorpus, Turn
from erc_bench.corpus.text_files import as_whole
from erc_bench.corpus.turn_files import (
    DIALOGUE,
    Row,
    check_places,
    columns_of,
    hugging_face,
    rows_of,
    text_at,
)
from erc_bench.errors import ErcBenchError, did_you_mean, listed
from erc_bench.files import write_atomically

COUNTS = ("turn", "turn_id", "turn_number", "utterance_id", "utt_id")
"""What a column is called whose numbers can be nothing else than those of turns."""

NAMES = {
    "dialogue": (
        "dialogue", "dialogue_id", "dialog_id", "dialog", "conversation_id", "conversation",
        "conv_id", "conv", "chat_id", "thread_id", "thread", "session_id", "session", "scene_id",
        "ticket", "call_id", "dia_id",
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
"""What columns are called, the likeliest first."""

UNFIT = {
    "id": "has empty or repeated values",
    "turn": "does not number the turns of each dialogue",
    "label": "holds one value, or nearly as many as there are rows",
}
"""Why a column of a likely name is not taken."""

SPLIT_FILE = "splits.csv"


@dataclass(frozen=True)
class Made:
    """A new ``corpus.yaml``."""

    path: Path
    guesses: Sequence[str]
    """What was guessed, a line each."""
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
        folder: where it is put; made if need be.
        files: one file for all turns, or one for each split, told by its name; or ``hf:NAME``.
        name: of the corpus; the folder's where it is empty.
        columns: which column holds what, where that is not to be guessed.
        force: replace a ``corpus.yaml`` that is there.

    Raises:
        ErcBenchError: there is one already, a file is of no known form, a column that is needed
            can't be told, or that of dialogues does not tell them apart.
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
        f"name: {name}",
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
    write_atomically(path, "\n".join(lines) + "\n")
    return Made(path, guesses, OwnCorpus(path))


def _places(folder: Path, files: Sequence[str]) -> tuple[list[str], list[Row]]:
    """The lines of ``corpus.yaml`` that say where the turns are, and some of them."""
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
    """A name as YAML in a flow: plain where that is safe."""
    return text if re.fullmatch(r"[A-Za-z_./][\w./-]*", text) else json.dumps(text)


# --- which column is which


def by_name(rows: Sequence[Row]) -> dict[str, str]:
    """The columns of rows by their names as :data:`NAMES` has them."""
    return {
        column.strip().casefold().replace(" ", "_").replace("-", "_"): column
        for column in columns_of(rows)
    }


def counting(rows: Sequence[Row], found: Mapping[str, str]) -> str:
    """The column that numbers the turns of each dialogue, or is called as if it did; empty where
    there is none, or where what is found of other roles is in it."""
    if "turn" in found:
        return found["turn"]
    there = by_name(rows)
    free = (there[name] for name in COUNTS if name in there)
    return next((column for column in free if column not in found.values()), "")


def _check_dialogues(rows: Sequence[Row], found: Mapping[str, str]) -> None:
    """Refuse a guessed column of dialogues that does not tell them apart."""
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
    """Which column holds what, by names and values, and what was guessed, a line each.

    Args:
        rows: the turns.
        given: what is not to be guessed.
        needed: what must be found.
        remedy: what to do where something needed can't be told; the option ``--columns`` if it is
            empty.

    Raises:
        ErcBenchError: something that is given is not there, or what is needed can't be told.
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
                text_at(row, free[0], where)  # which says if it holds no text
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
            f"{' and the '.join(missing)}; {', '.join(empty) or f'there is {shown_free}'}. "
            f"{remedy or f'Name it: --columns {columns}.'}"
        )
    return {role: found[role] for role in (*ROLES, "split") if role in found}, guesses


def _fits(role: str, column: str, found: Mapping[str, str], rows: Sequence[Row]) -> bool:
    """Whether the values of a column are such as its name promises."""
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
    """The first row for which a column is not one of ids, or does not number the turns of each
    dialogue, in brackets behind a blank; empty where it is one."""
    dialogue = found.get("dialogue", DIALOGUE) if role == "turn" else ""
    seen: set[object] = set()
    for where, row in rows:
        try:
            value = text_at(row, column, where)
        except ErcBenchError:
            value = ""
        key: object = value
        if role == "turn":  # in each file by itself
            key = as_whole(value), text_at(row, dialogue, where), where.rpartition(", ")[0]
        if not value or (role == "turn" and as_whole(value) is None):
            return f" ({where} has {value!r})"
        if key in seen:
            return f" ({value!r} stands again in {where})"
        seen.add(key)
    return ""


# --- a split


@dataclass(frozen=True)
class Split:
    """A split that was written down."""

    path: Path
    dialogues: Mapping[str, int]
    """How many, by split."""
    labels: Mapping[str, Mapping[str, int]]
    """How many utterances of each label, by split."""


def split_corpus(
    folder: Path, *, dev: float, test: float, seed: int = 1, force: bool = False
) -> Split:
    """Split a corpus of one's own by dialogue, stratified by label, and write it down.

    ``splits.csv`` says the split of each dialogue, and a line in ``corpus.yaml`` names it.

    Args:
        folder: of the corpus.
        dev: share of the labelled utterances; ``test`` likewise. The rest is train.
        seed: of what is drawn.
        force: replace the split that an earlier call wrote.

    Raises:
        ErcBenchError: it is split already, the shares are none, or there are too few dialogues.
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
        remedy = " (--force splits it anew)" if own else f"; take `{how}` out to split it here"
        raise ErcBenchError(f"{source.path}: it is split already, by `{how}`{remedy}.")
    shares = {"train": 1 - dev - test, "dev": dev, "test": test}
    shares = {split: share for split, share in shares.items() if share}
    turns = source.turns(whole=True)
    source.labels_of(turns)
    if len({turn.dialogue for turn in turns}) < len(shares):
        raise ErcBenchError(f"{source.path}: there are fewer dialogues than splits.")
    assigned = stratified(turns, shares, seed)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("dialogue", "split"))
    writer.writerows(assigned.items())
    path = source.folder / (str(own) if own else SPLIT_FILE)
    write_atomically(path, out.getvalue())
    note = f"# erc-bench data split --dev {dev:g} --test {test:g} --seed {seed}\n"
    text = source.path.read_text(encoding="utf-8-sig")
    if own:
        text = re.sub(r"# erc-bench data split [^\n]*\n", note, text)
    else:
        text = text.rstrip("\n") + f"\n{note}split_file: {SPLIT_FILE}\n"
    if not _says_split_file(text):
        raise ErcBenchError(
            f"{path} is written, but `split_file: {path.name}` could not be added to "
            f"{source.path}. Add that line yourself."
        )
    write_atomically(source.path, text)
    labels = {split: Counter[str]() for split in shares}
    for turn in turns:
        if turn.label:
            labels[assigned[turn.dialogue]][turn.label] += 1
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
    """The split of each dialogue, such that every label has about its share in every split.

    Dialogues with rare labels come first, else in random order; each goes to the split where it
    adds least to (or takes most from) the χ² distance of labels and dialogues from their shares.
    """
    names = sorted({turn.label for turn in turns if turn.label})
    dialogues = list(dict.fromkeys(turn.dialogue for turn in turns))
    row = {name: d for d, name in enumerate(dialogues)}
    counts = np.zeros((len(dialogues), len(names) + 1))
    counts[:, -1] = 1  # dialogues are shared out evenly too
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
    for split in range(len(shares)):  # one without a dialogue takes one of the largest
        if not (chosen == split).any():
            chosen[np.flatnonzero(chosen == np.bincount(chosen).argmax())[-1]] = split
    return {name: list(shares)[chosen[d]] for d, name in enumerate(dialogues)}


# --- for predictions made elsewhere

FIELDS = ("id", "dialogue", "turn", "speaker", "text", "asked")


def export(corpus: Corpus, split: str, form: str, *, labels: bool = False) -> Iterator[str]:
    """Every turn of a split as a line: of JSON, or of CSV behind a line of column names.

    ``asked`` says whether the turn is scored; a turn that is not is context. ``labels`` adds
    ``gold``. What is predicted of the ids comes back with ``erc-bench score``.

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
                csv.writer(out, lineterminator="").writerow(
                    [str(v).lower() if isinstance(v, bool) else v for v in values]
                )
                yield out.getvalue()
            else:
                yield json.dumps(dict(zip(fields, values, strict=True)), ensure_ascii=False)
