"""The leaderboard as a site: its page and one page for every run, in a folder to publish or send.

Every page is self-contained. The pages of runs are not in the leaderboard's own folder, so that the
files that are committed and checked by ``erc-bench leaderboard --check`` stay small.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from erc_bench.corpus.conversation import FIGURES
from erc_bench.errors import ErcBenchError
from erc_bench.evaluation import NO_ANSWER
from erc_bench.evaluation.slices import class_scores, facts_of, pair_confusions, slices
from erc_bench.files import write_atomically
from erc_bench.leaderboard.board import Board, read_board
from erc_bench.leaderboard.decoding import dialogues_of
from erc_bench.leaderboard.latex import bibtex_entry, escaped
from erc_bench.leaderboard.page import environment, to_html
from erc_bench.leaderboard.published import Published, PublishedRow, read_published
from erc_bench.leaderboard.runs import Skipped
from erc_bench.progress import track
from erc_bench.records.schema import Predictions, Record, Training
from erc_bench.records.store import read_record, run_name
from erc_bench.settings.experiment import flat
from erc_bench.settings.registry import confusable_labels

WORST = 15
"""Number of dialogues that a page lists."""

WIDTH, HEIGHT = 560, 150
"""Size of a curve without its labels, in pixels."""


@dataclass(frozen=True)
class Curve:
    """A figure by epoch. Places are in pixels."""

    title: str
    lines: list[str]
    """Points of the polylines. There is a gap where a value is missing."""
    dots: list[tuple[str, str, str]]
    """Places of the values, with their text."""
    selected: tuple[str, str] | None
    """Place of the selected epoch."""
    epochs: list[tuple[int, str]]
    """Ticks of the horizontal axis: epochs with their places."""
    ticks: list[tuple[str, str]]
    """Ticks of the vertical axis: values with their places."""


@dataclass(frozen=True)
class WrongDialogue:
    """The number of wrong predictions among a dialogue's labelled utterances."""

    name: str
    errors: int
    utterances: int


def build_site(
    root: Path, folder: Path, further: Sequence[Path] = ()
) -> tuple[Path, list[Skipped]]:
    """Write the leaderboard's page and one page for every run into a folder.

    Args:
        root: the leaderboard's folder, with the records.
        folder: the folder of the site.
        further: other folders whose records are shown, too.

    Returns:
        The leaderboard's page, and the records that were skipped.

    Raises:
        ErcBenchError: the folder is the leaderboard's own, or can't be written to.
    """
    if folder.resolve() == root.resolve():
        raise ErcBenchError(
            f"{folder} is the folder of the leaderboard itself. Name another folder for the site."
        )
    if folder.exists() and not folder.is_dir():
        raise ErcBenchError(f"{folder} is a file. Name a folder for the site.")
    board, published = read_board(root, further), read_published(root)
    pages: dict[str, str] = {}
    taken: set[Path] = set()
    for file, tab in track(_files(board), "Pages of runs"):
        path = root / file
        record = read_record(path)
        page = Path("runs", *path.with_suffix(".html").parts[-3:])
        if page in taken:  # from another folder, on another copy of the corpus
            page = page.with_stem(f"{page.stem}-{len(pages)}")
        taken.add(page)
        pages[file] = page.as_posix()
        write_atomically(folder / pages[file], run_page(path, record, published, tab))
    index = folder / "index.html"
    addresses = {file: quote(page) for file, page in pages.items()}
    write_atomically(index, to_html(board, addresses))
    return index, board.skipped


def _files(board: Board) -> list[tuple[str, str]]:
    """Return the record of every run that is shown, and its tab."""
    tabs = [(corpus, corpus.name) for corpus in board.corpora]
    tabs += [(corpus, "tryouts") for corpus in board.tryouts]
    return [
        (file, tab)
        for corpus, tab in tabs
        for each in corpus.tracks
        for row in each.rows
        for file in row.records
    ]


