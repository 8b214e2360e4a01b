"""Corpus → a method's examples → batches, by default of examples of similar length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from erc_bench.corpus.conversation import SPLITS, Corpus, Dialogue
from erc_bench.garbage import no_garbage_collection
from erc_bench.method import devices
from erc_bench.method.batches import Batches
from erc_bench.method.config import MethodConfig
from erc_bench.method.parts import PARTS, Parts, parts_of
from erc_bench.method.ragged import Columns, Ragged, from_arrow, join, take
from erc_bench.method.reader import Batch, Reader
from erc_bench.progress import track


class Learner(Protocol):
    """The part of a method that batches depend on."""

    @property
    def config(self) -> MethodConfig: ...

    @property
    def reader(self) -> Reader: ...

    def epoch_examples(self, data: ErcDataModule, epoch: int) -> np.ndarray | None:
        """Numbers of an epoch's training examples; None = all."""


class ErcDataModule(LightningDataModule):
    """The examples and batches of one method on one corpus.

    Attributes:
        corpus: the corpus.
        seed: the seed of the shuffling, and of the examples that a method draws.
        data_dir: folder of a method's further corpora, searched before the usual places.
        splits: those of ``train``, ``dev`` and ``test`` that the corpus has.
        columns: the examples of each split as columns, including ``dialogue`` and ``first_row``.
        gold: the label of every turn ``(rows,)``, −1 if it has none. The turns of train, dev and
            test are numbered one after another.
        ids: the utterance id of every row.
    """

    def __init__(
        self, corpus: Corpus, method: Learner, *, seed: int = 1, data_dir: Path | None = None
    ) -> None:
        super().__init__()
        self.corpus = corpus
        self.method = method
        self.seed = seed
        self.data_dir = data_dir
        self.splits = [split for split in SPLITS if split in corpus.contents]
        self.ids: list[str] = []
        self.columns: dict[str, Columns] = {}
        self._first_rows: dict[str, int] = {}
        labels: list[int] = []
        for split in self.splits:
            dialogues = corpus.dialogues(split)
            turns = [u for dialogue in dialogues for u in dialogue.utterances]
            first_row = len(self.ids)
            self._first_rows[split] = first_row
            self.ids += [u.id for u in turns]
            labels += [-1 if u.label is None else u.label for u in turns]
            columns = _examples(method.reader, dialogues, training=split == "train")
            if columns:  # a split without a label has rows, but no examples
                starts = first_row + np.cumsum([0, *map(len, dialogues)])
                columns["first_row"] = starts[np.asarray(columns["dialogue"])]
            self.columns[split] = columns
        self.gold = torch.tensor(labels)

    def add_training_dialogues(self, dialogues: Sequence[Dialogue]) -> None:
        """Add further dialogues to train on, without their labels.

        Their examples come after the corpus's own, with −1 for ``dialogue`` and no targets. They
        replace those that were added before.
        """
        unlabelled = [
            replace(d, utterances=tuple(replace(u, label=None) for u in d.utterances))
            for d in dialogues
        ]
        further = _examples(self.method.reader, unlabelled, training=True)
        nothing = np.zeros(len(further["dialogue"]), dtype=np.int64)
        no_targets = Ragged(np.empty(0, dtype=np.int64), np.append(nothing, 0))
        further |= {"targets": no_targets, "dialogue": nothing - 1, "first_row": nothing}
        train = self.columns["train"]
        own = np.flatnonzero(np.asarray(train["dialogue"]) >= 0)
        self.columns["train"] = {
            name: join(take(c, own), further[name]) for name, c in train.items()
        }

    def rows(self, split: str) -> Tensor:
        """Rows of the labelled utterances of a split, in corpus order ``(N,)``."""
        following = self.splits[self.splits.index(split) + 1 :]
        stop = self._first_rows[following[0]] if following else len(self.ids)
        rows = torch.arange(self._first_rows[split], stop)
        return rows[self.gold[rows] >= 0]

    def batch(self, columns: Columns) -> Batch:
        """Examples → the reader's batch, with ``rows`` and ``labels`` of their targets."""
        return make_batch(self.method.reader, self.gold, columns)

    def lengths(self, split: str) -> np.ndarray:
        """The cost of each example ``(examples,)``: the length of its longest column."""
        ragged = [c for c in self.columns[split].values() if isinstance(c, Ragged)]
        return np.max([c.lengths for c in ragged], axis=0)

    # --- loaders

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches of the epoch's examples, the same on every device.

        With several devices, or with micro-batches, a batch also has the parts of it that this
        device computes, under :data:`~erc_bench.method.parts.PARTS`.
        """
        epoch = self.trainer.current_epoch if self.trainer else 0
        batches = Batches(
            self.lengths("train"),
            self.method.config.batch_size,
            seed=self.seed,
            examples=self.method.epoch_examples(self, epoch),
            drop_last=self.method.config.drop_last,
            group_by_length=self.method.config.group_by_length,
        )
        batches.set_epoch(epoch)
        return self._loader("train", batches, in_parts=True)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """Dev, followed by test if the oracle gap is asked for."""
        splits = ["dev", "test"] if self.method.config.evaluation.oracle else ["dev"]
        return [self.evaluation_loader(split) for split in splits]

    def evaluation_loader(
        self, split: str, examples: np.ndarray | None = None
    ) -> DataLoader[Batch]:
        """Every example of a split (or the given ones) once, the longest first.

        Each of several devices gets a share of the batches.
        """
        size, here = self.method.config.evaluation.batch_size, devices.position()
        batches = Batches(
            self.lengths(split), size, examples=examples, process=(here.rank, here.count)
        )
        return self._loader(split, batches)

    def _loader(self, split: str, batches: Batches, *, in_parts: bool = False) -> DataLoader[Batch]:
        data = _Collated(
            self.method.reader,
            self.gold,
            self.columns[split],
            self.method.config.micro_batch if in_parts else None,
        )
        pin = torch.cuda.is_available()
        # Starting an iterator draws a number. A resumed run starts fewer, so it must not draw them
        # from the global stream.
        own = torch.Generator()
        return DataLoader(data, sampler=batches, batch_size=None, pin_memory=pin, generator=own)

    # --- passes over a split

    @torch.no_grad()
    def encode(
        self, split: str, function: Callable[[Batch], Tensor], examples: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute ``function(batch)`` ``(B, …)`` for a split, with the trained module in eval mode.

        It runs in the module's precision. Several devices share the work, and all get the same.

        Args:
            split: the split.
            function: called with batches whose examples have one target each.
            examples: numbers of the examples; None = all.

        Returns:
            The values of ``function`` in float32 and the labels ``(N,)``, in the order of
            ``examples``.
        """
        trainer = self.trainer
        assert trainer is not None
        module = trainer.lightning_module
        training = module.training
        module.eval()
        loader = self.evaluation_loader(split, examples)
        sampler = loader.sampler
        assert isinstance(sampler, Batches)
        own = sampler.own
        batches = list(sampler)[:own]
        values, labels = [], []
        with trainer.precision_plugin.forward_context():
            for batch in track(loader, f"Encoding {split}"):
                batch = trainer.strategy.batch_to_device(batch)
                values.append(function(batch).float())
                labels.append(batch["labels"])
        module.train(training)
        device = trainer.strategy.root_device
        numbers = [torch.from_numpy(batch).to(device) for batch in batches]
        order = devices.gathered_rows(numbers, device).argsort().cpu()
        if examples is not None:
            order = order[np.argsort(np.argsort(examples))]
        return (
            devices.gathered_rows(values[:own], device)[order],
            devices.gathered_rows(labels[:own], device)[order],
        )


