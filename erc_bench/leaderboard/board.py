"""Runs and published rows → the leaderboard as plain data.

A **row** is one method on one corpus with one configuration; its seeds are its points. Rows that
share an encoder's weights, and as many trials of a search for their settings (mostly none), form a
**track**: only within a track are methods compared. Predictions made elsewhere have a track of
their own and are never ranked: how they were selected is not known.
The data depend on the records and on ``published.yaml`` alone, so the same input gives the same
bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from erc_bench.corpus.conversation import Metric
from erc_bench.evaluation import NO_ANSWER
from erc_bench.evaluation.slices import class_scores, confusions, facts_of, pair_confusions, slices
from erc_bench.evaluation.statistics import (
    Comparison,
    ResampledScores,
    compare,
    compare_with_figure,
    holm,
    rank_groups,
    resampled_scores,
    score,
    seed_interval,
)
from erc_bench.leaderboard.ablations import Ablation, ablation_of, ablations, known_variants
from erc_bench.leaderboard.cache import Cache
from erc_bench.leaderboard.published import Published, PublishedRow, read_published
from erc_bench.leaderboard.runs import (
    COST,
    MADE_WITH,
    Run,
    Skipped,
    copy_mark,
    most,
    read_runs,
    share_encoders,
    usual,
)
from erc_bench.leaderboard.searches import SearchGroup, read_trials, search_groups
from erc_bench.records.trials import Trial
from erc_bench.settings.presets import default_preset, is_tryout
from erc_bench.settings.registry import confusable_labels, corpus_metric

ALPHA = 0.05
"""A difference is resolved where its p-value, corrected over the track, is at most this."""

DECIMALS = 4

OTHER_DATA = ("another test set", "another copy of the corpus")
"""Why a row stands beside the others of its track without comparing with them."""

TIMES = ("fit_seconds", "utterances_per_second")
"""Costs that mean something on one kind of device, with as many runs at a time."""

UNEVEN = 1.5
"""Fastest over slowest seed, above which a row says that its times are not of one machine."""


@dataclass(frozen=True)
class Row:
    """One method, corpus and configuration; figures in percent, means over its seeds."""

    method: str
    title: str
    config_hash: str
    preset: str
    overrides: list[str]
    variant: str
    """The part that the method is without; empty for all of it."""
    tuned: dict[str, Any] | None
    """The search that chose the settings: ``trials``, ``sampler``, ``sampler_seed``, ``chosen`` (a
    trial's number), ``digest``, ``fixed`` (the overrides that all of its trials have); None where
    nobody searched."""
    context: str
    selection: str
    external: bool
    encoder: str
    """What predicted, where the track does not say it: in predictions made elsewhere."""
    seeds: list[int]
    values: list[float]
    """The corpus's figure on test, of each seed."""
    mean: float
    sd: float | None
    """Standard deviation over seeds (n−1); None for one."""
    seed_interval: list[float] | None
    """95 % for the mean over seeds on this very test set; None for one seed."""
    interval: list[float] | None
    """95 % for new dialogues and, with two seeds or more, new seeds; None where the dialogues are
    not known or too few."""
    rank: int | None
    """1 + the rows of the track that are resolved to be better; None: it takes no part."""
    unranked: str
    """Why it takes no part."""
    accuracy: float
    macro_f1: float
    weighted_f1: float
    dev_score: float | None
    """The corpus's figure on dev."""
    calibration_error: float | None
    oracle_gap: float | None
    published: dict[str, Any] | None
    """What is published of this method on this release, the difference from it with its interval,
    and in ``differs`` what makes the two unlike."""
    per_class: list[dict[str, Any]]
    confusion: list[list[float]]
    """Counts ``(C, C)``, rows gold, columns predicted, means over seeds; what has no answer is in
    none."""
    slices: list[dict[str, Any]]
    confusable: list[dict[str, Any]]
    cost: dict[str, float | None]
    """Means over seeds, of memory the largest; of time and memory only where all were made on the
    same device."""
    devices: list[str]
    notes: list[str]
    """What must be known of its seeds before their figures or their spread are believed."""
    records: list[str]


@dataclass(frozen=True)
class Pair:
    """The difference of two rows of a track, ``first`` − ``second`` (numbers of rows)."""

    first: int
    second: int
    difference: float
    interval: list[float] | None
    p: float
    p_holm: float | None
    """Corrected over the track's pairs; None where a row takes no part in the ranking."""
    resolvable: float | None
    resolved: bool


@dataclass(frozen=True)
class Track:
    """Rows of one encoder and one budget, best first."""

    encoder: str
    digest: str
    budget: str
    """What was spent on the settings of each row: ``random search, 20 trials``; mostly nothing."""
    rows: list[Row]
    pairs: list[Pair]


@dataclass(frozen=True)
class CorpusBoard:
    """One corpus: our tracks, the searches for settings, and what is published on it."""

    name: str
    title: str
    labels: list[str]
    metric: str
    """What it is judged by: of rows, pairs and published rows."""
    utterances: int | None
    dialogues: int | None
    tracks: list[Track]
    ablations: list[Ablation]
    searches: list[SearchGroup]
    published: list[PublishedRow]


@dataclass(frozen=True)
class Board:
    """All there is to show."""

    corpora: list[CorpusBoard]
    tryouts: list[CorpusBoard]
    """Runs of a preset for trying, and corpora that are no benchmark: shown apart, never ranked."""
    skipped: list[Skipped]

    def data(self) -> dict[str, Any]:
        """Plain data, as ``leaderboard.json`` holds it."""
        return rounded({"alpha": ALPHA, **vars(self)})


def read_board(root: Path, further: Sequence[Path] = ()) -> Board:
    """The leaderboard of the records below ``root``, and below ``further`` folders; what the
    cache has is not computed again."""
    cache, published = Cache(root), read_published(root)
    runs, skipped = read_runs(root, cache, further)
    trials, damaged = read_trials(root, further)
    groups = _groups(runs, published)
    searches = _searches(trials, published)
    parts = _ablations(groups, published, cache)
    computed = _tracks(groups, published, cache)
    cache.prune()
    names = [name for name, entry in published.corpora.items() if entry.benchmark]
    of_ours = {(tryout, dataset) for tryout, dataset, *_ in groups} | set(searches)
    others = {dataset for _, dataset in of_ours} | set(published.rows)
    names += sorted(others - set(published.corpora))
    corpora = [_corpus(n, False, groups, computed, parts, searches, published) for n in names]
    tryout_names = sorted({dataset for tryout, dataset in of_ours if tryout})
    tryouts = [_corpus(n, True, groups, computed, parts, searches, published) for n in tryout_names]
    shown = [c for c in corpora if c.tracks or c.searches or c.published]
    return Board(shown, tryouts, [*skipped, *damaged])


Group = tuple[bool, str, str, str]
"""Whether it is a try-out, the corpus, the encoder's weights (else its name, or ELSEWHERE), and the
budget."""

ELSEWHERE = "elsewhere"


def _groups(runs: Iterable[Run], published: Published) -> dict[Group, list[Run]]:
    groups: dict[Group, list[Run]] = {}
    for run in runs:
        tryout = _is_tryout(run, published)
        weights = ELSEWHERE if run.external else run.encoder_digest or run.encoder
        groups.setdefault((tryout, run.dataset, weights, run.budget), []).append(run)
    return groups


def _is_tryout(run: Run | Trial, published: Published) -> bool:
    """Whether its scores mean nothing: its preset is for trying, or its corpus is no benchmark."""
    entry = published.corpora.get(run.dataset)
    return is_tryout(run.preset) or (entry is not None and not entry.benchmark)


def _searches(
    trials: Iterable[Trial], published: Published
) -> dict[tuple[bool, str], list[SearchGroup]]:
    """The searches for settings on each corpus, as :data:`Group` tells corpora apart."""
    by_corpus: dict[tuple[bool, str], list[Trial]] = {}
    for each in trials:
        by_corpus.setdefault((_is_tryout(each, published), each.dataset), []).append(each)
    return {
        corpus: search_groups(found, {each.method: published.title(each.method) for each in found})
        for corpus, found in by_corpus.items()
    }


def _ablations(
    groups: dict[Group, list[Run]], published: Published, cache: Cache
) -> dict[tuple[bool, str], list[Ablation]]:
    """The methods on each corpus that stand there without their parts, too."""
    by_corpus: dict[tuple[bool, str], list[Run]] = {}
    for (tryout, dataset, *_), runs in groups.items():
        by_corpus.setdefault((tryout, dataset), []).extend(runs)
    found = {}
    for corpus, runs in by_corpus.items():
        if not any(run.variant for run in runs):
            continue
        titles = {run.method: published.title(run.method) for run in runs}
        names = {run.method: known_variants(run.method) for run in runs}
        key = cache.key("ablations", [[r.file, r.digest] for r in runs], titles, names)
        kept = cache.read(key)
        if kept is None:
            kept = rounded(ablations(runs, titles, resampled))
            cache.write(key, kept)
        found[corpus] = [ablation_of(each) for each in kept]
    return found


def _corpus(
    name: str,
    tryout: bool,
    groups: dict[Group, list[Run]],
    computed: dict[Group, Track],
    ablations: dict[tuple[bool, str], list[Ablation]],
    searches: dict[tuple[bool, str], list[SearchGroup]],
    published: Published,
) -> CorpusBoard:
    mine = {key: runs for key, runs in groups.items() if key[:2] == (tryout, name)}
    tracks = [computed[key] for key in mine]
    tracks.sort(key=lambda t: (t.rows[0].external, -t.rows[0].mean, t.encoder, t.digest, t.budget))
    named = Counter(encoder for encoder, _ in {(t.encoder, t.digest) for t in tracks})
    tracks = [
        replace(track, encoder=f"{track.encoder} (weights {track.digest[:8]})")
        if named[track.encoder] > 1 and track.digest
        else track
        for track in tracks
    ]
    everything = [run for runs in mine.values() for run in runs]
    one = usual([run.test_set for run in everything])
    run = next((run for run in everything if run.test_set == one), None)
    metric = run.metric if run else str(corpus_metric(name))
    papers = [] if tryout else published.rows.get(name, [])
    return CorpusBoard(
        name=name,
        title=published.corpus_title(name),
        labels=run.labels if run else [],
        metric=metric,
        utterances=len(run.gold) if run else None,
        dialogues=len(set(run.dialogue)) if run and run.dialogue else None,
        tracks=tracks,
        ablations=ablations.get((tryout, name), []),
        searches=searches.get((tryout, name), []),
        published=[row for row in papers if str(row.metric) == metric],
    )


def _tracks(
    groups: dict[Group, list[Run]], published: Published, cache: Cache
) -> dict[Group, Track]:
    found: dict[Group, Any] = {}
    for group, runs in groups.items():
        tryout, dataset, *_ = group
        rows = [] if tryout else published.rows.get(dataset, [])
        titles = {run.method: published.title(run.method) for run in runs}
        inputs = [tryout, [[r.file, r.digest] for r in runs], [asdict(r) for r in rows], titles]
        key = cache.key("track", *inputs)
        found[group] = cache.read(key)
        if found[group] is None:
            found[group] = make_track(runs, rows, titles, tryout)
            cache.write(key, found[group])
    return {
        group: Track(
            value["encoder"],
            value["digest"],
            value["budget"],
            [Row(**row) for row in value["rows"]],
            [Pair(**pair) for pair in value["pairs"]],
        )
        for group, value in found.items()
    }


def make_track(
    runs: Sequence[Run],
    published: Sequence[PublishedRow],
    titles: dict[str, str],
    tryout: bool = False,
) -> dict[str, Any]:
    """A :class:`Track` as plain data: its rows, compared with each other and with their papers."""
    by_row: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        by_row.setdefault((run.method, run.settings, run.test_set, run.corpus), []).append(run)
    official = [run for run in runs if run.official] or runs
    usual_test_set = usual([run.test_set for run in official])
    usual_corpus = usual([run.corpus for run in official if run.test_set == usual_test_set])
    made: list[tuple[dict[str, Any], ResampledScores | None, list[Run]]] = []
    for of_row in by_row.values():
        of_row.sort(key=lambda run: run.seed)
        scores = resampled(of_row)
        row = _row(of_row, scores, published, titles)
        if tryout:
            row["unranked"] = "tryout"
        elif of_row[0].external:
            row["unranked"] = "selection unknown"
        elif of_row[0].variant:
            row["unranked"] = "a variant"
        elif of_row[0].test_set != usual_test_set:
            row["unranked"] = OTHER_DATA[0]
        elif of_row[0].corpus != usual_corpus:
            row["unranked"] = OTHER_DATA[1]
        elif scores is None:
            row["unranked"] = "the dialogues are not known"
        elif len(of_row) < 2:
            row["unranked"] = "one seed"
        made.append((row, scores, of_row))
    made.sort(key=lambda m: (-m[0]["mean"], m[0]["method"], m[0]["config_hash"]))
    rows = [row for row, *_ in made]
    pairs = [] if tryout else _pairs(made)
    ranked = [i for i, row in enumerate(rows) if not row["unranked"]]
    better = np.zeros((len(rows), len(rows)), dtype=bool)
    for pair in pairs:  # the first row of a pair has the higher mean
        better[pair["first"], pair["second"]] = pair["resolved"]
    if len(ranked) == 1:
        rows[ranked.pop()]["unranked"] = "nothing to be ranked with"
    for i, rank in zip(ranked, rank_groups(better[np.ix_(ranked, ranked)]), strict=True):
        rows[i]["rank"] = int(rank)
    names = [run.encoder for run in runs if not run.external]
    name = min(most(names), key=lambda name: (len(name), name)) if names else ""
    if Path(name).is_absolute():
        name = Path(name).name
    digest = runs[0].encoder_digest
    track = {"encoder": name, "digest": digest, "budget": runs[0].budget}
    return rounded({**track, "rows": rows, "pairs": pairs})


def resampled(runs: Sequence[Run]) -> ResampledScores | None:
    """Resampled scores of one row's runs; None where the dialogues are not known."""
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


def _row(
    runs: Sequence[Run],
    scores: ResampledScores | None,
    published: Sequence[PublishedRow],
    titles: dict[str, str],
) -> dict[str, Any]:
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
        macro_f1=_macro_f1(counts),
        weighted_f1=float(score(counts, Metric()).mean()),
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


def _kinds(runs: Iterable[Run], name: str) -> list[str]:
    """What runs were made with, of those that say it."""
    return sorted({run.made[name] for run in runs} - {""})


def notes(runs: Sequence[Run]) -> list[str]:
    """What the seeds of a row share or do not share, where it bears on their spread, and the share
    of utterances without an answer where there are any."""
    found = []
    if not runs[0].official:
        found.append("its corpus is a copy that is not the official release")
    unanswered = 100 * np.mean([np.array(run.predicted) == NO_ANSWER for run in runs])
    if unanswered:
        found.append(f"{unanswered:.2f} % of its predictions are no answer, which counts as wrong")
    if len(runs) > 1 and runs[0].made["vectors"] and len({r.made["vectors"] for r in runs}) == 1:
        found.append(
            "its seeds read the same utterance vectors: intervals, p-values and ranks leave the "
            "spread of the encoder's fine-tuning out"
        )
    for name, what in MADE_WITH.items():
        kinds = len(_kinds(runs, name))
        if kinds > 1 and not (name == "vectors" and runs[0].own_vectors and kinds == len(runs)):
            found.append(f"its seeds were made with {kinds} {what}")
    return found


def _times(runs: Sequence[Run]) -> list[str]:
    """What must be known of the time of a training: that it is a mean of what can't have been one
    machine's, or of runs that had the machine together."""
    concurrent = _kinds(runs, "runs_at_once")
    if len(_kinds(runs, "device")) > 1 or len(concurrent) > 1:
        return []  # no time is told
    found = []
    if any(run.made["vectors"] and not run.made["fine_tuning"] for run in runs):
        found.append("the time of its training is without the fine-tuning of its encoder")
    if concurrent not in ([], ["1"]):
        found.append(
            f"its seeds were trained {concurrent[0]} at a time, which takes each the longer"
        )
    paces = [pace for run in runs if (pace := run.cost["utterances_per_second"])]
    if paces and max(paces) > UNEVEN * min(paces):
        found.append(
            f"its seeds were trained at {min(paces):.0f} to {max(paces):.0f} utterances/s, so on "
            "machines of different speed or beside other work: the time is a mean of these"
        )
    return found


def _published(
    run: Run, scores: ResampledScores | None, mean: float, published: Sequence[PublishedRow]
) -> dict[str, Any] | None:
    """The paper's figure beside ours; of several papers the highest is taken."""
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
    """What keeps a run and a published row from being the same experiment."""
    reasons = [] if run.preset in ("", default_preset()) else [f"here preset {run.preset}"]
    reasons += [f"here {run.variant}"] if run.variant else []
    reasons += [f"here {', '.join(run.overrides)}"] if run.overrides else []
    if not row.release:
        reasons.append("release not checked" if row.release is None else "another release")
    if row.context and row.context != run.context:
        reasons.append(f"context {row.context}")
    if row.modality == "multimodal":
        reasons.append(row.modality)
    if row.selection != "dev":
        reasons.append(f"selected on {row.selection}" if row.selection else "selection not known")
    if row.encoder is None:
        reasons.append("encoder not known")
    elif row.encoder.split("/")[-1] != run.encoder.split("/")[-1]:
        reasons.append(f"encoder {row.encoder.split('/')[-1]}")
    if row.seeds is None:
        reasons.append("seeds not known")
    return reasons


def _pairs(
    made: Sequence[tuple[dict[str, Any], ResampledScores | None, list[Run]]],
) -> list[dict[str, Any]]:
    compared: list[tuple[int, int, Comparison]] = []
    for i, (_, a, mine) in enumerate(made):
        for j, (_, b, theirs) in enumerate(made[i + 1 :], i + 1):
            if a and b and a.resampling == b.resampling:
                paired = share_encoders(mine, theirs)
                compared.append((i, j, compare(a, b, paired_seeds=paired)))
    ranked = [not (made[i][0]["unranked"] or made[j][0]["unranked"]) for i, j, _ in compared]
    corrected = iter(holm([c.p for (_, _, c), r in zip(compared, ranked, strict=True) if r]))
    pairs = []
    for (i, j, c), is_ranked in zip(compared, ranked, strict=True):
        p_holm = float(next(corrected)) if is_ranked else None
        pair = Pair(
            first=i,
            second=j,
            difference=c.difference,
            interval=list(c.interval) if c.interval else None,
            p=c.p,
            p_holm=p_holm,
            resolvable=c.resolvable,
            resolved=p_holm is not None and p_holm <= ALPHA,
        )
        pairs.append(vars(pair))
    return pairs


def _macro_f1(counts: np.ndarray) -> float:
    """Mean F1 over the classes that occur in gold or predictions, mean over runs, in percent."""
    both = counts.sum(1)[:, :-1] + counts.sum(2)
    f1 = 200 * np.diagonal(counts, axis1=1, axis2=2) / np.maximum(both, 1)
    return float((f1.sum(1) / (both > 0).sum(1)).mean())


def _cost(runs: Sequence[Run], devices: Sequence[str]) -> dict[str, float | None]:
    """Mean costs of a row's seeds; without those that do not mean the same on all its machines."""
    cost = {name: _mean(run.cost[name] for run in runs) for name in COST}
    cost["peak_memory_mib"] = max(run.cost["peak_memory_mib"] or 0 for run in runs) or None
    if len(devices) > 1 or len(_kinds(runs, "runs_at_once")) > 1:
        cost |= dict.fromkeys(TIMES)
    if len(devices) > 1:
        cost["peak_memory_mib"] = None
    return cost


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of the figures there are."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def rounded(value: Any) -> Any:
    """Plain data with floats rounded to four decimals, and None for what is no number; of a
    dataclass, its fields."""
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each) for each in value]
    if isinstance(value, float):
        # + 0.0 turns −0.0 into 0.0.
        return round(value, DECIMALS) + 0.0 if math.isfinite(value) else None
    return value
