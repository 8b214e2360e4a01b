"""Where a run lies in the store: its record, its folder, and what is in them.

``<root>/records/<dataset>/<method>/<run>.json`` is the record of a finished run and
``<root>/runs/<dataset>/<method>/<run>/`` its folder. ``<run>`` is ``<config hash>-<data
hash>-seed<k>``; the data hash stands for the corpus's contents and the encoder's weights. Records
of before it was there are named ``<config hash>-seed<k>``, and are found by what they hold. Of a
tuned run ``-tuned-<digest of its trials>`` stands before the seed. A run that was asked not to
score test leaves ``<root>/untested/<dataset>/<method>/<run>.json`` instead of a record.
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
from erc_bench.records.schema import Record, RecordError, Summary, Untested, damaged
from erc_bench.records.store import read_record, read_summary, read_untested, run_name

if TYPE_CHECKING:
    from erc_bench.settings.experiment import Experiment

R = TypeVar("R", Record, Summary)

LAST = "last.ckpt"
"""The checkpoint that an interrupted training goes on from."""

UNFINISHED = (LAST, "best-*.ckpt")
"""Checkpoints of a training that is not finished; the last one first, since it names the best."""


class RunTakenError(ErcBenchError):
    """Another process is at the same run."""


@dataclass(frozen=True)
class Identity:
    """The contents of what a run reads: they tell it from others of the same settings."""

    corpus_digest: str
    encoder: str
    """Name of the encoder, or of the file of vectors that is read instead; "" = none."""
    encoder_digest: str
    further_corpora: Mapping[str, str] = field(default_factory=dict)
    """Digests of the corpora that the method reads beside the run's own, by their names."""

    @property
    def hash(self) -> str:
        """8 hexadecimal digits over the contents, whatever the encoder's folder is called."""
        further = [f"{name}={digest}" for name, digest in sorted(self.further_corpora.items())]
        text = " ".join([self.corpus_digest, self.encoder_digest, *further])
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def is_of(self, record: Record | Summary | Untested) -> bool:
        """Whether a record is of a run that read the same."""
        encoder = record.encoder.digest if record.encoder else ""
        found = record.dataset_digest, encoder, record.further_corpora or {}
        return found == (self.corpus_digest, self.encoder_digest, dict(self.further_corpora))


@dataclass(frozen=True)
class Place:
    """A run's place in the store, found once and handed on."""

    root: Path
    """Folder of the leaderboard: of the records and checkpoints."""
    method: str
    dataset: str
    run: str
    """``<config hash>-<data hash>-seed<k>``, with a mark before the seed where it is a variant's,
    or tuned."""
    identity: Identity

    @classmethod
    def of(cls, root: Path, experiment: Experiment, identity: Identity) -> Place:
        """The place of a run that reads these contents.

        A run that was finished before runs were named by these, and is just this one, keeps its.
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
        if mark:  # the same settings without it are another row
            return here
        with contextlib.suppress(RecordError):  # another's, as far as can be told
            if not here.record.exists() and before.finished() is not None:
                return before
        return here

    @property
    def name(self) -> str:
        """``method/dataset/hash/seedK``, as users name a run."""
        return run_name(self.record)

    @property
    def record(self) -> Path:
        """The file of the record, there or not."""
        return self.root / "records" / self.dataset / self.method / f"{self.run}.json"

    @property
    def untested_file(self) -> Path:
        """What the run leaves instead of a record where test is not scored, there or not."""
        return self.root / "untested" / self.dataset / self.method / f"{self.run}.json"

    @property
    def done_file(self) -> Path:
        """The record; what stands in its place where there is none."""
        return self.record if self.record.exists() else self.untested_file

    @property
    def folder(self) -> Path:
        """The folder of checkpoints, model and log, there or not."""
        return self.root / "runs" / self.dataset / self.method / self.run

    @property
    def log(self) -> Path:
        """What the run printed, where it was one of several."""
        return self.folder / "log.txt"

    def finished(self) -> Record | None:
        """The record of this very run, if it is finished.

        Raises:
            RecordError: a file stands in the record's place that is none.
        """
        return self._of_this_run(read_record)

    def summary(self) -> Summary | None:
        """:meth:`finished` for whoever wants the figures alone, in a sixth of the time."""
        return self._of_this_run(read_summary)

    def _of_this_run(self, read: Callable[[Path], R]) -> R | None:
        if not self.record.exists():
            return None
        record = read(self.record)
        if record.metrics.dev is None:
            raise damaged(self.record, "$.metrics.dev: not there, though a run is selected on dev")
        return record if self.identity.is_of(record) else None

    def untested(self) -> Untested | None:
        """What this very run has left, if it is trained and test is not scored.

        Raises:
            RecordError: a file stands in its place that is none.
        """
        if self.record.exists() or not self.untested_file.exists():
            return None
        found = read_untested(self.untested_file)
        return found if self.identity.is_of(found) else None

    def done(self, *, no_test: bool) -> Record | Untested | None:
        """What this very run has left, as far as it is asked for: its record, or where test is not
        to be scored also what stands in its place.

        Raises:
            RecordError: a file stands there that is none.
        """
        return self.finished() or (self.untested() if no_test else None)

    def is_interrupted(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return (self.folder / LAST).exists()

    # --- one process at a time

    @contextlib.contextmanager
    def locked(self) -> Iterator[Hold]:
        """Hold the run alone, also against processes of other machines.

        Raises:
            RunTakenError: another process holds it, or took it over meanwhile; it is named.
            ErcBenchError: the folder can't be written to.
        """
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                held = stack.enter_context(hold(self.folder))
                for dead in self.folder.glob(".*.ckpt.*.tmp"):  # of a process that was killed
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
        return RunTakenError(f"Another process is at the run {self.name}{by}.")

    def is_taken(self) -> bool:
        """Whether another process is at this run now."""
        return is_held(self.folder)

    def holder(self) -> str:
        """Who is at this run, in brackets behind a space, as far as it said so."""
        return holder(self.folder)

    # --- what a finished run leaves

    def new_model(self, sha256: str) -> Path:
        """The file for weights with this digest. No other weights ever have its name, so a record
        and its model can't be mixed up, at whatever moment a process is killed."""
        return self.folder / f"model-{sha256[:16]}.ckpt"

    def leftovers(self) -> list[Path]:
        """Files that a finished run no longer needs, oldest names first.

        There are some where the process was killed before it could delete them. Those of a run
        that is being repeated are newer than the record, and are none.

        Raises:
            OSError: the run is not finished, or somebody else is deleting them.
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
        except OSError:  # somebody else is at it
            return False

    def tidy_up(self) -> None:
        """Delete the leftovers; for whoever holds the lock."""
        for leftover in self.leftovers():
            leftover.unlink(missing_ok=True)


def model_file(path: Path, record: Record) -> Path:
    """The weights of the run that a record file tells of, in the same store.

    Raises:
        ErcBenchError: there are none.
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
    """Whether weights are those that a record names; an older one names none.

    Raises:
        ErcBenchError: they are not.
    """
    if record.model is not None and sha256_of(weights) != record.model.sha256:
        raise ErcBenchError(
            f"{weights} is damaged or another run's: its SHA-256 is not the one that {path} names. "
            "Copy it again from the machine of the training, or repeat the run with --force."
        )
