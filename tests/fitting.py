"""Train a method on a small corpus as a run does, but without its record."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning import Callback, seed_everything

from erc_bench.corpus.conversation import Corpus
from erc_bench.method.contract import ErcMethod
from erc_bench.method.datamodule import ErcDataModule
from erc_bench.settings.experiment import Experiment
from erc_bench.training.checkpoints import load_weights
from erc_bench.training.log import TrainingLog
from erc_bench.training.trainer import build_trainer, fit, predict


class PowerCut(Callback):
    """Ends a training in the middle of an epoch (counted from 0)."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("power cut")


class Fitted:
    """A method trained in a folder, with its curves, last weights and predictions.

    It goes on from the folder's ``last.ckpt`` if there is one.
    """

    def __init__(
        self, kind: type[ErcMethod], config, corpus: Corpus, folder: Path, *callbacks: Callback
    ) -> None:
        seed_everything(1, verbose=False)
        self.method = kind(config, corpus.labels)
        self.datamodule = ErcDataModule(corpus, self.method, seed=1)
        self.method.prepare(self.datamodule)
        self.log = TrainingLog(Experiment(kind.__name__, "small", "paper", 1, config))
        self.trainer = build_trainer(self.method, folder, [self.log, *callbacks])
        last = folder / "last.ckpt"
        fit(self.trainer, self.method, self.datamodule, last if last.exists() else None)
        self.last = {name: value.clone() for name, value in self.method.state_dict().items()}

    def select(self) -> None:
        """Put the weights of the epoch that is best on dev into the method."""
        load_weights(self.method, Path(self.trainer.checkpoint_callback.best_model_path))

    def predict(self, split: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows ``(N,)`` and probabilities ``(N, C)``."""
        return predict(self.trainer, self.method, self.datamodule, split)


def resumed_equals_uninterrupted(kind: type[ErcMethod], config, corpus: Corpus, folder: Path):
    """Train once in one go, once with a power cut in the second epoch; both as :class:`Fitted`."""
    import pytest

    whole = Fitted(kind, config, corpus, folder / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        Fitted(kind, config, corpus, folder / "cut", PowerCut(1))
    resumed = Fitted(kind, config, corpus, folder / "cut")
    assert resumed.log.curves == whole.log.curves
    for name, value in whole.last.items():
        assert torch.equal(value, resumed.last[name]), name
    return whole, resumed
