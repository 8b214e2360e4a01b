"""Searches for settings: the scores of their trials on dev."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from erc_bench.evaluation.budget import expected_best
from erc_bench.leaderboard.runs import Skipped
from erc_bench.records.parsing import RecordError
from erc_bench.records.trials import Trial, best_of, read_trial, trial_files


@dataclass(frozen=True)
class SearchRow:
    """The trials of one search. Scores are the corpus's metric on dev, in percent."""

    method: str
    title: str
    study: str
    """Hash over everything that determines what its trials draw."""
    fixed: list[str]
    """Overrides ``key=value`` that all its trials have."""
    trials: int
    failed: int
    """Trials that failed or diverged; their score is 0."""
    preset_score: float | None
    """The score of trial 0, which has the preset's settings. None if it failed or is missing."""
    preset_failed: bool
    best: float | None
    chosen: int | None
    """The number of the best trial."""
    settings: list[str]
    """The settings that the best trial drew."""
    expected: list[float]
    """The expected best score of 1, 2, … trials."""

    @property
    def name(self) -> str:
        """The method and the overrides that all its trials have."""
        return ", ".join([self.title, *self.fixed])


@dataclass(frozen=True)
class SearchGroup:
    """The searches on one corpus with one encoder and preset, one for each method and set of
    overrides."""

    encoder: str
    digest: str
    preset: str
    rows: list[SearchRow]


def read_trials(root: Path, further: Sequence[Path] = ()) -> tuple[list[Trial], list[Skipped]]:
    """Return all trials below ``root`` and the ``further`` folders, and the skipped files.

    A trial that is in several folders counts once.
    """
    trials: dict[tuple[str, ...], Trial] = {}
    skipped = []
    for path in (path for folder in (root, *further) for path in trial_files(folder)):
        try:
            trials.setdefault(path.parts[-3:], read_trial(path))
        except RecordError as error:
            file = Path(os.path.relpath(path, root)).as_posix()
            skipped.append(Skipped(file, str(error)))
    return list(trials.values()), skipped


def search_groups(trials: Iterable[Trial], titles: dict[str, str]) -> list[SearchGroup]:
    """Return the searches on one corpus by encoder and preset, with the best method first.

    If there are several searches for one method with the same overrides, the one with the most
    trials is taken.
    """
    groups: dict[tuple[str, str], dict[tuple[str, ...], dict[str, list[Trial]]]] = {}
    for trial in trials:
        group = groups.setdefault((trial.encoder.digest or trial.encoder.name, trial.preset), {})
        study = f"{trial.study} {trial.dataset_digest}"
        searched = (trial.method, *sorted(trial.fixed))
        group.setdefault(searched, {}).setdefault(study, []).append(trial)
    found = []
    for (_, preset), methods in groups.items():
        largest = [
            max(studies.items(), key=lambda study: (len(study[1]), study[0]))[1]
            for studies in methods.values()
        ]
        rows = [_row(of_method, titles) for of_method in largest]
        rows.sort(key=lambda row: (-(row.best or 0), row.method, row.fixed))
        encoder = largest[0][0].encoder
        found.append(SearchGroup(encoder.name, encoder.digest, preset, rows))
    return sorted(found, key=lambda group: (group.preset, group.encoder, group.digest))


def _row(trials: Sequence[Trial], titles: dict[str, str]) -> SearchRow:
    first = min(trials, key=lambda trial: trial.number)
    best = best_of(trials)
    is_preset = first.number == 0 and first.dev is not None
    return SearchRow(
        method=first.method,
        title=titles.get(first.method, first.method),
        study=first.study,
        fixed=first.fixed,
        trials=len(trials),
        failed=sum(trial.dev is None for trial in trials),
        preset_score=first.score if is_preset else None,
        preset_failed=first.number == 0 and first.dev is None,
        best=best.score if best else None,
        chosen=best.number if best else None,
        settings=best.drawn if best else [],
        expected=expected_best([trial.score for trial in trials]),
    )
