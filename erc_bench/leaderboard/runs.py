"""Records → runs: what the leaderboard needs of each.

A thousand records are read in seconds, so only these fields are: of everything else, the
probabilities and dev's predictions above all, nothing but the JSON is looked at.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from erc_bench.corpus.conversation import Metric
from erc_bench.evaluation import NO_ANSWER
from erc_bench.evaluation.statistics import score
from erc_bench.leaderboard.cache import Cache
from erc_bench.records.schema import (
    SCHEMA,
    Encoder,
    Environment,
    FineTuning,
    GoldLabels,
    LabelOrNone,
    Number,
    RecordError,
    Search,
    damaged,
    gold_faults,
    label_faults,
    metric_faults,
    parse_record,
    prediction_faults,
)
from erc_bench.records.store import record_files

T = TypeVar("T")

SHARED = ("gold", "dialogue", "facts")
"""What all runs on a test set have in common."""

SEARCH = ("trials", "sampler", "sampler_seed", "chosen", "digest")
"""What is kept of the search that chose a run's settings."""

AGREEMENT = 1e-3
"""How far a record's figure may lie from that of its predictions, in points."""

COST = ("fit_seconds", "utterances_per_second", "peak_memory_mib", "parameters", "epochs")
"""What a training took; ``fit_seconds`` with the fine-tuning that made its vectors, where it says
that."""

MADE_WITH = {
    "vectors": "sets of utterance vectors",
    "fine_tuning": "commits of the code that fine-tuned their encoder",
    "git_commit": "commits of the code",
    "torch": "versions of PyTorch",
    "precision": "precisions",
    "device": "kinds of device",
    "runs_at_once": "numbers of runs at a time",
}
"""In what the seeds of a row should not differ, by what several of it are called: what is kept of a
record's environment, and the digest of the utterance vectors it read."""


@dataclass(frozen=True)
class Run:
    """One finished run on a test set of N labelled utterances; plain data throughout."""

    file: str
    """Relative to the leaderboard's folder."""
    digest: str
    """SHA-256 of the file."""
    method: str
    dataset: str
    config_hash: str
    preset: str
    overrides: list[str]
    variant: str
    """The part that the method is without; empty for all of it."""
    tuned: dict[str, Any] | None
    """The search that chose the settings: :data:`SEARCH`, and in ``fixed`` those overrides that all
    of its trials have; None where nobody searched."""
    seed: int
    context: str
    selection: str
    encoder: str
    """Name; empty where there is none, or predictions made elsewhere do not say it."""
    encoder_digest: str
    external: bool
    labels: list[str]
    metric: str
    """What its corpus is judged by."""
    gold: list[int]
    predicted: list[int]
    dialogue: list[int] | None
    """Which dialogue each utterance belongs to; None where that can't be told."""
    facts: dict[str, list[int]] | None
    test_set: str
    """Digest over labels, utterance ids, gold labels and dialogues, and what it is judged by."""
    corpus: str
    """Digest of the whole corpus, its texts and the other splits among it. A record that does not
    say it is taken to be of the copy that most on its test set are of."""
    official: bool
    """Whether the corpus is the official release, as far as the record says."""
    dev_score: float | None
    calibration_error: float | None
    oracle_gap: float | None
    cost: dict[str, float | None]
    made: dict[str, str]
    """What it was made with, by :data:`MADE_WITH`; empty where the record does not say."""
    own_vectors: bool
    """Whether every seed was to fine-tune an encoder of its own: ``features.per_seed``."""

    @property
    def budget(self) -> str:
        """What was spent on its settings: ``random search, 20 trials``; empty where nothing was.
        Runs of unequal budgets are never ranked together."""
        search = self.tuned
        return f"{search['sampler']} search, {search['trials']} trials" if search else ""

    @property
    def given(self) -> list[str]:
        """:func:`given_settings` of it."""
        return given_settings(self.overrides, self.tuned)

    @property
    def settings(self) -> tuple[str, str, str]:
        """What tells its settings from others of its method: their hash, the variant that they are
        called, and the search that chose them."""
        return self.config_hash, self.variant, self.tuned["digest"] if self.tuned else ""


def given_settings(overrides: list[str], tuned: Mapping[str, Any] | None) -> list[str]:
    """The overrides that a row's command was given: of tuned settings without what its search
    drew."""
    return tuned["fixed"] if tuned else overrides


