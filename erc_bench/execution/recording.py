"""Makes the record of a run: its metrics, its predictions, and where it was made."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from erc_bench.errors import ErcBenchError
from erc_bench.evaluation import NO_ANSWER
from erc_bench.evaluation.metrics import evaluate
from erc_bench.evaluation.slices import recorded_facts
from erc_bench.records.parsing import typed
from erc_bench.records.place import Identity
from erc_bench.records.schema import SCHEMA, Record, Untested, to_json
from erc_bench.settings.experiment import Experiment
from erc_bench.training.environment import joined
from erc_bench.training.scoring import Predicted
from erc_bench.training.train import Trained


def make_record(
    experiment: Experiment,
    trained: Trained,
    identity: Identity,
    *,
    predictions: Mapping[str, Predicted],
    model: tuple[str, str],
    plugin: Mapping[str, str],
    wall_seconds: float,
) -> Record | Untested:
    """Return the record of a run, or what the run leaves instead if test was not predicted.

    Args:
        experiment: what was run.
        trained: the method with the weights that were evaluated, and the log of the training.
        identity: the contents of the corpora and the encoder that it read.
        predictions: its answers on dev, and on test if that is to be scored.
        model: name and SHA-256 of the file that holds its weights.
        plugin: distribution and version of the package that brought the method.
        wall_seconds: how long the whole run took.
    """
    method, log, corpus = trained.method, trained.log, trained.data.corpus
    select_on = experiment.config.select_on
    metrics, stored = {}, {}
    for split, predicted in predictions.items():
        metrics[split], stored[split] = scored(trained, split, predicted)
    document = {
        "schema": SCHEMA,
        "method": experiment.method,
        "dataset": experiment.dataset,
        "dataset_digest": identity.corpus_digest,
        "dataset_official": corpus.official,
        "labels": list(corpus.labels.names),
        "metric": str(corpus.metric),
        "preset": experiment.preset,
        "overrides": list(experiment.overrides),
        "seed": experiment.seed,
        "config": experiment.settings,
        "config_hash": experiment.hash,
        "context": method.context,
        "selection": f"dev {select_on}" if method.trains else "none",
        "trains": method.trains,
        "encoder": encoder_part(identity, trained),
        "plugin": dict(plugin),
        "model": {"file": model[0], "sha256": model[1]},
        "metrics": metrics,
        "training": training_part(experiment, trained, wall_seconds),
        "environment": log.environment,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "predictions": stored,
    }
    if experiment.variant:
        document["variant"] = experiment.variant
    if experiment.tuned is not None:
        document["tuned"] = asdict(experiment.tuned)
    if identity.further_corpora:
        document["further_corpora"] = dict(identity.further_corpora)
    if experiment.config.evaluation.oracle and method.trains:
        document["oracle_gap"] = log.oracle_gap(select_on)
    if "test" not in predictions:
        return typed({**document, "test": "not scored"}, Untested)
    return typed(document, Record)


def with_test(untested: Untested, trained: Trained, predicted: Predicted, seconds: float) -> Record:
    """Return the record of a run that had left test unscored.

    Args:
        untested: what the run left instead of a record.
        trained: the method with its weights.
        predicted: its answers on test.
        seconds: how long that took.
    """
    document = to_json(untested)
    del document["test"]
    figures, stored = scored(trained, "test", predicted)
    document["metrics"] = {**document["metrics"], "test": figures}
    document["predictions"] = {**document["predictions"], "test": stored}
    document["created"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    training, before = document.get("training", {}), document.get("environment", {})
    training["wall_seconds"] = round((training.get("wall_seconds") or 0) + seconds, 1)
    # Test may be scored with other code, or on another machine, than the training used.
    document["environment"] = {**before, **joined([before, trained.log.environment])}
    return typed(document, Record)


def encoder_part(identity: Identity, trained: Trained | None = None) -> dict[str, Any]:
    """The encoder that a run read, with what its method records about it after the training."""
    told = trained.method.recorded() if trained else {}
    return {"name": identity.encoder, "digest": identity.encoder_digest, **told}


def training_part(experiment: Experiment, trained: Trained, wall_seconds: float) -> dict[str, Any]:
    """The part of a record about the training: its course, memory and time."""
    return {
        **trained.log.figures(experiment.config.select_on),
        "parameters": sum(p.numel() for p in trained.method.parameters()),
        "peak_memory_mib": peak_memory_mib(),
        "wall_seconds": round(wall_seconds, 1),
    }


def scored(
    trained: Trained, split: str, predicted: Predicted
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics and stored predictions of a split."""
    data, corpus = trained.data, trained.data.corpus
    gold, classes = data.gold[predicted.rows], predicted.classes
    answered = (classes != NO_ANSWER).tolist()
    rounded = [[round(p, 4) for p in row] for row in predicted.probabilities.tolist()]
    # The metrics use the stored values, so that they can be recomputed from the record.
    stored = torch.tensor(rounded) if trained.method.gives_probabilities else None
    figures = evaluate(classes, gold, corpus.labels.names, stored, corpus.metric)
    if again := predicted.extra.keys() & {*figures, "no_answer"}:
        raise ErcBenchError(
            f"The method {type(trained.method).__name__} reports a metric {min(again)!r} of its "
            "own, but a metric of this name is computed for every method. Give its extra_metrics "
            "other names."
        )
    rows = [row if there else None for row, there in zip(rounded, answered, strict=True)]
    return {**figures, **predicted.extra}, {
        "ids": [data.ids[row] for row in predicted.rows],
        "gold": gold.tolist(),
        "predicted": classes.tolist(),
        **({} if stored is None else {"probabilities": rows}),
        **recorded_facts(corpus, split),
    }


def peak_memory_mib() -> float | None:
    """Peak memory in MiB: allocated on the GPU, else resident in this process; None if the system
    does not tell."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return round(int(found[1]) / 1024, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def forget_peak_memory() -> None:
    """Count peak memory from here on, so that a run's figure does not include earlier runs."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
