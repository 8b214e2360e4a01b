"""The record of a finished run: its schema, an atomic store, and finding finished runs.

``<root>/records/<dataset>/<method>/<hash>-seed<k>.json`` holds one run; ``<root>/runs/…`` its
checkpoints. A record appears under its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from erc_bench.errors import ErcBenchError, nearest
from erc_bench.files import write_atomically

if TYPE_CHECKING:
    pass

SCHEMA = 2
"""Version of the record's form; it grows when a reader must tell forms apart.

1: no facts of the utterances, nor which dialogue each belongs to, beside the predictions.
"""

IDENTITY = ("method", "dataset", "config_hash", "seed")
REQUIRED = ("schema", *IDENTITY, "labels", "metrics", "predictions")


class RecordError(ErcBenchError):
    """A file in the place of a record that is none."""


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Store a record under its name, complete or not at all."""
    write_atomically(
        path, json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
    )


def read_record(path: Path) -> dict[str, Any]:
    """A stored record.

    Raises:
        RecordError: the file is not JSON, not a record, or of a newer schema.
    """
    try:
        return parse_record(path.read_bytes(), path)
    except OSError as error:
        raise RecordError(f"{path} can't be read: {error.strerror or error}.") from error


def parse_record(contents: bytes, path: Path) -> dict[str, Any]:
    """A record from the contents of its file; errors as :func:`read_record`'s, naming ``path``."""
    try:
        record = orjson.loads(contents)
    except ValueError as error:
        raise RecordError(
            f"{path} is not a readable record: {error}. If it is a run's, repeat that with "
            "--force, which replaces it."
        ) from error
    missing = [key for key in REQUIRED if not isinstance(record, dict) or key not in record]
    if missing:
        raise RecordError(f"{path} is not a record: it lacks {', '.join(missing)}.")
    if not isinstance(record["schema"], int):
        raise RecordError(f"{path} is not a record: its schema is {record['schema']!r}.")
    if record["schema"] > SCHEMA:
        raise RecordError(
            f"{path} has schema {record['schema']}; this version reads up to {SCHEMA}. Upgrade "
            "erc-bench."
        )
    return record


def record_files(root: Path) -> Iterator[Path]:
    """All record files below ``<root>/records``, in order of their names."""
    yield from sorted((root / "records").glob("*/*/*.json"))


# --- one run, as users name it

MOST_LISTED = 12
"""Runs that an error lists at most."""


def run_name(record: Path) -> str:
    """``method/dataset/hash/seedK`` of a record in its place in the store."""
    configuration, _, seed = record.stem.rpartition("-seed")
    return f"{record.parent.name}/{record.parent.parent.name}/{configuration}/seed{seed}"


def find_record(root: Path, run: str) -> Path:
    """The record file that ``run`` means.

    A path, a run's name ``method/dataset/hash/seedK``, or whatever parts of it, in this order, or
    beginnings of them no other run below ``root`` shares: ``eacl/meld``, ``sacl/seed2``, ``3fa2``.

    Raises:
        ErcBenchError: no run is meant, or several are: they are listed.
    """
    if os.path.isfile(run):
        return Path(run)
    stored = {run_name(path): path for path in record_files(root)}
    wanted = run.strip("/ ").split("/")
    if wanted == [""]:
        raise ErcBenchError("Which run? Name a record, or a part of method/dataset/hash/seedK.")
    meant = [n for n in stored if _means(wanted, n)] or [n for n in stored if _begins(wanted, n)]
    if len(meant) == 1:
        return stored[meant[0]]
    if meant:
        shown = [f"{n} (preset {_preset(stored[n])})" for n in meant[:MOST_LISTED]]
        raise ErcBenchError(
            f"{run!r} can mean several runs; say more of its name: {_listed(shown, len(meant))}."
        )
    if os.path.isdir(run):
        raise ErcBenchError(f"{run!r} is a folder; name a record, or a run below {root}.")
    if not stored:
        raise ErcBenchError(
            f"There is no run {run!r}: no record lies below {root / 'records'}. `erc-bench run` "
            "makes one; --leaderboard-dir names another folder."
        )
    parts = {"/".join(name.split("/")[:n]) for name in stored for n in (1, 2, 4)}
    near = nearest(run, sorted(parts))
    raise ErcBenchError(
        f"There is no run {run!r} below {root}.{f' Did you mean {near!r}?' if near else ''} "
        f"There is: {_listed(list(stored)[:MOST_LISTED], len(stored))}."
    )


def _means(wanted: Sequence[str], name: str) -> bool:
    """Whether all that is wanted is a part of ``name``, in its order; of the hash its beginning."""
    parts = iter(enumerate(name.split("/")))
    return all(
        any(part == each or (i == 2 and part.startswith(each)) for i, part in parts)
        for each in wanted
    )


def _begins(wanted: Sequence[str], name: str) -> bool:
    """The same where what is wanted is the beginning of each part."""
    parts = iter(name.split("/"))
    return all(any(part.startswith(each) for part in parts) for each in wanted)


def _preset(path: Path) -> str:
    try:
        return str(read_record(path).get("preset") or "unknown")
    except RecordError:
        return "unknown"


def _listed(shown: Sequence[str], count: int) -> str:
    return "; ".join(shown) + (f"; and {count - len(shown)} more" if count > len(shown) else "")


@contextlib.contextmanager
def sound(path: Path) -> Iterator[None]:
    """Use a record: whatever does not hold what it should surfaces as a damaged record."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise RecordError(
            f"{path} is a damaged record: {what}. If it is a run's, repeat that with --force, "
            "which replaces it."
        ) from error
