"""Read, write and find records in the store; each is written completely or not at all.

:mod:`erc_bench.records.schema` describes what a record holds, and :mod:`erc_bench.records.place`
where a run lies.
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
from erc_bench.records.parsing import RecordError, parse_record, parse_summary, parse_untested
from erc_bench.records.schema import Record, Summary, Unscored, Untested, to_json


def write_record(path: Path, record: Record | Unscored | Untested) -> None:
    """Store a record under its name, complete or not at all."""
    text = json.dumps(to_json(record), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    write_atomically(path, text + "\n")


def read_record(path: Path) -> Record:
    """Read a stored record and check it.

    Raises:
        RecordError: the file can't be read, is not JSON, not a record, of a newer schema, or
            something in it does not fit.
    """
    return parse_record(record_contents(path), path)


def read_summary(path: Path) -> Summary:
    """Read a stored record without its predictions; otherwise like :func:`read_record`."""
    return parse_summary(record_contents(path), path)


def read_untested(path: Path) -> Untested:
    """Read a stored untested record; otherwise like :func:`read_record`."""
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
    """The file of a record, and if it exists the folder of its run, with model and log."""
    root = record.parent.parent.parent.parent
    folder = root / "runs" / record.parent.parent.name / record.parent.name / record.stem
    in_store = record.parent.parent.parent.name in ("records", "untested")
    return [record, folder] if in_store and folder.is_dir() else [record]


def remove(record: Path) -> None:
    """Remove a record and its run's folder.

    The record is removed last, so that an interrupted removal can be repeated.

    Raises:
        ErcBenchError: a process is working on the run, or a file can't be removed.
    """
    *_, last = removed_with(record)
    try:
        if last != record:
            if is_held(last):
                raise ErcBenchError(
                    f"Another process is working on {run_name(record)}{holder(last)}."
                )
            shutil.rmtree(last)
        record.unlink()
    except OSError as error:
        raise cannot_write(Path(error.filename or record), error) from error


# --- one run, as users name it

MOST_LISTED = 12
"""Maximum number of runs that an error lists."""

MOST_NEAR = 5
"""Maximum number of runs that an error suggests."""


def run_name(record: Path) -> str:
    """The name ``method/dataset/hash/seedK`` of a record, from its path in the store."""
    configuration, _, seed = record.stem.rpartition("-seed")
    return f"{record.parent.name}/{record.parent.parent.name}/{configuration}/seed{seed}"


def find_record(root: Path, run: str, *, untested: bool = False) -> Path:
    """Return the record file that ``run`` names.

    ``run`` is a path, a run on the hub (``hf://user/repo@revision``), or a run's name
    ``method/dataset/hash/seedK``. Some parts of the name in this order, or their beginnings, are
    enough if no other run below ``root`` shares them: ``eacl/meld``, ``sacl/seed2``, ``3fa2``.

    Args:
        root: the folder of the records.
        run: the text that a user wrote.
        untested: whether runs that have not scored test can be named too.

    Raises:
        ErcBenchError: the text names no run, or several; these are listed.
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
            f"{run!r} can mean several runs; give more of its name: {_listed(shown, len(meant))}."
        )
    of_dev = _by_name(untested_files(root))
    if meant := _meant(run, of_dev):
        raise ErcBenchError(
            f"{run!r} has not scored test, so it has no record ({of_dev[meant[0]]}). The command "
            "that made it scores test if --no-test is left out."
        )
    raise _not_found(root, run, stored)


def _by_name(files: Iterable[Path]) -> dict[str, Path]:
    return {run_name(path): path for path in files}


def _not_found(root: Path, run: str, stored: Mapping[str, Path]) -> ErcBenchError:
    """The error for a name that no stored run has; it suggests similar names."""
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
    """The stored runs whose names are most similar to a name that none has, most similar first.

    If the name holds settings (``eacl:stage2_epochs=0``), runs with these settings come first.
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
    """Whether a text names runs, as in :func:`find_record`, or ends like the name of a run."""
    if re.search(r"/seed\d+/?$", run) and not os.path.isdir(run):
        return True
    stored = [run_name(path) for path in record_files(root)]
    record = os.path.isfile(run) and run.endswith(".json")
    return is_on_hub(run) or record or (bool(run.strip("/ ")) and bool(_meant(run, stored)))


def _meant(run: str, stored: Iterable[str]) -> list[str]:
    """The names of the stored runs that ``run`` can mean."""
    wanted = run.strip("/ ").split("/")
    return [n for n in stored if _means(wanted, n)] or [n for n in stored if _begins(wanted, n)]


def _means(wanted: Sequence[str], name: str) -> bool:
    """Whether ``name`` has all wanted parts, in this order; the beginning of the hash is enough."""
    parts = iter(enumerate(name.split("/")))
    return all(
        any(part == each or (i == 2 and part.startswith(each)) for i, part in parts)
        for each in wanted
    )


def _begins(wanted: Sequence[str], name: str) -> bool:
    """Like :func:`_means`, but the beginning of every part is enough."""
    parts = iter(name.split("/"))
    return all(any(part.startswith(each) for part in parts) for each in wanted)


def _contents(path: Path) -> str:
    """What distinguishes a run: ``preset small, stage2_epochs=0, corpus 254a3659, ...``."""
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