def share_encoders(one: Sequence[Run], other: Sequence[Run]) -> bool:
    """Whether two rows have the same seeds, two or more, and read the vectors of the same
    fine-tuned encoder in each, of another one in every seed. Such seeds are paired."""
    a, b = ({run.seed: run.made["vectors"] for run in side} for side in (one, other))
    return a == b and len(set(a.values()) - {""}) == len(a) > 1


@dataclass(frozen=True)
class Skipped:
    """A record that could not be used, and why."""

    file: str
    reason: str


def read_runs(
    root: Path, cache: Cache, further: Sequence[Path] = ()
) -> tuple[list[Run], list[Skipped]]:
    """All usable records below ``root`` in order of their files, and those that are not.

    Below ``further`` folders, too: their files are named relative to ``root``, and what ``root``
    has as well counts once.
    """
    files = [
        Path(os.path.relpath(path, root)).as_posix()
        for folder in (root, *further)
        for path in record_files(folder)
    ]
    files = list(dict.fromkeys(files))
    runs, skipped = [], []
    seen: dict[tuple[Any, ...], str] = {}
    for file, found in zip(files, _read_all(root, files, cache), strict=True):
        if isinstance(found, str):
            skipped.append(Skipped(file, found))
            continue
        run = Run(file=file, **found)
        same = (run.dataset, run.corpus, run.method, run.settings, run.encoder_digest, run.seed)
        if same in seen and not file.startswith("records/"):
            continue  # of a further folder
        if same in seen:
            reason = f"{file} holds the same run as {seen[same]}. Delete one of them."
            skipped.append(Skipped(file, reason))
        else:
            seen[same] = file
            runs.append(run)
    return _with_corpora(runs), skipped


def _with_corpora(runs: list[Run]) -> list[Run]:
    copies: dict[tuple[Any, ...], list[str]] = {}
    for run in runs:
        known = copies.setdefault((run.dataset, run.test_set), [])
        known += [run.corpus] if run.corpus else []
    return [
        run if run.corpus else replace(run, corpus=usual(copies[run.dataset, run.test_set]))
        for run in runs
    ]


def copy_mark(run: Run) -> str:
    """What tells a run on another copy of a corpus from others wherever it is shown."""
    return "" if run.official else f"copy {run.corpus[:8]}"


def most(names: Sequence[str]) -> list[str]:
    """The names that occur most often."""
    times = Counter(names)
    return [name for name, n in times.items() if n == max(times.values())]


def usual(digests: Sequence[str]) -> str:
    """The one that occurs most often, of several the first by name; "" where there is none."""
    return min(most(digests), default="")


def _read_all(root: Path, files: list[str], cache: Cache) -> list[dict[str, Any] | str]:
    """The fields of each :class:`Run` but ``file``, or what is wrong with the record.

    What runs have in common (gold labels, dialogues, facts) is kept once in the cache.
    """
    found: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    test_sets: dict[str, dict[str, Any]] = {}
    for file in files:
        try:
            contents = (root / file).read_bytes()
        except OSError as error:
            found[file] = f"{file} can't be read: {error.strerror or error}."
            continue
        digest = hashlib.sha256(contents).hexdigest()
        key = cache.key("record", file, digest)
        kept = cache.read(key)
        if kept is not None:
            for part in SHARED:
                if kept[part] not in shared:
                    shared[kept[part]] = cache.read(cache.key("shared", kept[part]))
            if all(shared[kept[part]] is not None for part in SHARED):
                found[file] = kept
                continue
        read = _read_one(file, contents, test_sets)
        if isinstance(read, str):
            found[file] = read
            continue
        for part in SHARED:
            name, value = read[part]
            if shared.get(name) is None:
                shared[name] = [value]  # since None is one
                cache.write(cache.key("shared", name), shared[name])
            read[part] = name
        found[file] = {**read, "digest": digest}
        cache.write(key, found[file])
    for value in found.values():
        if not isinstance(value, str):
            value.update({part: shared[value[part]][0] for part in SHARED})
    return list(found.values())


class _Scores(msgspec.Struct):
    weighted_f1: Number
    accuracy: Number | None = None
    macro_f1: Number | None = None
    micro_f1: Number | None = None
    calibration_error: Number | None = None


class _Metrics(msgspec.Struct, kw_only=True):
    dev: _Scores | None = None
    test: _Scores


class _Predictions(msgspec.Struct, kw_only=True):
    """What all runs on a test set share stays JSON: it is read once for all of them."""

    ids: msgspec.Raw
    gold: msgspec.Raw
    dialogue: msgspec.Raw = msgspec.Raw(b"null")
    facts: msgspec.Raw = msgspec.Raw(b"null")
    predicted: list[LabelOrNone]


