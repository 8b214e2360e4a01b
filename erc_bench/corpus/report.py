"""The output of ``erc-bench data list | prepare | stats | doctor``."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from erc_bench.corpus.conversation import SPLITS, Corpus, Dialogue
from erc_bench.corpus.overlap import seen, shared_dialogues
from erc_bench.corpus.source import CorpusSource, CorpusWarning, count
from erc_bench.errors import ErcBenchError


def data_list(console: Console, sources: Iterable[CorpusSource]) -> None:
    """Print the number of classes, the licence and the description of every corpus."""
    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    for column in ("classes", "licence", "what"):
        table.add_column(column)
    for source in sources:
        cells = (source.name, str(len(source.labels)), source.licence, source.description)
        table.add_row(*map(Text, cells))
    console.print(table)
    _line(console, "`erc-bench data stats NAME` says more; `erc-bench data doctor` checks files.")


def data_prepare(
    console: Console, sources: Iterable[CorpusSource], data_dir: Path | None = None
) -> None:
    """Find or download the files of the corpora, load them, and say where they are.

    Raises:
        ErcBenchError: a file is absent and can't be downloaded, or does not hold what it should.
    """
    for source in sources:
        paths = source.prepare(data_dir)
        corpus = source.load(data_dir)
        _line(console, f"{source.name}: {sizes(corpus)}.", "bold")
        for path in paths.values():
            _line(console, f"  {path}")


def data_stats(
    console: Console,
    source: CorpusSource,
    data_dir: Path | None = None,
    related: Iterable[CorpusSource] = (),
) -> None:
    """Print sizes, labels, lengths, speakers and overlaps of a corpus, counted from its files.

    Args:
        console: where to print.
        source: the corpus.
        data_dir: folder of the corpora, searched before the usual places.
        related: other corpora that may hold utterances of its test split.
    """
    corpus = source.load(data_dir)
    dialogues = {split: corpus.contents[split] for split in SPLITS if split in corpus.contents}
    _line(console, f"{source.name}: {source.description}", "bold")
    for title, text in (
        ("classes", source.classes),
        ("release", source.release),
        ("licence", source.licence),
        ("source", source.homepage),
        ("cite", source.citation),
        ("metric", corpus.metric.title),
        ("digest", f"{corpus.digest}{'' if corpus.official else ' (not the official release)'}"),
    ):
        _line(console, f"{title}: {text}")
    console.print()
    console.print(_sizes_table(dialogues))
    console.print()
    console.print(_labels_table(corpus, dialogues))
    console.print()
    met = [_met(corpus, other, data_dir) for other in related if "test" in dialogues]
    for line in [*_overlaps(dialogues), *source.notes(corpus, data_dir), *met]:
        _line(console, f"- {line}")


def data_doctor(
    console: Console, sources: Iterable[CorpusSource], data_dir: Path | None = None
) -> int:
    """Print which files of every corpus are there, missing or damaged, and where to get them.

    Returns:
        The exit status: 0, or 1 if a file that is there fails its checksum or does not load.
        A corpus that is merely missing is not a fault.
    """
    ill = False
    for source in sources:
        statuses = source.status(data_dir)
        missing = any(status.state == "missing" for status in statuses)
        ill |= any(status.state == "checksum fails" for status in statuses)
        verdict, style = ("not here", "yellow") if missing else _try_to_load(source, data_dir)
        ill |= style == "red"
        _line(console, f"{source.name}: {verdict}", f"bold {style}")
        for status in statuses:
            if status.problem:
                _line(console, f"  missing: {status.name}; {status.problem}")
            elif status.path is None:
                _line(console, f"  missing: {status.name}; get it: {status.source}")
            elif status.intact:
                _line(console, f"  present: {status.path}")
            else:
                _line(console, f"  checksum fails: {status.path}; get it: {status.source}")
    return int(ill)


def _try_to_load(source: CorpusSource, data_dir: Path | None) -> tuple[str, str]:
    """Load a corpus whose files are all there; the verdict and its colour."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CorpusWarning)
            corpus = source.load(data_dir)
    except ErcBenchError as error:
        return f"does not load. {error}", "red"
    doubts = [str(w.message) for w in caught if issubclass(w.category, CorpusWarning)]
    return (f"loads, but {' '.join(doubts)}", "yellow") if doubts else (sizes(corpus), "green")


def sizes(corpus: Corpus) -> str:
    """``1038/114/280 dialogues, 9989/1109/2610 labelled utterances (train/dev/test)``."""
    counts = [count(dialogues) for dialogues in corpus.contents.values()]
    dialogues, utterances = ("/".join(map(str, column)) for column in zip(*counts, strict=True))
    return f"{dialogues} dialogues, {utterances} labelled utterances ({'/'.join(corpus.contents)})"


def _sizes_table(dialogues: Mapping[str, Sequence[Dialogue]]) -> Table:
    table = Table("", *dialogues, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    rows: dict[str, list[str]] = {}
    train = dialogues.get("train", ())
    train_speakers = {u.speaker for d in train for u in d.utterances}
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
            ("  of them also in train", str(len(speakers & train_speakers)) if train else "–"),
        ):
            rows.setdefault(title, []).append(value)
    for title, values in rows.items():
        table.add_row(title, *values)
    return table


def _labels_table(corpus: Corpus, dialogues: Mapping[str, Sequence[Dialogue]]) -> Table:
    table = Table("label", *dialogues, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    counts = [
        Counter(d.utterances[i].label for d in split for i in d.labelled)
        for split in dialogues.values()
    ]
    for label, name in enumerate(corpus.labels.names):
        shares = (f"{c[label]} ({100 * c[label] / c.total():.1f} %)" for c in counts)
        table.add_row(Text(name), *shares)
    return table


def _overlaps(dialogues: Mapping[str, Sequence[Dialogue]]) -> list[str]:
    """What dev and test share with train, one line each."""
    if "train" not in dialogues:
        return ["there is no train split that dev and test could share anything with"]
    lines = []
    train = [u.text for d in dialogues["train"] for u in d.utterances]
    for split in ("dev", "test"):
        if split in dialogues:
            texts = [d.utterances[i].text for d in dialogues[split] for i in d.labelled]
            lines.append(f"{split} utterances seen in train: {seen(texts, train)}")
            shared = shared_dialogues(dialogues[split], dialogues["train"])
            lines.append(f"{split} dialogues that are also in train: {shared}")
    return lines


def _met(corpus: Corpus, other: CorpusSource, data_dir: Path | None) -> str:
    """How much of test occurs in another corpus, as one line."""
    what = f"test utterances that occur in {other.name}"
    if any(status.path is None for status in other.status(data_dir)):
        return f"{what}: not counted, its files are not here"
    splits = other.load(data_dir).contents.values()
    texts = [u.text for dialogues in splits for d in dialogues for u in d.utterances]
    test = [u.text for d in corpus.contents["test"] for u in d.utterances]
    return f"{what}, by words only: {seen(test, texts, verbatim=False)}"


def _spread(values: list[int]) -> str:
    return f"{sum(values) / len(values):.1f} ({min(values)}–{max(values)})"


def _line(console: Console, text: str, style: str | None = None) -> None:
    """Print one line as it is, without markup or wrapping."""
    console.print(Text(text), style=style, soft_wrap=True)
