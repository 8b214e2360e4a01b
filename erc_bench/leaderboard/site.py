"""The leaderboard as a site: the page, and one for every run, in a folder to publish or send.

Every page is self-contained. The pages of runs are no part of the leaderboard's own folder: what
is committed there stays small and is compared by ``erc-bench leaderboard --check``.
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
from erc_bench.leaderboard.latex import bibtex_entry, escaped
from erc_bench.leaderboard.page import environment, to_html
from erc_bench.leaderboard.published import Published, PublishedRow, read_published
from erc_bench.leaderboard.runs import Skipped, dialogues_of
from erc_bench.progress import track
from erc_bench.records.schema import Predictions, Record, Training
from erc_bench.records.store import read_record, run_name
from erc_bench.settings.experiment import flat
from erc_bench.settings.registry import confusable_labels

WORST = 15
"""Dialogues that a page lists."""

WIDTH, HEIGHT = 560, 150
"""Of a curve in pixels, without its labels."""


@dataclass(frozen=True)
class Curve:
    """A figure by epoch, in the picture's pixels."""

    title: str
    lines: list[str]
    """Points of the polylines between values that are no number."""
    dots: list[tuple[str, str, str]]
    """Places, and what stands there."""
    selected: tuple[str, str] | None
    """The place of the selected epoch."""
    epochs: list[tuple[int, str]]
    """Ticks below, with their places."""
    ticks: list[tuple[str, str]]
    """Ticks on the left."""


@dataclass(frozen=True)
class WrongDialogue:
    """How many of a dialogue's labelled utterances were predicted wrong."""

    name: str
    errors: int
    utterances: int


def build_site(
    root: Path, folder: Path, further: Sequence[Path] = ()
) -> tuple[Path, list[Skipped]]:
    """Write the page of the records below ``root`` and one for every run into a folder; records
    below ``further`` folders stand on it as well.

    Returns:
        The page, and the records that could not be used.

    Raises:
        ErcBenchError: the folder is the leaderboard's own, or can't be written to.
    """
    if folder.resolve() == root.resolve():
        raise ErcBenchError(
            f"{folder} is the folder of the leaderboard itself, whose index.html has no pages of "
            "runs. Name another one for the site."
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
        if page in taken:  # of another folder, on another copy of the corpus
            page = page.with_stem(f"{page.stem}-{len(pages)}")
        taken.add(page)
        pages[file] = page.as_posix()
        write_atomically(folder / pages[file], run_page(path, record, published, tab))
    index = folder / "index.html"
    addresses = {file: quote(page) for file, page in pages.items()}
    write_atomically(index, to_html(board, addresses))
    return index, board.skipped


def _files(board: Board) -> list[tuple[str, str]]:
    """The record of every run that is shown, and the tab that it stands in."""
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
    """The page of a run, which leads back to a tab of the leaderboard."""
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
    """Whether the finished model scores otherwise on dev than the selected epoch did: something
    came after the epochs."""
    training, metric, dev = record.training, record.judged_by, record.metrics.dev
    if training is None or training.best_epoch is None or dev is None:
        return False
    then = _by_epoch(training, f"dev/{metric.name}").get(training.best_epoch)
    return then is not None and abs(then - dev.score(metric)) > 0.01


def curves(record: Record) -> list[Curve]:
    """The corpus's figure on dev and the training loss by epoch, where they were logged."""
    training = record.training
    if training is None or len(training.curves) < 2:  # a single epoch is no curve
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
    """A figure by epoch, counted from 1."""
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
    """The dialogues with most errors, of equally many those first where they are the larger share.

    A dialogue is called by what the ids of its utterances begin with. None where dialogues can't be
    told apart.
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
    """``test-d17`` of ``test-d17-u0``, ``test-d17-u1``; the first id where they share no such
    beginning."""
    beginnings = {re.sub(r"[-_][a-z]?\d+$", "", name) for name in ids}
    return beginnings.pop() if len(beginnings) == 1 else ids[0]


def predictions_csv(predictions: Predictions, labels: Sequence[str]) -> str:
    """A line an utterance: its id, gold and predicted label, and the probability of the latter."""
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
    """An entry for the run, which says on what its figure stands."""
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
    """Where the run was made, and with what."""
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
