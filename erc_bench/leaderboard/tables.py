"""The board as JSON, CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from erc_bench.corpus.conversation import FIGURES, Metric
from erc_bench.evaluation.statistics import spread
from erc_bench.leaderboard.ablations import Ablation
from erc_bench.leaderboard.board import OTHER_DATA, Board, CorpusBoard, Row, Track
from erc_bench.leaderboard.published import PublishedRow
from erc_bench.leaderboard.runs import given_settings
from erc_bench.leaderboard.searches import SearchGroup
from erc_bench.progress import duration
from erc_bench.settings.presets import default_preset

CSV_COLUMNS = (
    "corpus", "kind", "encoder", "rank", "method", "preset", "config_hash", "variant", "overrides",
    "trials", "seeds", "metric", "score", "sd", "seed_low", "seed_high", "low", "high",
    "weighted_f1", "accuracy", "macro_f1", "dev_score", "published", "difference",
    "difference_low", "difference_high",
    "context", "selection", "release", "source", "fit_seconds", "utterances_per_second",
    "peak_memory_mib", "devices", "unranked", "notes",
)  # fmt: skip


def to_json(board: Board) -> str:
    """``leaderboard.json``: everything."""
    # With an indent the standard library writes ten times as slowly.
    text = json.dumps(board.data(), ensure_ascii=False, sort_keys=True)
    return msgspec.json.format(text, indent=1) + "\n"


def to_csv(board: Board) -> str:
    """``leaderboard.csv``: one line a row; ``kind`` is ours, external, tryout or published."""
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

- The score is weighted-F1 on the test set in percent, or the figure that a corpus is judged by
  instead. It is the mean over seeds ± the half-width of its 95 % interval over seeds. In brackets:
  the 95 % interval for new dialogues as well; with one seed, for new dialogues alone.
- Every checkpoint is selected on dev. Test is scored once.
- Methods are compared only within a track: the same corpus, the same encoder weights, and as many
  trials in the search for each row's settings. Where nothing is said of trials, nobody searched.
- A rank is 1 + the number of rows that are resolved to be better: bootstrap over dialogues, the
  same for both methods; seeds as independent samples, or paired where both methods read the same
  fine-tuned encoder in each seed; Holm's correction over the track, p ≤ 0.05. Rows that can't be
  told apart share a rank. A row with one seed, alone, or on another copy of the corpus, takes none.
- Published figures stand beside ours and are never ranked with them. The column behind says why
  the two are not the same experiment.
- Predictions made elsewhere stand in a track of their own and are never ranked: how they were
  selected is not known."""


ABLATIONS = """\
A method without one of its parts, minus the whole method: 95 % for new dialogues and seeds, p after
Holm's correction over these variants. Seeds are paired where a seed has the same initial weights
and batches in both, or the same encoder, fine-tuned for this seed. Else they are independent
samples."""

SEARCHES = """\
The corpus's figure on dev, which chose: these figures are optimistic, and test was not looked at.
*E best of n* is the score that the best of n such trials is expected to have (Tang et al. 2020,
unbiased); a trial that failed counts with 0."""


