"""Select the data of a picture: finished runs by configuration, or the trials of searches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from erc_bench.corpus.conversation import Metric
from erc_bench.errors import ErcBenchError, did_you_mean
from erc_bench.leaderboard.cache import Cache
from erc_bench.leaderboard.configurations import find_configurations, shortest_name
from erc_bench.leaderboard.published import Published, read_published
from erc_bench.leaderboard.runs import Run, copy_mark, read_runs
from erc_bench.leaderboard.searches import SearchGroup, read_trials, search_groups
from erc_bench.records.schema import Record
from erc_bench.records.store import find_record, read_record
from erc_bench.settings.presets import default_preset


@dataclass(frozen=True)
class Configuration:
    """The finished runs of one method with the same settings, by seed; at least one."""

    name: str
    """Its label, which distinguishes it from the others in the picture."""
    records: list[Record]

    @cached_property
    def first(self) -> Record:
        """The first record, for values that all of them share."""
        return self.records[0]

    @property
    def values(self) -> list[float]:
        """The score on test of each seed, by the corpus's metric, in percent."""
        return [record.metrics.test.score(record.judged_by) for record in self.records]


@dataclass(frozen=True)
class Shown:
    """The configurations of a picture; at least one, all judged by the same metric."""

    title: str
    """The corpus, and what all of them have in common."""
    metric: Metric
    configurations: list[Configuration]
    left_out: list[str] = field(default_factory=list)
    """What is not in the picture, and why."""


def of_run(root: Path, run: str) -> Shown:
    """Select one run, as ``erc-bench show`` names it."""
    record = read_record(find_record(root, run))
    published = read_published(root)
    name = f"{published.title(record.method)}, seed {record.seed}"
    return Shown(
        published.corpus_title(record.dataset), record.judged_by, [Configuration(name, [record])]
    )


def of_runs(
    root: Path,
    dataset: str,
    methods: Sequence[str],
    preset: str | None,
    further: Sequence[Path] = (),
) -> Shown:
    """Select the runs on a corpus by configuration, the highest mean on test first.

    Args:
        root: folder of the records.
        dataset: the corpus.
        methods: the methods, as ``erc-bench compare`` names them, ``method:what``; none = all.
        preset: only runs with this preset.
        further: other folders with records.

    Raises:
        ErcBenchError: there are no such runs; the error names what there is.
    """
    everything, skipped = read_runs(root, Cache(root), further)
    left_out = [f"skipped: {each.reason}" for each in skipped]
    on_corpus = [run for run in everything if run.dataset == dataset]
    runs = [run for run in on_corpus if preset in (None, run.preset)]
    if not on_corpus:
        raise ErcBenchError(
            " ".join([f"There is no record of {dataset!r} below {root}.", *left_out])
            + did_you_mean(dataset, {run.dataset for run in everything})
        )
    if not runs:
        raise ErcBenchError(
            f"No record of {dataset} below {root} has the preset {preset!r}."
            + did_you_mean(preset or "", {run.preset for run in on_corpus})
        )
    where = f"{dataset} with the preset {preset}" if preset else dataset
    names = list(dict.fromkeys(methods)) or sorted({run.method for run in runs})
    found: list[list[Run]] = []
    for name in names:
        for of_settings in find_configurations(name, runs, where, [], left_out):
            if of_settings not in found:
                found.append(of_settings)
    published = read_published(root)
    shared, labels = _labels(found, published)
    configurations = [
        Configuration(label, [read_record(root / run.file) for run in of_settings])
        for label, of_settings in zip(labels, found, strict=True)
    ]
    configurations.sort(key=lambda each: (-sum(each.values) / len(each.values), each.name))
    title = ", ".join([published.corpus_title(dataset), *shared])
    return Shown(title, configurations[0].first.judged_by, configurations, left_out)


def of_searches(
    root: Path,
    dataset: str,
    methods: Sequence[str],
    preset: str | None,
    further: Sequence[Path] = (),
) -> tuple[str, list[SearchGroup], list[str]]:
    """Select the searches for settings on a corpus, by encoder and preset.

    Args:
        root: folder of the records.
        dataset: the corpus.
        methods: the methods, each by its name alone; none = all.
        preset: only searches with this preset.
        further: other folders with records.

    Returns:
        The corpus's name, the searches, and what was left out and why.

    Raises:
        ErcBenchError: there are no such searches, or a method is named with more than its name.
    """
    for name in methods:
        if ":" in name:
            raise ErcBenchError(
                f"A search has no configuration, so {name!r} names none: give "
                f"{name.partition(':')[0]!r}, and --preset for one preset."
            )
    everything, skipped = read_trials(root, further)
    left_out = [f"skipped: {each.reason}" for each in skipped]
    trials = [
        trial
        for trial in everything
        if trial.dataset == dataset
        and preset in (None, trial.preset)
        and (not methods or trial.method in methods)
    ]
    if not trials:
        options = f"--method {' '.join(methods) or 'METHOD'} --dataset {dataset}"
        options += f" --preset {preset}" if preset else ""
        raise ErcBenchError(
            " ".join([f"There are no such trials below {root}.", *left_out])
            + f" `erc-bench tune {options}` makes them."
            + (f" There are trials of: {_listed(everything)}." if everything else "")
        )
    published = read_published(root)
    titles = {trial.method: published.title(trial.method) for trial in trials}
    return published.corpus_title(dataset), search_groups(trials, titles), left_out


def _listed(trials: Iterable[object]) -> str:
    kinds = {
        f"{t.method} on {t.dataset} with {t.preset}"  # type: ignore[attr-defined]
        for t in trials
    }
    return ", ".join(sorted(kinds)) or "nothing"


def _labels(found: Sequence[Sequence[Run]], published: Published) -> tuple[list[str], list[str]]:
    """The details that all configurations share, and a label for each with its other details."""
    parts = [_parts(runs[0]) for runs in found]
    common = [part for part in parts[0] if all(part in others for others in parts)]
    labels = []
    for runs, own in zip(found, parts, strict=True):
        details = [part for part in own if part not in common]
        title = published.title(runs[0].method)
        labels.append(f"{title} ({', '.join(details)})" if details else title)
    # Equal labels are told apart by hashes.
    labels = [
        f"{label} {shortest_name(runs[0], found)}" if labels.count(label) > 1 else label
        for label, runs in zip(labels, found, strict=True)
    ]
    return common, labels


def _parts(run: Run) -> list[str]:
    preset = "" if run.preset in (default_preset(), "external") else run.preset
    chosen = f"trial {run.tuned['chosen']} of {run.tuned['trials']}" if run.tuned else ""
    settings = [chosen] if chosen else run.overrides
    external = "external" if run.external else ""
    encoder = run.encoder.split("/")[-1]
    parts = (encoder, preset, run.variant, *settings, copy_mark(run), external)
    return [part for part in parts if part]
