"""Corpus → a method's examples → length-bucketed batches."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from erc_bench.corpus import conversation
from erc_bench.corpus.conversation import SPLITS, Corpus, dialogue_from_row
from erc_bench.corpus.source import cache_folder
from erc_bench.encoders import loading as encoders
from erc_bench.encoders.loading import tokenizer_digest
from erc_bench.method.ragged import Columns, Ragged, from_arrow, take

if TYPE_CHECKING:
    import datasets

    from erc_bench.method.contract import Batch, ErcMethod

POOL = 32
"""Batches that are sorted by length together; the more, the less padding and the less shuffled."""


class Batches(Sampler[np.ndarray]):
    """Batches of example indices, of similar length each.

    In training the examples are shuffled, sorted by length within pools of ``POOL`` batches and
    cut; the batches are then shuffled. Otherwise the longest come first. Every process of
    several takes its share of the batches.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        *,
        seed: int | None = None,
        examples: np.ndarray | None = None,
        drop_last: bool = False,
        bucketed: bool = True,
        process: tuple[int, int] = (0, 1),
    ) -> None:
        self.lengths = lengths
        self.examples = np.arange(len(lengths)) if examples is None else np.asarray(examples)
        self.batch_size = batch_size
        self.seed = seed
        self.bucketed = bucketed
        self.rank, self.processes = process
        self.whole = drop_last and len(self.examples) >= batch_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Shuffle differently from now on; Lightning calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        count = len(self.examples) / self.batch_size
        batches = int(count) if self.whole else int(np.ceil(count))
        if self.seed is None:
            return len(range(self.rank, batches, self.processes))
        return batches // self.processes

    def __iter__(self) -> Iterator[np.ndarray]:
        size = self.batch_size
        if self.seed is None:
            order = self.examples[np.argsort(-self.lengths[self.examples], kind="stable")]
            batches = np.split(order, range(size, len(order), size))
            yield from batches[self.rank :: self.processes]
            return
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(self.examples)
        if self.whole:
            order = order[: len(order) // size * size]
        if self.bucketed:
            pool = np.arange(len(order)) // (size * POOL)
            order = order[np.lexsort((self.lengths[order], pool))]
        batches = np.split(order, range(size, len(order), size))
        for b in rng.permutation(len(batches))[self.rank :: self.processes][: len(self)]:
            yield batches[b]


class _Collated(Dataset):
    """A whole batch for a list of example indices."""

    def __init__(self, datamodule: ErcDataModule, columns: Columns) -> None:
        self.datamodule = datamodule
        self.columns = columns

    def __getitem__(self, examples: np.ndarray) -> Batch:
        return self.datamodule.batch({k: take(c, examples) for k, c in self.columns.items()})


class ErcDataModule(LightningDataModule):
    """The examples of one method on one corpus.

    Attributes:
        examples: for each split its examples as columns, with ``targets``, ``dialogue`` and
            ``first_row`` among them.
        gold: the label of every turn ``(rows,)``, −1 where it has none; turns of train, dev, test
            are numbered one after another.
        ids: the utterance id of every row.
        tested: the split that ``test_dataloader`` gives.
        data_dir: where a method finds further corpora, before the usual places.
        kept: whether what is made of the corpus is kept in the cache.
    """

    def __init__(
        self,
        corpus: Corpus,
        method: ErcMethod,
        seed: int = 1,
        data_dir: Path | None = None,
        kept: bool = True,
    ) -> None:
        super().__init__()
        self.corpus = corpus
        self.method = method
        self.seed = seed
        self.data_dir = data_dir
        self.kept = kept
        self.tested = "test"
        self.splits = [split for split in SPLITS if split in corpus.splits]
        self.ids: list[str] = []
        self.first_rows: dict[str, np.ndarray] = {}
        labels: list[np.ndarray] = []
        for split in self.splits:
            turns = corpus.splits[split].data.column("utterances").combine_chunks()
            offsets = np.asarray(turns.offsets)
            self.first_rows[split] = len(self.ids) + offsets[:-1] - offsets[0]
            self.ids += turns.flatten().field("id").to_pylist()
            labels.append(turns.flatten().field("label").to_numpy())
        self.gold = torch.from_numpy(np.concatenate(labels)).long()
        self.examples = {split: self._examples(split) for split in self.splits}

    def rows(self, split: str) -> torch.Tensor:
        """Rows of the labelled utterances of a split, in corpus order ``(N,)``."""
        following = self.splits[self.splits.index(split) + 1 :]
        stop = self.first_rows[following[0]][0] if following else len(self.ids)
        rows = torch.arange(int(self.first_rows[split][0]), int(stop))
        return rows[self.gold[rows] >= 0]

    def _examples(self, split: str) -> Columns:
        """The method's examples of one split; where they are kept, made once."""
        dialogues = self.corpus.splits[split]
        path = None
        if self.kept:
            path = cache_folder() / "examples" / f"{self._fingerprint(split)}.arrow"
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            table = _make_examples(dialogues, self.method, split == "train", path)
        except (pa.ArrowInvalid, EOFError, OSError):
            if path is None or not path.exists():
                raise
            path.unlink(missing_ok=True)  # a damaged cache file
            table = _make_examples(dialogues, self.method, split == "train", path)
        columns = {name: from_arrow(table.data.column(name)) for name in table.column_names}
        columns["first_row"] = take(self.first_rows[split], np.asarray(columns["dialogue"]))
        return columns

    def _fingerprint(self, split: str) -> str:
        """What the examples depend on: dialogues, settings, tokenizer, the method's own code."""
        settings = {k: getattr(self.method.config, k) for k in self.method.input_settings}
        if settings.get("encoder"):
            settings["encoder"] = tokenizer_digest(settings["encoder"])
        kind = type(self.method)
        parts = [self.corpus.digest, split, kind.__qualname__, settings, _sources(kind)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def batch(self, columns: Columns) -> Batch:
        """Examples → the method's batch, with ``rows`` and ``labels`` of their targets."""
        targets = columns["targets"]
        assert isinstance(targets, Ragged)
        rows = torch.from_numpy(targets.values + np.asarray(columns["first_row"])[targets.owners])
        labels = self.gold[rows]
        if (labels < 0).any():
            raise RuntimeError(f"{type(self.method).__name__} targets a turn without a label.")
        return {**self.method.collate(columns), "rows": rows, "labels": labels}

    def lengths(self, split: str) -> np.ndarray:
        """What an example costs ``(examples,)``: the length of its longest column."""
        columns = self.examples[split].values()
        ragged = [c for c in columns if isinstance(c, Ragged)]
        return np.max([c.lengths for c in ragged], axis=0)

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, split: str, batches: Batches) -> DataLoader:
        data = _Collated(self, self.examples[split])
        pin = torch.cuda.is_available()
        # Starting an iterator draws a number; from the global stream a resumed run draws fewer.
        own = torch.Generator()
        return DataLoader(data, sampler=batches, batch_size=None, pin_memory=pin, generator=own)

    def train_dataloader(self) -> DataLoader:
        """Shuffled, length-bucketed batches of the epoch's examples."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        batches = Batches(
            self.lengths("train"),
            self.method.config.batch_size,
            seed=self.seed,
            examples=self.method.epoch_examples(self, epoch),
            drop_last=self.method.config.drop_last,
            bucketed=self.method.bucketed,
            process=self._process(),
        )
        batches.set_epoch(epoch)
        return self._loader("train", batches)

    def evaluation_loader(
        self, split: str, examples: np.ndarray | None = None, process: tuple[int, int] = (0, 1)
    ) -> DataLoader:
        """Every example of a split (or the given ones) once, longest first."""
        size = self.method.config.evaluation.batch_size
        batches = Batches(self.lengths(split), size, examples=examples, process=process)
        return self._loader(split, batches)

    def val_dataloader(self) -> list[DataLoader]:
        """Dev; and test behind it where the oracle gap is asked for."""
        splits = ["dev", "test"] if self.method.config.evaluation.oracle else ["dev"]
        return [self.evaluation_loader(split, process=self._process()) for split in splits]

    def test_dataloader(self) -> DataLoader:
        """The split named by ``tested``."""
        return self.evaluation_loader(self.tested, process=self._process())


def _make_examples(
    dialogues: datasets.Dataset, method: ErcMethod, training: bool, path: Path | None
) -> datasets.Dataset:
    """Dialogues → examples, one row each, written to ``path`` (if any) or read from there."""

    def convert(rows: dict[str, list], numbers: list[int]) -> dict[str, list]:
        columns: dict[str, list[Any]] = defaultdict(list)
        for number, name, utterances in zip(numbers, rows["id"], rows["utterances"], strict=True):
            dialogue = dialogue_from_row({"id": name, "utterances": utterances})
            for example in method.examples(dialogue, training):
                columns["dialogue"].append(number)
                for key, value in example.items():
                    columns[key].append(value)
        return columns

    return dialogues.map(
        convert,
        batched=True,
        batch_size=None,
        with_indices=True,
        remove_columns=dialogues.column_names,
        keep_in_memory=path is None,
        cache_file_name=str(path) if path else None,
        # Otherwise it is made of all that convert needs, the weights of the method among it.
        new_fingerprint=path.stem[:16] if path else "examples",
        load_from_cache_file=path is not None,
    )


def _sources(kind: type[ErcMethod]) -> list[str]:
    """SHA-256 of every module that may have made a method's examples: those beside it and beside
    the methods it extends, what a dialogue is, and what loads a tokenizer."""
    from erc_bench.method.contract import ErcMethod

    extended = [c for c in kind.mro() if issubclass(c, ErcMethod) and c is not ErcMethod]
    folders = dict.fromkeys(Path(inspect.getfile(c)).parent for c in extended)
    common = [Path(inspect.getfile(module)) for module in (conversation, encoders)]
    files = [*common, *(p for f in folders for p in sorted(f.glob("*.py")))]
    return [hashlib.sha256(p.read_bytes()).hexdigest() for p in files]