def to_markdown(board: Board) -> str:
    """``README.md``."""
    parts = [
        "# Leaderboard",
        "Made by `erc-bench leaderboard` from `records/` and `published.yaml`; do not edit. "
        "[index.html](index.html) shows the same with per-class scores, confusion matrices, slices "
        "and all pairs; [leaderboard.json](leaderboard.json) holds the figures.",
        READING,
    ]
    if not any(corpus.tracks for corpus in board.corpora):
        parts.append(
            "No runs on a benchmark are recorded yet: below is what the field has published. "
            "`erc-bench run --method all --dataset meld --seeds 5` makes the first."
        )
    for corpus in board.corpora:
        parts += [f"## {corpus.title}", *_markdown(corpus)]
    if board.tryouts:
        parts += [
            "## Try-outs",
            "Runs of preset `smoke` and of made-up corpora. They show that something runs; **they "
            "are no benchmark** and are not ranked.",
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
        head += ["Published", "Unlike the published", "Context", "Selection", "Training"]
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
                ", ".join(row.published["differs"]) if row.published else "",
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
    """A method without each of its parts, minus the whole of it."""
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
    """What each search found on dev, and what could have been expected of fewer trials."""
    steps = budgets(group)
    head = ["Method", "Trials", "Failed", "Preset", "Best", "Best of them draws"]
    head += [f"E best of {n}" for n in steps]
    rows = [
        [
            " ".join([row.title, *row.fixed]),
            str(row.trials),
            str(row.failed),
            figure(row.preset_score) or "failed",
            figure(row.best) or "failed",
            "nothing: the preset" if row.chosen == 0 else ", ".join(row.settings),
            *(figure(row.expected[n - 1]) if n <= row.trials else "" for n in steps),
        ]
        for row in group.rows
    ]
    return markdown_table(head, rows, "lrrrrl" + "r" * len(steps))


def _why_unranked(row: Row) -> str:
    """Nothing where the heading above says it."""
    if not row.unranked or row.external or row.unranked == "tryout":
        return ""
    return f"not ranked, {row.unranked}"


def _beside(row: Row) -> str:
    if not row.published:
        return ""
    return f"{row.published['score']:.2f} ({signed(row.published['difference'])})"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], aligned: str) -> str:
    """A Markdown table; ``aligned`` has an ``l`` or ``r`` for each column."""
    rule = ["--:" if side == "r" else ":--" for side in aligned]
    lines = [head, rule, *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


# --- LaTeX

ESCAPES = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def to_latex(board: Board) -> str:
    """A booktabs table: published rows with their citation keys, then our tracks.

    Columns are the corpora that have runs, or all with published rows while there is none. Rank 1
    of a track is bold. Rows on another copy of a corpus are left out.
    """
    corpora = [c for c in board.corpora if c.tracks] or board.corpora
    names = [c.name for c in corpora]
    apart = [c for c in board.tryouts if c.name not in names]
    figures = {metric_title(c): c.title for c in corpora}
    judged = next(iter(figures), "Weighted-F1")
    if len(figures) > 1:
        judged = ", ".join(f"{metric_title(c)} ({c.title})" for c in corpora)
    lines = [
        "% Made by erc-bench leaderboard --latex; needs the packages booktabs and natbib. What it",
        "% cites: erc-bench leaderboard --bib.",
        f"% {judged} on test in percent; ours: mean over seeds $\\pm$ half-width of its 95 %",
        "% interval over seeds (Student's t).",
        "% Bold: no row of the track is resolved to be better. Dagger: selected on test; double",
        "% dagger: how it was selected is not known, or that it was on this release of the corpus.",
        *(f"% {c.title} is not in it: no benchmark, or try-outs alone." for c in apart),
        "\\begin{tabular}{l" + "r" * len(corpora) + "}",
        "\\toprule",
        " & ".join(["Method", *(escaped(c.title) for c in corpora)]) + r" \\",
    ]
    papers: dict[str, dict[str, PublishedRow]] = {}
    for corpus in corpora:
        for paper in corpus.published:
            papers.setdefault(paper.key, {})[corpus.name] = paper
    if papers:
        lines += ["\\midrule", _section("Published", corpora)]
    for key, of_corpus in papers.items():
        cells = [_paper_cell(of_corpus.get(name)) for name in names]
        method = next(iter(of_corpus.values())).method
        lines.append(" & ".join([f"{escaped(method)} \\citep{{{key}}}", *cells]) + r" \\")
    tracks: dict[str, dict[tuple[Any, ...], dict[str, Row]]] = {}
    met: Counter[tuple[Any, ...]] = Counter()
    for corpus in corpora:
        for track in corpus.tracks:
            encoder = track_title(track)
            for row in track.rows:
                if row.unranked in OTHER_DATA:
                    continue
                own = given_settings(row.overrides, row.tuned)
                setting = (row.title, row.preset, " ".join(filter(None, (row.variant, *own))))
                met[corpus.name, encoder, setting] += 1
                line = (*setting, met[corpus.name, encoder, setting])
                tracks.setdefault(encoder, {}).setdefault(line, {})[corpus.name] = row
    for encoder, rows in tracks.items():
        lines += ["\\midrule", _section(encoder, corpora)]
        for (title, preset, overrides, _), of_setting in rows.items():
            details = " ".join(
                part for part in ("" if preset == default_preset() else preset, overrides) if part
            )
            name = escaped(f"{title} ({details})" if details else title)
            cells = [_cell(of_setting.get(corpus)) for corpus in names]
            lines.append(" & ".join([name, *cells]) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def to_bibtex(published: Iterable[PublishedRow]) -> str:
    """An entry for every paper, as far as ``published.yaml`` knows it: who, where, when, which
    paper. Its title is not known there. Who and when stand in every entry: BibTeX and biber sort
    and label by them."""
    lines = [
        "% Made by erc-bench leaderboard --bib from published.yaml, which has no titles and no",
        "% full lists of authors: take those from the addresses. Unknown and n.d. are of figures",
        "% that others quote, and whose source is not known there.",
    ]
    for key, row in {row.key: row for row in published}.items():
        who, _, where = row.by.partition(", ")
        year = re.search(r"\b(?:19|20)\d\d\b", where)
        source, _, number = row.paper.partition(":")
        fields = {
            "author": escaped(who.replace(" et al.", " and others")) or "{Unknown}",
            "title": f"{{{escaped(row.method)}}}",
            "howpublished": escaped(where),
            "year": year[0] if year else "n.d.",
            "eprint": number if source == "arXiv" else "",
            "archiveprefix": "arXiv" if source == "arXiv" else "",
            "url": row.link,
            "note": "" if row.by else escaped(row.note),
        }
        lines += ["", bibtex_entry(key, fields)]
    return "\n".join(lines) + "\n"


def bibtex_entry(key: str, fields: Mapping[str, str]) -> str:
    """A BibTeX entry of the fields that have a value, which is LaTeX already."""
    values = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@misc{{{key},", *values, "}"])


def _section(title: str, corpora: Sequence[CorpusBoard]) -> str:
    return f"\\multicolumn{{{len(corpora) + 1}}}{{l}}{{\\emph{{{escaped(title)}}}}} \\\\"


def _paper_cell(paper: PublishedRow | None) -> str:
    if paper is None:
        return "--"
    marks = "\\dagger" if paper.selection == "test" else ""
    if paper.selection is None or not paper.release:
        marks += "\\ddagger"
    return f"{paper.score:.2f}" + (f"$^{{{marks}}}$" if marks else "")


def _cell(row: Row | None) -> str:
    if row is None:
        return "--"
    value = f"\\textbf{{{row.mean:.2f}}}" if row.rank == 1 else f"{row.mean:.2f}"
    if row.seed_interval is None:
        return value
    return f"{value} {{\\scriptsize$\\pm$\\,{row.seed_interval[1] - row.mean:.2f}}}"


def escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(ESCAPES.get(c, c) for c in text)


# --- what all of them say alike


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


def interval(ends: Sequence[float] | None) -> str:
    """``−1.20 to +0.30``; a dash where there is none."""
    return f"{signed(ends[0])} to {signed(ends[1])}" if ends else "–"


def difference(points: float, ends: Sequence[float] | None) -> str:
    """``+0.89 (−0.22 to +2.01)``: with its 95 % interval where there is one."""
    return signed(points) + (f" ({interval(ends)})" if ends else "")


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
