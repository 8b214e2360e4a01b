"""The leaderboard as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from erc_bench.corpus.conversation import Metric
from erc_bench.leaderboard.board import Board, CorpusBoard
from erc_bench.leaderboard.rows import Row
from erc_bench.leaderboard.searches import SearchGroup
from erc_bench.leaderboard.tracks import Track
from erc_bench.leaderboard.wording import (
    ABLATIONS,
    SEARCHES,
    ablation_title,
    budgets,
    capital,
    configuration,
    difference,
    figure,
    full_name,
    mean,
    metric_title,
    p_value,
    preset_score,
    search_title,
    selection,
    signed,
    size,
    track_title,
)
from erc_bench.progress import duration
from erc_bench.settings.presets import presets

if TYPE_CHECKING:
    import jinja2

SMALLEST = 5e6
"""Fewest parameters of a model with an encoder. A smaller one reads utterance vectors."""

MARGIN = 0.04
"""Share of the axis that is left empty at each end."""

WIDEST = 30.0
"""How far, in points, an interval may stretch the axis beyond the outermost score."""


@dataclass(frozen=True)
class Axis:
    """A linear axis of percentages. Positions on it are in percent of its width."""

    low: float
    high: float
    ticks: list[float]

    @classmethod
    def over(cls, corpus: CorpusBoard) -> Axis:
        """Return an axis for all seeds, published figures and, up to :data:`WIDEST`, intervals."""
        values = list(_values(corpus)) or [0.0, 100.0]
        reach = (min(values) - WIDEST, max(values) + WIDEST)
        for track in corpus.tracks:
            for row in track.rows:
                values += [min(max(v, reach[0]), reach[1]) for v in row.interval or []]
        return cls.of(values)

    @classmethod
    def of(cls, values: Sequence[float]) -> Axis:
        """Return an axis for these percentages."""
        span = max(max(values) - min(values), 1.0)
        low, high = max(0.0, min(values) - MARGIN * span), min(100.0, max(values) + MARGIN * span)
        step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50) if (high - low) / s <= 6)
        first = math.ceil(low / step)
        ticks = [step * i for i in range(first, math.floor(high / step) + 1)]
        return cls(low, high, ticks)

    def at(self, value: float) -> str:
        """Return the position of a value, such as ``"12.34"``, limited to the ends of the axis."""
        share = (value - self.low) / (self.high - self.low)
        return f"{100 * min(max(share, 0.0), 1.0):.2f}"


WIDTH, HEIGHT = 440, 220
"""Size of the plot of searches without labels, in pixels."""

LINE = 15
"""Smallest distance between two names beside the plot, in pixels."""


@dataclass(frozen=True)
class Curve:
    """The expected best score of one method by number of trials. Places are in pixels."""

    title: str
    points: str
    dots: list[tuple[str, str]]
    label: str
    """Height of its name, near the end of the curve but clear of other names."""
    end: tuple[str, str]


@dataclass(frozen=True)
class Picture:
    """The plot of a group of searches: expected best score on dev by number of trials."""

    curves: list[Curve]
    trials: list[tuple[int, str]]
    """Ticks of the horizontal axis: numbers of trials with their places."""
    scores: list[tuple[float, str]]
    """Ticks of the vertical axis: scores with their places."""
    height: int
    """Height of the whole picture; more than the plot's if there are many names."""


def picture(group: SearchGroup) -> Picture:
    """Return the plot of a group of searches."""
    rows = [row for row in group.rows if row.best is not None]
    axis = Axis.of([score for row in rows for score in row.expected] or [0.0, 100.0])
    most = max([row.trials for row in group.rows])

    def x(n: int) -> float:
        return WIDTH * (n - 1) / max(most - 1, 1)

    def y(score: float) -> float:
        return HEIGHT * (1 - float(axis.at(score)) / 100)

    curves, lowest = [], 0.0
    for row in sorted(rows, key=lambda row: y(row.expected[-1])):
        places = [(f"{x(n):.1f}", f"{y(v):.1f}") for n, v in enumerate(row.expected, 1)]
        label = max(y(row.expected[-1]), lowest)
        lowest = label + LINE
        points = " ".join(map(",".join, places))
        curves.append(Curve(row.name, points, places, f"{label:.1f}", places[-1]))
    return Picture(
        curves,
        [(n, f"{x(n):.1f}") for n in budgets(group)],
        [(tick, f"{y(tick):.1f}") for tick in axis.ticks],
        round(max(HEIGHT + 34, lowest)),
    )


def _values(corpus: CorpusBoard) -> Iterator[float]:
    yield from (row.score for row in corpus.published)
    for track in corpus.tracks:
        for row in track.rows:
            yield from row.values


