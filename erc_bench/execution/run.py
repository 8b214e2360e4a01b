"""One run from configuration to record."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from lightning import seed_everything

from erc_bench.corpus.conversation import SPLITS
from erc_bench.errors import ErcBenchError
from erc_bench.execution.recording import forget_peak_memory, make_record
from erc_bench.method.datamodule import ErcDataModule
from erc_bench.progress import Stopwatch, say
from erc_bench.records.schema import Record
from erc_bench.records.store import (
    NEW_MODEL,
    UNWRITABLE,
    cannot_write,
    finished,
    leftovers,
    record_path,
    run_folder,
    write_record,
)
from erc_bench.settings.experiment import Experiment
from erc_bench.settings.registry import corpus_source, method_class
from erc_bench.tracking.run import Tracker
from erc_bench.training.checkpoints import (
    load_weights,
    save_whole,
    selecting_checkpoint,
)
from erc_bench.training.log import TrainingLog
from erc_bench.training.trainer import (
    build_trainer,
    fit,
    predict,
    quiet_frameworks,
    set_up_backends,
)


class RunTakenError(ErcBenchError):
    """Another process is at the same run."""


@dataclass(frozen=True)
class Outcome:
    """A finished run: its record and where it is."""

    record: Record
    path: Path
    skipped: bool = False
    """It was finished before and not done again."""


def run(
    experiment: Experiment,
    root: Path,
    *,
    data_dir: Path | None = None,
    resume: bool = False,
    force: bool = False,
    wandb: str = "off",
    at_once: int = 1,
) -> Outcome:
    """Train, select on dev, score test once, and leave a record.

    A run that has its record is not done again.

    Args:
        experiment: what to run; its seed is set before anything is built.
        root: folder of the records and checkpoints.
        data_dir: where the corpora are, before the usual places.
        resume: go on from the last finished epoch of an unfinished run, if there is one. Without
            it, such a run is given up when the first epoch of this one has ended.
        force: do it again though it is finished; the old record and its model stand until the new
            record is done.
        wandb: how it is logged to W&B: ``online``, ``offline`` or ``off``.
        at_once: how many runs of its command are done at a time, at most; for the record.

    Raises:
        RunTakenError: another process is at the same run.
        ErcBenchError: whatever else a user can mend.
    """
    clock = Stopwatch()
    path, folder = record_path(root, experiment), run_folder(root, experiment)
    record = None if force else finished(root, experiment)
    if record is not None and not _is_untidy(root, experiment):
        return Outcome(record, path, skipped=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        # A grid that looks whether somebody is at this run holds the lock for less than that.
        with FileLock(folder / "lock").acquire(timeout=0.2, poll_interval=0.02):
            record = None if force else finished(root, experiment)
            if record is not None:
                _tidy_up(root, experiment)
                return Outcome(record, path, skipped=True)
            if not resume and (folder / "last.ckpt").exists():
                say(
                    "An unfinished run is started anew. Until an epoch has ended, Ctrl-C and the "
                    "same command with --resume go on with it instead."
                )
            with Tracker(experiment, root, wandb) as tracker:
                record = _run(experiment, folder, data_dir, resume, clock, tracker, at_once)
                # The record first: killed between the two, the next tidying up renames the model.
                write_record(path, record)
                (folder / NEW_MODEL).replace(folder / "model.ckpt")
                _tidy_up(root, experiment)
                tracker.complete(record, path)
    except Timeout:
        raise RunTakenError(f"Another process is at the run {experiment.name}.") from None
    except torch.OutOfMemoryError as error:
        raise ErcBenchError(
            f"The memory of the GPU does not suffice for {experiment.name} "
            f"({str(error).split('. ')[0]}). Let it have the GPU alone (--jobs 1, and nothing "
            "else on it), set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True, or take "
            "precision=bfloat16 or a smaller batch_size (with accumulate, see the method's card): "
            "another configuration. The same command with --resume goes on from the last epoch."
        ) from error
    except OSError as error:
        if error.errno in UNWRITABLE:
            raise cannot_write(Path(error.filename or folder), error) from error
        raise
    return Outcome(record, path)


def _is_untidy(root: Path, experiment: Experiment) -> bool:
    """Whether something is left to do in the folder of a finished run, which may be read-only."""
    try:
        return bool(leftovers(root, experiment))
    except OSError:  # somebody else is at it
        return True


def _tidy_up(root: Path, experiment: Experiment) -> None:
    for leftover in leftovers(root, experiment):
        if leftover.name == NEW_MODEL:
            leftover.replace(leftover.with_name("model.ckpt"))
        else:
            leftover.unlink(missing_ok=True)


def _run(
    experiment: Experiment,
    folder: Path,
    data_dir: Path | None,
    resume: bool,
    clock: Stopwatch,
    tracker: Tracker,
    at_once: int,
) -> Record:
    last = folder / "last.ckpt"
    config = experiment.config
    gc.collect()  # the model of a run before this one
    forget_peak_memory()
    set_up_backends()
    with quiet_frameworks():
        seed_everything(experiment.seed, workers=True, verbose=False)
        corpus = corpus_source(experiment.dataset).load(data_dir)
        if not corpus.labels:
            raise ErcBenchError(
                f"{corpus.name} has no emotion labels, so nothing can be trained or scored on it; "
                "it is there for methods that learn from further dialogues beside a corpus's own "
                "(a setting such as extra_corpus). Choose another --dataset."
            )
        missing = [split for split in SPLITS if split not in corpus.splits]
        if missing:
            raise ErcBenchError(
                f"{corpus.name} has no split {' and no '.join(missing)}: a run trains on train, "
                "selects on dev and scores test. Its source has to give all three."
            )
        method = method_class(experiment.method)(config, corpus.labels)
        datamodule = ErcDataModule(corpus, method, experiment.seed, data_dir)
        method.prepare(datamodule)
        log = TrainingLog(experiment, at_once)
        resumed = resume and last.exists()
        tracker.start(method.encoder_identity()["name"], resumed)
        trainer = build_trainer(method, folder, [log, *tracker.callbacks(log)], tracker.logger)
        fit(trainer, method, datamodule, last if resumed else None)
        load_weights(method, folder / Path(selecting_checkpoint(trainer).best_model_path).name)
        method.to(trainer.strategy.root_device)
        method.adapt(datamodule, last)
        new_model = folder / NEW_MODEL
        save_whole({"state_dict": method.state_dict()}, new_model)
        try:
            predictions = {
                split: predict(trainer, method, datamodule, split) for split in ("dev", "test")
            }
            seconds = clock.seconds + log.earlier_seconds
            return make_record(experiment, method, datamodule, trainer, log, predictions, seconds)
        except BaseException:
            # A record written later, by a rescoring say, is not this model's.
            new_model.unlink(missing_ok=True)
            raise
