"""Turn predictions made elsewhere into a record marked external (``erc-bench score``)."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from erc_bench.corpus.conversation import SPLITS, Corpus, LabelSet, Metric, Utterance
from erc_bench.corpus.text_files import read_given
from erc_bench.errors import ErcBenchError, listed, nearest, quoted
from erc_bench.evaluation import NO_ANSWER
from erc_bench.evaluation.slices import recorded_facts
from erc_bench.records.corpora import find_corpus, remember
from erc_bench.records.parsing import typed
from erc_bench.records.prediction_files import Prediction, read_predictions
from erc_bench.records.schema import (
    Encoder,
    Environment,
    Facts,
    Metrics,
    Predictions,
    Record,
    Splits,
)
from erc_bench.records.store import read_record, write_record
from erc_bench.settings.registry import method_names

SLACK = 0.01
"""Tolerance of the checks on probabilities (their sum is 1, the label has the most): files hold
rounded ones."""


@dataclass(frozen=True)
class Scored:
    """The scores of a file of predictions, and the path of its record."""

    labels: Sequence[str]
    dataset: str
    judged_by: Metric
    metrics: Mapping[str, Metrics]
    """By split."""
    path: Path | None
    """None if only dev was scored."""
    notes: tuple[str, ...] = ()
    """Notes for the user about the file and its predictions, one sentence each."""


def score(
    predictions: str,
    dataset: str,
    name: str,
    root: Path,
    *,
    splits: Sequence[str] = ("test",),
    column: str = "",
    seed: int = 1,
    context: str = "unknown",
    encoder: str = "",
    data_dir: Path | None = None,
    force: bool = False,
    published: Collection[str] = (),
) -> Scored:
    """Score predictions made elsewhere and store them as a record of the method ``name``.

    If only dev is scored, nothing is stored, since a record needs predictions on test.

    Args:
        predictions: the file; ``-`` is standard input.
        dataset: the corpus.
        name: the method's name on the leaderboard.
        root: folder of the records.
        splits: ``test``, ``dev`` or both; the file holds each of their labelled utterances once.
        column: the column of the file that holds the predictions; empty = find it.
        seed: the number of this run among several of the same method.
        context: ``past``, ``full`` or ``unknown``.
        encoder: the model that made the predictions, if it is to be shown.
        data_dir: folder that is searched for the corpus before the usual places.
        force: replace the record of the same name and seed.
        published: keys of the published rows, which can't be used as a name.

    Raises:
        ErcBenchError: the name belongs to a method, or was stored before; the file can't be read;
            ids are missing, doubled or unknown; labels are not the corpus's; or probabilities are
            not shares of 1, or another label than the predicted one has the most. The faults are
            counted.
    """
    source = find_corpus(dataset, root)
    dataset = source.name
    path = _place(root, dataset, name, seed, published)
    described = {"context": context, "encoder": encoder}
    text, called = read_given(predictions)
    others = _other_seeds(path, name) if "test" in splits else {}
    if "test" in splits:
        _check_free(path, name, described, others, force)
    corpus = source.load(data_dir)
    ids = [u.id for split in corpus.contents.values() for d in split for u in d.utterances]
    file = read_predictions(text, called, corpus.labels, ids, column)
    given = file.predictions
    held = match(given, corpus, [split for split in SPLITS if split in splits], called)
    perfect = [split for split, of_split in held.items() if of_split.predicted == of_split.gold]
    if perfect and file.others and not column:
        raise ErcBenchError(
            f"{called}: every label on {perfect[0]} in the column {file.column!r} is the gold one, "
            f"so it may hold the gold labels. There is also: {listed(file.others)}. Say which "
            f"holds the predictions: --column {file.column}, or another one."
        )
    notes = (
        *(f"{called}: {note}" for note in file.notes),
        *_remarks(perfect, given, called),
        *_same_as_another(others, held),
    )
    metrics = {split: _metrics(predictions, corpus) for split, predictions in held.items()}
    if "test" not in splits:
        return Scored(corpus.labels.names, corpus.name, corpus.metric, metrics, None, notes)
    record = Record(
        external=True,
        method=name,
        dataset=dataset,
        dataset_digest=corpus.digest,
        dataset_official=corpus.official,
        labels=list(corpus.labels.names),
        metric=str(corpus.metric),
        preset="external",
        seed=seed,
        config=described,
        config_hash=_hash(name),
        context=context,
        encoder=Encoder(name=encoder),
        metrics=Splits.of(metrics),
        environment=Environment(versions={"erc-bench": version("erc-bench")}),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        predictions=Splits.of(held),
    )
    write_record(path, record)
    remember(root, source)
    return Scored(corpus.labels.names, corpus.name, corpus.metric, metrics, path, notes)


def _place(root: Path, dataset: str, name: str, seed: int, published: Collection[str]) -> Path:
    """The path of the record; an invalid name raises an error."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ErcBenchError(
            f"--name {name!r} can't be a method's name: use letters, digits, '-', '_' and '.'."
        )
    if name.lower() in map(str.lower, method_names()):
        raise ErcBenchError(
            f"--name {name!r} is a method of this suite, and predictions made elsewhere are not "
            "its runs. Give them another name."
        )
    if name in published:
        raise ErcBenchError(f"--name {name!r} is a published row's. Give another name.")
    for other in sorted((root / "records" / dataset).glob("*/")):
        if other.name != name and other.name.lower() == name.lower():
            raise ErcBenchError(
                f"--name {name!r} differs from {other.name!r}, which is stored already, only in "
                "capitals. Use that name, or a clearly different one."
            )
    return root / "records" / dataset / name / f"{_hash(name)}-seed{seed}.json"


