"""The leaderboard as LaTeX, and the papers of its published rows as BibTeX."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from erc_bench.leaderboard.board import Board, CorpusBoard
from erc_bench.leaderboard.published import PublishedRow
from erc_bench.leaderboard.rows import Row
from erc_bench.leaderboard.runs import given_settings
from erc_bench.leaderboard.tracks import OTHER_DATA
from erc_bench.leaderboard.wording import metric_title, track_title
from erc_bench.settings.presets import default_preset

ESCAPES = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def to_latex(board: Board) -> str:
    """Return a booktabs table of the published rows with their citation keys and our tracks.

    The columns are the corpora that have runs; if there are none, those that have published rows.
    Rank 1 of a track is bold. Rows on another copy of a corpus are left out.
    """
    corpora = [c for c in board.corpora if c.tracks] or board.corpora
    names = [c.name for c in corpora]
    apart = [c for c in board.tryouts if c.name not in names]
    figures = {metric_title(c): c.title for c in corpora}
    judged = next(iter(figures), "Weighted-F1")
    if len(figures) > 1:
        judged = ", ".join(f"{metric_title(c)} ({c.title})" for c in corpora)
    lines = [
        "% Made by erc-bench leaderboard --latex. It needs the packages booktabs and natbib.",
        "% Citations: erc-bench leaderboard --bib.",
        f"% {judged} on test in percent. Ours: mean over seeds $\\pm$ half-width of its 95 %",
        "% interval over seeds (Student's t).",
        "% Bold: no row of the track is shown to be better. Dagger: selected on test.",
        "% Double dagger: selection not known, or another or unknown release of the corpus.",
        *(f"% {c.title} is left out: not a benchmark, or only try-outs." for c in apart),
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
    """Return a BibTeX entry for every paper with the fields that ``published.yaml`` has.

    It has no titles. Every entry has an author and a year, because BibTeX and biber sort and label
    by them.
    """
    lines = [
        "% Made by erc-bench leaderboard --bib from published.yaml, which has no titles and no",
        "% full lists of authors. Take those from the addresses. Unknown and n.d. mark figures",
        "% that another paper quotes without a source.",
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
    """Return a BibTeX entry of the fields that have a value. Values are LaTeX."""
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
    """Return text with LaTeX's special characters escaped."""
    return "".join(ESCAPES.get(c, c) for c in text)