class _Splits(msgspec.Struct):
    test: _Predictions


class _Training(msgspec.Struct):
    fit_seconds: Number | None = None
    utterances_per_second: Number | None = None
    peak_memory_mib: Number | None = None
    parameters: Number | None = None
    epochs: Number | None = None


class _Config(msgspec.Struct, frozen=True):
    features: Any = None
    """A mapping in methods on utterance vectors; in one from elsewhere it may be anything."""


class _Record(msgspec.Struct, kw_only=True):
    """The fields of a :class:`erc_bench.records.schema.Record` that are read here."""

    schema: int
    external: bool = False
    method: str
    dataset: str
    dataset_digest: str = ""
    dataset_official: bool | None = None
    labels: list[str]
    metric: str = str(Metric())
    preset: str = ""
    overrides: list[str] = []
    variant: str | None = None
    tuned: Search | None = None
    seed: int
    config: _Config = _Config()
    config_hash: str
    context: str = "unknown"
    selection: str = "unknown"
    encoder: Encoder | None = None
    metrics: _Metrics
    oracle_gap: Number | None = None
    training: _Training | None = None
    environment: Environment | None = None
    predictions: _Splits


_RECORD, _GOLD = msgspec.json.Decoder(_Record), msgspec.json.Decoder(GoldLabels)


def _read_one(
    file: str, contents: bytes, test_sets: dict[str, dict[str, Any]]
) -> dict[str, Any] | str:
    """The fields of a :class:`Run` but ``file`` and ``digest``, or what is wrong with the record.

    The parts that are :data:`SHARED` are pairs of a digest and the value.
    """
    path = Path(file)
    try:
        record = _decoded(contents, _RECORD, contents, path)
        if not 1 <= record.schema <= SCHEMA:
            parse_record(contents, path)
        return _fields_of_run(record, _of_test_set(record, contents, path, test_sets), path)
    except RecordError as error:
        return str(error)


def _decoded(json: bytes, decoder: msgspec.json.Decoder[T], contents: bytes, path: Path) -> T:
    """A part of a record's ``contents``; where it does not fit, the whole is read as a record is,
    to say what is wrong with it, and where."""
    try:
        return decoder.decode(json)
    except (ValueError, RecursionError):
        parse_record(contents, path)
        raise  # that found nothing: this is no fault of the file's


