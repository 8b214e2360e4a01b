"""Where a run lies in the store: its record, its folder, and their files.

- ``<root>/records/<dataset>/<method>/<run>.json`` is the record of a finished run
- ``<root>/runs/<dataset>/<method>/<run>/`` is its folder
- ``<root>/untested/<dataset>/<method>/<run>.json`` replaces the record if the run was asked not to
  score test

``<run>`` is ``<config hash>-<data hash>-seed<k>``. The data hash stands for the corpus's contents
and the encoder's weights. Older records are named ``<config hash>-seed<k>``, without a data hash,
and are found by their contents. Before the seed, a variant's run has ``-<variant>``, and a tuned
run has ``-tuned-<digest of its trials>``.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from erc_bench.errors import ErcBenchError
from erc_bench.files import cannot_write, sha256_of
from erc_bench.leases import HeldError, Hold, hold, holder, is_held
from erc_bench.records.fetching import check_weights, fetch_model
from erc_bench.records.parsing import RecordError, damaged
from erc_bench.records.schema import Record, Summary, Untested
from erc_bench.records.store import read_record, read_summary, read_untested, run_name

if TYPE_CHECKING:
    from erc_bench.settings.experiment import Experiment

R = TypeVar("R", Record, Summary)

LAST = "last.ckpt"
"""The checkpoint from which an interrupted training is resumed."""

UNFINISHED = (LAST, "best-*.ckpt")
"""Checkpoints of an unfinished training; the last one comes first, since it names the best one."""


class RunTakenError(ErcBenchError):
    """Raised when another process is working on the same run."""


@dataclass(frozen=True)
class Identity:
    """Digests of what a run reads, which distinguish it from runs with the same settings."""

    corpus_digest: str
    encoder: str
    """Name of the encoder, or of the file of vectors that is read instead; "" = none."""
    encoder_digest: str
    further_corpora: Mapping[str, str] = field(default_factory=dict)
    """Digests, by name, of other corpora that the method reads."""

    @property
    def hash(self) -> str:
        """8 hexadecimal digits over the contents; the name of the encoder does not count."""
        further = [f"{name}={digest}" for name, digest in sorted(self.further_corpora.items())]
        text = " ".join([self.corpus_digest, self.encoder_digest, *further])
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def is_of(self, record: Record | Summary | Untested) -> bool:
        """Whether a record's run read the same contents."""
        encoder = record.encoder.digest if record.encoder else ""
        found = record.dataset_digest, encoder, record.further_corpora or {}
        return found == (self.corpus_digest, self.encoder_digest, dict(self.further_corpora))


