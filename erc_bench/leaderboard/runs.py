"""Records → runs: what the leaderboard needs of each, checked."""

from __future__ import annotations

import hashlib
import marshal
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from erc_bench.evaluation.slices import UtteranceFacts
from erc_bench.evaluation.statistics import checked_labels, weighted_f1
from erc_bench.leaderboard.cache import Cache
from erc_bench.records.store import RecordError, parse_record, record_files, sound

SHARED = ("gold", "dialogue", "facts")
"""What all runs on a test set have in common."""

PROBABILITIES = re.compile(rb'"probabilities":\s*\[[][0-9eE+.,\s-]*\]')
"""More than half of a record, and nothing here reads it. No string can hold this: its quotes would
be escaped."""

AGREEMENT = 1e-3
"""How far a record's weighted-F1 may lie from that of its predictions, in points."""

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
    seed: int
    context: str
    selection: str
    encoder: str
    """Name; empty where there is none, or predictions made elsewhere do not say it."""
    encoder_digest: str
    external: bool
    labels: list[str]
    gold: list[int]
    predicted: list[int]
    dialogue: list[int] | None
    """Which dialogue each utterance belongs to; None where that can't be told."""
    facts: dict[str, list[int]] | None
    test_set: str
    """Digest over labels, utterance ids, gold labels and dialogues."""
    corpus: str
    """Digest of the whole corpus, its texts and the other splits among it. A record that does not
    say it is taken to be of the copy that most on its test set are of."""
    dev_weighted_f1: float | None
    calibration_error: float | None
    oracle_gap: float | None
    cost: dict[str, float | None]
    made: dict[str, str]
    """What it was made with, by :data:`MADE_WITH`; empty where the record does not say."""


@dataclass(frozen=True)
class Skipped:
    """A record that could not be used, and why."""

    file: str
    reason: str


def read_runs(root: Path, cache: Cache) -> tuple[list[Run], list[Skipped]]:
    """All usable records below ``root`` in order of their files, and those that are not."""
    files = [path.relative_to(root).as_posix() for path in record_files(root)]
    runs, skipped = [], []
    seen: dict[tuple, str] = {}
    for file, found in zip(files, _read_all(root, files, cache), strict=True):
        if isinstance(found, str):
            skipped.append(Skipped(file, found))
            continue
        run = Run(file=file, **found)
        same = (run.dataset, run.method, run.config_hash, run.encoder_digest, run.seed)
        if same in seen:
            reason = f"{file} holds the same run as {seen[same]}. Delete one of them."
            skipped.append(Skipped(file, reason))
        else:
            seen[same] = file
            runs.append(run)
    return _with_corpora(runs), skipped


def _with_corpora(runs: list[Run]) -> list[Run]:
    copies: dict[tuple, list[str]] = {}
    for run in runs:
        known = copies.setdefault((run.dataset, run.test_set), [])
        known += [run.corpus] if run.corpus else []
    return [
        run if run.corpus else replace(run, corpus=usual(copies[run.dataset, run.test_set]))
        for run in runs
    ]


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


def _read_one(
    file: str, contents: bytes, test_sets: dict[str, dict[str, Any]]
) -> dict[str, Any] | str:
    """The fields of a :class:`Run` but ``file`` and ``digest``, or what is wrong with the record.

    The parts that are :data:`SHARED` are pairs of a digest and the value.
    """
    try:
        record = parse_record(PROBABILITIES.sub(b'"probabilities":[]', contents), Path(file))
        with sound(Path(file)):
            return _distil(record, file, test_sets)
    except RecordError as error:
        return str(error)


