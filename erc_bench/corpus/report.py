"""What ``erc-bench data list | prepare | stats | doctor`` print."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from erc_bench.corpus.conversation import SPLITS, Corpus, Dialogue
from erc_bench.corpus.overlap import seen, shared_dialogues
from erc_bench.corpus.source import CorpusSource, CorpusWarning, count
from erc_bench.errors import ErcBenchError
from erc_bench.settings.registry import corpus_names, corpus_source


def data_list(console: Console) -> None:
    """Every corpus: its number of classes, its licence, and what it is."""
    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    for column in ("classes", "licence", "what"):
        table.add_column(column)
    for name in corpus_names():
        source = corpus_source(name)
        table.add_row(name, str(len(source.labels)), source.licence, source.description)
    console.print(table)
    _line(console, "`erc-bench data stats NAME` says more; `erc-bench data doctor` what is there.")


def data_prepare(console: Console, names: Sequence[str], data_dir: Path | None = None) -> None:
    """Find or download the files of the corpora, load them, and say where they are.

    Raises:
        ErcBenchError: a file is neither there nor to be had, or does not hold what it should.
    """
    for name in names:
        source = corpus_source(name)
        paths = source.prepare(data_dir)
        corpus = source.load(data_dir)
        _line(console, f"{name}: {_sizes(corpus)}.", "bold")
        for path in paths.values():
            _line(console, f"  {path}")


def data_stats(console: Console, name: str, data_dir: Path | None = None) -> None:
    """Sizes, labels, lengths, speakers and overlaps of one corpus, counted from its files."""
    source = corpus_source(name)
    corpus = source.load(data_dir)
    dialogues = {split: corpus.dialogues(split) for split in SPLITS if split in corpus.splits}
    _line(console, f"{name}: {source.description}", "bold")
    for title, text in (
        ("classes", source.classes),
        ("release", source.release),
        ("licence", source.licence),
        ("source", source.homepage),
        ("cite", source.citation),
        ("digest", corpus.digest),
    ):
        _line(console, f"{title}: {text}")
    console.print()
    console.print(_sizes_table(dialogues))
    console.print()
    console.print(_labels_table(corpus, dialogues))
    console.print()
    for line in [*_overlaps(dialogues), *source.notes(corpus, data_dir)]:
        _line(console, f"- {line}")


def data_doctor(console: Console, data_dir: Path | None = None) -> int:
    """What is there of every corpus, what is missing or damaged, and where to get it.

    Returns:
        The exit status: 0, or 1 if a file that is there fails its checksum or does not load.
        A corpus that is merely missing is no fault.
    """
    ill = False
    for name in corpus_names():
        source = corpus_source(name)
        statuses = source.status(data_dir)
        missing = any(status.state == "missing" for status in statuses)
        ill |= any(status.state == "checksum fails" for status in statuses)
        verdict, style = ("not here", "yellow") if missing else _try_to_load(source, data_dir)
        ill |= style == "red"
        _line(console, f"{name}: {verdict}", f"bold {style}")
        for status in statuses:
            if status.path is None:
                _line(console, f"  missing: {status.name}; get it: {status.source}")
            elif status.intact:
                _line(console, f"  present: {status.path}")
            else:
                _line(console, f"  checksum fails: {status.path}; get it: {status.source}")
    return int(ill)


def _try_to_load(source: CorpusSource, data_dir: Path | None) -> tuple[str, str]:
    """A corpus whose files are all there: what loading it says, and the colour of that."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CorpusWarning)
            corpus = source.load(data_dir)
    except ErcBenchError as error:
        return f"does not load. {error}", "red"
    doubts = [str(w.message) for w in caught if issubclass(w.category, CorpusWarning)]
    return (f"loads, but {' '.join(doubts)}", "yellow") if doubts else (_sizes(corpus), "green")


def _sizes(corpus: Corpus) -> str:
    """``1038/114/280 dialogues, 9989/1109/2610 labelled utterances (train/dev/test)``."""
    counts = [count(corpus.dialogues(split)) for split in corpus.splits]
    dialogues, utterances = ("/".join(map(str, column)) for column in zip(*counts, strict=True))
    return f"{dialogues} dialogues, {utterances} labelled utterances ({'/'.join(corpus.splits)})"


def _sizes_table(dialogues: dict[str, list[Dialogue]]) -> Table:
    table = Table("", *dialogues, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    rows: dict[str, list[str]] = {}
    train_speakers = {u.speaker for d in dialogues["train"] for u in d.utterances}
    for split in dialogues.values():
        turns = [len(dialogue) for dialogue in split]
        words = [len(u.text.split()) for dialogue in split for u in dialogue.utterances]
        speakers = {u.speaker for dialogue in split for u in dialogue.utterances}
        per_dialogue = [len({u.speaker for u in dialogue.utterances}) for dialogue in split]
        for title, value in (
            ("dialogues", str(len(split))),
            ("utterances", str(sum(turns))),
            ("labelled", str(count(split)[1])),
            ("turns a dialogue, mean (min–max)", _spread(turns)),
            ("words an utterance, mean (min–max)", _spread(words)),
            ("speakers a dialogue, mean (min–max)", _spread(per_dialogue)),
            ("speakers", str(len(speakers))),
            ("  of them also in train", str(len(speakers & train_speakers))),
        ):
            rows.setdefault(title, []).append(value)
    for title, values in rows.items():
        table.add_row(title, *values)
    return table


def _labels_table(corpus: Corpus, dialogues: dict[str, list[Dialogue]]) -> Table:
    table = Table("label", *dialogues, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    counts = [
        Counter(d.utterances[i].label for d in split for i in d.labelled)
        for split in dialogues.values()
    ]
    for label, name in enumerate(corpus.labels.names):
        shares = (f"{c[label]} ({100 * c[label] / c.total():.1f} %)" for c in counts)
        table.add_row(name, *shares)
    return table


def _overlaps(dialogues: dict[str, list[Dialogue]]) -> list[str]:
    """What dev and test share with train, in words."""
    lines = []
    train = [u.text for d in dialogues["train"] for u in d.utterances]
    for split in ("dev", "test"):
        if split in dialogues:
            texts = [d.utterances[i].text for d in dialogues[split] for i in d.labelled]
            lines.append(f"{split} utterances seen in train: {seen(texts, train)}")
            shared = shared_dialogues(dialogues[split], dialogues["train"])
            lines.append(f"{split} dialogues that also stand in train: {shared}")
    return lines


def _spread(values: list[int]) -> str:
    return f"{sum(values) / len(values):.1f} ({min(values)}–{max(values)})"


def _line(console: Console, text: str, style: str | None = None) -> None:
    """One line as it is, unwrapped where nobody reads it on a terminal."""
    console.print(escape(text), style=style, highlight=False, soft_wrap=True)
