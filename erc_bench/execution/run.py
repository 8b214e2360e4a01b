"""One run, from settings to its record."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import seed_everything
from torch import Tensor

from erc_bench.corpus.conversation import SPLITS, Corpus
from erc_bench.errors import ErcBenchError
from erc_bench.execution.devices import Team
from erc_bench.execution.recording import forget_peak_memory, make_record
from erc_bench.execution.resources import ONE_DEVICE, Devices
from erc_bench.files import (
    FULL,
    UNWRITABLE,
    cannot_write,
    sha256_of,
    temporary_name,
    write_atomically,
)
from erc_bench.leases import Hold
from erc_bench.method.contract import ErcMethod
from erc_bench.method.data import ErcDataModule
from erc_bench.progress import Stopwatch, say
from erc_bench.records.corpora import remember
from erc_bench.records.place import Identity, Place
from erc_bench.records.schema import Record, RecordError
from erc_bench.records.store import read_record, write_record
from erc_bench.settings.experiment import Experiment
from erc_bench.settings.registry import corpus_source, method_class, plugin
from erc_bench.tracking.run import Tracker
from erc_bench.training.checkpoints import save_whole
from erc_bench.training.frameworks import quiet_frameworks
from erc_bench.training.scoring import Predicted
from erc_bench.training.train import Trained, train


@dataclass(frozen=True)
class Outcome:
    """A finished run: its record and where it is."""

    record: Record
    path: Path
    skipped: bool = False
    """It was finished before and not done again."""
    elsewhere: bool = False
    """Another process of a run on several devices did it, and says so."""


def run(
    experiment: Experiment,
    root: Path,
    *,
    data_dir: Path | None = None,
    restart: bool = False,
    force: bool = False,
    wandb: str = "off",
    runs_at_once: int = 1,
    expected: Place | None = None,
    devices: Devices = ONE_DEVICE,
) -> Outcome:
    """Train, select on dev, score test once, and leave a record.

    A run is finished, and not done again, when there is a record of the same method, settings and
    seed on a corpus of the same contents with an encoder of the same weights. One that was
    interrupted goes on from the last epoch that ended.

    Args:
        experiment: what to run; its seed is set before anything is built.
        root: folder of the records and checkpoints.
        data_dir: where the corpora are, before the usual places.
        restart: begin an interrupted run anew. What it had is given up when the first epoch of the
            new one has ended.
        force: do it again though it is finished; the old record and its model stand until the new
            record is done.
        wandb: how it is logged to W&B: ``online``, ``offline`` or ``off``.
        runs_at_once: how many runs of its command are done at a time, at most; for the record.
        expected: the place of the run as whoever sent it here knows it.
        devices: what it is trained on.

    Raises:
        RunTakenError: another process is at the same run.
        ErcBenchError: whatever else a user can mend.
    """
    if devices.count > 1 and not method_class(experiment.method).several_devices:
        raise ErcBenchError(
            f"{experiment.method} can't be trained on several devices as on one. Leave --devices "
            "and --nodes out; several runs of it may share the devices as a grid."
        )
    team = Team(devices, _follow)
    if team.follows:
        path = team.follow()
        return Outcome(read_record(path), path, elsewhere=True)
    with team.leading():
        outcome = _run(
            experiment,
            root,
            team,
            data_dir=data_dir,
            restart=restart,
            force=force,
            wandb=wandb,
            runs_at_once=runs_at_once,
            expected=expected,
        )
        team.end(outcome.path)
    return outcome


def _run(
    experiment: Experiment,
    root: Path,
    team: Team,
    *,
    data_dir: Path | None,
    restart: bool,
    force: bool,
    wandb: str,
    runs_at_once: int,
    expected: Place | None,
) -> Outcome:
    clock = Stopwatch()
    with quiet_frameworks():
        corpus = load_corpus(experiment.corpus, data_dir)
    identity = identify(experiment, corpus.digest, data_dir)
    place = Place.of(root, experiment, identity)
    if expected is not None and place != expected:
        raise ErcBenchError(
            f"The corpus, the encoder or the settings of {experiment.name} are not those with "
            f"which the grid was begun: {place.run} here, {expected.run} there. Give the command "
            "again."
        )
    if expected is None:  # else a grid has said it, with the process
        say(f"Run {place.name}, preset {experiment.preset}")
    record = None if force else place.finished()
    if record is not None and place.is_tidy():
        return Outcome(record, place.record, skipped=True)
    with place.locked() as held:
        if force and place.record.exists():
            with contextlib.suppress(RecordError, OSError):
                place.tidy_up()  # of the finished run: an interrupted repetition goes on
        record = None if force else place.finished()
        if record is not None:
            place.tidy_up()
            return Outcome(record, place.record, skipped=True)
        if restart and place.is_interrupted():
            say(
                "Beginning anew. The interrupted run is kept until the first new epoch ends; to "
                "go on with it, press Ctrl-C before that and leave out --restart."
            )
        try:
            with (
                writing_below(root, place.folder),
                Tracker(experiment, root, wandb) as tracker,
                quiet_frameworks(),
            ):
                remember(root, corpus_source(experiment.corpus))
                task = Task(experiment, place.folder, data_dir, restart, runs_at_once)
                record = _train_and_record(
                    task, team, place, identity, corpus, clock, tracker, held
                )
                place.tidy_up()
                tracker.complete(record, place.record)
        except torch.OutOfMemoryError as error:
            raise out_of_gpu_memory(experiment, error) from error
    return Outcome(record, place.record)


@contextlib.contextmanager
def writing_below(root: Path, folder: Path) -> Iterator[None]:
    """Whoever can't write below ``root``, or has no room, is told so as a user needs it; where the
    error names no file, it is ``folder``."""
    try:
        yield
    except OSError as error:
        file = Path(error.filename or folder)
        here = file.absolute().is_relative_to(root.absolute())
        if error.errno in FULL or (error.errno in UNWRITABLE and here):
            raise cannot_write(file, error) from error
        raise


def load_corpus(dataset: str, data_dir: Path | None) -> Corpus:
    """A corpus that a run can be done on.

    Raises:
        ErcBenchError: it can't be had, has no emotions, or lacks a split.
    """
    corpus = corpus_source(dataset).load(data_dir)
    if not corpus.labels:
        raise ErcBenchError(
            f"{corpus.name} has no emotion labels, so nothing can be trained or scored on it; it "
            "is there for methods that learn from further dialogues beside a corpus's own (a "
            "setting such as extra_corpus). Choose another --dataset."
        )
    missing = [split for split in SPLITS if split not in corpus.contents]
    if missing:
        raise ErcBenchError(
            f"{corpus.name} has no split {' and no '.join(missing)}: a run trains on train, "
            "selects on dev and scores test. Its source has to give all three."
        )
    return corpus


def identify(experiment: Experiment, corpus_digest: str, data_dir: Path | None) -> Identity:
    """What tells a run from others of the same settings: the contents of what it reads."""
    kind = method_class(experiment.method)
    encoder = kind.encoder_identity(experiment.config)
    further = {
        name: corpus_source(name).load(data_dir).digest
        for name in kind.further_corpora(experiment.config)
    }
    return Identity(corpus_digest, encoder["name"], encoder["digest"], further)


def build(
    experiment: Experiment, corpus: Corpus, data_dir: Path | None
) -> tuple[ErcMethod, ErcDataModule]:
    """A method, seeded before it is built, and its data."""
    gc.collect()  # the model of a run before this one
    forget_peak_memory()
    seed_everything(experiment.seed, workers=True, verbose=False)
    method = method_class(experiment.method)(experiment.config, corpus.labels)
    return method, ErcDataModule(corpus, method, seed=experiment.seed, data_dir=data_dir)


@dataclass(frozen=True)
class Task:
    """What every device of a run is told."""

    experiment: Experiment
    folder: Path
    data_dir: Path | None
    restart: bool
    runs_at_once: int


@dataclass(frozen=True)
class Done:
    """What came out of the training."""

    trained: Trained
    state: Mapping[str, Tensor]
    """What the method saves of its weights."""
    predictions: Mapping[str, Predicted]


def _follow(task: Task) -> None:
    """What every device but the first does of a run."""
    with quiet_frameworks():
        corpus = load_corpus(task.experiment.corpus, task.data_dir)
        _train(task, *build(task.experiment, corpus, task.data_dir))


def _train(task: Task, method: ErcMethod, data: ErcDataModule, **options: Any) -> Done:
    """What all devices of a run do together."""
    trained = train(
        method,
        data,
        task.folder,
        restart=task.restart,
        runs_at_once=task.runs_at_once,
        **options,
    )
    state = method.saved_state()
    return Done(trained, state, {split: trained.predict(split) for split in ("dev", "test")})


def _train_and_record(
    task: Task,
    team: Team,
    place: Place,
    identity: Identity,
    corpus: Corpus,
    clock: Stopwatch,
    tracker: Tracker,
    held: Hold,
) -> Record:
    experiment = task.experiment
    with team.working(task):
        method, data = build(experiment, corpus, task.data_dir)
        tracker.start(identity.encoder, place.is_interrupted() and not task.restart)
        done = _train(task, method, data, callbacks=tracker.callbacks(), logger=tracker.logger)
    trained = done.trained
    unnamed = temporary_name(place.folder / "model.ckpt")
    save_whole({"state_dict": dict(done.state)}, unnamed)
    try:
        digest = sha256_of(unnamed)
        record = make_record(
            experiment,
            trained,
            identity,
            predictions=done.predictions,
            model=(place.new_model(digest).name, digest),
            plugin=plugin(experiment.method),
            wall_seconds=clock.seconds + trained.log.earlier_seconds,
        )
        held.check()
        for name, text in method.run_files().items():
            write_atomically(place.folder / name, text)
        # The model first: a record always names a model that is there.
        unnamed.replace(place.new_model(digest))
    finally:
        unnamed.unlink(missing_ok=True)
    write_record(place.record, record)
    return record


def out_of_gpu_memory(experiment: Experiment, error: Exception) -> ErcBenchError:
    """What a run says whose GPU has too little memory."""
    return ErcBenchError(
        f"The memory of the GPU does not suffice for {experiment.name} "
        f"({str(error).split('. ')[0]}). Let it have the GPU alone (--jobs 1, and nothing else on "
        "it), set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True, or take precision=bfloat16 or "
        "a smaller batch_size (with accumulate, see the method's card): another configuration. "
        "The same command goes on from the last epoch."
    )
