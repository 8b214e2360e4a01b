"""The leaderboard as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence

import msgspec

from erc_bench.corpus.conversation import Metric
from erc_bench.evaluation.statistics import spread
from erc_bench.leaderboard.ablations import Ablation
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

CSV_COLUMNS = (
    "corpus", "kind", "encoder", "rank", "method", "preset", "config_hash", "variant", "overrides",
    "trials", "seeds", "metric", "score", "sd", "seed_low", "seed_high", "low", "high",
    "weighted_f1", "accuracy", "macro_f1", "dev_score", "published", "difference",
    "difference_low", "difference_high",
    "context", "selection", "release", "source", "fit_seconds", "utterances_per_second",
    "peak_memory_mib", "devices", "unranked", "notes",
)  # fmt: skip


def to_json(board: Board) -> str:
    """Return ``leaderboard.json``, which has all data."""
    # The standard library is ten times slower with an indent.
    text = json.dumps(board.data(), ensure_ascii=False, sort_keys=True)
    return msgspec.json.format(text, indent=1) + "\n"


def to_csv(board: Board) -> str:
    """Return ``leaderboard.csv``; a row's ``kind`` is ours, external, tryout or published."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for kind, corpora in (("ours", board.corpora), ("tryout", board.tryouts)):
        for corpus in corpora:
            for track in corpus.tracks:
                for row in track.rows:
                    writer.writerow(_csv_row(corpus, kind, track, row))
            for paper in corpus.published:
                writer.writerow(
                    {
                        "corpus": corpus.name,
                        "kind": "published",
                        "encoder": paper.encoder,
                        "method": paper.method,
                        "seeds": paper.seeds,
                        "metric": corpus.metric,
                        "score": figure(paper.score),
                        "weighted_f1": figure(paper.weighted_f1),
                        "accuracy": figure(paper.accuracy),
                        "context": paper.context,
                        "selection": paper.selection,
                        "release": corpus.name if paper.release else paper.measured_on,
                        "source": paper.paper,
                    }
                )
    return out.getvalue()


def _csv_row(corpus: CorpusBoard, kind: str, track: Track, row: Row) -> dict[str, object]:
    seed_low, seed_high = row.seed_interval or (None, None)
    low, high = row.interval or (None, None)
    paper = row.published or {}
    difference_low, difference_high = paper.get("interval") or (None, None)
    return {
        "corpus": corpus.name,
        "kind": "external" if row.external and kind == "ours" else kind,
        "encoder": track.encoder,
        "rank": row.rank,
        "method": row.method,
        "preset": row.preset,
        "config_hash": row.config_hash,
        "variant": row.variant,
        "overrides": " ".join(row.overrides),
        "trials": row.tuned["trials"] if row.tuned else None,
        "seeds": len(row.seeds),
        "metric": corpus.metric,
        "score": figure(row.mean),
        "sd": figure(row.sd),
        "seed_low": figure(seed_low),
        "seed_high": figure(seed_high),
        "low": figure(low),
        "high": figure(high),
        "weighted_f1": figure(row.weighted_f1),
        "accuracy": figure(row.accuracy),
        "macro_f1": figure(row.macro_f1),
        "dev_score": figure(row.dev_score),
        "published": figure(paper.get("score")),
        "difference": figure(paper.get("difference")),
        "difference_low": figure(difference_low),
        "difference_high": figure(difference_high),
        "context": row.context,
        "selection": row.selection,
        "release": corpus.name,
        "source": "records",
        "fit_seconds": figure(row.cost["fit_seconds"], 1),
        "utterances_per_second": figure(row.cost["utterances_per_second"], 1),
        "peak_memory_mib": figure(row.cost["peak_memory_mib"], 1),
        "devices": "; ".join(row.devices),
        "unranked": row.unranked,
        "notes": "; ".join(row.notes),
    }


# --- Markdown

READING = """\
**How to read it.**

- The score is weighted-F1 on the test set in percent, or the corpus's own metric. It is the mean
  over seeds ± the half-width of its 95 % interval over seeds. The interval in brackets is for new
  dialogues and seeds; with one seed, only for new dialogues.
- Every checkpoint is selected on dev. Test is scored once.
- Methods are compared only within a track. Its rows have the same corpus, the same encoder weights
  and the same number of trials in the search for their settings. If no number of trials is given,
  the settings were not searched for.
- A rank is 1 + the number of rows in the track that are shown to be better (p ≤ 0.05 after Holm's
  correction over the track). The test is a bootstrap over dialogues, which are the same for both
  methods. Seeds are independent samples, or paired if both methods read the same fine-tuned encoder
  in each seed. Rows that can't be told apart share a rank. A row is not ranked if it is a variant,
  has one seed, is alone, is on another copy of the corpus, or if its dialogues are not known.
- Published figures are shown beside ours and never ranked with them. The column after them says how
  the two experiments differ.
- Predictions made elsewhere have a track of their own and are never ranked, because how they were
  selected is unknown."""


