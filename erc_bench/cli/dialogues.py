"""Print dialogues turn by turn, for ``explain`` and ``predict``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column
from rich.text import Text

from erc_bench.cli.printing import RIGHT, WRONG, table_of
from erc_bench.corpus.conversation import Corpus, Dialogue
from erc_bench.errors import ErcBenchError, nearest
from erc_bench.evaluation import NO_ANSWER
from erc_bench.records.corpora import load_corpus_of
from erc_bench.records.parsing import damaged
from erc_bench.records.schema import Record

if TYPE_CHECKING:
    from erc_bench.corpus.source import CorpusSource
    from erc_bench.inference.model import Answer


@dataclass(frozen=True)
class Predicted:
    """The prediction in a record for one utterance."""

    label: int
    probabilities: Sequence[float] | None


def explain(
    console: Console,
    path: Path,
    record: Record,
    *,
    dialogue: str | None = None,
    worst: int = 10,
    split: str = "test",
    data_dir: Path | None = None,
    source: CorpusSource,
) -> None:
    """Print a dialogue turn by turn with gold and predicted emotions, or list the worst ones.

    Args:
        console: the console to print to.
        path: the record's file.
        record: the record.
        dialogue: the dialogue's id, in dev or test; None = list the dialogues with most errors.
        worst: how many dialogues to list.
        split: the split whose dialogues are listed.
        data_dir: folder that is searched for the corpus before the usual places.
        source: the record's corpus.

    Raises:
        ErcBenchError: the corpus here is not the record's, there is no such dialogue, or the record
            holds no predictions on its split.
    """
    if worst < 1:
        raise ErcBenchError(f"--worst {worst} lists nothing: give 1 or more.")
    corpus = load_corpus_of(record, path, source, data_dir)
    if dialogue is not None:
        split, found = _find_dialogue(corpus, dialogue)
    predicted = _predicted(record, split, corpus, path)
    if dialogue is None:
        _print_worst(console, corpus.dialogues(split), predicted, worst)
    else:
        _print_dialogue(console, found, predicted, record.labels)


def _find_dialogue(corpus: Corpus, name: str) -> tuple[str, Dialogue]:
    known: list[str] = []
    for split, dialogues in corpus.contents.items():
        for dialogue in dialogues:
            if dialogue.id == name:
                return split, dialogue
            known.append(dialogue.id)
    near = nearest(name, known)
    hint = f" Did you mean {near!r}?" if near else ""
    raise ErcBenchError(
        f"{corpus.name} has no dialogue {name!r}.{hint} Leave out --dialogue to list those with "
        "most errors."
    )


def _predicted(record: Record, split: str, corpus: Corpus, path: Path) -> dict[str, Predicted]:
    """The predictions for the utterances of a split, by id."""
    stored = dict(record.predictions.items())
    if split not in stored:
        raise ErcBenchError(
            f"{path} holds no predictions on {split}, only on {' and '.join(stored)}."
        )
    of_split = stored[split]
    asked = [d.utterances[i] for d in corpus.dialogues(split) for i in d.labelled]
    if record.labels != list(corpus.labels.names) or of_split.ids != [u.id for u in asked]:
        raise damaged(
            path,
            f"$.predictions.{split}: its labels and ids are not those of {corpus.name}, although "
            "the digest is",
        )
    rows = of_split.probabilities or [None] * len(asked)
    columns = zip(of_split.ids, of_split.predicted, rows, strict=True)
    return {name: Predicted(label, row) for name, label, row in columns}


def _print_worst(
    console: Console, dialogues: Iterable[Dialogue], predicted: Mapping[str, Predicted], worst: int
) -> None:
    rows = []
    for dialogue in dialogues:
        asked = [dialogue.utterances[i] for i in dialogue.labelled]
        wrong = sum(predicted[u.id].label != u.label for u in asked)
        rows.append((wrong, len(asked), len(dialogue), dialogue.id))
    # Dialogues with equally many errors are sorted by share, the largest first.
    rows.sort(key=lambda row: (-row[0], row[1]))
    table = table_of("dialogue")
    for column in ("errors", "of", "share", "turns"):
        table.add_column(column, justify="right")
    for wrong, asked_for, turns, name in rows[:worst]:
        share = f"{100 * wrong / asked_for:.0f} %" if asked_for else "–"
        table.add_row(Text(name), str(wrong), str(asked_for), share, str(turns))
    console.print(table)


def _print_dialogue(
    console: Console,
    dialogue: Dialogue,
    predicted: Mapping[str, Predicted],
    labels: Sequence[str],
) -> None:
    columns = [Column(name, no_wrap=True) for name in ("gold", "predicted")]
    table = table_of("", "speaker", "text", *columns)
    right = 0
    for number, u in enumerate(dialogue.utterances, 1):
        gold, answer = Text("no label", style="dim"), Text()
        if u.label is not None:
            found = predicted[u.id]
            good = found.label == u.label
            right += good
            said = None if good else found.probabilities
            gold = Text(_confidence(labels, u.label, said), style="" if good else "bold")
            style = RIGHT if good else WRONG
            answer = Text(_confidence(labels, found.label, found.probabilities), style=style)
        table.add_row(str(number), Text(u.name), Text(u.text), gold, answer)
    console.print(table)
    console.print(f"{dialogue.id}: {right} of {len(dialogue.labelled)} right", markup=False)


def _confidence(labels: Sequence[str], label: int, probabilities: Sequence[float] | None) -> str:
    """``joy 81 %``, or only the name if there are no probabilities."""
    if label == NO_ANSWER:
        return "no answer"
    return labels[label] + (f" {100 * probabilities[label]:.0f} %" if probabilities else "")


def print_answers(console: Console, answers: Iterable[Answer]) -> None:
    """Print a table of answers for each dialogue: the emotion, and other probable ones."""
    of_dialogue: dict[str, list[Answer]] = {}
    for answer in answers:
        of_dialogue.setdefault(answer.dialogue, []).append(answer)
    for name, found in of_dialogue.items():
        columns = [Column(column, no_wrap=True) for column in ("emotion", "else")]
        title = name if len(of_dialogue) > 1 else ""
        table = table_of("", "speaker", "text", *columns, title=title)
        for answer in found:
            first, others = ranked(answer)
            table.add_row(str(answer.turn), Text(answer.speaker), Text(answer.text), first, others)
        console.print(table)


def ranked(answer: Answer) -> tuple[Text, Text]:
    """The emotion with its probability, styled by confidence, and the two next probable ones."""
    if not answer.probabilities:
        return Text(answer.label or "no answer", style="" if answer.label else "dim"), Text()
    # The label comes first, even if another emotion has the same rounded probability.
    order = sorted(answer.probabilities.items(), key=lambda p: (p[0] != answer.label, -p[1]))
    texts = [f"{name} {100 * value:.0f} %" for name, value in order[:3]]
    style = "bold green" if order[0][1] >= 0.8 else "green" if order[0][1] >= 0.5 else "yellow"
    return Text(texts[0], style=style), Text(", ".join(texts[1:]), style="dim")
