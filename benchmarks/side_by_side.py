"""An epoch of ours and one of the usual recipe, measured in one process, batch by batch in turn.

Ours is a training under Lightning's Trainer, as ``erc-bench run`` builds it, over a sample of its
batches. After every ``PER_ROUND`` batches of ours the recipe does one of its own, so that whatever
disturbs the machine falls on both.
"""

from __future__ import annotations

import contextlib
import gc
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import seed_everything
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoConfig

from erc_bench.corpus.conversation import Corpus
from erc_bench.encoders.fast import Speedups, enabled
from erc_bench.encoders.locating import find_encoder
from erc_bench.execution.recording import forget_peak_memory, peak_memory_mib
from erc_bench.method.config import MethodConfig
from erc_bench.method.contract import ErcMethod
from erc_bench.method.datamodule import ErcDataModule
from erc_bench.settings.experiment import resolve
from erc_bench.training.log import TrainingLog
from erc_bench.training.trainer import build_trainer, fit

from .recipe import Recipe
from .recipe_eacl import EACLRecipe
from .recipe_sacl_lstm import SACLRecipe
from .recipe_spcl import SPCLRecipe
from .recipe_speaker_mtl import SpeakerMTLRecipe

RECIPES: dict[str, type[Recipe]] = {
    "eacl": EACLRecipe,
    "spcl": SPCLRecipe,
    "sacl-lstm": SACLRecipe,
    "speaker-mtl": SpeakerMTLRecipe,
}
PER_ROUND = 4
"""Batches of ours for one of the recipe: ours differ in length, and are quicker."""
EVALUATION_ROUNDS = 2
TOLERANCE = 1e-4
"""By how much of itself a loss may differ, in float32."""
CHECKED = 3
"""Steps whose losses are compared."""

Laps = dict[str, list[np.ndarray]]
"""For training, evaluation and survey the seconds of every batch: on the clock, of processor."""


Choice = Callable[[Sequence[np.ndarray], np.ndarray, int, int], list[np.ndarray]]
"""Of an epoch's batches of items ``sizes`` those that are done, in rounds of some batches each."""


@dataclass(frozen=True)
class Case:
    """What is measured: a method as a preset has it, in a precision."""

    method: str
    preset: str
    dataset: str
    precision: str
    encoder: str = ""
    """A folder instead of the preset's encoder."""
    overrides: tuple[str, ...] = ()

    def settings(self, *overrides: str) -> MethodConfig:
        """The method's settings.

        Raises:
            ErcBenchError: there is no such preset, setting or encoder.
        """
        given = [*self.overrides, "epochs=1", "max_batches=0", f"precision={self.precision}"]
        given += [f"encoder={self.encoder}"] * bool(self.encoder) + list(overrides)
        config = resolve(self.method, self.dataset, preset=self.preset, overrides=given).config
        folder = find_encoder(config.encoder).folder
        if self.method != "sacl-lstm":
            return config
        size = AutoConfig.from_pretrained(folder).hidden_size
        given += ["features.path=drawn at random", f"features.size={size}"]
        return resolve(self.method, self.dataset, preset=self.preset, overrides=given).config

    def build(self, corpus: Corpus, *overrides: str) -> ErcMethod:
        """The method with its pre-trained weights; the rest is the same for all of a case."""
        config = self.settings(*overrides)
        seed_everything(1, verbose=False)
        return RECIPES[self.method].Method(config, corpus.labels)


@dataclass(frozen=True)
class Epoch:
    """What an epoch of one side takes."""

    batches: dict[str, int]
    """How many there are of training, evaluation and survey."""
    laps: Laps
    """Those measured."""
    steps: int
    """Rounds of training that were measured."""

    def seconds(self, kind: int = 0) -> float:
        """Mean of the measured batches × their number; of the clock (0) or the processor (1)."""
        return sum(n * self.step(part)[kind] for part, n in self.batches.items())

    def step(self, part: str) -> np.ndarray:
        """Mean seconds ``(2,)`` of a batch."""
        return np.mean(self.laps[part], axis=0)

    def rounds(self) -> np.ndarray:
        """Seconds on the clock of the epoch, had all training batches been as in each round."""
        of_round = np.reshape([lap[0] for lap in self.laps["train"]], (self.steps, -1)).mean(axis=1)
        return self.seconds() + self.batches["train"] * (of_round - of_round.mean())


