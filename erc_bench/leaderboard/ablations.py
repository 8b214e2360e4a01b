"""Ablations: variants of a method, each compared with the whole method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erc_bench.errors import ErcBenchError, did_you_mean
from erc_bench.evaluation.statistics import (
    ResampledScores,
    compare,
    holm,
    seed_interval,
)
from erc_bench.leaderboard.cache import Cache
from erc_bench.leaderboard.rows import resampled
from erc_bench.leaderboard.runs import Run, read_runs, share_encoders
from erc_bench.settings.experiment import variants
from erc_bench.settings.registry import corpus_names, method_names


@dataclass(frozen=True)
class VariantRow:
    """One variant. The difference is variant − whole method, in points."""

    name: str
    values: list[float]
    """The corpus's metric on test for each seed, in percent."""
    seeds: list[int]
    mean: float
    seed_interval: list[float] | None
    difference: float
    interval: list[float] | None
    """95 % interval for new dialogues and seeds; only for new dialogues if a side has one seed."""
    p: float
    p_holm: float
    """Corrected over the variants of the method."""
    paired_seeds: list[int]
    """The seeds that were paired; empty if they are independent samples."""


@dataclass(frozen=True)
class Ablation:
    """A whole method and its variants."""

    method: str
    title: str
    encoder: str
    preset: str
    overrides: list[str]
    metric: str
    """The metric of the corpus."""
    values: list[float]
    seeds: list[int]
    mean: float
    seed_interval: list[float] | None
    variants: list[VariantRow]


def ablation_of(plain: Mapping[str, Any]) -> Ablation:
    """Return an ablation from plain data."""
    rows = [VariantRow(**row) for row in plain["variants"]]
    return Ablation(**{**plain, "variants": rows})


def known_variants(method: str) -> dict[str, tuple[list[str], bool]]:
    """Return the variants in a method's YAML file by name, each with the settings that it sets or
    does not use, and whether its seeds may be paired. Empty if the method is not installed."""
    if method not in method_names():
        return {}
    return {name: ([*v.settings, *v.unused], v.paired) for name, v in variants(method).items()}


def why_paired(one: Sequence[Run], other: Sequence[Run]) -> str:
    """Return why the seeds of two rows are paired; empty if they are not.

    They are if both rows read the same fine-tuned encoder in each seed, or if one row is a variant
    of the other that shares its initial weights and the order of its data. A variant that does not
    read a further corpus has other data. Two or more seeds must be common, because one pair gives
    no spread of differences.
    """
    if share_encoders(one, other):
        return "both read the same fine-tuned encoder in each seed"
    whole, variant = sorted((one[0], other[0]), key=lambda run: bool(run.variant))
    known = known_variants(whole.method)
    common = {run.seed for run in one} & {run.seed for run in other}
    shares_start = (
        not whole.variant
        and bool(variant.variant)
        and _belongs(variant, whole, known)
        and known[variant.variant][1]
        and variant.further_corpora == whole.further_corpora
        and len(common) > 1
    )
    if not shares_start:
        return ""
    return "a variant shares its initial weights and the order of its data with the whole method"


def ablations_of(
    root: Path, method: str, dataset: str, preset: str | None = None
) -> tuple[list[Ablation], list[str]]:
    """Return the ablations of one method on one corpus by the records below ``root``.

    Returns:
        One ablation for each preset, encoder and set of overrides; and the reasons why records
        were skipped.

    Raises:
        ErcBenchError: there is no such method or corpus, or no variant of it has a record.
    """
    known = known_variants(method)
    runs, skipped = read_runs(root, Cache(root))
    mine = [
        r for r in runs if (r.method, r.dataset) == (method, dataset) and preset in (None, r.preset)
    ]
    if method not in method_names() and not mine:
        raise ErcBenchError(
            f"There is no method {method!r}." + did_you_mean(method, method_names())
        )
    if dataset not in corpus_names() and not mine:
        raise ErcBenchError(
            f"There is no corpus {dataset!r}." + did_you_mean(dataset, corpus_names())
        )
    found = ablations(mine, {})
    if not found:
        if not known:
            raise ErcBenchError(f"{method} has no variants: its YAML file names none.")
        options = f"--method {method} --dataset {dataset}" + (f" --preset {preset}" * bool(preset))
        raise ErcBenchError(
            f"No variant of {method} on {dataset} is on record below {root} beside the whole "
            f"method. `erc-bench run {options} --variant all --seeds 5` makes them "
            f"({', '.join(known)})."
        )
    return found, [each.reason for each in skipped]


