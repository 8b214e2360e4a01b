"""The leaderboard: records and published rows → tables, a page, comparisons.

- :func:`build` writes README.md, leaderboard.json, leaderboard.csv and index.html. :func:`check`
  returns those that are stale. :func:`latex` returns a table for a paper.
- :func:`build_site` writes the page and one page for every run into another folder.
- :func:`compare_methods` compares two methods on one corpus.
- :func:`rescore` recomputes every record's metrics from its predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from erc_bench.files import cannot_write, write_atomically
from erc_bench.leaderboard.board import Board, read_board
from erc_bench.leaderboard.comparing import MethodComparison, compare_methods
from erc_bench.leaderboard.latex import to_bibtex, to_latex
from erc_bench.leaderboard.page import to_html
from erc_bench.leaderboard.published import read_published
from erc_bench.leaderboard.rescoring import Rescored, rescore
from erc_bench.leaderboard.runs import Skipped
from erc_bench.leaderboard.site import build_site
from erc_bench.leaderboard.tables import to_csv, to_json, to_markdown

__all__ = [
    "Board",
    "Built",
    "MethodComparison",
    "Rescored",
    "Skipped",
    "bibliography",
    "build",
    "build_site",
    "check",
    "compare_methods",
    "latex",
    "read_board",
    "rescore",
]

FORMS = {
    "README.md": to_markdown,
    "leaderboard.json": to_json,
    "leaderboard.csv": to_csv,
    "index.html": to_html,
}


@dataclass(frozen=True)
class Built:
    """The files that were written, or are stale, and the records that were skipped."""

    paths: list[Path]
    skipped: list[Skipped]


def build(root: Path, further: Sequence[Path] = ()) -> Built:
    """Write the leaderboard of the records below ``root`` into ``root``, which is made if need be.

    Records below the ``further`` folders are shown, too.

    Raises:
        ErcBenchError: published.yaml has a fault, or a file can't be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(root, error) from error
    board = read_board(root, further)
    contents = {root / name: form(board) for name, form in FORMS.items()}
    for path, text in contents.items():
        write_atomically(path, text)
    return Built(list(contents), board.skipped)


def check(root: Path, further: Sequence[Path] = ()) -> Built:
    """Return the files that are missing or differ from what :func:`build` would write."""
    board = read_board(root, further)
    stale = []
    for name, form in FORMS.items():
        path = root / name
        if not path.is_file() or path.read_bytes() != form(board).encode():
            stale.append(path)
    return Built(stale, board.skipped)


def latex(root: Path, further: Sequence[Path] = ()) -> tuple[str, list[Skipped]]:
    """Return a booktabs table of records and published rows, and the skipped records."""
    board = read_board(root, further)
    return to_latex(board), board.skipped


def bibliography(root: Path) -> str:
    """Return BibTeX entries of the papers that the table of :func:`latex` cites."""
    return to_bibtex(read_published(root).all())
