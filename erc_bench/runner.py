"""One run from configuration to record."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import platform
import re
import resource
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from erc_bench.config import Experiment
from erc_bench.conversation import Corpus
from erc_bench.datamodule import ErcDataModule
from erc_bench.dropout import draw_masks_fast
from erc_bench.errors import ErcBenchError
from erc_bench.evaluation import evaluate
from erc_bench.method import ErcMethod
from erc_bench.progress import Stopwatch, say
from erc_bench.records import (
    SCHEMA,
    UNWRITABLE,
    cannot_write,
    finished,
    record_path,
    run_folder,
    write_record,
)
from erc_bench.registry import corpus_source, method_class
from erc_bench.slices import recorded_facts
from erc_bench.training_log import TrainingLog

PACKAGES = ("erc-bench", "torch", "lightning", "transformers", "torchmetrics", "datasets")


@dataclass(frozen=True)
class Outcome:
    """A finished run: its record and where it is."""

    record: dict[str, Any]
    path: Path
    seconds: float
    skipped: bool = False
    """It was finished before and not done again."""


def run(
    experiment: Experiment,
    root: Path,
    *,
    data_dir: Path | None = None,
    resume: bool = False,
    force: bool = False,
) -> Outcome:
    """Train, select on dev, score test once, and leave a record.

    A run that has its record is not done again.

    Args:
        experiment: what to run; its seed is set before anything is built.
        root: folder of the records and checkpoints.
        data_dir: where the corpora are, before the usual places.
        resume: go on from the last finished epoch of an unfinished run, if there is one.
        force: do it again though it is finished; the old record stands until the new one is done.

    Raises:
        ErcBenchError: whatever a user can mend, among it another process that is at the same run.
    """
    clock = Stopwatch()
    path, folder = record_path(root, experiment), run_folder(root, experiment)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock").acquire(timeout=0):
            record = None if force else finished(root, experiment)
            if record is not None:
                return Outcome(record, path, clock.seconds, skipped=True)
            if not resume and (folder / "last.ckpt").exists():
                say("An unfinished run is started anew; --resume would go on with it.")
            record = _run(experiment, folder, data_dir, resume, clock)
            write_record(path, record)
            for leftover in (*folder.glob("best-*.ckpt"), folder / "last.ckpt"):
                leftover.unlink(missing_ok=True)
    except Timeout:
        raise ErcBenchError(f"Another process is at the run {experiment.name}.") from None
    except OSError as error:
        if error.errno in UNWRITABLE:
            raise cannot_write(Path(error.filename or folder), error) from error
        raise
    return Outcome(record, path, clock.seconds)


def _run(
    experiment: Experiment, folder: Path, data_dir: Path | None, resume: bool, clock: Stopwatch
) -> dict[str, Any]:
    last = folder / "last.ckpt"
    config = experiment.config
    gc.collect()  # the model of a run before this one
    forget_peak_memory()
    with quiet_frameworks():
        seed_everything(experiment.seed, workers=True, verbose=False)
        corpus = corpus_source(experiment.dataset).load(data_dir)
        method = method_class(experiment.method)(config, corpus.labels)
        datamodule = ErcDataModule(corpus, method, experiment.seed, data_dir)
        method.prepare(datamodule)
        log = TrainingLog(experiment)
        trainer = build_trainer(method, folder, [log])
        if not resume:
            # Only now that all else is there: what is not resumed is still of use until then.
            for checkpoint in (*folder.glob("best-*.ckpt"), last):
                checkpoint.unlink(missing_ok=True)
        fit(trainer, method, datamodule, last if resume and last.exists() else None)
        load_weights(method, folder / Path(_checkpoint(trainer).best_model_path).name)
        method.to(trainer.strategy.root_device)
        method.adapt(datamodule, last)
        save_whole({"state_dict": method.state_dict()}, folder / "model.ckpt")
        predictions = {
            split: predict(trainer, method, datamodule, split) for split in ("dev", "test")
        }
        record = _record(experiment, corpus, method, datamodule, trainer, log, predictions)
        record["training"]["wall_seconds"] = round(clock.seconds + log.earlier_seconds, 1)
        return record


def build_trainer(method: ErcMethod, folder: Path, callbacks: list[Any]) -> Trainer:
    """The Lightning Trainer of a run: one device, dev-selected checkpoints, epoch-end resumption.

    A method with manual optimisation accumulates and clips by itself.
    """
    config = method.config
    monitor, mode = f"dev/{config.select_on}", "min" if config.select_on == "loss" else "max"
    options: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    best = _Checkpoint(
        folder,
        filename="best-{epoch}",
        monitor=monitor,
        mode=mode,
        save_weights_only=True,
        **options,
    )
    # A checkpoint of its own: Lightning's save_last saves only when the best is saved. It comes
    # second, so that it knows which the best is.
    last = _Checkpoint(folder, filename="last", **options)
    if config.patience:
        callbacks = [*callbacks, _Patience(monitor, mode=mode, patience=config.patience)]
    return Trainer(
        accelerator="auto",
        devices=1,
        precision=trainer_precision(config.precision),  # type: ignore[arg-type]
        max_epochs=config.epochs,
        limit_train_batches=config.max_batches or None,
        accumulate_grad_batches=config.accumulate if method.automatic_optimization else 1,
        gradient_clip_val=(config.gradient_clip or None) if method.automatic_optimization else None,
        callbacks=[*callbacks, best, last],
        plugins=[_WholeFiles()],
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


class _Checkpoint(ModelCheckpoint):
    """A checkpoint that knows its files again when the folder was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        moved = {key: here(value) for key, value in state_dict.items() if key.endswith("_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        held = {**state_dict, **moved, "dirpath": self.dirpath, "best_k_models": best}
        super().load_state_dict(held)


class _WholeFiles(TorchCheckpointIO):
    """Checkpoints that are there whole or not at all, on whatever disk they lie."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        save_whole(checkpoint, Path(path))


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
        return names["bfloat16" if torch.cuda.is_bf16_supported() else "float16"]
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    native = features.get("avx512_bf16") or features.get("amx_bf16")
    return names["bfloat16" if native else "float32"]


def _checkpoint(trainer: Trainer) -> ModelCheckpoint:
    found = trainer.checkpoint_callback
    assert isinstance(found, ModelCheckpoint)
    return found


def fit(
    trainer: Trainer, method: ErcMethod, datamodule: ErcDataModule, checkpoint: Path | None
) -> None:
    """Train, from a checkpoint on if one is given; Ctrl-C surfaces as KeyboardInterrupt."""
    if checkpoint is not None:
        read_checkpoint(checkpoint)
    # Pre-trained encoders come in eval mode, and Lightning leaves every module in its mode.
    method.train()
    draw_masks_fast()
    with interruptible():
        trainer.fit(method, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Lightning turns Ctrl-C into an exit; here it stays a KeyboardInterrupt."""
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of ours; a file that is none is an error that says what to do."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything from KeyError to UnpicklingError here
        raise ErcBenchError(
            f"The checkpoint {path} can't be read ({str(error).splitlines()[0]}). Delete it, or "
            "run without --resume to start anew."
        ) from error


def load_weights(method: ErcMethod, path: Path) -> None:
    """Put the weights of a checkpoint into a method."""
    weights = read_checkpoint(path)["state_dict"]
    for name, buffer in method.named_buffers():
        # Stage-2 buffers are empty until they are learnt.
        if name in weights and buffer.shape != weights[name].shape:
            buffer.resize_(weights[name].shape)
    method.load_state_dict(weights)


def save_whole(checkpoint: Any, path: Path) -> None:
    """Save a checkpoint so that it is there whole or not at all.

    Raises:
        ErcBenchError: there is no room for it; nothing is left behind.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
        temporary.replace(path)
    except RuntimeError as error:  # how torch reports a write that failed
        reason = str(error).splitlines()[0]
        raise cannot_write(path, OSError(errno.ENOSPC, reason)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


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
    scored = sum(map(len, method.predictions[split].rows))
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


def _record(
    experiment: Experiment,
    corpus: Corpus,
    method: ErcMethod,
    datamodule: ErcDataModule,
    trainer: Trainer,
    log: TrainingLog,
    predictions: dict[str, tuple[torch.Tensor, torch.Tensor]],
) -> dict[str, Any]:
    metrics, stored = {}, {}
    for split, (rows, probabilities) in predictions.items():
        gold, predicted = datamodule.gold[rows], probabilities.argmax(dim=1)
        rounded = [[round(p, 4) for p in each] for each in probabilities.tolist()]
        metrics[split] = {
            # Of what is stored, so that the metrics can be recomputed from the record.
            **evaluate(predicted, gold, corpus.labels.names, torch.tensor(rounded)),
            **method.extra_metrics(datamodule, split),
        }
        stored[split] = {
            "ids": [datamodule.ids[row] for row in rows],
            "gold": gold.tolist(),
            "predicted": predicted.tolist(),
            "probabilities": rounded,
            **recorded_facts(corpus, split),
        }
    best = log.best_epoch(_checkpoint(trainer))
    record = {
        "schema": SCHEMA,
        "method": experiment.method,
        "dataset": experiment.dataset,
        "dataset_digest": corpus.digest,
        "labels": list(corpus.labels.names),
        "preset": experiment.preset,
        "overrides": list(experiment.overrides),
        "seed": experiment.seed,
        "config": experiment.settings,
        "config_hash": experiment.hash,
        "context": method.context,
        "selection": f"dev {experiment.config.select_on}",
        "encoder": method.encoder_identity(),
        "metrics": metrics,
        "training": {
            **log.figures(best),
            "parameters": sum(p.numel() for p in method.parameters()),
            "peak_memory_mib": peak_memory_mib(),
        },
        "environment": environment(trainer),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "predictions": stored,
    }
    if experiment.config.evaluation.oracle:
        record["oracle_gap"] = log.oracle_gap(best)
    return record


def peak_memory_mib() -> float:
    """Peak memory in MiB: allocated on the GPU, else resident in this process."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return round(int(found[1]) / 1024, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def forget_peak_memory() -> None:
    """Count peak memory from here on: a run's figure is not that of the run before it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def environment(trainer: Trainer) -> dict[str, Any]:
    """Versions, commit and device of a run."""
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        device = f"CPU {features.get('cpu_name') or platform.machine()}"
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "precision": str(trainer.precision),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty"]
    git = shutil.which("git")
    if git is None or not (here.parent / ".git").exists():
        return None
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


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
