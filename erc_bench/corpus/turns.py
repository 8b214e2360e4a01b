"""The turns of a user's own corpus: their checks, their labels, and their dialogues."""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from erc_bench.corpus.conversation import Dialogue, LabelSet, Utterance
from erc_bench.corpus.text_files import MISSING
from erc_bench.corpus.turn_files import NUMBER, Row
from erc_bench.errors import ErcBenchError, listed, quoted

MOST_LABELS = 100
"""A column with more different values than this does not hold labels."""


@dataclass(frozen=True)
class Turn:
    """One turn as it is in the files."""

    where: str
    split: str | None
    """None if the corpus is not split."""
    dialogue: str
    speaker: str
    text: str
    label: str
    """Empty for a turn that is context only."""
    id: str
    number: int | None


def check_turns(turns: Sequence[Turn], labels: LabelSet) -> None:
    """Check that turns fit each other and the labels.

    Raises:
        ErcBenchError: a dialogue is in two splits, an id or a turn's number is repeated, or a label
            is unknown.
    """
    of_dialogue: dict[str, Turn] = {}
    of_id: dict[str, Turn] = {}
    of_number: dict[tuple[str, int], Turn] = {}
    for turn in turns:
        word = turn.label.casefold()
        if word and word in MISSING and turn.label not in labels.names:
            raise ErcBenchError(
                f"{turn.where}: the label is {quoted(turn.label)}, which programs write for a "
                f"missing value. Leave it empty if the turn has none. If it is a label, name it "
                f"with the others in corpus.yaml: `labels: [{json.dumps(turn.label)}, …]`."
            )
        if labels and turn.label:
            labels.index(turn.label, turn.where)
        first = of_dialogue.setdefault(re.sub(r"^(\d+)\.0+$", r"\1", turn.dialogue), turn)
        if first.dialogue != turn.dialogue:
            raise ErcBenchError(
                f"{turn.where}: the dialogue {quoted(turn.dialogue)} is "
                f"{quoted(first.dialogue)} in {first.where}. Write them alike if they are one; "
                "otherwise give one of them another name."
            )
        if first.split != turn.split:
            raise ErcBenchError(
                f"{turn.where}: the dialogue {quoted(turn.dialogue)} is in {turn.split} here and "
                f"in {first.split} in {first.where}. A dialogue is of one split; if each file "
                "numbers its own dialogues, put the split before the number."
            )
        if turn.id and of_id.setdefault(turn.id, turn) is not turn:
            raise ErcBenchError(
                f"{turn.where}: the id {quoted(turn.id)} occurs twice, first in "
                f"{of_id[turn.id].where}. Leave the column out (`columns` without id) and ids are "
                "made."
            )
        if turn.number is not None:
            same = of_number.setdefault((turn.dialogue, turn.number), turn)
            if same is not turn:
                raise ErcBenchError(
                    f"{turn.where}: turn {turn.number} of the dialogue {quoted(turn.dialogue)} "
                    f"occurs twice, first in {same.where}."
                )


def check_entries(rows: Sequence[Row], turns: Sequence[Turn]) -> None:
    """Check files that hold whole dialogues.

    Raises:
        ErcBenchError: a dialogue occurs twice.
    """
    begun: dict[str, Turn] = {}
    for (_, fields), turn in zip(rows, turns, strict=True):
        if fields.get(NUMBER) == 1 and begun.setdefault(turn.dialogue, turn) is not turn:
            raise ErcBenchError(
                f"{turn.where}: the dialogue {quoted(turn.dialogue)} occurs twice, first in "
                f"{begun[turn.dialogue].where}. Give each an id of its own, or none an id."
            )


def found_labels(turns: Sequence[Turn], column: str, path: Path) -> LabelSet:
    """The labels that occur, sorted.

    Raises:
        ErcBenchError: no column is named for labels, or its values can't be labels.
    """
    if not column:
        raise ErcBenchError(
            f"{path}: no column is named for labels. Name it in `columns: {{label: …}}`, or write "
            f"it again: `erc-bench data new {shlex.quote(str(path.parent))} FILE --force --columns "
            "label=COLUMN`."
        )
    first: dict[str, Turn] = {}
    for turn in turns:
        if turn.label:
            first.setdefault(turn.label, turn)
    labelled = sum(bool(turn.label) for turn in turns)
    if len(first) < 2 or len(first) > min(MOST_LABELS, max(10, labelled / 2)):
        raise ErcBenchError(
            f"{path}: the column {column!r} holds {len(first)} different labels, "
            f"{listed(sorted(first), 4)}; there must be two or more, and few. Name the right one "
            "in `columns: {label: …}`."
        )
    folded: dict[str, str] = {}
    for name, turn in first.items():
        other = folded.setdefault(_folded(name), name)
        if other != name:
            by, shown = "its capitals only", repr
            if name.casefold() != other.casefold():
                by, shown = "its blanks, or by invisible characters", ascii
            raise ErcBenchError(
                f"{turn.where}: the label {shown(name)} differs from {shown(other)} "
                f"({first[other].where}) by {by}. Write them alike, or say with `labels: […]` that "
                "both are meant."
            )
    return LabelSet(tuple(sorted(first)))


def _folded(name: str) -> str:
    """A label without hardly visible differences: capitals, blanks, invisible characters."""
    seen = "".join(c for c in unicodedata.normalize("NFC", name) if unicodedata.category(c) != "Cf")
    return " ".join(seen.split()).casefold()


def dialogues_of(turns: Sequence[Turn], labels: LabelSet) -> list[Dialogue]:
    """Dialogues in the order of their first turns."""
    by_dialogue: dict[str, list[Turn]] = {}
    for turn in turns:
        by_dialogue.setdefault(turn.dialogue, []).append(turn)
    return [Dialogue(key, tuple(_utterances(key, own, labels))) for key, own in by_dialogue.items()]


def _utterances(key: str, turns: list[Turn], labels: LabelSet) -> Iterator[Utterance]:
    if turns[0].number is not None:
        turns = sorted(turns, key=lambda turn: turn.number or 0)
    for i, turn in enumerate(turns):
        label = labels.index(turn.label, turn.where) if turn.label else None
        yield Utterance(turn.id or f"{key}-u{i}", turn.speaker, turn.text, label)
