"""The store of records: written whole or not at all, found by what users call a run.

What a record holds is told in :mod:`erc_bench.records.schema`, where a run lies in
:mod:`erc_bench.records.place`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path

from erc_bench.errors import ErcBenchError
from erc_bench.files import cannot_write, write_atomically
from erc_bench.leases import holder, is_held
from erc_bench.records.fetching import fetch_record, is_on_hub
from erc_bench.records.schema import (
    Record,
    RecordError,
    Summary,
    Unscored,
    Untested,
    parse_record,
    parse_summary,
    parse_untested,
    to_json,
)


def write_record(path: Path, record: Record | Unscored | Untested) -> None:
    """Store a record under its name, complete or not at all."""
    text = json.dumps(to_json(record), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    write_atomically(path, text + "\n")


def read_record(path: Path) -> Record:
    """A stored record, checked.

    Raises:
        RecordError: the file can't be read, is not JSON, not a record, of a newer schema, or
            something in it does not fit.
    """
    return parse_record(record_contents(path), path)


def read_summary(path: Path) -> Summary:
    """A stored record but for its predictions, checked; else as :func:`read_record`."""
    return parse_summary(record_contents(path), path)


def read_untested(path: Path) -> Untested:
    """What a run left that has not scored test, checked; else as :func:`read_record`."""
    return parse_untested(record_contents(path), path)


def record_contents(path: Path) -> bytes:
    """The bytes of a record's file.

    Raises:
        RecordError: it can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path} can't be read: {error.strerror or error}.") from error


def record_files(root: Path) -> Iterator[Path]:
    """All record files below ``<root>/records``, in order of their names."""
    yield from sorted((root / "records").glob("*/*/*.json"))


def untested_files(root: Path) -> Iterator[Path]:
    """All files of runs that have not scored test, in order of their names."""
    yield from sorted((root / "untested").glob("*/*/*.json"))


def removed_with(record: Path) -> list[Path]:
    """The file of a record, and the folder of its run if that is there: model and log."""
    root = record.parent.parent.parent.parent
    folder = root / "runs" / record.parent.parent.name / record.parent.name / record.stem
    in_store = record.parent.parent.parent.name in ("records", "untested")
    return [record, folder] if in_store and folder.is_dir() else [record]


def remove(record: Path) -> None:
    """Remove a record and its run's folder; the record last, so that a removal that was cut off
    can be given again.

    Raises:
        ErcBenchError: a process is at the run, or a file can't be removed.
    """
    *_, last = removed_with(record)
    try:
        if last != record:
            if is_held(last):
                raise ErcBenchError(f"Another process is at {run_name(record)}{holder(last)}.")
            shutil.rmtree(last)
        record.unlink()
    except OSError as error:
        raise cannot_write(Path(error.filename or record), error) from error


# --- one run, as users name it

MOST_LISTED = 12
"""Runs that an error lists at most."""

MOST_NEAR = 5
"""Runs that an error lists at most of those that may be meant."""


def run_name(record: Path) -> str:
    """``method/dataset/hash/seedK`` of a record in its place in the store."""
    configuration, _, seed = record.stem.rpartition("-seed")
    return f"{record.parent.name}/{record.parent.parent.name}/{configuration}/seed{seed}"


def find_record(root: Path, run: str, *, untested: bool = False) -> Path:
    """The record file that ``run`` means.

    A path, a run on the hub (``hf://user/repo@revision``), a run's name
    ``method/dataset/hash/seedK``, or whatever parts of it, in this order, or beginnings of them no
    other run below ``root`` shares: ``eacl/meld``, ``sacl/seed2``, ``3fa2``.

    Args:
        root: the folder of the records.
        run: what a user wrote.
        untested: whether a run that has not scored test may be meant too.

    Raises:
        ErcBenchError: no run is meant, or several are: they are listed.
    """
    if is_on_hub(run):
        return fetch_record(run)
    if os.path.isfile(run):
        return Path(run)
    stored = _by_name(record_files(root))
    if untested:
        stored = _by_name(untested_files(root)) | stored
    if not run.strip("/ "):
        raise ErcBenchError("Which run? Name a record, or a part of method/dataset/hash/seedK.")
    meant = _meant(run, stored)
    if len(meant) == 1:
        return stored[meant[0]]
    if meant:
        shown = [f"{n} ({_contents(stored[n])})" for n in meant[:MOST_LISTED]]
        raise ErcBenchError(
            f"{run!r} can mean several runs; say more of its name: {_listed(shown, len(meant))}."
        )
    of_dev = _by_name(untested_files(root))
    if meant := _meant(run, of_dev):
        raise ErcBenchError(
            f"{run!r} has not scored test, so it is no record ({of_dev[meant[0]]}). The command "
            "that made it scores test if --no-test is left out."
        )
    raise _not_found(root, run, stored)


