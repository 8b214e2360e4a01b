"""What the record of a run says: its figures, its predictions, and where it was made."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from datetime import datetime, timezone
from pathlib import Path

import torch
from lightning import Trainer

from erc_bench.errors import ErcBenchError
from erc_bench.evaluation.metrics import evaluate
from erc_bench.evaluation.slices import recorded_facts
from erc_bench.method.contract import ErcMethod
from erc_bench.method.datamodule import ErcDataModule
from erc_bench.records.schema import (
    Encoder,
    Environment,
    Facts,
    Metrics,
    Predictions,
    Record,
    Splits,
    Training,
    typed,
)
from erc_bench.settings.experiment import Experiment
from erc_bench.training.checkpoints import selecting_checkpoint
from erc_bench.training.log import TrainingLog


def make_record(
    experiment: Experiment,
    method: ErcMethod,
    datamodule: ErcDataModule,
    trainer: Trainer,
    log: TrainingLog,
    predictions: dict[str, tuple[torch.Tensor, torch.Tensor]],
    wall_seconds: float,
) -> Record:
    """The record of a trained method.

    Args:
        experiment: what was run.
        method: with the weights that were evaluated.
        datamodule: its corpus, and the names of its rows.
        trainer: what trained it.
        log: the course of the training.
        predictions: for dev and test the rows ``(N,)`` and probabilities ``(N, C)``.
        wall_seconds: the time of the whole run.
    """
    corpus = datamodule.corpus
    stored = {
        split: _predictions(datamodule, split, *found) for split, found in predictions.items()
    }
    metrics = {
        split: _metrics(method, datamodule, split, of_split) for split, of_split in stored.items()
    }
    best = log.best_epoch(selecting_checkpoint(trainer))
    training = Training(
        **log.figures(best),
        parameters=sum(p.numel() for p in method.parameters()),
        peak_memory_mib=peak_memory_mib(),
        wall_seconds=round(wall_seconds, 1),
    )
    return Record(
        method=experiment.method,
        dataset=experiment.dataset,
        dataset_digest=corpus.digest,
        labels=list(corpus.labels.names),
        preset=experiment.preset,
        overrides=list(experiment.overrides),
        seed=experiment.seed,
        config=experiment.settings,
        config_hash=experiment.hash,
        context=method.context,
        selection=f"dev {experiment.config.select_on}",
        encoder=typed(method.encoder_identity(), Encoder),
        metrics=Splits.of(metrics),
        oracle_gap=log.oracle_gap(best) if experiment.config.evaluation.oracle else None,
        training=training,
        environment=typed(log.environment, Environment),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        predictions=Splits.of(stored),
    )


def _predictions(
    datamodule: ErcDataModule, split: str, rows: torch.Tensor, probabilities: torch.Tensor
) -> Predictions:
    facts = recorded_facts(datamodule.corpus, split)
    return Predictions(
        ids=[datamodule.ids[row] for row in rows],
        gold=datamodule.gold[rows].tolist(),
        predicted=probabilities.argmax(dim=1).tolist(),
        probabilities=[[round(p, 4) for p in each] for each in probabilities.tolist()],
        dialogue=facts["dialogue"],
        facts=Facts(**facts["facts"]),
    )


def _metrics(
    method: ErcMethod, datamodule: ErcDataModule, split: str, stored: Predictions
) -> Metrics:
    """The scores of what is stored, so that they can be recomputed from the record; and the
    method's own, which have other names."""
    figures = evaluate(
        torch.tensor(stored.predicted),
        torch.tensor(stored.gold),
        datamodule.corpus.labels.names,
        torch.tensor(stored.probabilities),
    )
    own = method.extra_metrics(datamodule, split)
    if again := own.keys() & {*figures, "no_answer"}:
        raise ErcBenchError(
            f"The method {type(method).__name__} reports a metric {min(again)!r} of its own, which "
            "is the name of one that is computed for every method alike. Give its extra_metrics "
            "other names."
        )
    return typed({**figures, **own}, Metrics)


def peak_memory_mib() -> float:
    """Peak memory in MiB: allocated on the GPU, else resident in this process."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return round(int(found[1]) / 1024, 1)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def forget_peak_memory() -> None:
    """Count peak memory from here on: a run's figure is not that of the run before it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
