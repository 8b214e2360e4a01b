"""One run from configuration to record."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, EarlyStopping

from erc_bench.checkpoints import (
    Checkpoint,
    WholeFiles,
    load_weights,
    read_checkpoint,
    save_whole,
    selecting_checkpoint,
)
from erc_bench.config import Experiment
from erc_bench.conversation import SPLITS
from erc_bench.datamodule import ErcDataModule
from erc_bench.dropout import draw_masks_fast
from erc_bench.environment import processor
from erc_bench.errors import ErcBenchError
from erc_bench.method import ErcMethod
from erc_bench.progress import Stopwatch, say
from erc_bench.recording import forget_peak_memory, make_record
from erc_bench.records import (
    NEW_MODEL,
    UNFINISHED,
    UNWRITABLE,
    cannot_write,
    finished,
    leftovers,
    record_path,
    run_folder,
    write_record,
)
from erc_bench.registry import corpus_source, method_class
from erc_bench.tracking.run import Tracker
from erc_bench.training_log import TrainingLog


class RunTakenError(ErcBenchError):
    """Another process is at the same run."""


@dataclass(frozen=True)
class Outcome:
    """A finished run: its record and where it is."""

    record: dict[str, Any]
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
) -> dict[str, Any]:
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
            record = make_record(experiment, method, datamodule, trainer, log, predictions)
        except BaseException:
            # A record written later, by a rescoring say, is not this model's.
            new_model.unlink(missing_ok=True)
            raise
        record["training"]["wall_seconds"] = round(clock.seconds + log.earlier_seconds, 1)
        return record


def build_trainer(
    method: ErcMethod, folder: Path, callbacks: list[Any], logger: Any = False
) -> Trainer:
    """The Lightning Trainer of a run: one device, dev-selected checkpoints, epoch-end resumption.

    Checkpoints that lie in the folder are deleted when a training from the start has an epoch.
    A method with manual optimisation accumulates and clips by itself.
    """
    config = method.config
    monitor, mode = f"dev/{config.select_on}", "min" if config.select_on == "loss" else "max"
    options: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    best = Checkpoint(
        folder,
        filename="best-{epoch}",
        monitor=monitor,
        mode=mode,
        save_top_k=2,  # the one before is what `last` names until it has been written itself
        save_weights_only=True,
        **options,
    )
    # A checkpoint of its own: Lightning's save_last saves only when the best is saved. It comes
    # second, so that it knows which the best is.
    last = Checkpoint(folder, filename="last", **options)
    if config.patience:
        callbacks = [*callbacks, _Patience(monitor, mode=mode, patience=config.patience)]
    return Trainer(
        # Not "auto", which would take an Apple GPU: all else here asks for CUDA or the CPU.
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=1,
        precision=trainer_precision(config.precision),  # type: ignore[arg-type]
        max_epochs=config.epochs,
        limit_train_batches=config.max_batches or None,
        accumulate_grad_batches=config.accumulate if method.automatic_optimization else 1,
        gradient_clip_val=(config.gradient_clip or None) if method.automatic_optimization else None,
        callbacks=[*callbacks, _Anew(folder), best, last],
        plugins=[WholeFiles()],
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


class _Anew(Callback):
    """Deletes what an unfinished run has left, when another has an epoch of its own.

    That epoch's checkpoint is written right after it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.current_epoch == 0:
            for pattern in UNFINISHED:
                for stale in self.folder.glob(pattern):
                    stale.unlink()


class _Patience(EarlyStopping):
    """Early stopping that stays stopped when the run is resumed after it."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


def trainer_precision(wanted: str) -> str:
    """Lightning's name for a precision; ``auto`` is what this hardware does well."""
    names = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}
    if wanted != "auto":
        return names[wanted]
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return names["bfloat16" if native else "float16"]
    features = processor()
    native = features.get("avx512_bf16") or features.get("amx_bf16")
    return names["bfloat16" if native else "float32"]


def fit(
    trainer: Trainer, method: ErcMethod, datamodule: ErcDataModule, checkpoint: Path | None
) -> None:
    """Train, from a checkpoint on if one is given; Ctrl-C surfaces as KeyboardInterrupt."""
    if checkpoint is not None:
        done = read_checkpoint(checkpoint)["epoch"] + 1
        say(f"Going on after epoch {done} of {trainer.max_epochs}.")
    # Pre-trained encoders come in eval mode, and Lightning leaves every module in its mode.
    method.train()
    draw_masks_fast()
    if not torch.cuda.is_available():
        # Attention that has dropout, which a CPU computes step by step, stays in autocast's type.
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    with interruptible():
        trainer.fit(method, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)


def set_up_backends() -> None:
    """What holds for all that is computed, before anything is.

    oneDNN keeps the kernels of 1024 shapes, of which in bfloat16 every length of a batch makes
    some; here those of 64, if the environment does not say. What is in float32 is in float32:
    cuDNN would multiply in TF32 inside recurrent layers. Nor does cuDNN do the attention, which
    PyTorch leaves to it on an H100: it plans anew for every shape of a batch, and its gradients
    can be NaN with a mask of padding (pytorch/pytorch#196678).
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.enable_cudnn_sdp(False)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Lightning turns Ctrl-C into an exit; here it stays a KeyboardInterrupt."""
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None


def predict(
    trainer: Trainer, method: ErcMethod, datamodule: ErcDataModule, split: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the labelled utterances of a split ``(N,)`` and probabilities ``(N, C)``.

    Raises:
        RuntimeError: an utterance is missing, doubled or unlabelled (a defect of the method).
    """
    datamodule.tested = split
    with interruptible():
        trainer.test(method, datamodule=datamodule, verbose=False)
    here = sum(map(len, method.predictions[split].rows))
    scored = int(trainer.strategy.reduce(torch.tensor(here), reduce_op="sum"))
    rows, scores = method.take_predictions(split)
    if not torch.equal(rows, datamodule.rows(split)) or scored != len(rows):
        raise RuntimeError(
            f"{type(method).__name__} scored {scored} utterances of {split}, not exactly its "
            f"{len(datamodule.rows(split))} labelled ones."
        )
    if not scores.isfinite().all():
        raise ErcBenchError(
            f"{type(method).__name__} gives scores on {split} that are no numbers: the training "
            "diverged. Lower the learning rates, or use precision=float32."
        )
    return rows, scores.softmax(dim=1)


@contextlib.contextmanager
def quiet_frameworks() -> Iterator[None]:
    """Keep the frameworks' banners, tips and bars out of the output."""
    import datasets
    import transformers

    loggers = [logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    verbosity = transformers.logging.get_verbosity()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        datasets.disable_progress_bars()
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", module="torch")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        datasets.enable_progress_bars()
        transformers.logging.set_verbosity(verbosity)
        transformers.logging.enable_progress_bar()
