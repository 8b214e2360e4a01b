"""The JSON of a record → the fields that the leaderboard needs.

Only these fields are decoded, so that a thousand records are read in seconds. Everything else,
above all the probabilities and the predictions on dev, is only checked to be valid JSON.
"""

from __future__ import annotations

import hashlib
import marshal
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from erc_bench.corpus.conversation import Metric
from erc_bench.evaluation.slices import confusions
from erc_bench.evaluation.statistics import score
from erc_bench.records.faults import gold_faults, label_faults, metric_faults, prediction_faults
from erc_bench.records.parsing import RecordError, damaged, parse_record
from erc_bench.records.schema import (
    SCHEMA,
    Encoder,
    Environment,
    FineTuning,
    GoldLabels,
    LabelOrNone,
    Number,
    Search,
)

T = TypeVar("T")

SHARED = ("gold", "dialogue", "facts")
"""Fields that all runs on the same test set have in common."""

SEARCH = ("trials", "sampler", "sampler_seed", "chosen", "digest")
"""Fields that are kept of the search that chose a run's settings."""

AGREEMENT = 1e-3
"""Largest accepted difference, in points, between a record's score and that of its predictions."""

COST = ("fit_seconds", "utterances_per_second", "peak_memory_mib", "parameters", "epochs")
"""Costs of a training. ``fit_seconds`` includes the fine-tuning that made its utterance vectors, if
the record has its time."""

MADE_WITH = {
    "vectors": "sets of utterance vectors",
    "fine_tuning": "commits of the code that fine-tuned their encoder",
    "git_commit": "commits of the code",
    "torch": "versions of PyTorch",
    "precision": "precisions",
    "device": "kinds of device",
    "runs_at_once": "numbers of runs at a time",
}
"""Conditions that should be the same for all seeds of a row, each with its name in the plural. The
first two are from the record's encoder, the others from its environment."""


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
    """Predictions of a record. Fields that runs on the same test set share stay JSON, because they
    are decoded once for all these runs."""

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
    """A mapping in methods on utterance vectors; anything in predictions made elsewhere."""


class _Record(msgspec.Struct, kw_only=True):
    """The fields of a :class:`erc_bench.records.schema.Record` that are read here."""

    schema: int
    external: bool = False
    method: str
    dataset: str
    dataset_digest: str = ""
    dataset_official: bool | None = None
    further_corpora: dict[str, str] | None = None
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


def decode(
    file: str, contents: bytes, test_sets: dict[str, dict[str, Any]]
) -> dict[str, Any] | str:
    """Decode the fields of a :class:`~erc_bench.leaderboard.runs.Run`, except ``file`` and
    ``digest``.

    Args:
        file: the record's file, relative to the leaderboard's folder.
        contents: the bytes of the file.
        test_sets: test sets that were decoded before, by digest. New ones are added.

    Returns:
        The fields, where each of :data:`SHARED` is a pair of a digest and the value; or a message
        that says what is wrong with the record.
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
    """Decode a part of a record's ``contents``. If that fails, parse the whole record, whose error
    says what is wrong, and where."""
    try:
        return decoder.decode(json)
    except (ValueError, RecursionError):
        parse_record(contents, path)
        raise  # the record is valid: this is a defect of ours


def _of_test_set(
    record: _Record, contents: bytes, path: Path, test_sets: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return the fields that depend only on the test set, in the form of :func:`decode`."""
    test = record.predictions.test
    parts = (test.ids, test.gold, test.dialogue, test.facts)
    key = _digest([record.labels, record.metric, *map(bytes, parts)])
    if key not in test_sets:  # most records share one that is already decoded
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
    features = record.config.features if isinstance(record.config.features, dict) else {}
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
        "further_corpora": [digest for _, digest in sorted((record.further_corpora or {}).items())],
        "dev_score": None if dev is None else _float(getattr(dev, metric.name)),
        "calibration_error": _float(record.metrics.test.calibration_error),
        "oracle_gap": _float(record.oracle_gap),
        "cost": _cost(record.training or _Training(), encoder.fine_tuning),
        "made": _made_with(record.environment or Environment(), encoder),
        "own_vectors": features.get("per_seed") is True,
        "frozen": features.get("epochs") == 0,
    }


def _search(search: Search, overrides: Sequence[str]) -> dict[str, Any]:
    """Return :data:`SEARCH` and the fixed overrides, which are those outside the search space."""
    fixed = [text for text in overrides if text.partition("=")[0] not in search.space]
    return {**{name: getattr(search, name) for name in SEARCH}, "fixed": fixed}


def _cost(training: _Training, fine_tuning: FineTuning | None) -> dict[str, float | None]:
    cost = {name: _float(getattr(training, name)) for name in COST}
    if cost["fit_seconds"] is not None and fine_tuning is not None:
        cost["fit_seconds"] += fine_tuning.seconds or 0
    return cost


def _made_with(environment: Environment, encoder: Encoder) -> dict[str, str]:
    """Return the conditions of :data:`MADE_WITH`; empty strings for those that the record lacks."""
    fine_tuning = encoder.fine_tuning or FineTuning()
    at_once = environment.runs_at_once  # text if it changed, as in ``unknown → 2``
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
    """Return the SHA-256 digest of plain data."""
    # marshal's version 2 encodes equal values as equal bytes.
    return hashlib.sha256(marshal.dumps(value, 2)).hexdigest()


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def score_of(
    gold: np.ndarray, predicted: np.ndarray, labels: Sequence[str], metric: Metric
) -> float:
    """Return the score of predictions ``(N,)`` in percent. A missing answer counts as wrong."""
    (counts,) = confusions(gold, predicted[None], len(labels))
    return float(score(counts, metric, labels))


def dialogues_of(ids: Iterable[str]) -> list[int] | None:
    """Return dialogue numbers ``(N,)`` from utterance ids such as ``test-d3-u0``.

    For records of schema 1, which have no dialogue numbers. None if an id has another form, or if
    the utterances of a dialogue are not next to each other.
    """
    names = [re.fullmatch(r"(.+)[-_][a-z]?\d+", name) for name in ids]
    if not all(names):
        return None
    prefixes = np.array([match[1] for match in names if match])
    starts = np.r_[True, prefixes[1:] != prefixes[:-1]]
    if starts.sum() != len(set(prefixes.tolist())):
        return None
    return (np.cumsum(starts) - 1).tolist()