# --- clocks and samples ---


def now() -> np.ndarray:
    """Seconds on the clock, and of this process on the processors: a busy machine slows only the
    first."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


def sample(
    batches: Sequence[np.ndarray], sizes: np.ndarray, rounds: int, per_round: int
) -> list[np.ndarray]:
    """Batches for ``rounds`` rounds, and before them a round to warm up.

    The batches are sorted by size and taken at even distances, so that their mean is that of all;
    every round has one of every ``per_round``-th of them. What warms up are others, as long as
    there are some, at even distances too.
    """
    order = sorted(batches, key=lambda batch: sizes[batch].sum())
    wanted = rounds * per_round
    places = ((np.arange(wanted) + 0.5) * len(order) / wanted).astype(int)
    rng = np.random.default_rng(0)
    chosen = np.stack([rng.permutation(part) for part in places.reshape(per_round, rounds)], axis=1)
    others = np.setdiff1d(np.arange(len(order)), places)
    others = others if len(others) >= per_round else np.arange(len(order))
    warming = others[(np.arange(per_round) + 1) * len(others) // per_round - 1]
    return [order[i] for i in (*warming, *chosen.ravel())]


def longest(
    batches: Sequence[np.ndarray], sizes: np.ndarray, rounds: int, per_round: int
) -> list[np.ndarray]:
    """The two longest batches."""
    return sorted(batches, key=lambda batch: -sizes[batch].sum())[:2]


class SampledDataModule(ErcDataModule):
    """Our data, of which only some batches are used; and the clock of what is done with them.

    Attributes:
        batches: how many of each part an epoch has.
        laps: seconds of the batches that were done.
    """

    def __init__(
        self, corpus: Corpus, method: ErcMethod, rounds: int, choose: Choice = sample
    ) -> None:
        super().__init__(corpus, method)
        self.rounds = rounds
        self.choose = choose
        self.batches: dict[str, int] = {}
        self.laps: Laps = defaultdict(list)

    def sample(self, part: str, batches: list[np.ndarray], split: str) -> list[np.ndarray]:
        """Those batches that are done."""
        self.batches[part] = len(batches)
        rounds = self.rounds if part == "train" else EVALUATION_ROUNDS
        return self.choose(batches, self.lengths(split), rounds, PER_ROUND)

    def _sampled(self, part: str, loader: DataLoader, split: str) -> DataLoader:
        chosen = self.sample(part, list(loader.sampler), split)
        pin = loader.pin_memory
        return DataLoader(loader.dataset, sampler=chosen, batch_size=None, pin_memory=pin)

    def train_dataloader(self) -> DataLoader:
        return self._sampled("train", super().train_dataloader(), "train")

    def val_dataloader(self) -> list[DataLoader]:
        return [self._sampled("evaluate", super().val_dataloader()[0], "dev")]

    @contextlib.contextmanager
    def lap(self, part: str, batches: float = 1) -> Iterator[None]:
        """Measure what is done inside as so many batches."""
        start = now()
        yield
        self.laps[part].append((now() - start) / batches)


PLAIN = Speedups(one_position=False, dropout_masks=False, low_precision_attention=False)
"""A recipe has PyTorch's own dropout and attention, also while a training of ours goes on."""