def ablations(runs: Sequence[Run], titles: Mapping[str, str]) -> list[Ablation]:
    """Return the ablations of all methods that have runs of the whole method and of a variant.

    A variant belongs to the whole method with the same preset, encoder, corpus and overrides.
    Overrides of settings that the variant itself sets, or does not use, are not compared. A variant
    may leave out a further corpus of the whole method.

    Args:
        runs: all runs on one corpus.
        titles: the title of each method.
    """
    found = []
    for whole in _configurations(run for run in runs if not run.variant).values():
        first = whole[0]
        known = known_variants(first.method)
        of_whole = [run for run in runs if run.variant and _belongs(run, first, known)]
        by_name = _configurations(of_whole)
        if not by_name:
            continue
        scores = resampled(whole)
        if scores is None:
            continue
        order = list(known)
        rows = []
        for runs_of in sorted(by_name.values(), key=lambda each: order.index(each[0].variant)):
            name, other = runs_of[0].variant, resampled(runs_of)
            if other is not None:
                rows.append(_row(name, other, scores, bool(why_paired(runs_of, whole))))
        corrected = holm([row["p"] for row in rows])
        over_seeds = seed_interval(scores.values)
        found.append(
            Ablation(
                method=first.method,
                title=titles.get(first.method, first.method),
                encoder=first.encoder,
                preset=first.preset,
                overrides=first.overrides,
                metric=first.metric,
                values=[float(value) for value in scores.values],
                seeds=list(scores.seeds),
                mean=over_seeds.mean,
                seed_interval=list(over_seeds.interval) if over_seeds.interval else None,
                variants=[
                    VariantRow(**row, p_holm=float(p))
                    for row, p in zip(rows, corrected, strict=True)
                ],
            )
        )
    return sorted(found, key=lambda each: (each.method, each.preset, each.overrides))


def _configurations(runs: Iterable[Run]) -> dict[tuple[Any, ...], list[Run]]:
    """Return runs by configuration, each with its seeds in order. If the same settings are there
    tuned and not tuned, only the latter are kept."""
    found: dict[tuple[Any, ...], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.tuned is not None, run.seed)):
        data = (run.weights, run.test_set, run.corpus, *run.further_corpora)
        same = (run.method, run.config_hash, run.variant, *data)
        kept = found.setdefault(same, [])
        if not kept or kept[0].settings == run.settings:
            kept.append(run)
    return dict(sorted(found.items()))


def _belongs(variant: Run, whole: Run, known: Mapping[str, tuple[list[str], bool]]) -> bool:
    """Whether a variant's run belongs to this whole method."""
    if variant.variant not in known:  # written by another version of the method
        return False
    own, _ = known[variant.variant]
    sides = [
        (
            (r.method, r.preset, r.weights, r.test_set, r.corpus),
            sorted(text for text in r.overrides if text.partition("=")[0] not in own),
        )
        for r in (variant, whole)
    ]
    return (
        sides[0] == sides[1]
        and set(variant.further_corpora) <= set(whole.further_corpora)
        and variant.config_hash != whole.config_hash  # otherwise it leaves out nothing
    )


def _row(
    name: str, variant: ResampledScores, whole: ResampledScores, paired: bool
) -> dict[str, Any]:
    """Return the fields of a :class:`VariantRow` except its corrected p-value."""
    result = compare(variant, whole, paired_seeds=paired)
    over_seeds = seed_interval(variant.values)
    return {
        "name": name,
        "values": [float(value) for value in variant.values],
        "seeds": list(variant.seeds),
        "mean": over_seeds.mean,
        "seed_interval": list(over_seeds.interval) if over_seeds.interval else None,
        "difference": result.difference,
        "interval": list(result.interval) if result.interval else None,
        "p": result.p,
        "paired_seeds": list(result.paired_seeds),
    }
