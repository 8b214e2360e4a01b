"""The log of a training: its curves, its speed, and the progress that the user sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from erc_bench.corpus.conversation import Metric
from erc_bench.progress import Stopwatch, bar, duration, say
from erc_bench.training.environment import environment, is_large, joined, small_hint
from erc_bench.training.scoring import DivergedError

PROBE_STEPS = 8
"""Steps after which the duration of an epoch is estimated. The first step is not timed."""


class TrainingLog(Callback):
    """Keeps the curves, seeds each epoch, and shows progress.

    The seed of an epoch comes from the run's seed and the epoch's number, so that a resumed run
    draws the same random numbers as an uninterrupted one. The checkpoint holds the curves, and the
    environments of the epochs so far.
    """

    def __init__(
        self,
        seed: int,
        runs_at_once: int = 1,
        metric: Metric = Metric(),
        measured: Mapping[str, float] | None = None,
    ) -> None:
        self.seed = seed
        self.metric = metric
        self.runs_at_once = runs_at_once
        self.measured = dict(measured or {})
        """Measurements of the processor, for the record."""
        self.environments: list[dict[str, Any]] = []
        self.curves: list[dict[str, float]] = []
        self.seconds = 0.0
        self.earlier_seconds = 0.0
        self.utterances = 0
        self.validation_seconds = 0.0
        self.bar = bar()

    def state_dict(self) -> dict[str, Any]:
        return {
            "curves": self.curves,
            "seconds": self.seconds,
            "validation_seconds": self.validation_seconds,
            "utterances": self.utterances,
            "environments": self.environments,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.environments = [{}]  # for a checkpoint without them
        self.__dict__.update(state_dict)
        self.earlier_seconds = self.seconds

    # --- what the record stores ---

    @property
    def environment(self) -> dict[str, Any]:
        """The environment of the training. A run resumed elsewhere has all of them, in order."""
        return joined(self.environments)

    def best_epoch(self, select_on: str) -> int:
        """The selected epoch, counted from 0.

        Raises:
            DivergedError: no epoch has a figure to select by.
        """
        values = [epoch[f"dev/{select_on}"] for epoch in self.curves]
        if np.isnan(values).all():
            raise DivergedError(
                f"The {select_on} on dev is not a number in any epoch, so none can be selected: "
                "the training diverged. Lower the learning rates, or use precision=float32."
            )
        return int(np.nanargmin(values) if select_on == "loss" else np.nanargmax(values))

    def not_trained(self, trainer: Trainer) -> None:
        """Note the environment of a method that does not train."""
        self.environments = [self._environment(trainer)]

    def _environment(self, trainer: Trainer) -> dict[str, Any]:
        return {**environment(trainer, self.runs_at_once), **self.measured}

    def figures(self, select_on: str) -> dict[str, Any]:
        """Epochs, time, speed and curves of the training; empty without a training."""
        if not self.curves:
            return {}
        training = self.seconds - self.validation_seconds
        return {
            "epochs": len(self.curves),
            "best_epoch": self.best_epoch(select_on) + 1,
            "fit_seconds": round(self.seconds, 1),
            "utterances_per_second": round(self.utterances / max(training, 1e-9), 1),
            "curves": [
                {k: v if np.isfinite(v) else None for k, v in e.items()} for e in self.curves
            ],
        }

    def oracle_gap(self, select_on: str) -> float:
        """The best figure on test over all epochs minus that of the selected epoch."""
        values = [epoch[f"test/{self.metric.name}"] for epoch in self.curves]
        return max(values) - values[self.best_epoch(select_on)]

    # --- hooks ---

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.environments = [*self.environments, self._environment(trainer)]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch
        drawn = np.random.SeedSequence((self.seed, epoch)).generate_state(1)
        seed_everything(int(drawn[0]), verbose=False)
        self.epoch = Stopwatch()
        self.epoch_utterances = 0
        batches = int(trainer.num_training_batches)
        if epoch == 0 or not self.bar.tasks:
            self.bar.start()
            self.task = self.bar.add_task("", total=batches)
        label = f"Epoch {epoch + 1}/{trainer.max_epochs}"
        self.bar.reset(self.task, description=label, total=batches)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self.epoch_utterances += len(batch["labels"])
        self.bar.advance(self.task)
        if batch_idx == 0:
            self.first = Stopwatch()
        elif batch_idx + 1 == PROBE_STEPS and not self.curves:
            step = self.first.seconds / (PROBE_STEPS - 1)
            epochs = trainer.max_epochs or 1
            self._estimate(step * int(trainer.num_training_batches), epochs, pl_module)

    def _estimate(self, seconds: float, epochs: int, method: LightningModule) -> None:
        """Say how long the steps of an epoch will take, if that is long."""
        slow = is_large(method) and not torch.cuda.is_available()
        if seconds > 60 or slow:
            hint = small_hint(method) if slow else ""
            total = duration(seconds * epochs)
            say(
                f"The training steps of an epoch will take about {duration(seconds)}, of all "
                f"epochs {total}{hint}."
            )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not in on_validation_start: a method may do work there that belongs to its training.
        self.validation = Stopwatch()
        if self.bar.tasks:
            self.bar.update(self.task, description="Scoring dev")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation_seconds += self.validation.seconds

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds += self.epoch.seconds
        self.utterances += self.epoch_utterances
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if "/" in k}
        self.curves.append({"epoch": trainer.current_epoch + 1, **values})
        on_dev = [epoch[f"dev/{self.metric.name}"] for epoch in self.curves]
        say(
            f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  "
            f"loss {values['train/loss']:.4f}  dev {self.metric.title} {on_dev[-1]:.2f} "
            f"(best {max(on_dev):.2f})  {duration(self.epoch.seconds)}"
        )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.bar.stop()