def _distil(
    record: dict[str, Any], file: str, test_sets: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    labels = list(map(str, record["labels"]))
    test = record["predictions"]["test"]
    raw = [labels, test["ids"], test["gold"], test.get("dialogue"), test.get("facts")]
    key = _digest(raw)
    if key not in test_sets:  # most records are of one that was met before
        test_sets[key] = _test_set(*raw)
    of_test_set = test_sets[key]
    gold, predicted = checked_labels(of_test_set["gold"][1], [test["predicted"]], len(labels))
    metrics = record["metrics"]
    stored, counted = float(metrics["test"]["weighted_f1"]), f1_of(gold, predicted, len(labels))
    if not abs(stored - counted) <= AGREEMENT:
        raise RecordError(
            f"{file} says weighted-F1 {stored:.4f}, but its predictions give {counted:.4f}. "
            "`erc-bench rescore` puts that right."
        )
    encoder = record.get("encoder") or {}
    training = record.get("training") or {}
    made = dict(record.get("environment") or {}, vectors=encoder.get("vectors"))
    if not isinstance(made.get("runs_at_once"), int):  # a run resumed from before records said it
        made["runs_at_once"] = None
    made["torch"] = (made.get("versions") or {}).get("torch")
    fine_tuning = encoder.get("fine_tuning") or {}
    versions = fine_tuning.get("versions") or {}
    made["fine_tuning"] = fine_tuning.get("git_commit") or versions.get("erc-bench")
    cost = {name: _number(training.get(name)) for name in COST}
    if cost["fit_seconds"] is not None:
        cost["fit_seconds"] += _number(fine_tuning.get("seconds")) or 0
    return {
        "method": str(record["method"]),
        "dataset": str(record["dataset"]),
        "config_hash": str(record["config_hash"]),
        "preset": str(record.get("preset") or ""),
        "overrides": list(map(str, record.get("overrides") or [])),
        "seed": int(record["seed"]),
        "context": str(record.get("context") or "unknown"),
        "selection": str(record.get("selection") or "unknown"),
        "encoder": str(encoder.get("name") or ""),
        "encoder_digest": str(encoder.get("digest") or ""),
        "external": bool(record.get("external")),
        "labels": labels,
        **of_test_set,
        "predicted": predicted[0].tolist(),
        "corpus": str(record.get("dataset_digest") or ""),
        "dev_weighted_f1": _number((metrics.get("dev") or {}).get("weighted_f1")),
        "calibration_error": _number(metrics["test"].get("calibration_error")),
        "oracle_gap": _number(record.get("oracle_gap")),
        "cost": cost,
        "made": {name: str(made.get(name) or "") for name in MADE_WITH},
    }


def _test_set(labels: list[str], ids: Any, gold: Any, dialogue: Any, facts: Any) -> dict[str, Any]:
    """The fields of a :class:`Run` that depend on nothing but its test set, checked, in the form
    of :func:`_read_one`'s."""
    y, _ = checked_labels(gold, [gold], len(labels))
    n = len(y)
    ids = list(map(str, ids))
    if len(ids) != n or len(set(ids)) != n:
        raise ValueError(f"{len(set(ids))} different utterance ids for {n} predictions")
    dialogue = dialogue or dialogues_of(ids)
    if dialogue is not None:
        if np.shape(dialogue) != (n,):
            raise ValueError(f"the dialogue numbers are not one for each of {n} predictions")
        dialogue = np.unique(dialogue, return_inverse=True)[1].tolist()
    if facts is not None:
        columns = {name: np.asarray(facts[name]) for name in UtteranceFacts.__annotations__}
        if any(c.shape != (n,) or c.dtype.kind not in "biu" for c in columns.values()):
            raise ValueError(f"the facts are not whole numbers for {n} utterances")
        facts = {name: column.astype(int).tolist() for name, column in columns.items()}
    text = "\n".join([*labels, "", *ids]).encode()
    for array in (y, dialogue or []):
        text += np.asarray(array, dtype=np.int64).tobytes()
    shared = {"gold": y.tolist(), "dialogue": dialogue, "facts": facts}
    return {
        "test_set": hashlib.sha256(text).hexdigest(),
        **{part: (_digest(value), value) for part, value in shared.items()},
    }


def _digest(value: Any) -> str:
    """SHA-256 of plain data."""
    # In its second version marshal gives equal values equal bytes.
    return hashlib.sha256(marshal.dumps(value, 2)).hexdigest()


def f1_of(gold: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Weighted-F1 in percent of predictions ``(1, N)``."""
    cell = np.bincount(gold * classes + predicted[0], minlength=classes**2)
    return float(weighted_f1(cell.reshape(classes, classes)))


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


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