class RecipeEpoch:
    """The loops of a recipe over a sample of its batches, a batch whenever it is asked for."""

    def __init__(
        self, recipe: Recipe, corpus: Corpus, rounds: int, choose: Choice = sample
    ) -> None:
        self.recipe = recipe
        self.batches: dict[str, int] = {}
        self.laps: Laps = defaultdict(list)
        size = recipe.config.batch_size
        train = recipe.dataset(corpus.dialogues("train"), training=True)
        scored = recipe.dataset([d for s in ("dev", "test") for d in corpus.dialogues(s)])
        rng = np.random.default_rng(1)

        def loader(data: Any, part: str, rounds: int) -> DataLoader:
            order = rng.permutation(len(data)) if part == "train" else np.arange(len(data))
            order = order[: recipe.epoch_size(len(data))] if part == "train" else order
            batches = np.split(order, range(size, len(order), size))
            passes = recipe.passes if part == "survey" else 1
            self.batches[part] = passes * len(batches)
            chosen: Any = choose(batches, np.asarray(data.sizes), rounds, 1)
            return DataLoader(data, batch_sampler=chosen, collate_fn=recipe.collate)

        self.steps = {
            "train": recipe.train(loader(train, "train", rounds)),
            "evaluate": recipe.evaluate(loader(scored, "evaluate", EVALUATION_ROUNDS)),
        }
        self.surveyed = loader(train, "survey", EVALUATION_ROUNDS) if recipe.passes else None

    def survey(self) -> None:
        """All of the passes over train; only the last time is kept."""
        if self.surveyed is not None:
            self.laps["survey"] = []
            self.steps["survey"] = self.recipe.survey(self.surveyed)
            while self.step("survey"):
                pass

    def step(self, part: str) -> bool:
        """Do a batch; False when there is none left."""
        with enabled(PLAIN):
            start = now()
            try:
                next(self.steps[part])
            except StopIteration:
                return False
            self.laps[part].append(now() - start)
        return True

    def epoch(self) -> Epoch:
        """What was measured, without what warmed up."""
        laps = {p: laps if p == "survey" else laps[1:] for p, laps in self.laps.items()}
        return Epoch(self.batches, laps, len(laps["train"]))


class Turns(Callback):
    """Lets the recipes do a batch whenever ours has done ``PER_ROUND``."""

    start: np.ndarray

    def __init__(self, datamodule: SampledDataModule, recipes: list[RecipeEpoch]) -> None:
        self.datamodule = datamodule
        self.recipes = recipes

    def _turn(self, part: str, number: int) -> None:
        self.datamodule.laps[part].append(now() - self.start)
        if (number + 1) % PER_ROUND == 0:
            for recipe in self.recipes:
                recipe.step(part)
        self.start = now()

    def on_train_start(self, *_: Any) -> None:
        for recipe in self.recipes:
            recipe.survey()

    def on_validation_start(self, *_: Any) -> None:
        """Beside ours, which comes next: what the next epoch would begin with."""
        for recipe in self.recipes:
            recipe.survey()

    def on_train_epoch_start(self, *_: Any) -> None:
        self.start = now()

    def on_train_batch_end(self, trainer: Any, module: Any, out: Any, batch: Any, i: int) -> None:
        self._turn("train", i)

    def on_validation_epoch_start(self, *_: Any) -> None:
        self.start = now()

    def on_validation_batch_end(
        self, trainer: Any, module: Any, out: Any, batch: Any, i: int, dataloader_idx: int = 0
    ) -> None:
        self._turn("evaluate", i)


def trained(case: Case, method: ErcMethod, datamodule: ErcDataModule, *callbacks: Callback) -> None:
    """One epoch of ours, under the Trainer of a run."""
    experiment = resolve(case.method, case.dataset, preset=case.preset)
    with tempfile.TemporaryDirectory() as folder:
        log = TrainingLog(experiment)
        trainer = build_trainer(method, Path(folder), [log, *callbacks])
        fit(trainer, method, datamodule, None)


# --- what is measured ---