@dataclass(frozen=True)
class Place:
    """A run's place in the store, worked out once and passed on."""

    root: Path
    """The leaderboard's folder, which holds the records and checkpoints."""
    method: str
    dataset: str
    run: str
    """``<config hash>-<data hash>-seed<k>``, with a mark before the seed if the run is a variant's
    or tuned."""
    identity: Identity

    @classmethod
    def of(cls, root: Path, experiment: Experiment, identity: Identity) -> Place:
        """The place of a run that reads these contents.

        If the same run was finished before names had a data hash, it keeps its old name.
        """
        mark = f"-{experiment.variant}" if experiment.variant else ""
        mark += f"-tuned-{experiment.tuned.digest[:8]}" if experiment.tuned else ""
        here, before = (
            cls(
                root,
                experiment.method,
                experiment.dataset,
                f"{experiment.hash}{data}-seed{experiment.seed}",
                identity,
            )
            for data in (f"-{identity.hash}{mark}", "")
        )
        if mark:  # the same settings without the mark are another row
            return here
        with contextlib.suppress(RecordError):  # an unreadable record counts as another run's
            if not here.record.exists() and before.finished() is not None:
                return before
        return here

    @property
    def name(self) -> str:
        """``method/dataset/hash/seedK``, as users name a run."""
        return run_name(self.record)

    @property
    def record(self) -> Path:
        """The path of the record, which need not exist."""
        return self.root / "records" / self.dataset / self.method / f"{self.run}.json"

    @property
    def untested_file(self) -> Path:
        """The path of the untested record, which a run writes if test is not scored."""
        return self.root / "untested" / self.dataset / self.method / f"{self.run}.json"

    @property
    def done_file(self) -> Path:
        """The record's file if it exists, otherwise :attr:`untested_file`."""
        return self.record if self.record.exists() else self.untested_file

    @property
    def folder(self) -> Path:
        """The folder of checkpoints, model and log, which need not exist."""
        return self.root / "runs" / self.dataset / self.method / self.run

    @property
    def log(self) -> Path:
        """The file of the run's output, written if it is one of several runs."""
        return self.folder / "log.txt"

    def finished(self) -> Record | None:
        """The record of this run; None if it is not finished, or the record is another run's.

        Raises:
            RecordError: the file in the record's place is not a valid record.
        """
        return self._of_this_run(read_record)

    def summary(self) -> Summary | None:
        """Like :meth:`finished`, but without the predictions, in a sixth of the time."""
        return self._of_this_run(read_summary)

    def _of_this_run(self, read: Callable[[Path], R]) -> R | None:
        if not self.record.exists():
            return None
        record = read(self.record)
        if record.metrics.dev is None:
            raise damaged(self.record, "$.metrics.dev: not there, though a run is selected on dev")
        return record if self.identity.is_of(record) else None

    def untested(self) -> Untested | None:
        """The untested record of this run, if it is trained and test is not scored.

        Raises:
            RecordError: the file in its place is not a valid one.
        """
        if self.record.exists() or not self.untested_file.exists():
            return None
        found = read_untested(self.untested_file)
        return found if self.identity.is_of(found) else None

    def done(self, *, no_test: bool) -> Record | Untested | None:
        """The record of this run; with ``no_test``, its untested record is enough.

        Raises:
            RecordError: the file in its place is not a valid one.
        """
        return self.finished() or (self.untested() if no_test else None)

    def is_interrupted(self) -> bool:
        """Whether there is a checkpoint to continue from."""
        return (self.folder / LAST).exists()

    # --- one process at a time

    @contextlib.contextmanager
    def locked(self) -> Iterator[Hold]:
        """Lock the run against other processes, also those on other machines.

        Raises:
            RunTakenError: another process holds the run, or took it over meanwhile; it is named.
            ErcBenchError: the folder can't be written to.
        """
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                held = stack.enter_context(hold(self.folder))
                for dead in self.folder.glob(".*.ckpt.*.tmp"):  # left by a process that was killed
                    dead.unlink(missing_ok=True)
            except HeldError as error:
                raise self._taken(error) from None
            except OSError as error:
                raise cannot_write(self.folder, error) from error
            try:
                yield held
            except HeldError as error:
                raise self._taken(error) from None

    def _taken(self, by: HeldError) -> RunTakenError:
        return RunTakenError(f"Another process is working on the run {self.name}{by}.")

    def is_taken(self) -> bool:
        """Whether another process is working on this run now."""
        return is_held(self.folder)

    def holder(self) -> str:
        """The process that holds this run, in brackets after a space; empty if it is not known."""
        return holder(self.folder)

    # --- what a finished run leaves

    def new_model(self, sha256: str) -> Path:
        """The file for weights with this digest.

        No other weights ever have this name. So a record and its model can't be mixed up, even if
        a process is killed.
        """
        return self.folder / f"model-{sha256[:16]}.ckpt"

    def leftovers(self) -> list[Path]:
        """Files that a finished run no longer needs, in the order in which to delete them.

        There are some if the process was killed before it could delete them. Files of a run that
        is being repeated are newer than the record and do not count.

        Raises:
            OSError: the run is not finished, or another process is deleting them.
            RecordError: the record can't be read.
        """
        over = self.record.exists()
        record = read_record(self.record) if over else read_untested(self.untested_file)
        model = record.model.file if record.model else "model.ckpt"
        done = self.done_file.stat().st_mtime_ns
        patterns = (*UNFINISHED, "model*.ckpt", "*.ckpt.tmp", ".*.ckpt.*.tmp")
        found = [
            *(file for pattern in patterns for file in self.folder.glob(pattern)),
            *self.record.parent.glob(f".{self.record.name}.*.tmp"),
            *([self.untested_file] if over and self.untested_file.exists() else []),
        ]
        return [f for f in found if f.name != model and f.stat().st_mtime_ns <= done]

    def is_tidy(self) -> bool:
        """Whether a finished run has left nothing to delete. Its folder may be read-only."""
        try:
            return not self.leftovers()
        except OSError:  # another process is deleting them
            return False

    def tidy_up(self) -> None:
        """Delete the leftovers. The caller must hold the lock."""
        for leftover in self.leftovers():
            leftover.unlink(missing_ok=True)


def model_file(path: Path, record: Record) -> Path:
    """The file of the weights of a record's run, in the same store.

    Raises:
        ErcBenchError: there are no weights.
    """
    if record.external:
        raise ErcBenchError(
            f"{record.method!r} was predicted elsewhere and only its predictions are on record: "
            "there is no model."
        )
    folders = path.absolute().parents
    if len(folders) < 4 or folders[2].name != "records":
        raise ErcBenchError(
            f"{path} does not lie in a store (FOLDER/records/CORPUS/METHOD/), so its model can't "
            "be found. Name the run, and its folder with --leaderboard-dir."
        )
    root = folders[3]
    name = record.model.file if record.model else "model.ckpt"
    check_weights(root, name)
    weights = root / "runs" / record.dataset / record.method / path.stem / name
    fetch_model(root, weights)
    if not weights.is_file():
        raise ErcBenchError(
            f"The model of this run is not here: there is no {weights}. Copy it from the machine "
            "of the training, or repeat the run with another --leaderboard-dir (--force would "
            "replace this record)."
        )
    return weights


def check_model(path: Path, record: Record, weights: Path) -> None:
    """Check that weights are those that a record names; an older record names none.

    Raises:
        ErcBenchError: they are not the record's.
    """
    if record.model is not None and sha256_of(weights) != record.model.sha256:
        raise ErcBenchError(
            f"{weights} is damaged or another run's: its SHA-256 is not the one that {path} names. "
            "Copy it again from the machine of the training, or repeat the run with --force."
        )
