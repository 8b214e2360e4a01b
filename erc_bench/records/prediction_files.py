"""Files of predictions made elsewhere: JSON lines, or CSV with a header.

A line holds the ``id`` (or ``utterance_id``) of an utterance and its ``label``, an emotion by its
name. Probabilities may stand beside it: in JSON as an object ``probabilities`` by emotion, in CSV
as a column for each emotion.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erc_bench.corpus.conversation import LabelSet
from erc_bench.corpus.text_files import csv_rows, expect, parse_json
from erc_bench.errors import ErcBenchError

ID_KEYS = ("id", "utterance_id")


@dataclass(frozen=True)
class Prediction:
    """What was predicted of one utterance, as it stands in the file."""

    where: str
    """``"line 7"``"""
    id: str
    label: str
    probabilities: Mapping[str, Any] | None


def read_predictions(text: str, name: str, labels: LabelSet) -> Iterator[Prediction]:
    """The predictions in the contents of a file.

    It is JSON lines if it is called ``.jsonl`` or begins with ``{``, and CSV otherwise.

    Args:
        text: its contents.
        name: what errors call it.
        labels: the emotions that columns of a CSV file may be named by.

    Raises:
        ErcBenchError: a line is no prediction; it is named.
    """
    kind = Path(name).suffix.lower()
    if kind in (".json", ".jsonl", ".ndjson") or (kind != ".csv" and text.lstrip()[:1] == "{"):
        rows = _json_lines(text, name)
    else:
        emotions = {label.casefold() for label in labels.names}
        rows = (
            (where, {**row, "probabilities": _chosen(row, emotions) or None})
            for where, row in csv_rows(text, name, ("label",))
        )
    for where, row in rows:
        line = where.removeprefix(f"{name}, ")
        key = next((key for key in ID_KEYS if key in row), None)
        if key is None or "label" not in row:
            raise ErcBenchError(
                f"{where}: a prediction needs an 'id' and a 'label'; there is: "
                f"{', '.join(k for k, value in row.items() if value is not None) or 'nothing'}."
            )
        probabilities = row.get("probabilities")
        if probabilities is not None and not isinstance(probabilities, dict):
            raise ErcBenchError(f"{where}: 'probabilities' must be an object of emotions.")
        yield Prediction(line, str(row[key]).strip(), str(row["label"]).strip(), probabilities)


def _chosen(row: Mapping[str, str], emotions: set[str]) -> dict[str, str]:
    """The columns of a CSV file that are named by an emotion, in whatever case."""
    return {name: value for name, value in row.items() if name.strip().casefold() in emotions}


def _json_lines(text: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{name}, line {number}"
        if line.strip():
            try:
                yield where, expect(parse_json(line, where), dict, where)
            except ErcBenchError as error:
                raise ErcBenchError(
                    f"{where}: every line must be a JSON object with an id and a label, and this "
                    "one is none."
                ) from error
