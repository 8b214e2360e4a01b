"""Train a method on a small corpus as a run does, but without its record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from lightning import Callback, seed_everything

from erc_bench.corpus.conversation import Corpus, Dialogue
from erc_bench.method.contract import ErcMethod
from erc_bench.method.data import ErcDataModule
from erc_bench.records.place import LAST
from erc_bench.training.checkpoints import read_checkpoint
from erc_bench.training.scoring import predict
from erc_bench.training.train import Trained, prepare, train


class PowerCut(Callback):
    """Ends a training in the middle of an epoch (counted from 0)."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("power cut")


def built(kind: type[ErcMethod], config, corpus: Corpus) -> tuple[ErcMethod, ErcDataModule]:
    """A method from seed 1, prepared for a corpus, and its data."""
    seed_everything(1, verbose=False)
    method = kind(config, corpus.labels)
    data = ErcDataModule(corpus, method)
    prepare(method, data)
    return method, data


def fitted(
    kind: type[ErcMethod], config, corpus: Corpus, folder: Path, *callbacks: Callback
) -> Trained:
    """A method trained in a folder; it goes on from the folder's last checkpoint, if any."""
    seed_everything(1, verbose=False)
    method = kind(config, corpus.labels)
    return train(method, ErcDataModule(corpus, method), folder, callbacks=callbacks)


def last_state(folder: Path) -> dict[str, torch.Tensor]:
    """The weights after the last epoch of a training in a folder."""
    return read_checkpoint(folder / LAST)["state_dict"]


def resumed_equals_uninterrupted(kind: type[ErcMethod], config, corpus: Corpus, folder: Path):
    """Train once in one go, once with a power cut in the second epoch: curves, last weights and
    predictions are the same; both as :class:`Trained`."""
    import pytest

    whole = fitted(kind, config, corpus, folder / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        fitted(kind, config, corpus, folder / "cut", PowerCut(1))
    resumed = fitted(kind, config, corpus, folder / "cut")
    assert resumed.log.curves == whole.log.curves
    again = last_state(folder / "cut")
    for name, value in last_state(folder / "whole").items():
        assert torch.equal(value, again[name]), name
    assert torch.equal(whole.predict("test").probabilities, resumed.predict("test").probabilities)
    return whole, resumed


def predicted_on(trained: Trained, corpus: Corpus) -> dict[str, torch.Tensor]:
    """Probabilities ``(C,)`` by utterance id on the test split of another corpus."""
    method = trained.method
    data = ErcDataModule(corpus, method)
    prepare(method, data)
    found = predict(trained.trainer, method, data, "test")
    ids = [data.ids[row] for row in found.rows]
    return dict(zip(ids, found.probabilities, strict=True))


def declared_context_holds(trained: Trained, dialogue: Dialogue, cut: int) -> bool:
    """Whether altering all turns from the ``cut``-th on (counted from 0) leaves the predictions for
    the earlier ones unchanged exactly where the method declares ``past``."""
    altered = Dialogue(
        dialogue.id,
        tuple(
            u
            if i < cut
            else replace(u, text="Leave me alone! I hate it.", speaker="Zoe", name="Zoe", label=0)
            for i, u in enumerate(dialogue.utterances)
        ),
    )
    before, after = (
        predicted_on(trained, Corpus.build("demo", trained.method.labels, {"test": [d]}))
        for d in (dialogue, altered)
    )
    early = [u.id for u in dialogue.utterances[:cut] if u.label is not None]
    assert len(early) > 1
    unchanged = all(torch.allclose(before[i], after[i], atol=1e-6) for i in early)
    return unchanged == (trained.method.context == "past")
