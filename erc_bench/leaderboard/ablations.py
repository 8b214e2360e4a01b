"""Methods without one of their parts, each compared with the whole method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erc_bench.evaluation.statistics import (
    ResampledScores,
    compare,
    holm,
    seed_interval,
)
from erc_bench.leaderboard.runs import Run, share_encoders
from erc_bench.settings.experiment import variants
from erc_bench.settings.registry import method_names


@dataclass(frozen=True)
class VariantRow:
    """One variant, and its difference from the whole method: variant − whole, in points."""

    name: str
    values: list[float]
    """The corpus's figure on test of each seed, in percent."""
    seeds: list[int]
    mean: float
    seed_interval: list[float] | None
    difference: float
    interval: list[float] | None
    """95 % for new dialogues and seeds; with one seed on a side for new dialogues alone."""
    p: float
    p_holm: float
    """Corrected over the variants of the method."""
    paired_seeds: list[int]
    """The seeds that were paired; none where they are independent samples."""


@dataclass(frozen=True)
class Ablation:
    """A method, and it without each of its parts."""

    method: str
    title: str
    encoder: str
    preset: str
    overrides: list[str]
    metric: str
    """What the corpus is judged by."""
    values: list[float]
    seeds: list[int]
    mean: float
    seed_interval: list[float] | None
    variants: list[VariantRow]


def ablation_of(plain: Mapping[str, Any]) -> Ablation:
    """An ablation from plain data."""
    rows = [VariantRow(**row) for row in plain["variants"]]
    return Ablation(**{**plain, "variants": rows})


def known_variants(method: str) -> dict[str, tuple[list[str], bool]]:
    """What the method's YAML file says of its variants: by name the settings that each sets, and
    whether its seeds may be paired; nothing of a method that is not installed."""
    if method not in method_names():
        return {}
    return {name: (list(v.settings), v.paired) for name, v in variants(method).items()}


def ablations(
    runs: Sequence[Run],
    titles: Mapping[str, str],
    resampled: Callable[[Sequence[Run]], ResampledScores | None],
) -> list[Ablation]:
    """Every whole method among the runs on a corpus of which variants are there, too.

    A variant belongs to the whole method of the same preset, encoder, corpus and overrides, but
    for those that set what the variant sets.

    Args:
        runs: of one corpus.
        titles: what methods are called.
        resampled: the resampled scores of one configuration's runs; None where the dialogues are
            not known.
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
                paired = known[name][1] or share_encoders(runs_of, whole)
                rows.append(_row(name, other, scores, paired))
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
    """Runs by configuration, each with its seeds in order; of the same settings tuned and not the
    latter."""
    found: dict[tuple[Any, ...], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.tuned is not None, run.seed)):
        data = (run.encoder_digest or run.encoder, run.test_set, run.corpus)
        same = (run.method, run.config_hash, run.variant, *data)
        kept = found.setdefault(same, [])
        if not kept or kept[0].settings == run.settings:
            kept.append(run)
    return dict(sorted(found.items()))


def _belongs(variant: Run, whole: Run, known: Mapping[str, tuple[list[str], bool]]) -> bool:
    """Whether a run is of a variant of just this whole method."""
    if variant.variant not in known:  # of another version of the method
        return False
    own, _ = known[variant.variant]
    kept = [text for text in whole.overrides if text.partition("=")[0] not in own]
    sides = [
        (r.method, r.preset, r.encoder_digest or r.encoder, r.test_set, r.corpus)
        for r in (variant, whole)
    ]
    return sides[0] == sides[1] and sorted(variant.overrides) == sorted(kept)


def _row(
    name: str, variant: ResampledScores, whole: ResampledScores, paired: bool
) -> dict[str, Any]:
    """A :class:`VariantRow` without its corrected p."""
    common = set(variant.seeds) & set(whole.seeds)
    # One pair says nothing of the spread of differences: its two sides may have more seeds.
    result = compare(variant, whole, paired_seeds=paired and len(common) > 1)
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