def to_markdown(board: Board) -> str:
    """Return ``README.md``."""
    parts = [
        "# Leaderboard",
        "Made by `erc-bench leaderboard` from `records/` and `published.yaml`; do not edit. "
        "[index.html](index.html) shows the same with per-class scores, confusion matrices, slices "
        "and all pairs; [leaderboard.json](leaderboard.json) holds the figures.",
        READING,
    ]
    if not any(corpus.tracks for corpus in board.corpora):
        parts.append(
            "There are no runs on a benchmark yet, only the published figures below. "
            "`erc-bench run --method all --dataset meld --seeds 5` makes the first runs."
        )
    for corpus in board.corpora:
        parts += [f"## {corpus.title}", *_markdown(corpus)]
    if board.tryouts:
        parts += [
            "## Try-outs",
            "Runs with preset `smoke` and on made-up corpora. They show that something runs. "
            "**They are not a benchmark** and are not ranked.",
        ]
        for corpus in board.tryouts:
            parts += [f"### {corpus.title}", *_markdown(corpus, "####")]
    if board.skipped:
        parts += ["## Records left out", "\n".join(f"- {s.reason}" for s in board.skipped)]
    return "\n\n".join(parts) + "\n"


def _markdown(corpus: CorpusBoard, level: str = "###") -> list[str]:
    parts = [size(corpus)] if corpus.utterances else []
    for track in corpus.tracks:
        head = ["Rank", "Method", metric_title(corpus), "Seeds", "Accuracy", "Macro-F1"]
        head += ["Published", "Differences", "Context", "Selection", "Training"]
        rows = [
            [
                str(row.rank or "–"),
                full_name(row),
                mean(row)
                + (f" [{row.interval[0]:.2f}, {row.interval[1]:.2f}]" if row.interval else ""),
                str(len(row.seeds)),
                figure(row.accuracy),
                figure(row.macro_f1),
                _beside(row),
                "; ".join(row.published["differs"]) if row.published else "",
                row.context,
                selection(row.selection),
                duration(row.cost["fit_seconds"]) if row.cost["fit_seconds"] else "",
            ]
            for row in track.rows
        ]
        parts += [f"{level} {track_title(track)}", markdown_table(head, rows, "rlrrrrrllll")]
        remarks = [
            f"- {full_name(row)}: {remark}."
            for row in track.rows
            for remark in [_why_unranked(row), *row.notes]
            if remark
        ]
        parts += ["\n".join(remarks)] if remarks else []
    for ablation in corpus.ablations:
        parts += [f"{level} {ablation_title(ablation)}", ABLATIONS, ablation_table(ablation)]
    for group in corpus.searches:
        parts += [f"{level} {search_title(group)}", SEARCHES, _search_table(group)]
    if corpus.published:
        head = ["Method", metric_title(corpus), "Accuracy", "Seeds", "Encoder", "Context"]
        head += ["Selection"]
        head += ["Release", "Source", "Note"]
        rows = [
            [
                paper.method,
                figure(paper.score),
                figure(paper.accuracy),
                str(paper.seeds or "?"),
                (paper.encoder or "?").split("/")[-1],
                paper.context or "?",
                paper.selection or "?",
                paper.measured_on,
                f"{paper.by}, [{paper.paper}]({paper.link})" if paper.link else paper.by,
                paper.note,
            ]
            for paper in corpus.published
        ]
        parts += [f"{level} Published, as printed", markdown_table(head, rows, "lrrrllllll")]
    return parts


def ablation_table(ablation: Ablation) -> str:
    """Return a Markdown table of the variants of a method minus the whole method."""
    title = capital(Metric.of(ablation.metric, None).title)
    head = ["Variant", title, "Seeds", "Minus the whole, 95 %", "p, Holm", "Seeds are"]
    whole = ["the whole method", spread(ablation.mean, ablation.seed_interval)]
    rows = [[*whole, str(len(ablation.seeds)), "", "", ""]]
    rows += [
        [
            variant.name,
            spread(variant.mean, variant.seed_interval),
            str(len(variant.seeds)),
            difference(variant.difference, variant.interval),
            p_value(variant.p_holm),
            "paired" if variant.paired_seeds else "independent",
        ]
        for variant in ablation.variants
    ]
    return markdown_table(head, rows, "lrrrrl")


def _search_table(group: SearchGroup) -> str:
    """Return a Markdown table of searches: best scores, and the expected best of n trials."""
    steps = budgets(group)
    head = ["Method", "Trials", "Failed", "Preset", "Best", "Settings of the best"]
    head += [f"E best of {n}" for n in steps]
    rows = [
        [
            row.name,
            str(row.trials),
            str(row.failed),
            preset_score(row),
            figure(row.best) or "failed",
            "those of the preset" if row.chosen == 0 else ", ".join(row.settings),
            *(figure(row.expected[n - 1]) if n <= row.trials else "" for n in steps),
        ]
        for row in group.rows
    ]
    return markdown_table(head, rows, "lrrrrl" + "r" * len(steps))


def _why_unranked(row: Row) -> str:
    """Return why a row has no rank; empty if the heading above says so."""
    if not row.unranked or row.external or row.unranked == "tryout":
        return ""
    return f"not ranked, {row.unranked}"


def _beside(row: Row) -> str:
    """Return the published score and our difference from it."""
    if not row.published:
        return ""
    return f"{row.published['score']:.2f} ({signed(row.published['difference'])})"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], aligned: str) -> str:
    """Return a Markdown table. ``aligned`` has an ``l`` or ``r`` for each column."""
    rule = ["--:" if side == "r" else ":--" for side in aligned]
    lines = [head, rule, *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )
