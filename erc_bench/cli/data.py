"""``erc-bench data``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from erc_bench.cli.common import DataDir, results

if TYPE_CHECKING:
    from erc_bench.corpus.source import CorpusSource

app = App(name="data", help="List, prepare, describe and check the corpora.")

Names = Annotated[list[str], Parameter(help="Corpora.")]


def _sources(names: Iterable[str]) -> list[CorpusSource]:
    from erc_bench.settings.registry import corpus_source

    return [corpus_source(name) for name in names]


def _every_source() -> list[CorpusSource]:
    from erc_bench.settings.registry import corpus_names

    return _sources(corpus_names())


@app.command(name="list")
def list_corpora() -> None:
    """What there is."""
    from erc_bench.corpus.report import data_list

    data_list(results(), _every_source())


@app.command
def prepare(name: Names, /, *, data_dir: DataDir = None) -> None:
    """Find or download corpora."""
    from erc_bench.corpus.report import data_prepare

    data_prepare(results(), _sources(name), data_dir)


@app.command
def stats(name: Names, /, *, data_dir: DataDir = None) -> None:
    """What a corpus holds, and its overlaps."""
    from erc_bench.corpus.report import data_stats

    for source in _sources(name):
        data_stats(results(), source, data_dir, _sources(source.related))


@app.command
def doctor(*, data_dir: DataDir = None) -> int:
    """What is there, missing or damaged."""
    from erc_bench.corpus.report import data_doctor

    return data_doctor(results(), _every_source(), data_dir)
