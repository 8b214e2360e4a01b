"""A user's own corpus: a folder with a ``corpus.yaml`` that describes it.

    name: helpdesk
    licence: internal
    labels: [calm, annoyed, angry]       # otherwise the labels found, sorted
    metric: weighted_f1                  # or macro_f1, accuracy, micro_f1 without LABEL
    splits: {train: train.csv, dev: dev.csv, test: test.csv}
    columns: {dialogue: conv_id, speaker: who, text: utterance, label: emotion, id: msg_id}

Instead of ``splits``, ``file`` names one file for all turns. Then ``split`` names the column with
the split of each turn, or ``split_file`` names a CSV of dialogues and splits, which
``erc-bench data split`` writes. ``hf`` names a Hugging Face data set (with ``revision`` and
``config``); then ``splits`` names its splits. The turns of a dialogue are in file order unless a
column ``turn`` numbers them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erc_bench.corpus.conversation import SPLITS, Corpus, Dialogue, LabelSet, Metric
from erc_bench.corpus.release import lost_characters
from erc_bench.corpus.source import CorpusSource, caution
from erc_bench.corpus.splits import ALIASES, read_split_file, split_named
from erc_bench.corpus.text_files import MISSING, parse_yaml, read_text, whole_number
from erc_bench.corpus.turn_files import (
    DIALOGUE,
    Row,
    columns_of,
    hugging_face,
    rows_of,
    text_at,
)
from erc_bench.corpus.turns import Turn, check_entries, check_turns, dialogues_of, found_labels
from erc_bench.errors import ErcBenchError, did_you_mean, listed, quoted

SHEET = "corpus.yaml"

KEYS = (
    "name", "description", "licence", "homepage", "citation", "labels", "metric", "splits", "file",
    "split", "split_file", "hf", "revision", "config", "columns",
)  # fmt: skip
ROLES = ("dialogue", "speaker", "text", "label", "id", "turn")
"""The roles of columns; label, id and turn may be absent."""

NEEDED = ("dialogue", "speaker", "text")


def sheet_of(given: Path) -> Path:
    """The ``corpus.yaml`` that a user names by its path or its folder.

    Raises:
        ErcBenchError: there is none.
    """
    path = given / SHEET if given.is_dir() else given
    if path.is_file():
        return path
    named = path.suffix in (".yaml", ".yml")
    folder = path.parent if named else given
    raise ErcBenchError(
        f"There is no file {path if named else given / SHEET}, which would say what the corpus is. "
        f"`erc-bench data new {shlex.quote(str(folder))} FILE` writes one for a file of turns."
    )


class OwnCorpus(CorpusSource):
    """A corpus from a ``corpus.yaml``.

    Args:
        given: the file, or its folder.

    Raises:
        ErcBenchError: something in the file is wrong; the message names the line.
    """

    def __init__(self, given: Path) -> None:
        self.path = sheet_of(given)
        self.folder = self.path.parent
        sheet, self._lines = parse_yaml(read_text(self.path), str(self.path))
        self._check_keys(sheet)
        self.sheet = sheet
        self.name = self._text("name")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise self._wrong(
                "name", f"{self.name!r} can't be a corpus's: use letters, digits, '-', '_' and '.'"
            )
        self.description = self._text("description", "a user's own corpus")
        self.licence = self._text("licence", "not said")
        self.homepage = self._text("homepage", str(self.path.absolute()))
        self.citation = self._text("citation", "–")
        self.release = "its files as they are"
        self.classes = "named in corpus.yaml" if "labels" in sheet else "the labels found"
        self.labels = LabelSet(self._labels())
        try:
            self.metric = Metric.of(
                self._text("metric", str(Metric())), self.labels.names if self.labels else None
            )
        except ErcBenchError as error:
            raise self._wrong("metric", str(error).removesuffix(".")) from error
        self.columns = self._columns()

    @property
    def loaded_by(self) -> str:
        """Its file, since a name alone does not find it."""
        return str(self.path.absolute())

    def load(self, data_dir: Path | None = None) -> Corpus:
        """Load the corpus from its files; ``data_dir`` is ignored.

        Raises:
            ErcBenchError: a file or a turn in it is wrong; the message names file and line.
        """
        turns = self.turns()
        if any(turn.split is None for turn in turns):
            raise ErcBenchError(
                f"{self.path}: the dialogues are not split into train, dev and test. "
                f"`erc-bench data split {shlex.quote(str(self.folder))} --dev 0.1 --test 0.1 "
                "--seed 1` does it, by dialogue and stratified by label, and stores the split."
            )
        labels = self.labels_of(turns)
        try:
            self.metric.left_out(labels.names)
        except ErcBenchError as error:
            raise self._wrong("metric", str(error).removesuffix(".")) from error
        splits = {
            split: dialogues_of([turn for turn in turns if turn.split == split], labels)
            for split in SPLITS
        }
        filled = {split: dialogues for split, dialogues in splits.items() if dialogues}
        self._doubt(turns, labels)
        return Corpus.build(self.name, labels, filled, metric=self.metric)

    def _doubt(self, turns: Sequence[Turn], labels: LabelSet) -> None:
        """Warn about what is probably a mistake in the files.

        These are labels that no turn or no turn of train has, damaged texts, words such as ``nan``
        for missing values, and splits in which every turn is repeated.
        """
        splits: dict[str, set[str | None]] = {name: set() for name in labels.names}
        for turn in turns:
            if turn.label:
                splits[turn.label].add(turn.split)
        if unmet := [name for name, there in splits.items() if not there]:
            caution(f"{self.path}: no turn has the label {listed(map(quoted, unmet))}.")
        new = [name for name, there in splits.items() if there and "train" not in there]
        if new and any(turn.split == "train" for turn in turns):
            caution(
                f"{self.path}: no turn of train has the label {listed(map(quoted, new))}, so no "
                "method can learn it."
            )
        if damage := lost_characters([turn.text for turn in turns]):
            caution(f"{self.path}: {'; '.join(damage)}. Mend the files.")
        for what, texts in (
            ("speaker", [turn.speaker for turn in turns]),
            ("text", [turn.text for turn in turns]),
        ):
            nothing = [n for n, text in enumerate(texts) if text.casefold() in MISSING]
            if nothing:
                caution(
                    f"{turns[nothing[0]].where}: the {what} is {quoted(texts[nothing[0]])}, which "
                    f"programs write for a missing value; {len(nothing)} in all. They are used as "
                    "they are."
                )
        doubled = []
        for split in SPLITS:
            lines = [
                (turn.dialogue, turn.speaker, turn.text, turn.label)
                for turn in turns
                if turn.split == split
            ]
            half = len(lines) // 2
            if half > 1 and (lines[::2] == lines[1::2] or lines[:half] == lines[half:]):
                doubled.append(split)
        if doubled:
            caution(
                f"{self.path}: every turn of {listed(doubled)} occurs twice. Take one of each out."
            )

    def parse(self, paths: Mapping[str, Path]) -> dict[str, list[Dialogue]]:
        """The dialogues of each split; the files are those that ``corpus.yaml`` names."""
        corpus = self.load()
        return {split: corpus.dialogues(split) for split in corpus.contents}

    def labels_of(self, turns: Sequence[Turn]) -> LabelSet:
        """The labels that ``corpus.yaml`` gives, else those of the turns.

        Raises:
            ErcBenchError: no column holds labels, or its values can't be labels.
        """
        return self.labels or found_labels(turns, self.columns.get("label", ""), self.path)

    def turns(self, *, whole: bool = False) -> list[Turn]:
        """Every turn, checked, in file order.

        Args:
            whole: ignore a file of splits, and a data set's own splits unless corpus.yaml names
                them.

        Raises:
            ErcBenchError: as :meth:`load`, but the corpus need not be split.
        """
        sources = self._sources(whole=whole)
        for rows in sources.values():
            self._check_columns(rows)
        assigned = None if whole else self._assigned()
        turns = [
            self._turn(row, split, assigned) for split, rows in sources.items() for row in rows
        ]
        check_turns(turns, self.labels)
        check_entries([row for rows in sources.values() for row in rows], turns)
        if assigned is not None and (unmet := assigned.keys() - {turn.dialogue for turn in turns}):
            raise ErcBenchError(
                f"{self.folder / self._text('split_file')} names {len(unmet)} dialogues that the "
                f"corpus does not have, {quoted(min(unmet))} for example. {self._split_again}."
            )
        return turns

    # --- what corpus.yaml says

    def _check_keys(self, sheet: Mapping[str, Any]) -> None:
        for key in sheet:
            if key not in KEYS:
                raise self._wrong(key, f"unknown key {key!r}.{did_you_mean(str(key), KEYS)}")
        if "name" not in sheet:
            raise ErcBenchError(
                f"{self.path}: it must have a name, `name: {self.folder.name}` say."
            )
        places = [key for key in ("splits", "file", "hf") if key in sheet]
        if len(places) != 1 and places != ["splits", "hf"]:
            raise ErcBenchError(
                f"{self.path}: it must say where the turns are: either "
                "`splits: {train: FILE, dev: FILE, test: FILE}`, or `file: FILE` for all, or "
                "`hf: DATASET`."
            )
        how = [key for key in ("split", "split_file") if key in sheet]
        if "file" in sheet and len(how) > 1:
            raise self._wrong("split", "give split, a column, or split_file, not both")
        if how and "splits" in sheet:
            raise self._wrong(
                how[0], f"{how[0]} is for one `file`; `splits` names the splits already"
            )
        for key, needs in (("revision", "hf"), ("config", "hf")):
            if key in sheet and needs not in sheet:
                raise self._wrong(key, f"{key} is only for a Hugging Face data set, `{needs}: …`")

    @property
    def _split_again(self) -> str:
        folder = shlex.quote(str(self.folder))
        return f"Split the corpus again: `erc-bench data split {folder} --force …`"

    def _wrong(self, key: Any, what: str) -> ErcBenchError:
        line = self._lines.get(key)
        return ErcBenchError(f"{self.path}{f', line {line}' if line else ''}: {what.rstrip('.')}.")

    def _text(self, key: str, default: str = "") -> str:
        value = self.sheet.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise self._wrong(key, f"{key} must be text, not {value!r}; put it in quotes")
        return str(value).strip()

    def _labels(self) -> tuple[str, ...]:
        given = self.sheet.get("labels", [])
        if not isinstance(given, list) or any(
            isinstance(name, (bool, type(None))) for name in given
        ):
            raise self._wrong(
                "labels",
                f"labels must be a list of names, [calm, angry], not {given!r}; put names that "
                "YAML reads otherwise, such as no and null, in quotes",
            )
        names = tuple(str(name).strip() for name in given)
        if "labels" in self.sheet and (len(names) < 2 or len(set(names)) < len(names)):
            raise self._wrong("labels", f"labels must be two or more names, not {given!r}")
        return names

    def _columns(self) -> dict[str, str]:
        given = self.sheet.get("columns", {})
        if not isinstance(given, dict) or not all(isinstance(v, str) for v in given.values()):
            raise self._wrong(
                "columns",
                "columns must say which column is what: {dialogue: …, speaker: …, text: …}",
            )
        for role in given:
            if role not in ROLES:
                raise self._wrong(
                    role if role in self._lines else "columns",
                    f"a column can't be {role!r}.{did_you_mean(str(role), ROLES)}",
                )
        columns = {role: given.get(role, role) for role in (*NEEDED, *given)}
        role_of: dict[str, str] = {}
        for role, column in columns.items():
            other = role_of.setdefault(column, role)
            if other != role and {role, other} != {"id", "turn"}:
                raise self._wrong(
                    "columns", f"the column {column!r} can't be both the {other} and the {role}"
                )
        return columns

    # --- the turns

    def _sources(self, *, whole: bool) -> dict[str | None, list[Row]]:
        """The rows by split; under None if the place of a row does not say its split.

        ``whole`` as in :meth:`turns`.
        """
        given = self.sheet.get("splits", {})
        if not isinstance(given, dict) or not all(isinstance(v, str) for v in given.values()):
            raise self._wrong(
                "splits",
                "splits must be {train: …, dev: …, test: …}; of one file: `file: …`",
            )
        named: dict[str, str] = {}
        for key, what in given.items():
            split = ALIASES.get(str(key).lower())
            if split is None:
                raise self._wrong(
                    "splits", f"unknown split {key!r}.{did_you_mean(str(key), SPLITS)}"
                )
            if split in named:
                raise self._wrong("splits", f"{split} is named twice")
            named[split] = what
        places = {
            split: what if "hf" in self.sheet else (self.folder / what).resolve()
            for split, what in named.items()
        }
        for split, place in places.items():
            other = next(each for each, there in places.items() if there == place)
            if other != split:
                raise self._wrong(
                    "splits",
                    f"{other} and {split} are both {named[split]}. Every dialogue is of one split; "
                    f"to split one file: `file: {named[split]}`, then `erc-bench data split`",
                )
        if "hf" in self.sheet:
            return self._of_hub(named, whole)
        if named:
            return {split: rows_of(self.folder / file) for split, file in named.items()}
        return {None: rows_of(self.folder / self._text("file"))}

    def _of_hub(self, named: Mapping[str, str], whole: bool) -> dict[str | None, list[Row]]:
        revision, config = (self._text(key) or None for key in ("revision", "config"))
        name = self._text("hf").removeprefix("hf:")
        there = hugging_face(name, self.folder, revision, config)
        if "split" in self.sheet or "split_file" in self.sheet or (whole and not named):
            several = len(there) > 1  # each split numbers its own dialogues
            return {
                None: [
                    (where, _of_split(fields, ALIASES.get(split, split)) if several else fields)
                    for split, rows in there.items()
                    for where, fields in rows
                ]
            }
        if not named and len(there) == 1:
            return {None: next(iter(there.values()))}
        if not named:
            named = {ALIASES[split]: split for split in there if split in ALIASES}
        missing = [split for split in named.values() if split not in there]
        if missing or not named:
            raise self._wrong(
                "splits" if "splits" in self.sheet else "hf",
                f"{name} has the splits {listed(there)}, not {listed(missing or SPLITS)}; say "
                "which is which: `splits: {train: …, dev: …, test: …}`",
            )
        return {split: there[theirs] for split, theirs in named.items()}

    def _check_columns(self, rows: Sequence[Row]) -> None:
        there = columns_of(rows)
        place = rows[0][0]
        where = f"{place.partition(', line ')[0]}, line 1" if ", line " in place else place
        wanted = dict(self.columns)
        if wanted["dialogue"] == "dialogue" and "dialogue" not in there and DIALOGUE in there:
            self.columns["dialogue"] = DIALOGUE
            del wanted["dialogue"]
        if "split" in self.sheet:
            wanted["split"] = self._text("split")
        shown = [column for column in there if not column.startswith("(")]
        for role, column in wanted.items():
            if column not in there and not any(name.startswith(f"{column}.") for name in there):
                raise ErcBenchError(
                    f"{where}: there is no column {column!r} for the {role} "
                    f"(`columns` in {self.path}).{did_you_mean(column, shown)}"
                )

    def _assigned(self) -> dict[str, str] | None:
        """The split of each dialogue from the file of splits; None if there is no such file."""
        if "split_file" not in self.sheet:
            return None
        path = self.folder / self._text("split_file")
        if not path.exists():
            raise self._wrong("split_file", f"there is no {path}. {self._split_again}")
        return read_split_file(path)

    def _turn(self, row: Row, split: str | None, assigned: Mapping[str, str] | None) -> Turn:
        where, fields = row
        of = {role: text_at(fields, column, where) for role, column in self.columns.items()}
        for role, what in (
            ("dialogue", "the dialogue is missing"),
            ("speaker", "nobody speaks; every turn has a speaker"),
            ("text", "nothing is said; take the turn out, or write what was done ([laughs])"),
        ):
            if not of[role]:
                column = self.columns[role]
                raise ErcBenchError(f"{where}: {what} (the column {column!r} is empty).")
        if assigned is not None:
            split = assigned.get(of["dialogue"])
            if split is None:
                raise ErcBenchError(
                    f"{where}: the dialogue {quoted(of['dialogue'])} is not in "
                    f"{self.folder / self._text('split_file')}. {self._split_again}."
                )
        elif "split" in self.sheet:
            split = split_named(text_at(fields, self._text("split"), where), where)
        dialogue = of["dialogue"]
        is_number = self.columns["dialogue"] == DIALOGUE and dialogue.isdecimal()
        if is_number and split and assigned is None:
            dialogue = _numbered(split, dialogue)
        number = whole_number(of["turn"], "turn", where) if "turn" in of else None
        return Turn(
            *(where, split, dialogue, of["speaker"], of["text"]),
            of.get("label", ""),
            of.get("id", ""),
            number,
        )


def _numbered(split: str, dialogue: str) -> str:
    """A name for a dialogue that only has a number, unique among the splits."""
    return f"{split}-{dialogue}"


def _of_split(fields: Mapping[str, Any], split: str) -> dict[str, Any]:
    """The fields of a row; the split is put before a dialogue that is only a number."""
    number = str(fields.get(DIALOGUE, ""))
    return {**fields, **({DIALOGUE: _numbered(split, number)} if number.isdecimal() else {})}