def make_batch(reader: Reader, gold: Tensor, columns: Columns) -> Batch:
    """Examples → the reader's batch, with ``rows`` and ``labels`` of their targets."""
    targets = columns["targets"]
    assert isinstance(targets, Ragged)
    first_rows = np.asarray(columns["first_row"])
    rows = torch.from_numpy(targets.values + first_rows[targets.row_of_value])
    labels = gold[rows]
    if (labels < 0).any():
        raise RuntimeError(f"{type(reader).__name__} targets a turn without a label.")
    return {**reader.collate(columns), "rows": rows, "labels": labels}


class _Collated(Dataset[Batch]):
    """A whole batch for a list of example numbers."""

    def __init__(
        self, reader: Reader, gold: Tensor, columns: Columns, micro_batch: int | None = None
    ) -> None:
        self.reader = reader
        self.gold = gold
        self.columns = columns
        self.micro_batch = micro_batch  # None: never in parts

    def __getitem__(self, examples: np.ndarray) -> Batch:
        batch = self._whole(examples)
        if self.micro_batch is not None and (parts := parts_of(examples, self.micro_batch)):
            pieces, empty = parts
            batch[PARTS] = Parts([self._whole(piece) for piece in pieces], empty)
        return batch

    def _whole(self, examples: np.ndarray) -> Batch:
        columns = {name: take(c, examples) for name, c in self.columns.items()}
        return make_batch(self.reader, self.gold, columns)


@no_garbage_collection()  # an example consists of several lists
def _examples(reader: Reader, dialogues: Sequence[Dialogue], *, training: bool) -> dict[str, Any]:
    """The examples of some dialogues as columns; ``dialogue`` holds each one's dialogue number."""
    reader.preload(dialogues)
    values: dict[str, list[Any]] = defaultdict(list)
    for number, dialogue in enumerate(dialogues):
        for example in reader.examples(dialogue, training=training):
            values["dialogue"].append(number)
            for name, value in example.items():
                values[name].append(value)
    return {name: from_arrow(pa.array(column)) for name, column in values.items()}
