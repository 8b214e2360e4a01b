"""Measure an epoch of ours and one of the usual recipe in one process, batch by batch in turn.

Ours is a training under Lightning's Trainer, as ``erc-bench run`` builds it, over a sample of its
batches. After every ``PER_ROUND`` batches of ours the recipe runs one of its own, so that any
disturbance of the machine affects both.
"""

from __future__ import annotations

import gc
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning import seed_everything
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader

from erc_bench.corpus.conversation import Corpus
from erc_bench.encoders.fast import Speedups, enabled
from erc_bench.encoders.locating import find_encoder
from erc_bench.errors import ErcBenchError
from erc_bench.execution.recording import forget_peak_memory, peak_memory_mib
from erc_bench.method.config import MethodConfig
from erc_bench.method.contract import ErcMethod
from erc_bench.method.data import ErcDataModule
from erc_bench.settings.experiment import resolve
from erc_bench.settings.registry import method_class
from erc_bench.training.train import prepare, train

from .recipe import Recipe
from .recipe_eacl import EACLRecipe
from .recipe_on_vectors import DAGERCRecipe, DialogueRNNRecipe
from .recipe_sacl_lstm import SACLRecipe
from .recipe_spcl import SPCLRecipe
from .recipe_speaker_mtl import SpeakerMTLRecipe
from .sampling import (
    EVALUATION_ROUNDS,
    PER_ROUND,
    Choice,
    Epoch,
    InOrder,
    Laps,
    SampledDataModule,
    longest,
    now,
    sample,
)

RECIPES: dict[str, type[Recipe]] = {
    "eacl": EACLRecipe,
    "spcl": SPCLRecipe,
    "sacl-lstm": SACLRecipe,
    "dialogue-rnn": DialogueRNNRecipe,
    "dag-erc": DAGERCRecipe,
    "speaker-mtl": SpeakerMTLRecipe,
}
TOLERANCE = 1e-4
"""The largest relative difference of two losses in float32."""
CHECKED = 3
"""The number of steps whose losses are compared."""


@dataclass(frozen=True)
class Case:
    """What is measured: a method with the settings of a preset, in a precision."""

    method: str
    preset: str
    dataset: str
    precision: str
    encoder: str = ""
    """A folder with an encoder to use instead of the preset's."""
    overrides: tuple[str, ...] = ()

    def settings(self, *overrides: str) -> MethodConfig:
        """Resolve the method's settings.

        Raises:
            ErcBenchError: there is no such preset, setting or encoder.
        """
        given = [*self.overrides, "epochs=1", "max_batches=0", f"precision={self.precision}"]
        given += [f"encoder={self.encoder}"] * bool(self.encoder) + list(overrides)
        config = resolve(self.method, self.dataset, preset=self.preset, overrides=given).config
        find_encoder(config.encoder)  # so that a missing encoder is reported before the measurement
        if self.method in RECIPES:
            given += RECIPES[self.method].overrides(config)
        return resolve(self.method, self.dataset, preset=self.preset, overrides=given).config

    def build(self, corpus: Corpus, *overrides: str) -> ErcMethod:
        """Build the method with its pre-trained weights; its other weights are those of seed 1."""
        config = self.settings(*overrides)
        seed_everything(1, verbose=False)
        return self.measured(config, corpus.labels)

    @property
    def measured(self) -> type[ErcMethod]:
        """The class that is measured: the one that the recipe names, if there is a recipe."""
        known = self.method in RECIPES
        return RECIPES[self.method].Method if known else method_class(self.method)


def in_float32_alone(method: str) -> bool:
    """Whether a method always trains in float32, as methods on utterance vectors do."""
    return method_class(method).Config().precision == "float32"


PLAIN = Speedups(one_position=False, dropout_masks=False, low_precision_attention=False)
"""The recipes use PyTorch's own dropout and attention, even while a training of ours goes on."""


class RecipeEpoch:
    """The loops of a recipe over a sample of its batches, run one batch at a time."""

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
        """Run all passes over train; only the times of the last call are kept."""
        if self.surveyed is not None:
            self.laps["survey"] = []
            self.steps["survey"] = self.recipe.survey(self.surveyed)
            while self.step("survey"):
                pass

    def step(self, part: str) -> bool:
        """Run a batch; False if there is none left."""
        with enabled(PLAIN):
            start = now()
            try:
                next(self.steps[part])
            except StopIteration:
                return False
            self.laps[part].append(now() - start)
        return True

    def epoch(self) -> Epoch:
        """The measured times, without those of the batches that warmed up."""
        laps = {p: laps if p == "survey" else laps[1:] for p, laps in self.laps.items()}
        return Epoch(self.batches, laps, len(laps["train"]))


