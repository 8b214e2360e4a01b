"""One training, from a method and its data to selected weights.

No other module builds a Trainer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch import Tensor

from erc_bench.encoders.fast import enabled
from erc_bench.encoders.fast.backends import set_up_backends
from erc_bench.method import devices
from erc_bench.method.contract import ErcMethod
from erc_bench.method.data import ErcDataModule
from erc_bench.progress import say
from erc_bench.records.place import LAST, UNFINISHED
from erc_bench.training.checkpoints import (
    Checkpoint,
    WholeFiles,
    load_checkpoint,
    read_checkpoint,
)
from erc_bench.training.frameworks import interruptible
from erc_bench.training.log import TrainingLog
from erc_bench.training.precision import choose_precision, trainer_precision
from erc_bench.training.scoring import Predicted, Scoring, predict
from erc_bench.training.sharding import checkpoint_layers, clip_gradients
from erc_bench.training.strategy import GatheredDDP


@dataclass(frozen=True)
class Trained:
    """A method with its selected weights, and what trained it."""

    method: ErcMethod
    data: ErcDataModule
    trainer: Trainer
    log: TrainingLog

    def predict(self, split: str) -> Predicted:
        """Return the method's answers for every labelled utterance of a split."""
        if self.method.prepared_for != self.data.corpus.digest:
            _prepare(self.method, self.data)  # it has predicted other dialogues since
        with enabled(self.method.config.speedups):
            return predict(self.trainer, self.method, self.data, split)


def train(
    method: ErcMethod,
    data: ErcDataModule,
    folder: Path,
    *,
    restart: bool = False,
    callbacks: Sequence[Callback] = (),
    logger: Any = False,
    runs_at_once: int = 1,
) -> Trained:
    """Prepare a method, fit it, load the weights of the epoch that is best on dev, and adapt it.

    An interrupted training is resumed after its last finished epoch (``last.ckpt`` in ``folder``).
    A method that does not train is only prepared.

    Args:
        method: the method; the seed must be set before it is built.
        data: its examples, with train and dev.
        folder: folder of the checkpoints.
        restart: begin with the first epoch; what an interrupted training left is deleted when that
            epoch has ended.
        callbacks: further callbacks of the Trainer.
        logger: what the Trainer logs to.
        runs_at_once: how many runs of one command are done at a time; for the record.

    Raises:
        ErcBenchError: a checkpoint can't be read, does not fit the method or can't be written.
        KeyboardInterrupt: Ctrl-C; the same call resumes the training.
    """
    set_up_backends()
    with enabled(method.config.speedups):
        return _train(method, data, folder, restart, callbacks, logger, runs_at_once)


def _train(
    method: ErcMethod,
    data: ErcDataModule,
    folder: Path,
    restart: bool,
    callbacks: Sequence[Callback],
    logger: Any,
    runs_at_once: int,
) -> Trained:
    precision = choose_precision(method.config.precision)
    if method.trains and method.config.precision == "auto":
        say(precision.sentence())
    last = folder / LAST
    checkpoint = last if method.trains and last.exists() and not restart else None
    if checkpoint is not None:
        # What a method prepares may depend on its checkpoint, such as on the vectors that it read.
        done = load_checkpoint(method, checkpoint)["epoch"] + 1
        say(
            f"Resuming after epoch {done} of {method.config.epochs} (--restart starts from the "
            "beginning)."
        )
    prepare(method, data)
    if method.config.checkpointing:
        checkpoint_layers(method)
    log = TrainingLog(data.seed, runs_at_once, data.corpus.metric, precision.measured())
    trainer = build_trainer(method, data, folder, [log, *callbacks], logger)
    if not method.trains:
        log.not_trained(trainer)
        return Trained(method, data, trainer, log)
    _fit(trainer, method, data, checkpoint)
    load_checkpoint(method, folder / Path(_selecting(trainer).best_model_path).name)
    method.to(trainer.strategy.root_device)

    def last_state() -> Mapping[str, Tensor]:
        return read_checkpoint(last)["state_dict"]

    method.adapt(data, last_state)
    return Trained(method, data, trainer, log)


def trained_before(
    method: ErcMethod, data: ErcDataModule, weights: Path, runs_at_once: int = 1
) -> Trained:
    """Return a method with the weights of a training that is over.

    Args:
        method: the method, built as for the training.
        data: its examples.
        weights: the file with the weights that the method saved.
        runs_at_once: how many runs of one command are done at a time; for the record.
    """
    set_up_backends()
    load_checkpoint(method, weights)  # what a method prepares may depend on it
    _prepare(method, data)
    load_checkpoint(method, weights)
    log = TrainingLog(data.seed, runs_at_once, data.corpus.metric)
    trainer = build_trainer(method)
    log.not_trained(trainer)
    return Trained(method, data, trainer, log)


