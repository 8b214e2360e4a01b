"""The W&B run of a run: config, curves, metrics, predictions, and the record itself."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from erc_bench.evaluation import NO_ANSWER
from erc_bench.progress import say
from erc_bench.records.schema import Predictions, Record, Untested, to_json
from erc_bench.settings.experiment import Experiment, flat, resolve
from erc_bench.tracking import RESULT, logged_in, reason, wandb_project, wandb_settings
from erc_bench.training.log import TrainingLog

RATE_STEPS = 10
"""Steps of the optimiser between two points of the learning rates and of the loss."""

LONGEST_TAG = 64


class Tracker:
    """The W&B run of one run. All methods do nothing in mode ``off``, or after W&B failed.

    This is a context manager. Leaving it finishes the W&B run; after an exception, with an exit
    code other than 0.

    Args:
        experiment: what is run.
        root: folder of the records. W&B's files go to its folder ``wandb``.
        mode: ``online``, ``offline`` or ``off``.
    """

    def __init__(self, experiment: Experiment, root: Path, mode: str) -> None:
        self.experiment = experiment
        self.root = root
        self.mode = mode
        self.run: Any = None

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._finish(0 if kind is None else 1)

    def start(self, encoder: str, resumed: bool) -> None:
        """Begin the W&B run; from here on there is a logger.

        Args:
            encoder: name of the encoder.
            resumed: whether the run is resumed from a checkpoint. It then has a new W&B run, which
                begins with the curves of the epochs before. What was logged after the checkpoint
                is not in it.
        """
        if self.mode == "off":
            return
        with self._unharmed("beginning a run"):
            trouble = self._start_online(encoder, resumed) if self.mode == "online" else None
            if self.run is None:
                self.run = self._init("offline", encoder, resumed)
            if trouble:
                folder = self.run.settings.sync_dir
                say(f"W&B can't be reached ({trouble}); upload this run with: wandb sync {folder}")
            for curve, axis in (
                ("train/*", "epoch"),
                ("dev/*", "epoch"),
                ("test/*", "epoch"),
                ("lr/*", "optimizer_step"),
                ("step/*", "optimizer_step"),
            ):
                self.run.define_metric(curve, step_metric=axis)

    def _start_online(self, encoder: str, resumed: bool) -> str | None:
        """Begin an online run. If that fails, return the reason."""
        if not logged_in():
            return "not logged in"
        try:
            self.run = self._init("online", encoder, resumed)
        except Exception as error:
            return reason(error)
        say(f"W&B: {self.run.url}")
        return None

    def _init(self, mode: str, encoder: str, resumed: bool) -> Any:
        import wandb

        wandb_settings()
        experiment = self.experiment
        tags = [experiment.method, experiment.dataset, Path(encoder).name, experiment.preset]
        tags += ["resumed"] * resumed + ["tuned"] * (experiment.tuned is not None)
        identity = {
            name: getattr(experiment, name)
            for name in ("method", "dataset", "preset", "seed", "hash", "overrides")
        }
        identity["variant"] = variant(experiment)
        if experiment.variant:
            identity["without"] = experiment.variant
        if experiment.tuned is not None:
            identity["tuned"] = asdict(experiment.tuned)
        return wandb.init(
            # An id of its own: in a sweep, every run would get the sweep's id.
            id=secrets.token_hex(4),
            project=wandb_project(),
            group=f"{experiment.dataset}/{experiment.method}",
            job_type="train",
            name=experiment.name,
            tags=[tag[-LONGEST_TAG:] for tag in dict.fromkeys(tags) if tag],
            config={**identity, "encoder": encoder, "settings": experiment.settings},
            dir=self.root,
            mode=mode,  # type: ignore[arg-type]
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                # The diff to the last commit may hold text of a corpus.
                disable_git=True,
                disable_code=True,
            ),
        )

    @property
    def logger(self) -> WandbLogger | bool:
        """The logger for the Trainer; False without a W&B run."""
        return _Logger(self) if self.run is not None else False

    def callbacks(self) -> list[Callback]:
        """Further callbacks for the Trainer."""
        return [_Curves(self)] if self.run is not None else []

    def log(self, values: Mapping[str, Any]) -> None:
        """Log a point of some curves. Points of epochs have an ``epoch``, counted from 1."""
        if self.run is not None:
            with self._unharmed("logging"):
                self.run.log(dict(values))

    def complete(self, record: Record | Untested, path: Path) -> None:
        """Log the results: metrics, confusion matrix, predictions, and the record's file.

        Nothing of test is logged if test was not scored.
        """
        if self.run is None:
            return
        with self._unharmed("logging the results"):
            import wandb

            if isinstance(record, Record):
                self._log_test(record)
            # Last, so that the figures of the selected epoch replace those of the last one.
            self.run.summary.update(summary(record))
            name = f"{record.dataset}-{record.method}-{path.stem}"
            artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", name), type="record")
            artifact.add_file(str(path), name=path.name)
            self.run.log_artifact(artifact)

    def _log_test(self, record: Record) -> None:
        import wandb

        labels, test = record.labels, record.predictions.test
        answered = [p for p in zip(test.gold, test.predicted, strict=True) if p[1] != NO_ANSWER]
        matrix = wandb.plot.confusion_matrix(
            y_true=[gold for gold, _ in answered],
            preds=[predicted for _, predicted in answered],
            class_names=labels,
            title="Confusion on test",
        )
        predictions = wandb.Table(
            columns=["id", "gold", "predicted", "confidence", "right"],
            data=prediction_rows(test, labels),
        )
        score = record.metrics.test.score(record.judged_by)
        result = wandb.Table(
            columns=["variant", "seed", record.judged_by.name],
            data=[[variant(self.experiment), record.seed, score]],
        )
        self.run.log({"confusion_matrix": matrix, "predictions": predictions, RESULT: result})

    def _finish(self, status: int) -> None:
        if self.run is None:
            return
        with self._unharmed("finishing a run"):
            if not self.run.offline:
                say("Uploading to W&B …")
            try:
                self.run.finish(exit_code=status)
            except TimeoutError:
                folder = self.run.settings.sync_dir
                say(f"W&B did not take in everything; upload the rest with: wandb sync {folder}")
            self.run = None

    @contextlib.contextmanager
    def _unharmed(self, doing: str) -> Iterator[None]:
        """Inside, an error of W&B is reported in one line, and the run goes on without W&B."""
        shown = logging.raiseExceptions
        logging.raiseExceptions = False  # wandb's own log may be what can't be written
        try:
            yield
        except Exception as error:  # wandb may raise any error
            say(f"W&B failed when {doing} ({reason(error)}); that does no harm to the run itself.")
            run, self.run = self.run, None
            with contextlib.suppress(Exception, SystemExit):
                _abandon(run)
        finally:
            logging.raiseExceptions = shown


def _abandon(run: Any) -> None:
    """Finish a W&B run that failed. If that is impossible, the next one gets a new service."""
    import wandb

    with contextlib.suppress(Exception):
        if run is not None:
            run.finish(exit_code=1)
            return
    if wandb.run is None:  # else this would also end a run of the program that calls us
        wandb.teardown()


class _Logger(WandbLogger):
    """Lightning's logger for a tracker's run."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__(experiment=tracker.run)
        self.tracker = tracker

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics; Lightning counts epochs from 0, records count from 1."""
        epoch = {"epoch": metrics["epoch"] + 1} if "epoch" in metrics else {}
        self.tracker.log({**metrics, **epoch, "trainer/global_step": step})


class _Curves(Callback):
    """Logs learning rates and loss by step, and for a resumed run the curves of earlier epochs.

    Lightning's own monitor is not used. If a method sets the rates, it would show those of the step
    before, and it adds the rates to what the record stores.
    """

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.step = -1
        """The last step at which a loss was logged."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (history,) = (c for c in trainer.callbacks if isinstance(c, TrainingLog))  # type: ignore[attr-defined]
        for epoch in history.curves:
            self.tracker.log(epoch)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        if trainer.global_step % RATE_STEPS == 0:
            rates = {
                f"lr/{group.get('name', number)}": group["lr"]
                for number, group in enumerate(optimizer.param_groups, 1)
            }
            self.tracker.log({**rates, "optimizer_step": trainer.global_step})

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log a batch's loss, if a step of the optimiser has followed it."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        step = trainer.global_step - 1
        if step % RATE_STEPS or step == self.step or not isinstance(loss, Tensor):
            return
        self.step = step
        # Lightning has divided it by the number of batches that a step accumulates.
        whole = float(loss.detach()) * trainer.accumulate_grad_batches
        self.tracker.log({"step/loss": whole, "optimizer_step": step})