def run_page(path: Path, record: Record, published: Published, tab: str) -> str:
    """Return the page of a run. ``tab`` is the tab of the leaderboard that it links back to."""
    test, labels, metric = record.predictions.test, record.labels, record.judged_by
    corpus = published.corpus_title(record.dataset)
    title = f"{published.title(record.method)} on {corpus}, seed {record.seed}"
    facts = facts_of(test.facts.columns()) if test.facts else None
    paper = next((r for r in published.all() if r.implemented_as == record.method), None)
    shown = {
        "published": None,
        "per_class": class_scores(test.gold, [test.predicted], labels),
        "confusion": record.metrics.test.confusion,
        "confusable": pair_confusions(
            test.gold, [test.predicted], labels, confusable_labels(record.dataset)
        ),
        "slices": slices(test.gold, [test.predicted], facts, len(labels), metric, labels)
        if facts
        else [],
    }
    return (
        environment()
        .get_template("page.run.jinja")
        .render(
            title=title,
            name=run_name(path),
            record=record,
            row=shown,
            scores=[(split, m.score(metric)) for split, m in sorted(record.metrics.items())],
            later_stage=has_later_stage(record),
            titles={**FIGURES, metric.name: metric.title},
            curves=curves(record),
            worst=worst_dialogues(test),
            settings=flat(record.config),
            made=_made(record),
            downloads=[
                (split, f"{path.stem}-{split}.csv", "data:text/csv;charset=utf-8," + quote(text))
                for split, predictions in reversed(list(record.predictions.items()))
                for text in [predictions_csv(predictions, labels)]
            ],
            paper=paper,
            bibtex=bibtex(path, record, title, paper),
            tab=quote(tab),
        )
    )


def has_later_stage(record: Record) -> bool:
    """Whether the finished model and the selected epoch have different scores on dev, because the
    method changed the model after its last epoch."""
    training, metric, dev = record.training, record.judged_by, record.metrics.dev
    if training is None or training.best_epoch is None or dev is None:
        return False
    then = _by_epoch(training, f"dev/{metric.name}").get(training.best_epoch)
    return then is not None and abs(then - dev.score(metric)) > 0.01


def curves(record: Record) -> list[Curve]:
    """Return the curves of the metric on dev and of the training loss, if they were logged."""
    training = record.training
    if training is None or len(training.curves) < 2:  # one epoch does not make a curve
        return []
    metric = record.judged_by
    found = []
    for name, title in (
        (f"dev/{metric.name}", f"{metric.title} on dev, %"),
        ("train/loss", "loss"),
    ):
        by_epoch = _by_epoch(training, name)
        if any(value is not None for value in by_epoch.values()):
            found.append(_curve(title, by_epoch, training.best_epoch))
    return found


def _by_epoch(training: Training, name: str) -> dict[int, float | None]:
    """Return a figure by epoch, counted from 1."""
    return {
        int(epoch.get("epoch") or i): epoch.get(name) for i, epoch in enumerate(training.curves, 1)
    }


def _curve(title: str, by_epoch: dict[int, float | None], selected: int | None) -> Curve:
    known = [value for value in by_epoch.values() if value is not None]
    first, last = min(by_epoch), max(by_epoch)
    low, high = min(known), max(known)
    span = (high - low) or 1.0

    def at(epoch: int, value: float) -> tuple[str, str]:
        x = WIDTH * (epoch - first) / max(last - first, 1)
        return f"{x:.1f}", f"{HEIGHT * (1 - (value - low) / span):.1f}"

    lines: list[list[str]] = [[]]
    dots = []
    for epoch, value in sorted(by_epoch.items()):
        if value is None:
            lines.append([])
        else:
            place = at(epoch, value)
            lines[-1].append(",".join(place))
            dots.append((*place, f"epoch {epoch}: {value:.4g}"))
    best = by_epoch.get(selected) if selected is not None else None
    step = max(1, round((last - first) / 6))
    return Curve(
        title[0].upper() + title[1:],
        [" ".join(line) for line in lines if line],
        dots,
        at(selected, best) if selected is not None and best is not None else None,
        [(epoch, at(epoch, low)[0]) for epoch in range(first, last + 1, step)],
        [(f"{value:.4g}", at(first, value)[1]) for value in sorted({low, high})],
    )


