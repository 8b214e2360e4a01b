"""The runs of one configuration → one row of the leaderboard.

A **row** is one method on one corpus with one configuration. Its seeds are its points.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from erc_bench.corpus.conversation import Metric
from erc_bench.evaluation import NO_ANSWER
from erc_bench.evaluation.slices import class_scores, confusions, facts_of, pair_confusions, slices
from erc_bench.evaluation.statistics import (
    ResampledScores,
    compare_with_figure,
    resampled_scores,
    score,
    seed_interval,
)
from erc_bench.leaderboard.decoding import COST, MADE_WITH
from erc_bench.leaderboard.published import PublishedRow
from erc_bench.leaderboard.runs import Run, copy_mark
from erc_bench.settings.presets import default_preset
from erc_bench.settings.registry import confusable_labels

TIMES = ("fit_seconds", "utterances_per_second")
"""Costs that can be compared only on the same kind of device, with the same number of runs at a
time."""

UNEVEN = 1.5
"""The fastest seed of a row over its slowest. Above this the row says that its seeds had unequal
machines."""

WITHOUT_FINE_TUNING = "its training time is without the fine-tuning of its encoder"
"""A note of rows on utterance vectors whose records lack the time of the fine-tuning."""


@dataclass(frozen=True)
class Row:
    """One method, corpus and configuration; figures in percent, means over its seeds."""

    method: str
    title: str
    config_hash: str
    preset: str
    overrides: list[str]
    variant: str
    """Name of the variant (the method without one part); empty for the whole method."""
    tuned: dict[str, Any] | None
    """The search that chose the settings: ``trials``, ``sampler``, ``sampler_seed``, ``chosen`` (a
    trial's number), ``digest``, ``fixed`` (the overrides that all of its trials have). None without
    a search."""
    context: str
    selection: str
    external: bool
    encoder: str
    """Encoder of predictions made elsewhere; empty for other rows, whose track names it."""
    seeds: list[int]
    values: list[float]
    """The corpus's metric on test, one value for each seed."""
    mean: float
    sd: float | None
    """Standard deviation over seeds (n−1); None for one seed."""
    seed_interval: list[float] | None
    """95 % interval of the mean over seeds, for this test set; None for one seed."""
    interval: list[float] | None
    """95 % interval for new dialogues and, with two or more seeds, new seeds. None if the dialogues
    are unknown or too few."""
    rank: int | None
    """1 + the number of rows in the track that are shown to be better; None for an unranked row."""
    unranked: str
    """Why the row has no rank; empty for a ranked row."""
    accuracy: float
    macro_f1: float
    weighted_f1: float
    dev_score: float | None
    """The corpus's metric on dev."""
    calibration_error: float | None
    oracle_gap: float | None
    published: dict[str, Any] | None
    """The published figure for this method, our difference from it with its interval, and in
    ``differs`` how the two experiments differ."""
    per_class: list[dict[str, Any]]
    confusion: list[list[float]]
    """Counts ``(C, C)``, mean over seeds. Rows are gold labels, columns are predictions. Utterances
    without an answer are left out."""
    slices: list[dict[str, Any]]
    confusable: list[dict[str, Any]]
    cost: dict[str, float | None]
    """Means over seeds; for memory the maximum. Time and memory are None if the seeds had different
    devices, and time also if the numbers of runs at a time differ."""
    devices: list[str]
    notes: list[str]
    """Warnings about the seeds that bear on the figures or their spread."""
    records: list[str]


def make_row(
    runs: Sequence[Run],
    scores: ResampledScores | None,
    published: Sequence[PublishedRow],
    titles: dict[str, str],
) -> dict[str, Any]:
    """Return a :class:`Row` as plain data, without its rank.

    Args:
        runs: the seeds of one configuration, in order.
        scores: their resampled scores; None if the dialogues are unknown.
        published: the published rows of the corpus.
        titles: the title of each method.
    """
    first = runs[0]
    gold, predictions = np.array(first.gold), np.array([run.predicted for run in runs])
    counts = confusions(gold, predictions, len(first.labels))
    each = class_scores(gold, predictions, first.labels)
    metric = Metric.of(first.metric, first.labels)
    values = [float(v) for v in score(counts, metric, first.labels)]
    over_seeds = seed_interval(values)
    wide = compare_with_figure(scores, 0.0).interval if scores else None
    facts = next((facts_of(run.facts) for run in runs if run.facts), None)
    devices = _kinds(runs, "device")
    row = Row(
        method=first.method,
        title=", ".join(part for part in (titles[first.method], copy_mark(first)) if part),
        config_hash=first.config_hash,
        preset=first.preset,
        overrides=first.overrides,
        variant=first.variant,
        tuned=first.tuned,
        context=first.context,
        selection=first.selection,
        external=first.external,
        encoder=first.encoder if first.external else "",
        seeds=[run.seed for run in runs],
        values=values,
        mean=over_seeds.mean,
        sd=over_seeds.sd,
        seed_interval=list(over_seeds.interval) if over_seeds.interval else None,
        interval=list(wide) if wide else None,
        rank=None,
        unranked="",
        accuracy=float(100 * np.trace(counts, axis1=1, axis2=2).sum() / counts.sum()),
        macro_f1=float(score(counts, Metric("macro_f1")).mean()),
        weighted_f1=float(score(counts).mean()),
        dev_score=_mean(run.dev_score for run in runs),
        calibration_error=_mean(run.calibration_error for run in runs),
        oracle_gap=_mean(run.oracle_gap for run in runs),
        published=_published(first, scores, over_seeds.mean, published),
        per_class=[asdict(c) for c in each],
        confusion=counts[..., :-1].mean(0).tolist(),
        slices=[
            asdict(s)
            for s in slices(gold, predictions, facts, len(first.labels), metric, first.labels)
        ]
        if facts
        else [],
        confusable=[
            asdict(pair)
            for pair in pair_confusions(
                gold, predictions, first.labels, confusable_labels(first.dataset)
            )
        ],
        cost=_cost(runs, devices),
        devices=devices,
        notes=notes(runs) + _times(runs),
        records=[run.file for run in runs],
    )
    return vars(row)


def resampled(runs: Sequence[Run]) -> ResampledScores | None:
    """Return the resampled scores of one row's runs; None if the dialogues are unknown."""
    if runs[0].dialogue is None:
        return None
    predictions = [run.predicted for run in runs]
    seeds = [run.seed for run in runs]
    labels = runs[0].labels
    metric = Metric.of(runs[0].metric, labels)
    return resampled_scores(
        *(runs[0].gold, predictions, runs[0].dialogue, len(labels), seeds),
        metric=metric,
        labels=labels,
    )


def notes(runs: Sequence[Run]) -> list[str]:
    """Return warnings about the seeds of a row: what they share or do not share that bears on their
    spread, an unofficial corpus, and the percentage of utterances without an answer."""
    found = []
    if not runs[0].official:
        found.append("its corpus is not the official release")
    unanswered = 100 * np.mean([np.array(run.predicted) == NO_ANSWER for run in runs])
    if unanswered:
        found.append(f"{unanswered:.2f} % of its utterances have no answer, which counts as wrong")
    shared = len(runs) > 1 and len({run.made["vectors"] for run in runs} - {""}) == 1
    if shared and all(run.made["vectors"] and not run.frozen for run in runs):
        found.append(
            "all its seeds read the same utterance vectors, so intervals, p-values and ranks leave "
            "out the spread between fine-tunings"
        )
    for name, what in MADE_WITH.items():
        kinds = len(_kinds(runs, name))
        if kinds > 1 and not (name == "vectors" and runs[0].own_vectors and kinds == len(runs)):
            found.append(f"its seeds were made with {kinds} {what}")
    return found


def _times(runs: Sequence[Run]) -> list[str]:
    """Return warnings about a row's training time: a fine-tuning that it leaves out, several runs
    at a time, machines of unequal speed."""
    concurrent = _kinds(runs, "runs_at_once")
    if len(_kinds(runs, "device")) > 1 or len(concurrent) > 1:
        return []  # the row shows no time
    found = []
    if any(r.made["vectors"] and not (r.made["fine_tuning"] or r.frozen) for r in runs):
        found.append(WITHOUT_FINE_TUNING)
    if concurrent not in ([], ["1"]):
        found.append(
            f"its seeds were trained {concurrent[0]} at a time, which slows each of them down"
        )
    paces = [pace for run in runs if (pace := run.cost["utterances_per_second"])]
    if paces and max(paces) > UNEVEN * min(paces):
        found.append(
            f"its seeds were trained at {min(paces):.0f} to {max(paces):.0f} utterances/s, on "
            "machines of different speed or beside other work; its training time is their mean"
        )
    return found


def _kinds(runs: Iterable[Run], name: str) -> list[str]:
    """Return the values of one entry of :data:`MADE_WITH` in the runs whose records have it."""
    return sorted({run.made[name] for run in runs} - {""})


def _published(
    run: Run, scores: ResampledScores | None, mean: float, published: Sequence[PublishedRow]
) -> dict[str, Any] | None:
    """Return the published figure beside ours; of several papers, the highest."""
    mine = (row for row in published if row.implemented_as == run.method)
    row = next((row for row in mine if str(row.metric) == run.metric), None)
    if row is None:
        return None
    against = compare_with_figure(scores, row.score, row.seeds) if scores else None
    interval = list(against.interval) if against and against.interval else None
    return {
        **asdict(row),
        "score": row.score,
        "difference": mean - row.score,
        "interval": interval,
        "differs": unlike(run, row),
    }


def unlike(run: Run, row: PublishedRow) -> list[str]:
    """Return how a run and a published row differ as experiments; empty if they do not.

    There is one phrase for what is special about the run (``ours: …``), one for the published row
    (``theirs: …``), and one for what is not known of the published row.
    """
    ours = [] if run.preset in ("", default_preset()) else [f"preset {run.preset}"]
    ours += [run.variant] if run.variant else []
    ours += run.overrides
    theirs, unknown = [], []
    if row.release is None:
        unknown.append("release")
    elif not row.release:
        theirs.append("another release")
    if row.context and row.context != run.context:
        theirs.append(f"context {row.context}")
    if row.modality == "multimodal":
        theirs.append(row.modality)
    if row.selection is None:
        unknown.append("selection")
    elif row.selection != "dev":
        theirs.append(f"selected on {row.selection}")
    if row.encoder is None:
        unknown.append("encoder")
    elif row.encoder.split("/")[-1] != run.encoder.split("/")[-1]:
        theirs.append(f"encoder {row.encoder.split('/')[-1]}")
    if row.seeds is None:
        unknown.append("seeds")
    parts = {"ours": ours, "theirs": theirs, "not known": unknown}
    return [f"{name}: {', '.join(found)}" for name, found in parts.items() if found]


def _cost(runs: Sequence[Run], devices: Sequence[str]) -> dict[str, float | None]:
    """Return the costs of a row; None for a cost that can't be compared between its seeds."""
    cost = {name: _mean(run.cost[name] for run in runs) for name in COST}
    cost["peak_memory_mib"] = max(run.cost["peak_memory_mib"] or 0 for run in runs) or None
    if len(devices) > 1 or len(_kinds(runs, "runs_at_once")) > 1:
        cost |= dict.fromkeys(TIMES)
    if len(devices) > 1:
        cost["peak_memory_mib"] = None
    return cost


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
