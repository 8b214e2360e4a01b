"""``erc-bench data``."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from erc_bench.cli.common import DataDir, Several, Whole, results
from erc_bench.errors import ErcBenchError

if TYPE_CHECKING:
    from erc_bench.corpus.source import CorpusSource

app = App(name="data", help="List, prepare, describe and check the corpora; make one of your own.")

Names = Annotated[list[str], Parameter(help="Corpora; give one of your own by its folder.")]


def _sources(names: Iterable[str]) -> list[CorpusSource]:
    from erc_bench.settings.registry import corpus_source

    return [corpus_source(name) for name in names]


def _every_source() -> list[CorpusSource]:
    from erc_bench.settings.registry import corpus_names

    return _sources(corpus_names())


@app.command(name="list")
def list_corpora() -> None:
    """List the corpora."""
    from erc_bench.corpus.report import data_list

    data_list(results(), _every_source())


@app.command
def prepare(name: Names, /, *, data_dir: DataDir = None) -> None:
    """Find or download corpora."""
    from erc_bench.corpus.report import data_prepare

    data_prepare(results(), _sources(name), data_dir)


@app.command
def stats(name: Names, /, *, data_dir: DataDir = None) -> None:
    """Show what a corpus holds, and its overlaps."""
    from erc_bench.corpus.report import data_stats

    for source in _sources(name):
        data_stats(results(), source, data_dir, _sources(source.related))


@app.command
def doctor(*, data_dir: DataDir = None) -> int:
    """Show which corpora are there, missing or damaged."""
    from erc_bench.corpus.report import data_doctor

    return data_doctor(results(), _every_source(), data_dir)


@app.command
def new(
    folder: Path,
    file: list[str],
    /,
    *,
    name: str = "",
    columns: Annotated[tuple[str, ...], Several] = (),
    force: bool = False,
) -> None:
    """Make a corpus of your own: write FOLDER/corpus.yaml and say what was guessed.

    Args:
        folder: Folder of the new corpus.
        file: A file of turns (CSV, TSV, JSON lines, JSON, Parquet, a ConvoKit folder, hf:NAME),
            or one for each split.
        name: Name of the corpus (default: that of the folder).
        columns: Columns that are not to be guessed: dialogue=COLUMN speaker=COLUMN and so on.
        force: Replace an existing corpus.yaml.
    """
    from erc_bench.corpus.making import new_corpus
    from erc_bench.corpus.report import sizes
    from erc_bench.settings.registry import refuse_taken

    refuse_taken(name or folder.absolute().name, folder)
    given = {}
    for text in columns:
        role, equals, column = text.partition("=")
        if not equals:
            raise ErcBenchError(f"--columns takes ROLE=COLUMN, like speaker=who, not {text!r}.")
        given[role] = column
    made = new_corpus(folder, file, name=name, columns=given, force=force)
    out = results()
    for guess in made.guesses:
        out.print(f"guessed, {guess}", soft_wrap=True)
    out.print(f"Written: {made.path}.", soft_wrap=True)
    turns = made.source.turns()
    made.source.labels_of(turns)
    out.print("Check it, then:")
    there = shlex.quote(str(folder))
    if any(turn.split is None for turn in turns):
        out.print(f"  erc-bench data split {there} --dev 0.1 --test 0.1 --seed 1", soft_wrap=True)
    else:
        out.print(f"{made.source.name}: {sizes(made.source.load())}.", soft_wrap=True)
        out.print(f"  erc-bench data stats {there}", soft_wrap=True)


@app.command
def split(
    folder: Path, /, *, dev: float = 0.1, test: float = 0.1, seed: Whole = 1, force: bool = False
) -> None:
    """Split your own corpus by dialogue, stratified by label, and write the result to its folder.

    Args:
        folder: Folder of the corpus.
        dev: Share of dev (default: 0.1).
        test: Share of test (default: 0.1).
        seed: Seed of the random split (default: 1).
        force: Replace an earlier split.
    """
    from rich.table import Table

    from erc_bench.corpus.making import split_corpus

    done = split_corpus(folder, dev=dev, test=test, seed=seed, force=force)
    table = Table("", *done.labels, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("dialogues", *(str(done.dialogues[name]) for name in done.labels))
    for label in sorted({label for counts in done.labels.values() for label in counts}):
        shares = (
            f"{counts.get(label, 0)} ({100 * counts.get(label, 0) / sum(counts.values()):.1f} %)"
            for counts in done.labels.values()
        )
        table.add_row(label, *shares)
    results().print(table)
    results().print(f"Written: {done.path}", soft_wrap=True)


@app.command
def export(
    name: str,
    /,
    *,
    split: Literal["train", "dev", "test"] = "test",
    format: Literal["jsonl", "csv"] = "jsonl",
    labels: bool = False,
    data_dir: DataDir = None,
) -> None:
    """Print the turns of a split with their ids, for predictions made elsewhere.

    `erc-bench score` scores the predictions: the id and the label of each turn that is `asked`.

    Args:
        name: The corpus; give one of your own by its folder.
        split: The split (default: test).
        format: JSON lines, one turn a line, or CSV (default: jsonl).
        labels: Print the gold labels, too, as `gold`.
    """
    from erc_bench.corpus.making import export as lines

    (source,) = _sources([name])
    for line in lines(source.load(data_dir), split, format, labels=labels):
        print(line)