def variant(experiment: Experiment) -> str:
    """The name by which a report compares runs.

    It has the method and its variant, the settings that differ from the preset's, the beginning of
    the settings' hash, and the number of trials if the settings are tuned. Runs have the same name
    only if all their settings are the same, however they were given.
    """
    preset = flat(resolve(experiment.method, experiment.corpus, preset=experiment.preset).settings)
    here = flat(experiment.settings)
    changed = [f"{key}={here[key]}" for key in sorted(here) if here[key] != preset.get(key)]
    tuned = [f"tuned in {experiment.tuned.trials} trials"] if experiment.tuned else []
    return " ".join([experiment.method_and_variant, *changed, f"({experiment.hash[:6]})", *tuned])


def summary(record: Record | Untested) -> dict[str, float]:
    """The figures of a record, each under a name such as ``test/weighted_f1`` or ``dev/f1/joy``."""
    figures: dict[str, float] = {}
    for split, metrics in record.metrics.items():
        figures.update(_numbers(to_json(metrics), split))
        for label, of_class in metrics.per_class.items():
            figures[f"{split}/f1/{label}"] = of_class.f1
    if record.training is not None:
        figures.update(_numbers(to_json(record.training), "training"))
    if isinstance(record, Record) and record.oracle_gap is not None:
        figures["oracle_gap"] = record.oracle_gap
    return figures


def _numbers(values: Mapping[str, Any], group: str) -> dict[str, float]:
    return {f"{group}/{k}": v for k, v in values.items() if isinstance(v, (int, float))}


def prediction_rows(predictions: Predictions, labels: list[str]) -> list[list[Any]]:
    """A row for each utterance: id, gold label, predicted label, the latter's probability, and
    whether it is right. A label or probability that is absent is None."""
    rows = predictions.probabilities or [None] * len(predictions.ids)
    return [
        [
            name,
            labels[gold],
            None if predicted == NO_ANSWER else labels[predicted],
            row and row[predicted],
            gold == predicted,
        ]
        for name, gold, predicted, row in zip(
            predictions.ids, predictions.gold, predictions.predicted, rows, strict=True
        )
    ]
