"""Scores of a split during the training of a method, and its answers afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from erc_bench.corpus.conversation import Metric
from erc_bench.errors import ErcBenchError
from erc_bench.evaluation.metrics import Predictions, predicted_classes, score
from erc_bench.method import devices
from erc_bench.method.contract import ErcMethod
from erc_bench.method.data import ErcDataModule
from erc_bench.training.frameworks import interruptible


class DivergedError(ErcBenchError):
    """Raised when the weights or scores of a training are not finite numbers."""


@dataclass(frozen=True)
class Predicted:
    """A method's answers for the N labelled utterances of a split, in corpus order."""

    rows: Tensor
    """Rows of the utterances in the data ``(N,)``."""
    classes: Tensor
    """``(N,)``; −1 without an answer."""
    probabilities: Tensor
    """``(N, C)``; NaN without an answer."""
    extra: dict[str, float]
    """The method's extra metrics, in percent."""


SPLITS = ("dev", "test")
"""The splits that are scored after an epoch; test is scored for the oracle gap only."""


class Scoring(Callback):
    """Gathers scores over batches and devices, and logs the corpus's metric and macro-F1.

    The corpus's metric selects the epoch, unless the loss does. Before dev is scored, the callback
    also tells the method that the training batches of the epoch are done.
    """

    def __init__(self, data: ErcDataModule | None = None) -> None:
        self.data = data
        self.predictions: dict[str, Predictions] = {}
        self.counts: dict[str, Tensor] = {}
        self.loss: Tensor | None = None

    def _begin(self, module: Any, split: str) -> None:
        """Begin with a split. This device may get no batch of it."""
        none = torch.empty(0, dtype=torch.long, device=module.device)
        self.predictions[split] = Predictions().to(module.device)
        self.predictions[split].update(none, none.new_empty(0, len(module.labels)))

    @staticmethod
    def _is_own(loader: Any, batch_idx: int) -> bool:
        """Whether a batch is scored by this device, and not repeated from another."""
        own = getattr(loader.sampler, "own", None)  # a foreign loader gives all to one device
        return own is None or batch_idx < own

    def _add(self, split: str, batch: Any, outputs: Any) -> None:
        self.predictions[split].update(batch["rows"], outputs["scores"])

    def take(self, split: str) -> tuple[Tensor, Tensor, int]:
        """Return a split's rows ``(N,)`` in corpus order and scores ``(N, C)``, and how many this
        device scored. They are removed from here."""
        gathered = self.predictions.pop(split)
        here = sum(map(len, gathered.rows))
        rows, scores = gathered.compute()
        return rows.reshape(-1), scores, here  # torchmetrics squeezes a single row

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        if self.data is not None:
            pl_module.after_epoch(self.data, trainer.current_epoch)
        for split in SPLITS[: len(trainer.val_dataloaders)]:  # type: ignore[arg-type]
            self._begin(pl_module, split)
        self.loss = torch.zeros(2, device=pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        loaders: Any = trainer.val_dataloaders
        if not self._is_own(loaders[dataloader_idx], batch_idx):
            return
        split = SPLITS[dataloader_idx]
        self._add(split, batch, outputs)
        if split == "dev" and outputs["loss"] is not None:
            size, loss = len(batch["labels"]), outputs["loss"]
            assert self.loss is not None
            self.loss = self.loss + torch.stack([loss * size, loss.new_tensor(size)])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        assert self.data is not None
        for split in list(self.predictions):
            rows, scores, _ = self.take(split)
            classes, gold = predicted_classes(scores), self.data.gold[rows]
            for metric in dict.fromkeys((self.data.corpus.metric, Metric("macro_f1"))):
                value = score(classes, gold, pl_module.labels.names, metric)
                pl_module.log(f"{split}/{metric.name}", value, add_dataloader_idx=False)
        if pl_module.config.select_on == "loss":
            assert self.loss is not None
            total, size = trainer.strategy.reduce(self.loss, reduce_op="sum")
            pl_module.log("dev/loss", total / size, add_dataloader_idx=False)

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._begin(pl_module, "predicted")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not self._is_own(trainer.test_dataloaders, batch_idx):
            return
        self._add("predicted", batch, outputs)
        for name, count in outputs["extra"].items():
            self.counts[name] = self.counts.get(name, torch.zeros_like(count)) + count


def predict(
    trainer: Trainer, method: ErcMethod, data: ErcDataModule, split: str, *, few: bool = False
) -> Predicted:
    """Return a method's answers for every labelled utterance of a split, each scored once.

    If a trained method answers nothing on a whole split, its training diverged. On ``few``
    utterances it may answer nothing.

    Raises:
        RuntimeError: an utterance is missing, doubled or unlabelled, or a method that does not
            train gives scores that are not finite numbers (a defect of the method).
        DivergedError: the training diverged: its weights or scores are not finite numbers.
    """
    scoring = next(c for c in trainer.callbacks if isinstance(c, Scoring))  # type: ignore[attr-defined]
    scoring.counts = {}
    with interruptible():
        trainer.test(method, data.evaluation_loader(split), verbose=False)
    rows, scores, here = scoring.take("predicted")
    scored = sum(devices.every(here))
    if not torch.equal(rows, data.rows(split)) or scored != len(rows):
        raise RuntimeError(
            f"{type(method).__name__} scored {scored} utterances of {split}, not exactly its "
            f"{len(data.rows(split))} labelled ones."
        )
    _check_finite(method, scores, split, few)
    counts: dict[str, Tensor] = {}
    for of_device in devices.every({name: c.cpu() for name, c in scoring.counts.items()}):
        for name, count in of_device.items():
            counts[name] = counts.get(name, torch.zeros_like(count)) + count
    extra = {
        name: 100 * float(right) / float(asked) for name, (right, asked) in counts.items() if asked
    }
    return Predicted(rows, predicted_classes(scores), scores.softmax(dim=1), extra)


def _check_finite(method: ErcMethod, scores: Tensor, split: str, few: bool) -> None:
    """Raise an error if scores are not finite numbers. A whole row of NaN means no answer."""
    without = scores.isnan().all(dim=1)
    diverged = not scores[~without].isfinite().all()
    if method.trains:
        finite = all(bool(p.isfinite().all()) for p in method.parameters())
        diverged = diverged or not finite or (bool(without.all()) and not few)
    if diverged and not method.trains:
        raise RuntimeError(
            f"{type(method).__name__} gives scores on {split} that are neither finite numbers nor "
            "a whole row of NaN, which stands for no answer."
        )
    if diverged:
        raise DivergedError(
            f"{type(method).__name__} has weights, or scores on {split}, that are not finite "
            "numbers: the training diverged. Lower the learning rates, or use precision=float32."
        )