def _hash(name: str) -> str:
    """A hash of the name, used in place of a configuration's hash."""
    return hashlib.sha256(f"external {name}".encode()).hexdigest()[:12]


def _other_seeds(path: Path, name: str) -> dict[Path, Record]:
    """The records of the same name with another seed."""
    stored = sorted(path.parent.glob(f"{_hash(name)}-seed*.json"))
    return {other: read_record(other) for other in stored if other != path}


def _check_free(
    path: Path,
    name: str,
    described: Mapping[str, str],
    others: Mapping[Path, Record],
    force: bool,
) -> None:
    """Refuse a seed that is stored already, and a description that differs from other seeds'."""
    if path.exists() and not force:
        raise ErcBenchError(
            f"{name!r} was stored with this seed before: {path}. --force replaces it. Give another "
            "run of the same method another --seed, and another method another --name."
        )
    for other, record in others.items():
        if record.config != described:
            raise ErcBenchError(
                f"{other} was stored as {name!r} with another --context or --encoder. Give the "
                "same to all its seeds, or give another --name."
            )


# --- predictions against the corpus


def match(
    given: Sequence[Prediction], corpus: Corpus, splits: Sequence[str], name: str
) -> dict[str, Predictions]:
    """Match the predictions of a file with the corpus, by split and in corpus order.

    The result is in a record's form: −1 is no answer, and probabilities have four decimals.

    Args:
        given: the predictions of a file, in any order.
        corpus: the corpus that they are about.
        splits: the splits that the file holds.
        name: the file's name in errors.

    Raises:
        ErcBenchError: the predictions do not fit. Faults are counted by kind, and the first of
            each kind is named.
    """
    wanted = {
        split: [d.utterances[i] for d in corpus.contents.get(split, ()) for i in d.labelled]
        for split in splits
    }
    absent = [split for split, turns in wanted.items() if not turns]
    if absent:
        raise ErcBenchError(
            f"{corpus.name} has no {' and no '.join(absent)} here, so nothing can be scored on it. "
            "--split names what the file holds."
        )
    faults = [
        *_wrong_ids(given, [u.id for turns in wanted.values() for u in turns], corpus, splits),
        *_wrong_labels(given, corpus.labels),
        *_wrong_probabilities(given, corpus.labels),
    ]
    if faults:
        raise ErcBenchError(
            f"{name} does not fit {' and '.join(splits)} of {corpus.name}: {'; '.join(faults)}. "
            "Nothing was stored."
        )
    by_id = {p.id: p for p in given}
    return {
        split: _predictions(corpus, split, turns, [by_id[u.id] for u in turns])
        for split, turns in wanted.items()
    }


def _predictions(
    corpus: Corpus, split: str, turns: Sequence[Utterance], given: Sequence[Prediction]
) -> Predictions:
    labels, facts = corpus.labels, recorded_facts(corpus, split)
    probabilities: list[list[float] | None] | None = None
    if any(p.probabilities is not None for p in given):
        probabilities = [_rounded(p, labels) if p.label else None for p in given]
    return Predictions(
        ids=[u.id for u in turns],
        gold=[u.label for u in turns if u.label is not None],
        predicted=[_class_or_none(p, labels) for p in given],
        probabilities=probabilities,
        dialogue=facts["dialogue"],
        facts=Facts(**facts["facts"]),
    )


def _rounded(prediction: Prediction, labels: LabelSet) -> list[float]:
    """The probabilities ``(C,)`` as a record holds them."""
    return [round(value, 4) for value in _distribution(prediction, labels)]


def _class_or_none(prediction: Prediction, labels: LabelSet) -> int:
    """The class of a prediction whose label was checked, or :data:`NO_ANSWER`."""
    found = _class(prediction.label, labels) if prediction.label else NO_ANSWER
    assert found is not None
    return found


def _remarks(perfect: Sequence[str], given: Sequence[Prediction], name: str) -> Iterator[str]:
    """Notes on possible oversights. On ``perfect`` splits, every prediction is the gold label."""
    for split in perfect:
        yield (
            f"{name}: every label on {split} is the gold one. If the column holds the gold "
            "labels, give the predictions: --column says where they are"
        )
    unanswered = [p for p in given if not p.label]
    if unanswered:
        yield (
            f"{name}: {len(unanswered):,} of {len(given):,} have no answer, the first in "
            f"{unanswered[0].where}; each counts as wrong"
        )