def prepare(method: ErcMethod, data: ErcDataModule) -> None:
    """Let a method prepare itself for a corpus, before it is trained or predicts."""
    _prepare(method, data)
    if "train" in data.splits and (further := method.further_dialogues(data)):
        data.add_training_dialogues(further)


def _prepare(method: ErcMethod, data: ErcDataModule) -> None:
    method.prepare(data)
    method.prepared_for = data.corpus.digest


def build_trainer(
    method: ErcMethod,
    data: ErcDataModule | None = None,
    folder: Path | None = None,
    callbacks: Sequence[Callback] = (),
    logger: Any = False,
) -> Trainer:
    """Build the Lightning Trainer of a run. It selects on dev, and uses all joined devices.

    A method with manual optimisation accumulates and clips gradients itself. Without a folder, the
    Trainer is only for predicting.
    """
    config = method.config
    every: list[Callback] = [Scoring(data), _FreeGradients(), *callbacks]
    if folder is not None:
        monitor, mode = f"dev/{config.select_on}", "min" if config.select_on == "loss" else "max"
        options: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}
        best = Checkpoint(
            folder,
            filename="best-{epoch}",
            monitor=monitor,
            mode=mode,
            save_top_k=2,  # `last` names the previous best until it is written again
            save_weights_only=True,
            **options,
        )
        # A callback of its own, since Lightning's save_last saves only when the best is saved. It
        # comes second, so that it knows which checkpoint is the best.
        last = Checkpoint(folder, filename="last", **options)
        if config.patience:
            every.append(_Patience(monitor, mode=mode, patience=config.patience))
        every += [ClipGradients(), _DeleteEarlierAttempt(folder), best, last]
    here = devices.position()
    return Trainer(
        # Not "auto", which would take an Apple GPU: the rest of the code asks for CUDA or the CPU.
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=here.count // here.nodes,
        num_nodes=here.nodes,
        strategy=GatheredDDP(here.sharded) if here.count > 1 else "auto",
        precision=trainer_precision(config.precision),  # type: ignore[arg-type]
        max_epochs=config.epochs,
        limit_train_batches=config.max_batches or None,
        accumulate_grad_batches=config.accumulate if method.automatic_optimization else 1,
        callbacks=every,
        plugins=[WholeFiles()],
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=logger,
        enable_checkpointing=folder is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


class _FreeGradients(Callback):
    """Frees the gradients after a step. Lightning keeps them through the next forward pass.

    A method with manual optimisation frees them itself.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped = (batch_idx + 1) % pl_module.config.accumulate == 0 or trainer.is_last_batch
        if stepped and pl_module.automatic_optimization:
            for optimizer in trainer.optimizers:
                optimizer.zero_grad()


class ClipGradients(Callback):
    """Clips the gradient's norm before every step of an optimiser, automatic or manual.

    Lightning refuses to do that with a fused optimiser. In float16, gradients have been unscaled
    by then.
    """

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        bound = pl_module.config.gradient_clip
        if bound:
            if devices.position().sharded:
                clip_gradients(pl_module.parameters(), bound)
            else:
                torch.nn.utils.clip_grad_norm_(pl_module.parameters(), bound)


class _DeleteEarlierAttempt(Callback):
    """Deletes an interrupted training's checkpoints once a new training has ended its first epoch.

    The checkpoint of that epoch is written right afterwards.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.current_epoch == 0 and trainer.is_global_zero:
            for pattern in UNFINISHED:
                for stale in self.folder.glob(pattern):
                    stale.unlink()


class _Patience(EarlyStopping):
    """Early stopping that stays stopped when the run is resumed after it."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


def _selecting(trainer: Trainer) -> Checkpoint:
    """The checkpoint callback of a Trainer that selects on dev."""
    found = trainer.checkpoint_callback
    assert isinstance(found, Checkpoint)
    return found


def _fit(trainer: Trainer, method: ErcMethod, data: ErcDataModule, checkpoint: Path | None) -> None:
    # Pre-trained encoders come in eval mode, and Lightning leaves every module in its mode.
    method.train()
    with interruptible():
        trainer.fit(method, datamodule=data, ckpt_path=checkpoint, weights_only=True)