def to_html(board: Board, pages: Mapping[str, str] | None = None) -> str:
    """Return ``index.html``, which needs no other file.

    Args:
        board: the leaderboard.
        pages: addresses of the pages of runs by the file of their record. The runs in a row's
            details are linked to them.
    """
    readings = {"searches": SEARCHES.replace("*", ""), "ablations": ABLATIONS}
    template = environment().get_template("page.html.jinja")
    return template.render(board=board, axis_over=Axis.over, pages=pages or {}, **readings)


@cache
def environment() -> jinja2.Environment:
    """Return the Jinja environment of the templates."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("erc_bench.leaderboard", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        search_title=search_title,
        ablation_title=ablation_title,
        difference=difference,
        budgets=budgets,
        picture=picture,
        figure=figure,
        signed=signed,
        duration=lambda seconds: duration(seconds) if seconds is not None else "",
        mean=mean,
        configuration=configuration,
        track_title=track_title,
        size=size,
        briefly=_briefly,
        memory=_memory,
        millions=lambda n: f"{n / 1e6:,.1f} M" if n is not None else "",
        p=p_value,
        preset_score=preset_score,
        spoken=_spoken,
        recall=recall,
        metric_title=metric_title,
        selection=lambda text: selection(text).replace("weighted-F1", "wF1"),
        short_metric=_short_metric,
        encoder=_encoder,
        encoders=_encoders,
        presets=_presets,
        words=_words,
    )
    return made


def _tracks(board: Board) -> Iterator[Track]:
    for corpus in (*board.corpora, *board.tryouts):
        yield from corpus.tracks


def _encoder(track: Track) -> str:
    """Return a track's encoder for the filter: its name without the organisation."""
    return track.encoder.partition(" (weights")[0].split("/")[-1]


def _encoders(board: Board) -> list[tuple[str, str]]:
    """Return the encoders for the filter, smallest first: value and text.

    The text has the number of parameters of the largest model with this encoder, most of which are
    the encoder's. It is left out if only methods on utterance vectors have run.
    """
    sizes: dict[str, float] = {}
    for track in _tracks(board):
        if name := _encoder(track):
            known = [row.cost["parameters"] or 0 for row in track.rows]
            sizes[name] = max(sizes.get(name, 0), *known)
    found = sorted((n if n >= SMALLEST else math.inf, name) for name, n in sizes.items())
    return [(name, name + (f", {n / 1e6:.0f} M" if n < math.inf else "")) for n, name in found]


def _presets(board: Board) -> list[tuple[str, str]]:
    """Return the presets for the filter, in their usual order: value and text."""
    there = {row.preset for track in _tracks(board) for row in track.rows if not row.external}
    usual = [name for name in presets() if name in there]
    return [(name, name) for name in (*usual, *sorted(there - {*usual, ""}))]


def _words(row: Row, track: Track) -> str:
    """Return the text in which the search box looks for a row, in lower case."""
    chosen = "tuned" if row.tuned else ""
    words = [row.method, full_name(row), track.encoder, row.preset, row.variant, *row.overrides]
    return " ".join([*words, row.config_hash, chosen, *row.devices]).lower()


def _short_metric(metric: str) -> str:
    """Return a short title of a metric for a narrow column."""
    return capital(Metric.of(metric, None).title).replace("Weighted-F1", "wF1").split()[0]


def _briefly(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _memory(mib: float | None) -> str:
    if mib is None:
        return ""
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"


def _spoken(row: Row) -> str:
    """Return a row's plot in words, for screen readers."""
    text = f"{row.title}: mean {row.mean:.2f}"
    if row.interval:
        text += f", 95 % interval {row.interval[0]:.2f} to {row.interval[1]:.2f}"
    return text + "; seeds " + ", ".join(f"{value:.2f}" for value in row.values)


def recall(confusion: list[list[float]], supports: list[int]) -> list[list[dict[str, Any]]]:
    """Return confusion counts as percentages of the utterances with each gold label.

    Each cell has its share, its count and its shade 0…1. Utterances without an answer count, so
    the shares of a label may add up to less than 100.

    Args:
        confusion: counts ``(C, C)``, rows gold, without the utterances that have no answer.
        supports: ``(C,)``, the number of utterances with each gold label.
    """
    cells = []
    for counts, support in zip(confusion, supports, strict=True):
        shares = [100 * count / support if support else 0.0 for count in counts]
        cells.append(
            [
                {"share": f"{share:.0f}", "count": f"{count:.1f}", "shade": f"{share / 100:.2f}"}
                for share, count in zip(shares, counts, strict=True)
            ]
        )
    return cells