def compare(
    case: Case, corpus: Corpus, rounds: int, recipes_in: Sequence[str]
) -> tuple[Epoch, dict[str, Epoch]]:
    """An epoch of ours, and of the recipe in each of the given precisions."""
    gc.collect()  # the networks of a case before this one
    method = case.build(corpus)
    datamodule = SampledDataModule(corpus, method, rounds)
    method.prepare(datamodule)
    recipes = {
        precision: RecipeEpoch(
            RECIPES[case.method](method, precision == "bfloat16"), corpus, rounds
        )
        for precision in recipes_in
    }
    trained(case, method, datamodule, Turns(datamodule, list(recipes.values())))
    # Of the survey one measurement is many batches.
    warm = {"train": PER_ROUND, "evaluate": PER_ROUND, "survey": 1}
    laps = {part: of_part[warm[part] :] for part, of_part in datamodule.laps.items()}
    ours = Epoch(datamodule.batches, laps, rounds)
    return ours, {precision: recipe.epoch() for precision, recipe in recipes.items()}


def without_dropout(module: nn.Module) -> None:
    """Set all dropout of a module to 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        elif isinstance(layer, nn.MultiheadAttention | nn.RNNBase):
            layer.dropout = 0.0


class InOrder(SampledDataModule):
    """The first training examples in the order of the corpus; all else is done whole."""

    def __init__(self, corpus: Corpus, method: ErcMethod) -> None:
        super().__init__(corpus, method, 1, lambda batches, *_: list(batches))

    def train_dataloader(self) -> DataLoader:
        loader = super().train_dataloader()
        examples: Any = self.examples["train"]
        own = np.arange(len(examples["dialogue"]))
        if "turn" in examples:  # without what augmentation may add
            own = np.flatnonzero(examples["turn"] == examples["targets"].values)
        size = self.method.config.batch_size
        batches = np.split(own, range(size, len(own), size))[:CHECKED]
        return DataLoader(loader.dataset, sampler=batches, batch_size=None)


class Losses(Callback):
    """The loss of every step of ours."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, out: Any, *_: Any) -> None:
        self.values.append(float(out["loss"]))


def losses(case: Case, corpus: Corpus) -> tuple[list[float], list[float]]:
    """Losses of ours and of the recipe over the first steps of a training in float32.

    The same weights at the start, the same examples, no dropout; the batches are small ones, and
    the optimiser steps between them.
    """
    dialogues = corpus.dialogues("train")
    enough = int(np.searchsorted(np.cumsum([len(d.labelled) for d in dialogues]), 24)) + 1
    few = dialogues[: max(enough, 2 * CHECKED)]
    some = Corpus.build(
        corpus.name, corpus.labels, {"train": few, "dev": corpus.dialogues("dev")[:1]}
    )
    by_utterance = case.method in ("eacl", "spcl")
    overrides = ["precision=float32", f"batch_size={8 if by_utterance else 2}"]
    if case.method == "spcl":
        overrides += ["warmup_steps=0", "augmentation=0"]
    method = case.build(some, *overrides)
    datamodule = InOrder(some, method)
    method.prepare(datamodule)
    recipe = RECIPES[case.method](method)
    without_dropout(method)
    without_dropout(recipe.network)
    data: Any = recipe.dataset(few, training=True)
    size = method.config.batch_size
    batches: Any = np.split(np.arange(len(data)), range(size, len(data), size))
    for _ in recipe.survey(DataLoader(data, batch_sampler=batches, collate_fn=recipe.collate)):
        pass
    loader = DataLoader(data, batch_sampler=batches[:CHECKED], collate_fn=recipe.collate)
    theirs = list(recipe.train(loader))
    ours = Losses()
    trained(case, method, datamodule, ours)
    return ours.values, theirs


def peak_memory(case: Case, corpus: Corpus, side: str) -> float:
    """MiB that one side takes at most, from its longest batches on."""
    method = case.build(corpus)
    datamodule = SampledDataModule(corpus, method, 1, longest)
    method.prepare(datamodule)
    if side == "ours":
        forget_peak_memory()
        trained(case, method, datamodule)
    else:
        script = RECIPES[case.method](method, case.precision == "bfloat16")
        recipe = RecipeEpoch(script, corpus, 1, longest)
        del method, datamodule
        gc.collect()
        forget_peak_memory()
        recipe.survey()
        for part in ("train", "evaluate"):
            while recipe.step(part):
                pass
    return peak_memory_mib()
