"""The Lightning Trainer of a run, and what is set up around it."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping

from erc_bench.encoders.fast import Speedups, enabled
from erc_bench.errors import ErcBenchError
from erc_bench.method.contract import ErcMethod
from erc_bench.method.datamodule import ErcDataModule
from erc_bench.progress import say
from erc_bench.records.store import UNFINISHED
from erc_bench.training.checkpoints import Checkpoint, WholeFiles, read_checkpoint
from erc_bench.training.precision import trainer_precision


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


def fit(
    trainer: Trainer, method: ErcMethod, datamodule: ErcDataModule, checkpoint: Path | None
) -> None:
    """Train, from a checkpoint on if one is given; Ctrl-C surfaces as KeyboardInterrupt."""
    if checkpoint is not None:
        done = read_checkpoint(checkpoint)["epoch"] + 1
        say(f"Going on after epoch {done} of {trainer.max_epochs}.")
    # Pre-trained encoders come in eval mode, and Lightning leaves every module in its mode.
    method.train()
    with enabled(Speedups()), interruptible():
        trainer.fit(method, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)


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
