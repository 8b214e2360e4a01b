"""Train a method on a small corpus as a run does, but without writing a record."""

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
    """Return a method with seed 1, prepared for a corpus, and its data."""
    seed_everything(1, verbose=False)
    method = kind(config, corpus.labels)
    data = ErcDataModule(corpus, method)
    prepare(method, data)
    return method, data


def fitted(
    kind: type[ErcMethod], config, corpus: Corpus, folder: Path, *callbacks: Callback
) -> Trained:
    """Train a method in a folder, from the folder's last checkpoint if there is one."""
    seed_everything(1, verbose=False)
    method = kind(config, corpus.labels)
    return train(method, ErcDataModule(corpus, method), folder, callbacks=callbacks)


def last_state(folder: Path) -> dict[str, torch.Tensor]:
    """The weights after the last epoch of a training in a folder."""
    return read_checkpoint(folder / LAST)["state_dict"]


def resumed_equals_uninterrupted(kind: type[ErcMethod], config, corpus: Corpus, folder: Path):
    """Assert that a training resumed after a power cut equals an uninterrupted one.

    The power cut is in the second epoch. Curves, last weights and predictions must be the same.
    Returns the uninterrupted and the resumed :class:`Trained`.
    """
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
    """Whether a method's predictions depend on later turns if, and only if, it declares so.

    All turns from number ``cut`` on (counted from 0) are altered. The predictions for the earlier
    turns must stay unchanged if the method declares ``past``, and change if it declares ``full``.
    """
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