def worst_dialogues(predictions: Predictions) -> list[WrongDialogue]:
    """Return the dialogues with the most errors; among equals, the shortest dialogue is first.

    The name of a dialogue is the common beginning of its utterances' ids. The list is empty if the
    dialogues are unknown.
    """
    dialogues = predictions.dialogue or dialogues_of(predictions.ids)
    if dialogues is None:
        return []
    ids: dict[int, list[str]] = {}
    errors: dict[int, int] = {}
    for name, dialogue, gold, predicted in zip(
        predictions.ids,
        dialogues,
        predictions.gold,
        predictions.predicted,
        strict=True,
    ):
        ids.setdefault(dialogue, []).append(name)
        errors[dialogue] = errors.get(dialogue, 0) + (gold != predicted)
    found = [
        WrongDialogue(_dialogue(names), errors[number], len(names)) for number, names in ids.items()
    ]
    found.sort(key=lambda each: (-each.errors, each.utterances))
    return [each for each in found if each.errors][:WORST]


def _dialogue(ids: Sequence[str]) -> str:
    """Return the name of a dialogue: ``test-d17`` for ``test-d17-u0``, ``test-d17-u1``. Without
    such a common beginning, the first id."""
    beginnings = {re.sub(r"[-_][a-z]?\d+$", "", name) for name in ids}
    return beginnings.pop() if len(beginnings) == 1 else ids[0]


def predictions_csv(predictions: Predictions, labels: Sequence[str]) -> str:
    """Return a CSV with the id, gold label, predicted label and its probability per utterance."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    probabilities = predictions.probabilities
    writer.writerow(["id", "gold", "predicted", *(["probability"] if probabilities else [])])
    rows = probabilities or [None] * len(predictions.ids)
    for name, gold, predicted, row in zip(
        predictions.ids, predictions.gold, predictions.predicted, rows, strict=True
    ):
        answer = "" if predicted == NO_ANSWER else labels[predicted]
        sure = [] if not probabilities else [row[predicted] if row else ""]
        writer.writerow([name, labels[gold], answer, *sure])
    return out.getvalue()


def bibtex(path: Path, record: Record, title: str, paper: PublishedRow | None) -> str:
    """Return a BibTeX entry for the run, with its score, selection, settings and corpus."""
    versions = record.environment.versions if record.environment else {}
    metric = record.judged_by
    note = [
        escaped(f"{metric.title} {record.metrics.test.score(metric):.2f} on test"),
        escaped(f"selected by {record.selection}"),
        f"settings {record.config_hash}",
        f"corpus {record.dataset_digest[:12]}" if record.dataset_digest else "",
        f"a run of the method of \\cite{{{paper.key}}}" if paper else "",
    ]
    key = re.sub(r"[^\w-]", "-", f"erc-bench-{run_name(path)}".replace("/", "-"))
    entry = {
        "title": f"{{{escaped(title)}}}",
        "author": "{The erc-bench maintainers}",
        "howpublished": escaped(f"erc-bench {versions.get('erc-bench') or ''}".strip()),
        "year": record.created[:4],
        "note": "; ".join(part for part in note if part),
    }
    return bibtex_entry(key, entry)


def _made(record: Record) -> dict[str, str]:
    """Return the device, versions and other conditions of a run."""
    if record.environment is None:
        return {}
    environment = record.environment
    found = {
        "device": environment.device,
        "precision": environment.precision,
        "threads": environment.threads,
        "runs at a time": environment.runs_at_once,
        "commit": environment.git_commit,
        "Python": environment.python,
        **environment.versions,
    }
    return {name: str(value) for name, value in found.items() if value is not None}
