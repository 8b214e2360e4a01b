"""What the record of a run says: its figures, its predictions, and where it was made."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

from erc_bench.evaluation.metrics import evaluate
from erc_bench.evaluation.slices import recorded_facts
from erc_bench.method.contract import ErcMethod
from erc_bench.method.datamodule import ErcDataModule
from erc_bench.records.store import SCHEMA
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
) -> dict[str, Any]:
    """The record of a trained method, but for the time it took.

    Args:
        experiment: what was run.
        method: with the weights that were evaluated.
        datamodule: its corpus, and the names of its rows.
        trainer: what trained it.
        log: the course of the training.
        predictions: for dev and test the rows ``(N,)`` and probabilities ``(N, C)``.
    """
    corpus = datamodule.corpus
    metrics, stored = {}, {}
    for split, (rows, probabilities) in predictions.items():
        gold, predicted = datamodule.gold[rows], probabilities.argmax(dim=1)
        rounded = [[round(p, 4) for p in each] for each in probabilities.tolist()]
        metrics[split] = {
            # Of what is stored, so that the metrics can be recomputed from the record.
            **evaluate(predicted, gold, corpus.labels.names, torch.tensor(rounded)),
            **method.extra_metrics(datamodule, split),
        }
        stored[split] = {
            "ids": [datamodule.ids[row] for row in rows],
            "gold": gold.tolist(),
            "predicted": predicted.tolist(),
            "probabilities": rounded,
            **recorded_facts(corpus, split),
        }
    best = log.best_epoch(selecting_checkpoint(trainer))
    record = {
        "schema": SCHEMA,
        "method": experiment.method,
        "dataset": experiment.dataset,
        "dataset_digest": corpus.digest,
        "labels": list(corpus.labels.names),
        "preset": experiment.preset,
        "overrides": list(experiment.overrides),
        "seed": experiment.seed,
        "config": experiment.settings,
        "config_hash": experiment.hash,
        "context": method.context,
        "selection": f"dev {experiment.config.select_on}",
        "encoder": method.encoder_identity(),
        "metrics": metrics,
        "training": {
            **log.figures(best),
            "parameters": sum(p.numel() for p in method.parameters()),
            "peak_memory_mib": peak_memory_mib(),
        },
        "environment": log.environment,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "predictions": stored,
    }
    if experiment.config.evaluation.oracle:
        record["oracle_gap"] = log.oracle_gap(best)
    return record


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