def _by_name(files: Iterable[Path]) -> dict[str, Path]:
    return {run_name(path): path for path in files}


def _not_found(root: Path, run: str, stored: Mapping[str, Path]) -> ErcBenchError:
    """Why a name means none of the stored runs, and what is like it."""
    if os.path.isdir(run):
        return ErcBenchError(f"{run!r} is a folder; name a record, or a run below {root}.")
    if not stored:
        why = f"no record lies below {root / 'records'}" if root.is_dir() else f"no folder {root}"
        return ErcBenchError(
            f"There is no run {run!r}: {why}. `erc-bench run` makes one; --leaderboard-dir names "
            "another folder."
        )
    message = f"There is no run {run!r} below {root}."
    if run.endswith(".json"):
        message = f"There is no run {run!r}: no such file."
    elif ":" in run or "=" in run:
        message += " One run is named by parts of method/dataset/hash/seedK, not by its settings."
    if near := _nearest_runs(run, stored):
        shown = [f"{name} ({_contents(stored[name])})" for name in near[:MOST_NEAR]]
        return ErcBenchError(f"{message} Did you mean one of these? {_listed(shown, len(near))}.")
    kinds = sorted({"/".join(name.split("/")[:2]) for name in stored})
    kinds = [kind.replace("/", " on ") for kind in kinds]
    return ErcBenchError(f"{message} There are: {_listed(kinds[:MOST_LISTED], len(kinds))}.")


def _nearest_runs(run: str, stored: Mapping[str, Path]) -> list[str]:
    """The stored runs whose names are most like a name that means none of them, likest first.

    Where it says settings (``eacl:stage2_epochs=0``), runs of those come before others.
    """

    @cache
    def alike(one: str, other: str) -> float:
        return SequenceMatcher(None, one, other.lower()).ratio()

    name, *said = run.lower().split(":")
    wanted = [part for part in re.split(r"[/\s]+", name) if part][:8]
    likeness = {
        each: sum(max(alike(part[:80], o) for o in (each, *each.split("/"))) for part in wanted)
        for each in stored
    }
    best = max(likeness.values())
    if best < 0.6 * len(wanted) or not wanted:
        return []
    near = sorted((n for n in stored if likeness[n] > best - 0.15), key=lambda n: -likeness[n])
    if said:
        near.sort(key=lambda n: -sum(part in _contents(stored[n]).split(", ") for part in said))
    return near


def is_run(root: Path, run: str) -> bool:
    """Whether a run is meant, or several are, as :func:`find_record` takes it; or one is that is
    not there, by a name that ends like a run's."""
    if re.search(r"/seed\d+/?$", run) and not os.path.isdir(run):
        return True
    stored = [run_name(path) for path in record_files(root)]
    record = os.path.isfile(run) and run.endswith(".json")
    return is_on_hub(run) or record or (bool(run.strip("/ ")) and bool(_meant(run, stored)))


def _meant(run: str, stored: Iterable[str]) -> list[str]:
    """The names of the stored runs that are meant."""
    wanted = run.strip("/ ").split("/")
    return [n for n in stored if _means(wanted, n)] or [n for n in stored if _begins(wanted, n)]


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


def _contents(path: Path) -> str:
    """What tells a run from others: ``preset small, stage2_epochs=0, corpus 254a3659, ...``."""
    try:
        record = read_summary(path)
    except RecordError:
        return "preset unknown"
    weights = record.encoder.digest if record.encoder else ""
    parts = {"preset": record.preset, "corpus": record.dataset_digest[:8], "weights": weights[:8]}
    preset, *others = [f"{name} {value}" for name, value in parts.items() if value] or [""]
    own = record.overrides if record.tuned is None else ["tuned"]
    return ", ".join(filter(None, (preset, record.variant, *own, *others)))


def _listed(shown: Sequence[str], count: int) -> str:
    return "; ".join(shown) + (f"; and {count - len(shown)} more" if count > len(shown) else "")
