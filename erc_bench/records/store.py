"""The store of records: written whole or not at all, found by what users call a run.

``<root>/records/<dataset>/<method>/<hash>-seed<k>.json`` holds one run; ``<root>/runs/…`` its
checkpoints. A record appears under its name only when it is complete. What it holds is told in
:mod:`erc_bench.records.schema`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from erc_bench.errors import ErcBenchError, nearest
from erc_bench.records.schema import (
    Record,
    RecordError,
    Unscored,
    damaged,
    parse_record,
    to_json,
)

if TYPE_CHECKING:
    from erc_bench.settings.experiment import Experiment

UNWRITABLE = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
        errno.EACCES,
        errno.EEXIST,
        errno.ENOTDIR,
    }
)
"""Numbers of the errors of a place that is full, closed, or no folder."""


NEW_MODEL = "model.new.ckpt"
"""Weights that become ``model.ckpt`` as soon as the record that tells of them is there."""

UNFINISHED = ("last.ckpt", "best-*.ckpt", NEW_MODEL)
"""What an unfinished run has in its folder; the last checkpoint first, since it names the best."""


def record_path(root: Path, experiment: Experiment) -> Path:
    """Where the record of a run belongs."""
    name = f"{experiment.hash}-seed{experiment.seed}.json"
    return root / "records" / experiment.dataset / experiment.method / name


def run_folder(root: Path, experiment: Experiment) -> Path:
    """Where the checkpoints of a run belong."""
    name = f"{experiment.hash}-seed{experiment.seed}"
    return root / "runs" / experiment.dataset / experiment.method / name


@contextlib.contextmanager
def replacing(path: Path, temporary: Path) -> Iterator[BinaryIO]:
    """A file to write under a temporary name, which takes its own when it is complete.

    Raises:
        OSError: it can't be written; nothing is left behind.
    """
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_file(path: Path, temporary: Path) -> Iterator[BinaryIO]:
    """A file to write, which has its name as soon as all of it is on the disk, and never before.

    Raises:
        ErcBenchError: it can't be written (no space, no permission); nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error


def write_atomically(path: Path, text: str) -> None:
    """Write a :func:`whole_file` of text."""
    with whole_file(path, path.with_name(f".{path.name}.{os.getpid()}.tmp")) as file:
        file.write(text.encode("utf-8"))


def cannot_write(path: Path, error: OSError) -> ErcBenchError:
    """The error for a place that can't be written to."""
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return ErcBenchError(
            f"{path} can't be written: a file stands in the place of a folder on the way to it. "
            "Choose another folder with --leaderboard-dir."
        )
    return ErcBenchError(
        f"{path} can't be written: {error.strerror or error}. Make room or check the permissions, "
        "or choose another folder with --leaderboard-dir; an unfinished run goes on with --resume."
    )


def leftovers(root: Path, experiment: Experiment) -> list[Path]:
    """Files that only an unfinished run needs, beside a finished one's record.

    There are some where the process was killed before it could delete them, or, of
    :data:`NEW_MODEL`, before it could give the weights their name. Those of a run that is being
    repeated are newer than the record, and are none.

    Raises:
        OSError: there is no record, or somebody else is deleting them.
    """
    path, folder = record_path(root, experiment), run_folder(root, experiment)
    done = path.stat().st_mtime_ns
    found = [
        *(file for pattern in (*UNFINISHED, "*.ckpt.tmp") for file in folder.glob(pattern)),
        *path.parent.glob(f".{path.name}.*.tmp"),
    ]
    return [file for file in found if file.stat().st_mtime_ns <= done]


def write_record(path: Path, record: Record | Unscored) -> None:
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


def record_contents(path: Path) -> bytes:
    """The bytes of a record's file.

    Raises:
        RecordError: it can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path} can't be read: {error.strerror or error}.") from error


def finished(root: Path, experiment: Experiment) -> Record | None:
    """The record of the same method, dataset, settings and seed, if there is one.

    Raises:
        RecordError: as :func:`read_record`'s, or it lacks the weighted-F1 of dev or test.
    """
    path = record_path(root, experiment)
    if not path.exists():
        return None
    record = read_record(path)
    if record.metrics.dev is None:
        raise damaged(path, "$.metrics.dev: not there, though a run is selected on dev")
    return record


def record_files(root: Path) -> Iterator[Path]:
    """All record files below ``<root>/records``, in order of their names."""
    yield from sorted((root / "records").glob("*/*/*.json"))


# --- one run, as users name it

MOST_LISTED = 12
"""Runs that an error lists at most."""


def run_name(path: Path) -> str:
    """``method/dataset/hash/seedK`` of a record in its place in the store."""
    configuration, _, seed = path.stem.rpartition("-seed")
    return f"{path.parent.name}/{path.parent.parent.name}/{configuration}/seed{seed}"


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
        return read_record(path).preset or "unknown"
    except RecordError:
        return "unknown"


def _listed(shown: Sequence[str], count: int) -> str:
    return "; ".join(shown) + (f"; and {count - len(shown)} more" if count > len(shown) else "")


def model_file(path: Path, record: Record) -> Path:
    """The weights of the run that a record file tells of, in the same store.

    Raises:
        ErcBenchError: there are none.
    """
    if record.external:
        raise ErcBenchError(
            f"{record.method!r} was predicted elsewhere and only its predictions are on record: "
            "there is no model to predict with."
        )
    root = path.absolute().parent.parent.parent.parent
    folder = root / "runs" / record.dataset / record.method / path.stem
    weights = folder / "model.ckpt"
    if not weights.is_file():
        raise ErcBenchError(
            f"The model of this run is not here: there is no {weights}. Copy it from the machine "
            "of the training, or repeat the run with another --leaderboard-dir (--force would "
            "replace this record)."
        )
    return weights
