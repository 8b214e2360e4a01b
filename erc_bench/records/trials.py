"""The trials of a search: one small file for each, beside the records.

``<root>/tuning/<dataset>/<method>/<study>-<data hash>-trial<k>.json`` is trial k, finished or
failed. While it runs, its files lie with those of the runs, in ``<root>/runs/``. Its weights are
not kept. It has no scores on test, since a trial never sees more than train and dev.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from erc_bench.corpus.conversation import Metric
from erc_bench.files import write_atomically
from erc_bench.records.parsing import RecordError
from erc_bench.records.place import UNFINISHED, Identity, Place
from erc_bench.records.schema import (
    USUAL_METRIC,
    Count,
    Encoder,
    Environment,
    Metrics,
    Part,
    Training,
    to_json,
)
from erc_bench.records.store import record_contents

TRIAL_SCHEMA = 1
"""Version of the schema of a trial."""


class Trial(Part, frozen=True, kw_only=True):
    """The result of a trial."""

    schema: int = TRIAL_SCHEMA
    study: str
    """Hash over everything that a trial of the search depends on, except its number."""
    number: Count
    outcome: Literal["finished", "diverged", "failed"]
    reason: str = ""
    """Why it failed."""
    method: str
    dataset: str
    dataset_digest: str
    further_corpora: dict[str, str] | None = None
    preset: str
    fixed: list[str]
    """``key=value``: the settings that all trials of the search have."""
    drawn: list[str]
    """``key=value``: the settings that this trial drew; empty for trial 0, which is the preset."""
    config: dict[str, Any]
    config_hash: str
    seed: Count
    sampler: str
    sampler_seed: Count
    space: dict[str, dict[str, list[Any]]]
    selection: str
    metric: str = USUAL_METRIC
    """The corpus's metric."""
    encoder: Encoder
    dev: Metrics | None = None
    """None if the trial failed."""
    training: Training | None = None
    environment: Environment | None = None
    created: str = ""
    """Date and time in UTC, ISO 8601."""

    @property
    def score(self) -> float:
        """The score on dev by the corpus's metric, in percent; the lowest, 0, if it failed."""
        return self.dev.score(self.judged_by) if self.dev is not None else 0.0

    @property
    def judged_by(self) -> Metric:
        """The corpus's metric."""
        return Metric.of(self.metric, None)


@dataclass(frozen=True)
class TrialPlace(Place):
    """A trial's place in the store: like a run's, except that its file holds a :class:`Trial`."""

    study: str = ""
    number: int = 0

    @classmethod
    def of_trial(
        cls, root: Path, method: str, dataset: str, study: str, number: int, identity: Identity
    ) -> TrialPlace:
        """The place of a trial of a search that reads these contents."""
        run = f"{study}-{identity.hash}-trial{number:03}"
        return cls(root, method, dataset, run, identity, study, number)

    @property
    def name(self) -> str:
        """``method/dataset/study/trial 7``."""
        return f"{self.method}/{self.dataset}/{self.study}/trial {self.number}"

    @property
    def record(self) -> Path:
        """The path of the trial's file, which need not exist."""
        return self.root / "tuning" / self.dataset / self.method / f"{self.run}.json"

    def trial(self) -> Trial | None:
        """The trial, or None if it is not over.

        Raises:
            RecordError: the file in its place is not a trial.
        """
        return read_trial(self.record) if self.record.exists() else None

    def leftovers(self) -> list[Path]:
        """All checkpoints of the trial, since it keeps none."""
        patterns = (*UNFINISHED, ".*.ckpt.*.tmp")
        return [file for pattern in patterns for file in self.folder.glob(pattern)]


def write_trial(path: Path, trial: Trial) -> None:
    """Store a trial under its name, complete or not at all."""
    text = json.dumps(to_json(trial), ensure_ascii=False, allow_nan=False, indent=1)
    write_atomically(path, text + "\n")


def read_trial(path: Path) -> Trial:
    """Read a stored trial and check it.

    Raises:
        RecordError: the file can't be read, or is not a trial.
    """
    try:
        trial = msgspec.json.decode(record_contents(path), type=Trial)
    except (ValueError, RecursionError) as error:
        raise RecordError(
            f"{path} is not a trial of a search, or is damaged: {error}. Delete it; the same "
            "command then repeats the trial."
        ) from error
    if trial.schema > TRIAL_SCHEMA:
        raise RecordError(
            f"{path} has schema {trial.schema}; this version reads up to {TRIAL_SCHEMA}. Upgrade "
            "erc-bench."
        )
    return trial


def trial_files(root: Path) -> Iterator[Path]:
    """All files of trials below ``<root>/tuning``, in order of their names."""
    yield from sorted((root / "tuning").glob("*/*/*-trial*.json"))


def best_of(trials: Iterable[Trial]) -> Trial | None:
    """The trial with the highest score on dev, the first if several tie; None if none finished."""
    finished = [trial for trial in trials if trial.dev is not None]
    return max(finished, key=lambda trial: (trial.score, -trial.number), default=None)


def digest(trials: Iterable[Trial]) -> str:
    """SHA-256 over the settings, outcomes and dev scores of trials, in order of their numbers."""
    told = [
        [t.study, t.number, t.config_hash, t.dataset_digest, t.encoder.digest, t.outcome, t.score]
        for t in sorted(trials, key=lambda trial: trial.number)
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
