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

from erc_bench.corpus.conversation import SPLITS, Corpus, without_test_labels
from erc_bench.errors import FULL, ErcBenchError
from erc_bench.execution.devices import Team
from erc_bench.execution.recording import forget_peak_memory, make_record, with_test
from erc_bench.execution.resources import ONE_DEVICE, Devices
from erc_bench.files import (
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
from erc_bench.records.parsing import RecordError
from erc_bench.records.place import Identity, Place
from erc_bench.records.schema import Record, Untested
from erc_bench.records.store import read_record, read_untested, write_record
from erc_bench.settings.experiment import Experiment
from erc_bench.settings.registry import corpus_source, method_class, plugin
from erc_bench.tracking.run import Tracker
from erc_bench.training.checkpoints import save_whole
from erc_bench.training.frameworks import quiet_frameworks
from erc_bench.training.scoring import Predicted
from erc_bench.training.train import Trained, train, trained_before


@dataclass(frozen=True)
class Outcome:
    """A finished run: its record and where it is."""

    record: Record | Untested
    """:class:`Untested` if test was not to be scored."""
    path: Path
    skipped: bool = False
    """Whether it was finished before and not done again."""
    elsewhere: bool = False
    """Whether another process of a run on several devices did it, and reports it."""


def run(
    experiment: Experiment,
    root: Path,
    *,
    data_dir: Path | None = None,
    restart: bool = False,
    force: bool = False,
    no_test: bool = False,
    wandb: str = "off",
    runs_at_once: int = 1,
    expected: Place | None = None,
    devices: Devices = ONE_DEVICE,
) -> Outcome:
    """Train, select on dev, score test once, and leave a record.

    A finished run is not done again. A run is finished if there is a record with the same method,
    settings, seed, corpus contents and encoder weights. An interrupted run is resumed after
    its last finished epoch.

    Args:
        experiment: what to run; its seed is set before anything is built.
        root: folder of the records and checkpoints.
        data_dir: where to look for corpora before the usual places.
        restart: start an interrupted run from the beginning. Its checkpoints are deleted when the
            first epoch of the new one has ended.
        force: repeat a finished run. The old record and its model are kept until the new record
            is written.
        no_test: leave test unscored; the method does not see its labels. The run leaves no record
            then, and no leaderboard shows it. The same call without this scores test with the
            model that was kept; a method that does not train is done again.
        wandb: how it is logged to W&B: ``online``, ``offline`` or ``off``.
        runs_at_once: how many runs of its command are done at a time, at most; for the record.
        expected: the place that the run must have, if a grid sent it.
        devices: the devices to train on.

    Raises:
        RunTakenError: another process is working on the same run.
        ErcBenchError: anything else that a user can fix.
    """
    if devices.count > 1 and not method_class(experiment.method).several_devices:
        raise ErcBenchError(
            f"{experiment.method} can't be trained on several devices as on one. Leave --devices "
            "and --nodes out; several runs of it may share the devices as a grid."
        )
    if devices.sharded and not method_class(experiment.method).shards_encoder:
        raise ErcBenchError(
            f"{experiment.method} can't share out the weights of its encoder among devices. Leave "
            "--strategy fsdp out: each device then has all weights."
        )
    if no_test and experiment.config.evaluation.oracle:
        raise ErcBenchError(
            "evaluation.oracle=true scores test after every epoch, and --no-test not at all. "
            "Leave one of them out."
        )
    team = Team(devices, _follow)
    if team.follows:
        path = team.follow()
        read = read_untested if path.parents[2].name == "untested" else read_record
        return Outcome(read(path), path, elsewhere=True)
    with team.leading():
        outcome = _run(
            experiment,
            root,
            team,
            data_dir=data_dir,
            restart=restart,
            force=force,
            no_test=no_test,
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
    no_test: bool,
    wandb: str,
    runs_at_once: int,
    expected: Place | None,
) -> Outcome:
    clock = Stopwatch()
    with quiet_frameworks():
        corpus = load_corpus(experiment.corpus, data_dir)
    identity = identify(experiment, {experiment.corpus: corpus.digest}, data_dir)
    place = Place.of(root, experiment, identity)
    if expected is not None and place != expected:
        raise ErcBenchError(
            f"The corpus, the encoder or the settings of {experiment.name} are not those with "
            f"which the grid was begun: {place.run} here, {expected.run} there. Give the command "
            "again."
        )
    if expected is None:  # else the worker has said it
        say(f"Run {place.name}, preset {experiment.preset}")
    if force and no_test and place.record.exists():
        raise ErcBenchError(
            f"{place.name} has scored test: --force --no-test would replace its record by one "
            "without. Leave one of them out, or take another --leaderboard-dir."
        )
    found = None if force else place.done(no_test=no_test)
    if found is not None and place.is_tidy():
        return Outcome(found, place.done_file, skipped=True)
    with place.locked() as held:
        if force and place.done_file.exists():
            with contextlib.suppress(RecordError, OSError):
                place.tidy_up()  # keeps newer files: an interrupted repetition is resumed
        found = None if force else place.done(no_test=no_test)
        if found is not None:
            place.tidy_up()
            return Outcome(found, place.done_file, skipped=True)
        untested = None if force else _kept(experiment, place)
        if untested is not None and team.wanted.count > 1:
            raise ErcBenchError(
                f"{place.name} is trained, and its test is scored on one device: give the command "
                "without --devices and --nodes."
            )
        if restart and place.is_interrupted():
            say(
                "Starting from the beginning. The interrupted run is kept until the first new "
                "epoch ends; to resume it, press Ctrl-C before that and leave out --restart."
            )
        try:
            with (
                writing_below(root, place.folder),
                Tracker(experiment, root, wandb) as tracker,
                quiet_frameworks(),
            ):
                remember(root, corpus_source(experiment.corpus))
                task = Task(experiment, place.folder, data_dir, restart, runs_at_once, no_test)
                made: Record | Untested
                if untested is not None:
                    made = _score_test(task, place, untested, corpus, clock, tracker)
                else:
                    made = _train_and_record(
                        task, team, place, identity, corpus, clock, tracker, held
                    )
                place.tidy_up()
                tracker.complete(made, place.done_file)
        except torch.OutOfMemoryError as error:
            raise ErcBenchError(
                f"{out_of_gpu_memory(experiment, error)} The same command resumes the run after "
                "the last finished epoch."
            ) from error
    return Outcome(made, place.done_file)


def _kept(experiment: Experiment, place: Place) -> Untested | None:
    """Return the :class:`Untested` of a run if its trained model is here; else None."""
    untested = place.untested()
    if untested is None or untested.model is None or not method_class(experiment.method).trains:
        return None
    if not (place.folder / untested.model.file).is_file():
        say(
            f"{place.name} is trained, but its model is not in {place.folder}: it is trained again."
        )
        return None
    return untested


@contextlib.contextmanager
def writing_below(root: Path, folder: Path) -> Iterator[None]:
    """Turn an OSError about a full disk, or about writing below ``root``, into an ErcBenchError.

    If the OSError names no file, the message names ``folder``.
    """
    try:
        yield
    except OSError as error:
        file = Path(error.filename or folder)
        here = file.absolute().is_relative_to(root.absolute())
        if error.errno in FULL or (error.errno in UNWRITABLE and here):
            raise cannot_write(file, error) from error
        raise


def load_corpus(dataset: str, data_dir: Path | None) -> Corpus:
    """Load a corpus that a run can be done on.

    Raises:
        ErcBenchError: it can't be loaded, has no emotion labels, or lacks a split.
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


def identify(experiment: Experiment, digests: dict[str, str], data_dir: Path | None) -> Identity:
    """The identity of a run: the contents of what it reads, which the settings do not fix.

    Args:
        experiment: the run.
        digests: digests of the corpora that were read, including the run's own. Those of further
            corpora are added.
        data_dir: where to look for corpora before the usual places.
    """
    kind = method_class(experiment.method)
    encoder = kind.encoder_identity(experiment.config)
    further = kind.further_corpora(experiment.config)
    for name in further:
        if name not in digests:
            digests[name] = corpus_source(name).load(data_dir).digest
    return Identity(
        digests[experiment.corpus],
        encoder["name"],
        encoder["digest"],
        {name: digests[name] for name in further},
    )


def build(
    experiment: Experiment, corpus: Corpus, data_dir: Path | None
) -> tuple[ErcMethod, ErcDataModule]:
    """Set the seed, then build a method and its datamodule."""
    gc.collect()  # the model of the run before this one
    forget_peak_memory()
    seed_everything(experiment.seed, workers=True, verbose=False)
    method = method_class(experiment.method)(experiment.config, corpus.labels)
    return method, ErcDataModule(corpus, method, seed=experiment.seed, data_dir=data_dir)


@dataclass(frozen=True)
class Task:
    """What every device of a run must know."""

    experiment: Experiment
    folder: Path
    data_dir: Path | None
    restart: bool
    runs_at_once: int
    no_test: bool = False


@dataclass(frozen=True)
class Done:
    """The result of a training."""

    trained: Trained
    state: Mapping[str, Tensor]
    """The weights that the method saves."""
    predictions: Mapping[str, Predicted]


def _built(task: Task, corpus: Corpus) -> tuple[ErcMethod, ErcDataModule]:
    """Build a run's method and datamodule. With ``no_test`` they don't see the labels of test."""
    seen = without_test_labels(corpus) if task.no_test else corpus
    return build(task.experiment, seen, task.data_dir)


def _follow(task: Task) -> None:
    """Do the part of a run that every device except the first does."""
    with quiet_frameworks():
        corpus = load_corpus(task.experiment.corpus, task.data_dir)
        _train(task, *_built(task, corpus))


def _train(task: Task, method: ErcMethod, data: ErcDataModule, **options: Any) -> Done:
    """Do the part of a run that all devices do together: train and predict."""
    trained = train(
        method,
        data,
        task.folder,
        restart=task.restart,
        runs_at_once=task.runs_at_once,
        **options,
    )
    state = method.saved_state()
    splits = ("dev",) if task.no_test else ("dev", "test")
    return Done(trained, state, {split: trained.predict(split) for split in splits})


def _train_and_record(
    task: Task,
    team: Team,
    place: Place,
    identity: Identity,
    corpus: Corpus,
    clock: Stopwatch,
    tracker: Tracker,
    held: Hold,
) -> Record | Untested:
    experiment = task.experiment
    with team.working(task):
        method, data = _built(task, corpus)
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
    write_record(place.record if isinstance(record, Record) else place.untested_file, record)
    return record


def _score_test(
    task: Task,
    place: Place,
    untested: Untested,
    corpus: Corpus,
    clock: Stopwatch,
    tracker: Tracker,
) -> Record:
    """Score test with the model that a trained run kept, and write the record."""
    assert untested.model is not None
    say("Trained before: test is scored with the model that was kept.")
    weights = place.folder / untested.model.file
    if sha256_of(weights) != untested.model.sha256:
        raise ErcBenchError(
            f"{weights} is damaged or another run's: its SHA-256 is not the one that "
            f"{place.untested_file} names. Train it again with --force."
        )
    method, data = build(task.experiment, corpus, task.data_dir)
    tracker.start(place.identity.encoder, resumed=False)
    trained = trained_before(method, data, weights, task.runs_at_once)
    record = with_test(untested, trained, trained.predict("test"), clock.seconds)
    write_record(place.record, record)
    return record


def out_of_gpu_memory(experiment: Experiment, error: Exception) -> str:
    """Say that the GPU has too little memory for a training, and what to do."""
    return (
        f"The GPU has too little memory for {experiment.name} "
        f"({str(error).split('. ')[0]}). Let it have the GPU alone (--jobs 1, and nothing else on "
        "it), set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True, or change the configuration: "
        "precision=bfloat16, or a smaller batch_size (with accumulate, see the method's card)."
    )