def _same_as_another(
    others: Mapping[Path, Record], held: Mapping[str, Predictions]
) -> Iterator[str]:
    """A note for each other seed that has the same predictions on test."""
    for other, record in others.items():
        if record.predictions.test.predicted == held["test"].predicted:
            yield (
                f"the predictions on test are those of seed {record.seed} ({other}). Each seed "
                "must be a separate run: one file stored twice makes the spread too small"
            )


def _wrong_ids(
    given: Sequence[Prediction], wanted: Sequence[str], corpus: Corpus, splits: Sequence[str]
) -> Iterator[str]:
    times = Counter(p.id for p in given)
    missing = [name for name in wanted if name not in times]
    if missing:
        yield f"{_count(missing, 'id')} missing, the first {missing[0]!r}"
    doubled = [name for name, n in times.items() if n > 1]
    if doubled:
        places = " and ".join([p.where for p in given if p.id == doubled[0]][:3])
        yield f"{_count(doubled, 'id')} doubled, the first {quoted(doubled[0])} ({places})"
    known = set(wanted)
    unknown = {p.id for p in given} - known
    if unknown:
        first = next(p for p in given if p.id in unknown)
        place = f"{first.where}{_stray(first.id, wanted, corpus, splits)}"
        yield f"{_count(unknown, 'id')} unknown, the first {quoted(first.id)} ({place})"


def _stray(name: str, wanted: Sequence[str], corpus: Corpus, splits: Sequence[str]) -> str:
    """A hint at what an unexpected id may be."""
    for split, dialogues in corpus.contents.items():
        if any(u.id == name for d in dialogues for u in d.utterances):
            if split in splits:
                return ", a turn without a label, which is never scored: leave it out"
            return f", of {split}: --split says what the file holds"
    near = nearest(name, wanted)
    return f", like {near!r}" if near else ""


def _wrong_labels(given: Sequence[Prediction], labels: LabelSet) -> Iterator[str]:
    wrong = [p for p in given if p.label and _class(p.label, labels) is None]
    if wrong:
        first = wrong[0]
        near = nearest(first.label, labels.names)
        like = f", like {near!r}" if near else ""
        if first.label.isdecimal():
            like = ", a number: labels are given by their names"
        yield (
            f"{_count(wrong, 'label')} not in the label set, the first {quoted(first.label)} "
            f"({first.where}{like}); the labels are {', '.join(labels.names)}"
        )
    if given and not any(p.label for p in given):
        yield "there is no answer at all"


def _wrong_probabilities(given: Sequence[Prediction], labels: LabelSet) -> Iterator[str]:
    unanswered = [p for p in given if not p.label and p.probabilities is not None]
    if unanswered:
        yield f"{len(unanswered):,} with probabilities and no label, first {unanswered[0].where}"
    without = [p for p in given if p.label and p.probabilities is None]
    if without and any(p.probabilities is not None for p in given):
        yield f"{len(without):,} without probabilities, the first in {without[0].where}"
    faults = [(p, fault) for p in given if (fault := _fault(p, labels))]
    if faults:
        first, fault = faults[0]
        yield f"{len(faults):,} with wrong probabilities, the first in {first.where}: {fault}"


def _fault(prediction: Prediction, labels: LabelSet) -> str:
    """What is wrong with the probabilities of an utterance, if it has any."""
    if prediction.probabilities is None:
        return ""
    try:
        values = _distribution(prediction, labels)
    except (KeyError, OverflowError, TypeError, ValueError):
        return f"not a number for each of {', '.join(labels.names)}"
    if not (min(values) >= 0 and abs(sum(values) - 1) <= SLACK):
        return f"not shares of 1 (their sum is {sum(values):g})"
    own, most = _class(prediction.label, labels), max(values)
    if own is not None and values[own] < most - SLACK:
        return f"{labels.names[values.index(most)]!r} has more probability than the label"
    return ""


def _distribution(prediction: Prediction, labels: LabelSet) -> list[float]:
    """The probabilities ``(C,)`` in the order of the label set."""
    assert prediction.probabilities is not None
    given = {name.strip(): value for name, value in prediction.probabilities.items()}
    folded = {name.casefold(): value for name, value in given.items()}
    return [float(given.get(name, folded[name.casefold()])) for name in labels.names]


def _class(label: str, labels: LabelSet) -> int | None:
    """The class of a label; None if it is not in the label set.

    Case is ignored, unless labels differ only by it.
    """
    if label in labels.names:
        return labels.names.index(label)
    alike = [n for n, name in enumerate(labels.names) if name.casefold() == label.casefold()]
    return alike[0] if len(alike) == 1 else None


def _count(things: Sized, noun: str) -> str:
    return f"{len(things):,} {noun}{'' if len(things) == 1 else 's'}"


def _metrics(predictions: Predictions, corpus: Corpus) -> Metrics:
    import torch

    from erc_bench.evaluation.metrics import evaluate

    probabilities = None
    if predictions.probabilities is not None:
        no_answer = [math.nan] * len(corpus.labels)
        probabilities = torch.tensor([row or no_answer for row in predictions.probabilities])
    figures = evaluate(
        torch.tensor(predictions.predicted),
        torch.tensor(predictions.gold),
        corpus.labels.names,
        probabilities,
        corpus.metric,
    )
    return typed(figures, Metrics)
