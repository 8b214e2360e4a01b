"""The trials of a search: a small file each, beside the records.

``<root>/tuning/<dataset>/<method>/<study>-<data hash>-trial<k>.json`` is trial k, finished or
failed. What it does meanwhile lies with the runs, in ``<root>/runs/``; its weights are not kept.
Test is not in it: a trial never sees more than train and dev.
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
from erc_bench.records.place import UNFINISHED, Identity, Place
from erc_bench.records.schema import (
    USUAL_METRIC,
    Count,
    Encoder,
    Environment,
    Metrics,
    Part,
    RecordError,
    Training,
    to_json,
)
from erc_bench.records.store import record_contents

TRIAL_SCHEMA = 1
"""Version of the form of a trial."""


class Trial(Part, frozen=True, kw_only=True):
    """What a trial came to."""

    schema: int = TRIAL_SCHEMA
    study: str
    """Hash over all that the search's trials depend on but their number."""
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
    """``key=value``: what all trials of the search have."""
    drawn: list[str]
    """``key=value``: what this one drew; nothing in trial 0, which is the preset."""
    config: dict[str, Any]
    config_hash: str
    seed: Count
    sampler: str
    sampler_seed: Count
    space: dict[str, dict[str, list[Any]]]
    selection: str
    metric: str = USUAL_METRIC
    """What the corpus is judged by."""
    encoder: Encoder
    dev: Metrics | None = None
    """None where it failed."""
    training: Training | None = None
    environment: Environment | None = None
    created: str = ""
    """Date and time in UTC, ISO 8601."""

    @property
    def score(self) -> float:
        """The corpus's figure on dev in percent; 0, the lowest there is, where it failed."""
        return self.dev.score(self.judged_by) if self.dev is not None else 0.0

    @property
    def judged_by(self) -> Metric:
        """What the corpus is judged by."""
        return Metric.of(self.metric, None)


@dataclass(frozen=True)
class TrialPlace(Place):
    """Where a trial lies: as a run, but that its file is a :class:`Trial`."""

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
        """The file of the trial, there or not."""
        return self.root / "tuning" / self.dataset / self.method / f"{self.run}.json"

    def trial(self) -> Trial | None:
        """The trial, if it is over.

        Raises:
            RecordError: a file stands in its place that is none.
        """
        return read_trial(self.record) if self.record.exists() else None

    def leftovers(self) -> list[Path]:
        """All of its checkpoints: it keeps none."""
        patterns = (*UNFINISHED, ".*.ckpt.*.tmp")
        return [file for pattern in patterns for file in self.folder.glob(pattern)]


def write_trial(path: Path, trial: Trial) -> None:
    """Store a trial under its name, complete or not at all."""
    text = json.dumps(to_json(trial), ensure_ascii=False, allow_nan=False, indent=1)
    write_atomically(path, text + "\n")


def read_trial(path: Path) -> Trial:
    """A stored trial, checked.

    Raises:
        RecordError: the file can't be read, or is none.
    """
    try:
        trial = msgspec.json.decode(record_contents(path), type=Trial)
    except (ValueError, RecursionError) as error:
        raise RecordError(
            f"{path} is no trial of a search, or a damaged one: {error}. Delete it; the same "
            "command then does the trial again."
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
    """The trial with the highest score on dev, of several the first; None where none finished."""
    finished = [trial for trial in trials if trial.dev is not None]
    return max(finished, key=lambda trial: (trial.score, -trial.number), default=None)


def digest(trials: Iterable[Trial]) -> str:
    """SHA-256 over trials: their settings, outcomes and scores on dev, in order of their
    numbers."""
    told = [
        [t.study, t.number, t.config_hash, t.dataset_digest, t.encoder.digest, t.outcome, t.score]
        for t in sorted(trials, key=lambda trial: trial.number)
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
