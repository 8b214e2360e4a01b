"""What figures, rows, tracks and tables are called, the same in every output."""

from __future__ import annotations

from collections.abc import Sequence

from erc_bench.corpus.conversation import FIGURES, Metric
from erc_bench.evaluation.statistics import spread
from erc_bench.leaderboard.ablations import Ablation
from erc_bench.leaderboard.board import CorpusBoard, Row, Track
from erc_bench.leaderboard.searches import SearchGroup
from erc_bench.settings.presets import default_preset

ABLATIONS = """\
A method without one of its parts, minus the whole method: 95 % for new dialogues and seeds, p after
Holm's correction over these variants. Seeds are paired where a seed has the same initial weights
and batches in both, or the same encoder, fine-tuned for this seed. Else they are independent
samples."""

SEARCHES = """\
The corpus's figure on dev, which chose: these figures are optimistic, and test was not looked at.
*E best of n* is the score that the best of n such trials is expected to have (Tang et al. 2020,
unbiased); a trial that failed counts with 0."""


def metric_title(corpus: CorpusBoard) -> str:
    """What a corpus is judged by, to begin a heading with."""
    return capital(Metric.of(corpus.metric, None).title)


def capital(text: str) -> str:
    """With a capital at its start."""
    return text[0].upper() + text[1:]


def selection(text: str) -> str:
    """``dev weighted-F1``, of how a record says it."""
    for name, title in FIGURES.items():
        text = text.replace(name, title)
    return text


def figure(value: float | None, decimals: int = 2) -> str:
    """A number, or nothing."""
    return "" if value is None else f"{value:.{decimals}f}"


def signed(value: float) -> str:
    """A difference with its sign, a true minus."""
    return f"{value:+.2f}".replace("-", "−")


def mean(row: Row) -> str:
    """:func:`spread` of a row."""
    return spread(row.mean, row.seed_interval)


def difference(points: float, ends: Sequence[float] | None) -> str:
    """``+0.89 (−0.22 to +2.01)``: with its 95 % interval where there is one."""
    return signed(points) + (f" ({signed(ends[0])} to {signed(ends[1])})" if ends else "")


def p_value(value: float | None) -> str:
    """``0.032``; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def ablation_title(ablation: Ablation) -> str:
    """``Parts of EACL: all-MiniLM-L6-v2, small``."""
    encoder = ablation.encoder.split("/")[-1] or "without an encoder"
    details = [encoder, ablation.preset, *ablation.overrides]
    return f"Parts of {ablation.title}: {', '.join(part for part in details if part)}"


def full_name(row: Row) -> str:
    """``EACL (small, temperature=0.05)``."""
    return row.title + (f" ({details})" if (details := configuration(row)) else "")


def configuration(row: Row) -> str:
    """What tells a row from others of its method: preset, overrides; external and by what.

    Of a tuned row the number of the trial that was chosen stands for what that had drawn; the
    sampler's seed is said where it is not the usual 0.
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
    """The encoder's name, or that there is none; and what was spent on tuning each row."""
    if track.rows[0].external:
        return "Predictions made elsewhere"
    name = track.encoder or "Without an encoder"
    return f"{name}, each row tuned: {track.budget}" if track.budget else name


def search_title(group: SearchGroup) -> str:
    """``Search for settings: all-MiniLM-L6-v2, small``."""
    encoder = group.encoder.split("/")[-1] or "without an encoder"
    return f"Search for settings: {encoder}, {group.preset}"


def budgets(group: SearchGroup) -> list[int]:
    """Numbers of trials to show: 1, 2, 4, … and the largest."""
    most = max(row.trials for row in group.rows)
    return [*(2**k for k in range(most.bit_length()) if 2**k < most), most]


def size(corpus: CorpusBoard) -> str:
    """``7 emotions · 2,610 test utterances in 280 dialogues``."""
    text = f"{len(corpus.labels)} emotions · {corpus.utterances:,} test utterances"
    text += f" in {corpus.dialogues:,} dialogues" if corpus.dialogues else ""
    metric = Metric.of(corpus.metric, None)
    return text if metric == Metric() else f"{text} · judged by {metric.title}"
