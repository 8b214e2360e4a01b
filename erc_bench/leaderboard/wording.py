"""The wording of figures, rows, tracks and tables, which all outputs share."""

from __future__ import annotations

from collections.abc import Sequence

from erc_bench.corpus.conversation import FIGURES, Metric
from erc_bench.evaluation.statistics import spread
from erc_bench.leaderboard.ablations import Ablation
from erc_bench.leaderboard.board import CorpusBoard
from erc_bench.leaderboard.rows import Row
from erc_bench.leaderboard.searches import SearchGroup, SearchRow
from erc_bench.leaderboard.tracks import Track
from erc_bench.settings.presets import default_preset

ABLATIONS = """\
A method without one of its parts, minus the whole method. Intervals are 95 %, for new dialogues and
seeds. p is corrected (Holm) over these variants. Seeds are paired if a seed has the same initial
weights and batches in both, or the same encoder, fine-tuned for this seed. Otherwise they are
independent samples."""

SEARCHES = """\
Scores are on dev, which chose the trial, so they are optimistic. Trials are never scored on test.
*E best of n* is the expected score of the best of n trials (Tang et al. 2020, unbiased). A failed
trial counts as 0."""


def metric_title(corpus: CorpusBoard) -> str:
    """Return the metric of a corpus for the beginning of a heading."""
    return capital(Metric.of(corpus.metric, None).title)


def capital(text: str) -> str:
    """Return text with a capital first letter."""
    return text[0].upper() + text[1:]


def selection(text: str) -> str:
    """Return how a run was selected in words, such as ``dev weighted-F1``."""
    for name, title in FIGURES.items():
        text = text.replace(name, title)
    return text


def figure(value: float | None, decimals: int = 2) -> str:
    """Return a number as text; empty for None."""
    return "" if value is None else f"{value:.{decimals}f}"


def signed(value: float) -> str:
    """Return a difference with its sign, with a true minus."""
    return f"{value:+.2f}".replace("-", "−")


def mean(row: Row) -> str:
    """Return the mean of a row with its interval over seeds, see :func:`spread`."""
    return spread(row.mean, row.seed_interval)


def difference(points: float, ends: Sequence[float] | None) -> str:
    """Return a difference with its 95 % interval, if any: ``+0.89 (−0.22 to +2.01)``."""
    return signed(points) + (f" ({signed(ends[0])} to {signed(ends[1])})" if ends else "")


def p_value(value: float | None) -> str:
    """Return a p-value such as ``0.032``; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def ablation_title(ablation: Ablation) -> str:
    """Return a heading such as ``Parts of EACL: all-MiniLM-L6-v2, small``."""
    encoder = ablation.encoder.split("/")[-1] or "without an encoder"
    details = [encoder, ablation.preset, *ablation.overrides]
    return f"Parts of {ablation.title}: {', '.join(part for part in details if part)}"


def full_name(row: Row) -> str:
    """Return a row's name such as ``EACL (small, temperature=0.05)``."""
    return row.title + (f" ({details})" if (details := configuration(row)) else "")


def configuration(row: Row) -> str:
    """Return what identifies a row within its method: preset, variant, overrides, external encoder.

    A tuned row has the number of the chosen trial instead of the settings that the trial drew, and
    the sampler's seed if it is not the default 0.
    """
    preset = [] if row.preset in ("", default_preset(), "external") else [row.preset]
    preset += [row.variant] if row.variant else []
    if (search := row.tuned) is not None:
        seed = f", sampler's seed {search['sampler_seed']}" if search["sampler_seed"] else ""
        trial = f"trial {search['chosen']} of {search['trials']}{seed}"
        return ", ".join([*preset, *search["fixed"], trial])
    external = [row.encoder, "external"] if row.external else []
    return ", ".join(part for part in [*preset, *row.overrides, *external] if part)


def track_title(track: Track) -> str:
    """Return a heading with the encoder's name and the search budget of each row."""
    if track.rows[0].external:
        return "Predictions made elsewhere"
    name = track.encoder or "Without an encoder"
    return f"{name}, each row tuned: {track.budget}" if track.budget else name


def search_title(group: SearchGroup) -> str:
    """Return a heading such as ``Search for settings: all-MiniLM-L6-v2, small``."""
    encoder = group.encoder.split("/")[-1] or "without an encoder"
    return f"Search for settings: {encoder}, {group.preset}"


def budgets(group: SearchGroup) -> list[int]:
    """Return the numbers of trials to show: 1, 2, 4, … and the largest."""
    most = max(row.trials for row in group.rows)
    return [*(2**k for k in range(most.bit_length()) if 2**k < most), most]


def preset_score(row: SearchRow) -> str:
    """Return the score of a search's trial 0: a figure, ``failed``, or a dash if it is missing."""
    return figure(row.preset_score) or ("failed" if row.preset_failed else "–")


def size(corpus: CorpusBoard) -> str:
    """Return the size of a corpus: ``7 emotions · 2,610 test utterances in 280 dialogues``."""
    text = f"{len(corpus.labels)} emotions · {corpus.utterances:,} test utterances"
    text += f" in {corpus.dialogues:,} dialogues" if corpus.dialogues else ""
    metric = Metric.of(corpus.metric, None)
    return text if metric == Metric() else f"{text} · judged by {metric.title}"