class Turns(Callback):
    """Lets each recipe run a batch after every ``PER_ROUND`` batches of ours."""

    start: np.ndarray

    def __init__(self, data: SampledDataModule, recipes: list[RecipeEpoch]) -> None:
        self.data = data
        self.recipes = recipes

    def _turn(self, part: str, number: int) -> None:
        self.data.laps[part].append(now() - self.start)
        if (number + 1) % PER_ROUND == 0:
            for recipe in self.recipes:
                recipe.step(part)
        self.start = now()

    def on_train_start(self, *_: Any) -> None:
        for recipe in self.recipes:
            recipe.survey()

    def on_validation_start(self, *_: Any) -> None:
        """Run the passes over train before the next epoch; those of ours have just been run."""
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


def train_epoch(method: ErcMethod, data: ErcDataModule, *callbacks: Callback) -> None:
    """Train one epoch of ours, in the same way as a run."""
    with tempfile.TemporaryDirectory() as folder:
        train(method, data, Path(folder), callbacks=callbacks)


# --- the measurements ---


def compare(
    case: Case, corpus: Corpus, rounds: int, recipes_in: Sequence[str], *callbacks: Callback
) -> tuple[Epoch, dict[str, Epoch]]:
    """Measure an epoch of ours, and of the recipe in each of the given precisions.

    Args:
        case: what is measured.
        corpus: the corpus to train on.
        rounds: the number of measured rounds.
        recipes_in: the precisions of the recipe; it may be empty.
        callbacks: further callbacks for the training of ours.
    """
    gc.collect()  # frees the networks of the case before this one
    method = case.build(corpus)
    data = SampledDataModule(corpus, method, rounds)
    prepare(method, data)
    recipes = {
        precision: RecipeEpoch(
            RECIPES[case.method](method, precision == "bfloat16"), corpus, rounds
        )
        for precision in recipes_in
    }
    train_epoch(method, data, Turns(data, list(recipes.values())), *callbacks)
    # A measurement of the survey is of many batches.
    warm = {"train": PER_ROUND, "evaluate": PER_ROUND, "survey": 1}
    laps = {part: of_part[warm[part] :] for part, of_part in data.laps.items()}
    ours = Epoch(data.batches, laps, rounds)
    return ours, {precision: recipe.epoch() for precision, recipe in recipes.items()}


def without_dropout(module: nn.Module) -> None:
    """Set every dropout of a module to 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        elif isinstance(layer, nn.MultiheadAttention | nn.RNNBase):
            layer.dropout = 0.0


class Losses(Callback):
    """Collects the loss of every step of ours."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, out: Any, *_: Any) -> None:
        self.values.append(float(out["loss"]))


def losses(case: Case, corpus: Corpus) -> tuple[list[float], list[float]]:
    """Losses of ours and of the recipe over the first steps of a training in float32.

    Both start from the same weights and read the same examples, without dropout. The batches are
    small, and the optimiser steps after each.
    """
    dialogues = corpus.dialogues("train")
    enough = int(np.searchsorted(np.cumsum([len(d.labelled) for d in dialogues]), 24)) + 1
    few = dialogues[: max(enough, 2 * CHECKED)]
    some = Corpus.build(
        corpus.name, corpus.labels, {"train": few, "dev": corpus.dialogues("dev")[:1]}
    )
    by_utterance = case.method in ("eacl", "spcl")
    overrides = ["precision=float32", "accumulate=1", f"batch_size={8 if by_utterance else 2}"]
    if case.method == "spcl":
        overrides += ["warmup_steps=0", "augmentation=0"]
    method = case.build(some, *overrides)
    data = InOrder(some, method, CHECKED)
    prepare(method, data)
    recipe = RECIPES[case.method](method)
    without_dropout(method)
    without_dropout(recipe.network)
    items: Any = recipe.dataset(few, training=True)
    size = method.config.batch_size
    batches: Any = np.split(np.arange(len(items)), range(size, len(items), size))
    for _ in recipe.survey(DataLoader(items, batch_sampler=batches, collate_fn=recipe.collate)):
        pass
    loader = DataLoader(items, batch_sampler=batches[:CHECKED], collate_fn=recipe.collate)
    theirs = list(recipe.train(loader))
    ours = Losses()
    train_epoch(method, data, ours)
    return ours.values, theirs


def peak_memory(case: Case, corpus: Corpus, side: str) -> float:
    """Peak memory of one side in MiB while it trains on its longest batches.

    Raises:
        ErcBenchError: the system does not report the peak.
    """
    method = case.build(corpus)
    data = SampledDataModule(corpus, method, 1, longest)
    prepare(method, data)
    if side == "ours":
        forget_peak_memory()
        train_epoch(method, data)
    else:
        script = RECIPES[case.method](method, case.precision == "bfloat16")
        recipe = RecipeEpoch(script, corpus, 1, longest)
        del method, data
        gc.collect()
        forget_peak_memory()
        recipe.survey()
        for part in ("train", "evaluate"):
            while recipe.step(part):
                pass
    peak = peak_memory_mib()
    if peak is None:
        raise ErcBenchError("This system does not report the peak memory of a process.")
    return peak
