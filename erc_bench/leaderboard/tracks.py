"""Rows that may be compared → a track, with every pair of its rows and their ranks.

Rows with the same encoder weights and the same number of search trials (mostly none) form a
**track**. Methods are compared only within a track. Predictions made elsewhere have a track of
their own. They are never ranked, because how they were selected is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from erc_bench.evaluation.statistics import (
    Comparison,
    ResampledScores,
    compare,
    holm,
    rank_groups,
)
from erc_bench.leaderboard.ablations import why_paired
from erc_bench.leaderboard.published import PublishedRow
from erc_bench.leaderboard.rows import Row, make_row, resampled
from erc_bench.leaderboard.runs import Run, most, usual

ALPHA = 0.05
"""A row is shown to be better if the p-value, corrected over the track, is at most this."""

OTHER_DATA = ("another test set", "another copy of the corpus")
"""Reasons why a row is shown in its track but can't be compared with the other rows."""

DECIMALS = 4
"""Decimals of the figures in the leaderboard's data."""


@dataclass(frozen=True)
class Pair:
    """The difference of two rows of a track, ``first`` − ``second``, both given by their index."""

    first: int
    second: int
    difference: float
    interval: list[float] | None
    p: float
    p_holm: float | None
    """Corrected over the track's pairs of ranked rows; None if one of the two is unranked."""
    detectable: float | None
    """The difference that would be found four times in five, without correction."""
    shown_better: bool
    """Whether ``first`` is shown to be better than ``second``."""


@dataclass(frozen=True)
class Track:
    """Rows of one encoder and one budget, best first."""

    encoder: str
    digest: str
    budget: str
    """The search behind the settings of each row: ``random search, 20 trials``; empty if none."""
    rows: list[Row]
    pairs: list[Pair]

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Track:
        """Return a track from the plain data of :func:`make_track`."""
        rows = [Row(**row) for row in plain["rows"]]
        pairs = [Pair(**pair) for pair in plain["pairs"]]
        return cls(**{**plain, "rows": rows, "pairs": pairs})


def make_track(
    runs: Sequence[Run],
    published: Sequence[PublishedRow],
    titles: dict[str, str],
    tryout: bool = False,
) -> dict[str, Any]:
    """Return a :class:`Track` as plain data.

    Args:
        runs: all runs of the track.
        published: the published rows of the corpus.
        titles: the title of each method.
        tryout: whether the track is only for trying, so that its rows are neither compared nor
            ranked.
    """
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
        row = make_row(of_row, scores, published, titles)
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
        better[pair["first"], pair["second"]] = pair["shown_better"]
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


def _pairs(
    made: Sequence[tuple[dict[str, Any], ResampledScores | None, list[Run]]],
) -> list[dict[str, Any]]:
    """Return every :class:`Pair` of rows on the same test set as plain data."""
    compared: list[tuple[int, int, Comparison]] = []
    for i, (_, a, mine) in enumerate(made):
        for j, (_, b, theirs) in enumerate(made[i + 1 :], i + 1):
            if a and b and a.resampling == b.resampling:
                paired = bool(why_paired(mine, theirs))
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
            detectable=c.detectable,
            shown_better=p_holm is not None and p_holm <= ALPHA,
        )
        pairs.append(vars(pair))
    return pairs


def rounded(value: Any) -> Any:
    """Return plain data with floats rounded to :data:`DECIMALS`.

    NaN and infinity become None. A dataclass becomes the dictionary of its fields.
    """
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
