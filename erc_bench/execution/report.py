"""The results of a grid, as they are printed at its end."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from erc_bench.corpus.conversation import Metric
from erc_bench.evaluation.statistics import seed_interval, spread
from erc_bench.execution.jobs import Ended, Job
from erc_bench.settings.experiment import Experiment


@dataclass
class Report:
    """The results of a grid."""

    scores: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """The test scores of all seeds, by method and corpus."""
    on_dev: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """The dev scores of all seeds, by method and corpus."""
    metrics: dict[str, Metric] = field(default_factory=dict)
    """The metric of each corpus that has a finished run."""
    failures: list[Ended] = field(default_factory=list)
    impossible: dict[str, list[str]] = field(default_factory=dict)
    """Runs that could not even be begun, by the reason."""
    left: int = 0
    """How many runs were left to run on without this process."""

    @property
    def failed(self) -> int:
        """How many runs left no record."""
        return len(self.failures) + sum(map(len, self.impossible.values()))

    def complaints(self) -> list[str]:
        """One paragraph for each reason: the runs that failed for it, and where their logs are."""
        alike: dict[str, list[Job]] = defaultdict(list)
        for ended in self.failures:
            alike[ended.failure].append(ended.job)
        lines = [f"{', '.join(names)}: {reason}" for reason, names in self.impossible.items()]
        for failure, jobs in alike.items():
            logs = ", ".join(str(job.place.log) for job in jobs if job.place.log.exists())
            names = ", ".join(job.place.name for job in jobs)
            lines.append(f"{names}: {failure}{f' Log: {logs}' if logs else ''}")
        return lines

    def render(self, out: Any) -> None:
        """Print means over seeds, methods × corpora: dev first, then test if it was scored."""
        splits = [(name, s) for name, s in (("dev", self.on_dev), ("test", self.scores)) if s]
        seeds = max((len(s) for _, scores in splits for s in scores.values()), default=0)
        if not seeds:
            return
        over = f", mean ± half-width of the 95 % interval over {seeds} seeds" if seeds > 1 else ""
        titles = {corpus: metric.title for corpus, metric in self.metrics.items()}
        alike = len(set(titles.values())) == 1
        out.print(f"{next(iter(titles.values())) if alike else 'score'}{over}")
        table = Table("")
        methods, corpora = (dict.fromkeys(names) for names in zip(*self.scores, strict=True))
        columns = [
            (corpus, split, scores)
            for corpus in corpora
            for split, scores in splits
            if any(scores.get((method, corpus)) for method in methods)
        ]
        for corpus, split, _ in columns:
            of_corpus = "" if alike or corpus not in titles else f", {titles[corpus]}"
            table.add_column(f"{corpus}{of_corpus}, {split}", justify="right")
        for method in methods:
            cells = (scores.get((method, corpus), []) for corpus, _, scores in columns)
            table.add_row(method, *(_cell(scores, seeds) for scores in cells))
        out.print(table)


def kind_of(experiment: Experiment) -> tuple[str, str]:
    """The method, or a variant of it, and the corpus: what the seeds of a mean have in common."""
    return experiment.method_and_variant, experiment.dataset


def _cell(scores: list[float], seeds: int) -> str:
    if not scores:
        return "–"
    found = seed_interval(scores)
    fewer = f" ({len(scores)} of {seeds})" if len(scores) < seeds else ""
    return f"{spread(found.mean, found.interval)}{fewer}"
