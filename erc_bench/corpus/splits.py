"""The splits of a user's own corpus: their names in files, and the file of splits."""

from __future__ import annotations

from pathlib import Path

from erc_bench.corpus.conversation import SPLITS
from erc_bench.corpus.text_files import csv_table, read_text
from erc_bench.errors import ErcBenchError, quoted

ALIASES = {
    "training": "train",
    "trn": "train",
    "valid": "dev",
    "validation": "dev",
    "val": "dev",
    "development": "dev",
    "testing": "test",
    "tst": "test",
    **{split: split for split in SPLITS},
}
"""The names that files give to the splits."""


def split_named(text: str, where: str) -> str:
    """The split that a file calls ``text``.

    Raises:
        ErcBenchError: it is not the name of a split.
    """
    split = ALIASES.get(text.lower())
    if split is None:
        raise ErcBenchError(f"{where}: the split {quoted(text)} is none of {', '.join(SPLITS)}.")
    return split


def read_split_file(path: Path) -> dict[str, str]:
    """The split of each dialogue, from a CSV with the columns dialogue and split.

    Raises:
        ErcBenchError: it can't be read, or a dialogue occurs twice.
    """
    columns, rows = csv_table(read_text(path), str(path))
    if not {"dialogue", "split"} <= set(columns):
        raise ErcBenchError(f"{path}, line 1: it needs the columns dialogue and split.")
    found: dict[str, str] = {}
    for line, row in rows:
        where = f"{path}, line {line}"
        if row["dialogue"] in found:
            raise ErcBenchError(f"{where}: the dialogue {quoted(row['dialogue'])} occurs twice.")
        found[row["dialogue"]] = split_named(row["split"].strip(), where)
    return found