def _of_test_set(
    record: _Record, contents: bytes, path: Path, test_sets: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The fields that depend on nothing but the test set, in the form of :func:`_read_one`'s."""
    test = record.predictions.test
    parts = (test.ids, test.gold, test.dialogue, test.facts)
    key = _digest([record.labels, record.metric, *map(bytes, parts)])
    if key not in test_sets:  # most records are of one that was met before
        json = b'{"ids":%b,"gold":%b,"dialogue":%b,"facts":%b}' % tuple(map(bytes, parts))
        test_sets[key] = _test_set(record, _decoded(json, _GOLD, contents, path), path)
    return test_sets[key]


def _fields_of_run(record: _Record, of_test_set: dict[str, Any], path: Path) -> dict[str, Any]:
    predicted, gold = record.predictions.test.predicted, of_test_set["gold"][1]
    classes = len(record.labels)
    for fault in prediction_faults(predicted, len(gold), classes, "$.predictions.test"):
        raise damaged(path, fault)
    metric = Metric.of(record.metric, record.labels)
    stored = getattr(record.metrics.test, metric.name)
    counted = score_of(np.array(gold), np.array(predicted), record.labels, metric)
    if stored is None or not abs(stored - counted) <= AGREEMENT:
        said = "no " if stored is None else ""
        raise RecordError(
            f"{path} says {said}{metric.title}{'' if said else f' {stored:.4f}'}, but its "
            f"predictions give {counted:.4f}. `erc-bench rescore` puts that right."
        )
    encoder = record.encoder or Encoder()
    dev = record.metrics.dev
    return {
        "method": record.method,
        "dataset": record.dataset,
        "config_hash": record.config_hash,
        "preset": record.preset,
        "overrides": record.overrides,
        "variant": record.variant or "",
        "tuned": _search(record.tuned, record.overrides) if record.tuned else None,
        "seed": record.seed,
        "context": record.context,
        "selection": record.selection,
        "encoder": encoder.name,
        "encoder_digest": encoder.digest,
        "external": record.external,
        "labels": record.labels,
        "metric": record.metric,
        **of_test_set,
        "predicted": predicted,
        "corpus": record.dataset_digest,
        "official": record.dataset_official is not False,
        "dev_score": None if dev is None else _float(getattr(dev, metric.name)),
        "calibration_error": _float(record.metrics.test.calibration_error),
        "oracle_gap": _float(record.oracle_gap),
        "cost": _cost(record.training or _Training(), encoder.fine_tuning),
        "made": _made_with(record.environment or Environment(), encoder),
        "own_vectors": _own_vectors(record.config.features),
    }


def _own_vectors(features: Any) -> bool:
    return isinstance(features, dict) and features.get("per_seed") is True


def _search(search: Search, overrides: Sequence[str]) -> dict[str, Any]:
    """What is kept of a search; what is in its space was drawn, and any other override fixed."""
    fixed = [text for text in overrides if text.partition("=")[0] not in search.space]
    return {**{name: getattr(search, name) for name in SEARCH}, "fixed": fixed}


def _cost(training: _Training, fine_tuning: FineTuning | None) -> dict[str, float | None]:
    cost = {name: _float(getattr(training, name)) for name in COST}
    if cost["fit_seconds"] is not None and fine_tuning is not None:
        cost["fit_seconds"] += fine_tuning.seconds or 0
    return cost


def _made_with(environment: Environment, encoder: Encoder) -> dict[str, str]:
    """By :data:`MADE_WITH`; empty where the record does not say it."""
    fine_tuning = encoder.fine_tuning or FineTuning()
    at_once = environment.runs_at_once  # text in a run resumed from before records said it
    made = {
        "vectors": encoder.vectors,
        "fine_tuning": fine_tuning.git_commit or fine_tuning.versions.get("erc-bench"),
        "git_commit": environment.git_commit,
        "torch": environment.versions.get("torch"),
        "precision": environment.precision,
        "device": environment.device,
        "runs_at_once": at_once if isinstance(at_once, int) else None,
    }
    return {name: str(made[name] or "") for name in MADE_WITH}


def _test_set(record: _Record, test: GoldLabels, path: Path) -> dict[str, Any]:
    labels = record.labels
    for fault in (
        *label_faults(labels),
        *metric_faults(record.metric, labels),
        *gold_faults(test, len(labels), "$.predictions.test"),
    ):
        raise damaged(path, fault)
    dialogue = test.dialogue if test.dialogue is not None else dialogues_of(test.ids)
    if dialogue is not None:
        dialogue = np.unique(dialogue, return_inverse=True)[1].tolist()
    text = "\n".join([*labels, "", *test.ids]).encode()
    for array in (test.gold, dialogue or []):
        text += np.asarray(array, dtype=np.int64).tobytes()
    text += b"" if record.metric == str(Metric()) else record.metric.encode()
    facts = None if test.facts is None else test.facts.columns()
    shared = {"gold": test.gold, "dialogue": dialogue, "facts": facts}
    return {
        "test_set": hashlib.sha256(text).hexdigest(),
        **{part: (_digest(value), value) for part, value in shared.items()},
    }


def _digest(value: Any) -> str:
    """SHA-256 of plain data."""
    # In its second version marshal gives equal values equal bytes.
    return hashlib.sha256(marshal.dumps(value, 2)).hexdigest()


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def score_of(
    gold: np.ndarray, predicted: np.ndarray, labels: Sequence[str], metric: Metric
) -> float:
    """The corpus's figure in percent of predictions ``(N,)``; no answer is wrong."""
    classes = len(labels)
    answers = np.where(predicted == NO_ANSWER, classes, predicted)
    cell = np.bincount(gold * (classes + 1) + answers, minlength=classes * (classes + 1))
    return float(score(cell.reshape(classes, classes + 1), metric, labels))


def dialogues_of(ids: Iterable[str]) -> list[int] | None:
    """Dialogue numbers from utterance ids such as ``test-d3-u0``: what stands before the last part.

    For records of schema 1. None where some id is of another form, or a dialogue's utterances would
    not stand together.
    """
    names = [re.fullmatch(r"(.+)[-_][a-z]?\d+", name) for name in ids]
    if not all(names):
        return None
    prefixes = np.array([match[1] for match in names if match])
    starts = np.r_[True, prefixes[1:] != prefixes[:-1]]
    if starts.sum() != len(set(prefixes.tolist())):
        return None
    return (np.cumsum(starts) - 1).tolist()
