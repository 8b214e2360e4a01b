"""``erc-bench compare``: two methods on one corpus, or a method and a published figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from erc_bench.corpus.conversation import Metric
from erc_bench.errors import ErcBenchError, did_you_mean
from erc_bench.evaluation.slices import class_scores
from erc_bench.evaluation.statistics import Comparison, compare, compare_with_figure, seed_interval
from erc_bench.leaderboard.ablations import why_paired
from erc_bench.leaderboard.cache import Cache
from erc_bench.leaderboard.configurations import (
    ambiguous,
    configuration_of,
    find_configurations,
)
from erc_bench.leaderboard.published import PublishedRow, read_published
from erc_bench.leaderboard.rows import notes, resampled, unlike
from erc_bench.leaderboard.runs import Run, read_runs
from erc_bench.leaderboard.tracks import ALPHA
from erc_bench.leaderboard.wording import signed
from erc_bench.records.store import read_record
from erc_bench.settings.experiment import flat
from erc_bench.settings.presets import is_tryout
from erc_bench.settings.registry import corpus_names, method_names

PUBLISHED = "as published"
"""The configuration of a side that is a published figure."""


@dataclass(frozen=True)
class Compared:
    """One side of a comparison: the score of each seed, and F1 by class if known."""

    name: str
    configuration: str
    values: list[float]
    seeds: list[int]
    per_class: dict[str, float]


@dataclass(frozen=True)
class MethodComparison:
    """The difference of two sides on one corpus, with its caveats."""

    dataset: str
    a: Compared
    b: Compared
    result: Comparison
    caveats: list[str]
    metric: str = Metric().title
    """The metric of the corpus."""

    @property
    def verdict(self) -> str:
        """The conclusion in one to three sentences."""
        result = self.result
        if result.interval is None:
            return "There are too few dialogues to tell these two apart, whatever the difference."
        alone = [side.name for side in (self.a, self.b) if len(side.seeds) == 1]
        if result.covers_seeds:
            who = "They"
        elif self.b.configuration == PUBLISHED:
            who = "This run and the published figure"
        else:
            who = "These two runs" if len(alone) == 2 else "They"
        if result.p <= ALPHA:
            better = self.a if result.difference > 0 else self.b
            text = f"{who} differ: {better.name} is better by {abs(result.difference):.2f} points."
        else:
            text = f"{who} can't be told apart."
        if not result.standard_error and not result.difference:
            text += " They have the same score on every resample of the dialogues."
        elif result.detectable is not None and result.detectable < 100:
            least = f"{result.detectable:.2f}"
            text += f" The smallest true difference detected with 80 % power is {least} points."
        else:
            text += " These seeds and this test set can show no difference, however large."
        if not result.covers_seeds:
            text += f" With one seed of {' and '.join(alone)} this does not cover seeds."
        return text

    def _chance(self) -> str:
        """Return a sentence on what was resampled and how seeds were paired."""
        if self.b.configuration == PUBLISHED:
            return "Resampled over dialogues; the published figure is not paired."
        if paired := self.result.paired_seeds:
            which = f"seed{'s' * (len(paired) > 1)} {', '.join(map(str, paired))}"
            return f"Paired over dialogues and over {which}."
        return "Paired over dialogues; seeds are independent samples."

    def render(self, console: Any) -> None:
        """Print the comparison as a table on a rich console."""
        from rich.table import Table
        from rich.text import Text

        title = f"{self.a.name} against {self.b.name} on {self.dataset}, test"
        table = Table(title=Text(title))
        table.add_column("")
        for name in (self.a.name, self.b.name, "difference"):
            table.add_column(Text(name), justify="right")
        for title, get in (
            ("configuration", lambda side: side.configuration),
            ("seeds", lambda side: str(len(side.seeds) or "?")),
            (self.metric, lambda side: f"{_mean(side.values):.2f}"),
            ("sd over seeds", lambda side: _sd(side.values)),
        ):
            difference = signed(self.result.difference) if title == self.metric else ""
            end = title.startswith("sd")
            cells = (title, get(self.a), get(self.b), difference)
            table.add_row(*map(Text, cells), end_section=end)
        for label in self.a.per_class:
            ours, theirs = self.a.per_class[label], self.b.per_class.get(label)
            last = [f"{theirs:.2f}", signed(ours - theirs)] if theirs is not None else ["", ""]
            table.add_row(*map(Text, (f"F1 {label}", f"{ours:.2f}", *last)))
        console.print(table)
        result = self.result
        if result.interval is not None:
            low, high = map(signed, result.interval)
            p = f"p = {result.p:.4f}" if result.p >= 0.0001 else "p < 0.0001"
            console.print(f"Difference {signed(result.difference)}, 95 % from {low} to {high}, {p}")
            console.print(self._chance(), soft_wrap=True)
        console.print(self.verdict, soft_wrap=True, markup=False)
        for caveat in self.caveats:
            console.print(f"Note: {caveat}", soft_wrap=True, markup=False)


def compare_methods(
    root: Path,
    a: str,
    b: str,
    dataset: str,
    *,
    preset: str | None = None,
    further: Sequence[Path] = (),
) -> MethodComparison:
    """Compare two methods on the test set of a corpus by their records below ``root``.

    Args:
        root: folder of the records.
        a: a method, or ``method:what`` if it has several configurations. ``what`` is a preset, a
            variant, an override ``key=value``, the encoder's name, ``tuned``, or the beginning of
            the configuration's hash (for a tuned row, of the digest of its trials). The first 8 or
            more characters of the digest of its corpus or of its encoder's weights name it, too.
            Overrides are joined with others by a colon: ``eacl:small:stage2_epochs=0``. A preset
            means the row that was not tuned, if there is one; so does a method alone.
        b: the same, or the citation key of a published row. Beside a tuned row, a method alone
            means a row of the same search budget, if there is one.
        dataset: the corpus.
        preset: only runs of this preset.
        further: other folders whose records are read, too.

    Raises:
        ErcBenchError: there is no such record or row, several configurations fit (they are
            listed), or the two were not scored on the same test set.
    """
    everything, skipped = read_runs(root, Cache(root), further)
    left_out = [f"skipped: {each.reason}" for each in skipped]
    runs = [r for r in everything if r.dataset == dataset and preset in (None, r.preset)]
    if not runs:
        raise _nothing_to_compare(root, a, b, dataset, preset, everything, left_out)
    published = {row.key: row for row in read_published(root).rows.get(dataset, [])}
    where = f"{dataset} with the preset {preset}" if preset else dataset
    first = a.partition(":")[0]
    if first in published and first not in {run.method for run in runs}:
        raise ErcBenchError(f"{first} is a published figure: name it second, after a method.")
    ours = find_configurations(a, runs, where, [], left_out)
    if b in published and b not in {run.method for run in runs}:
        return _with_figure(ours, published[b], a, dataset, left_out)
    theirs = find_configurations(b, runs, where, list(published), left_out)
    x, y = _pair(a, b, ours, theirs, dataset)
    why = why_paired(x, y)
    result = compare(_scores(x), _scores(y), paired_seeds=bool(why))
    caveats = _caveats(root, x, y, result, why)
    if result.paired_seeds:  # all scores shown are of the paired seeds
        x, y = ([run for run in side if run.seed in result.paired_seeds] for side in (x, y))
    caveats += [f"{name}: {note}." for name, side in ((a, x), (b, y)) for note in notes(side)]
    return MethodComparison(
        dataset, _side(a, x), _side(b, y), result, caveats + left_out, _title(x[0])
    )


def _nothing_to_compare(
    root: Path,
    a: str,
    b: str,
    dataset: str,
    preset: str | None,
    everything: Sequence[Run],
    left_out: Sequence[str],
) -> ErcBenchError:
    """Return the error that there is no record of a corpus, or none with the preset."""
    corpora = {run.dataset for run in everything} | set(corpus_names())
    if dataset not in corpora:
        return ErcBenchError(f"There is no corpus {dataset!r}." + did_you_mean(dataset, corpora))
    presets = sorted({run.preset for run in everything if run.dataset == dataset})
    if presets:
        return ErcBenchError(
            f"No record of {dataset} below {root} has the preset {preset!r}. There are records "
            f"with {' and '.join(presets)}."
        )
    named = {name.partition(":")[0] for name in (a, b)} & set(method_names())
    methods = " ".join(sorted(named)) or "all"
    options = f"--method {methods} --dataset {dataset}"
    options += f" --preset {preset}" if preset else ""
    return ErcBenchError(
        " ".join([f"There is no record of {dataset} below {root} to compare.", *left_out])
        + f" `erc-bench run {options}` makes some."
    )


def _pair(
    a: str, b: str, ours: Sequence[list[Run]], theirs: Sequence[list[Run]], dataset: str
) -> tuple[list[Run], list[Run]]:
    """Return the configurations that two names mean when they are compared with each other.

    Of several, those are preferred that have the same encoder, the same copy of the corpus and the
    same search budget, in this order; then those that were not tuned.

    Raises:
        ErcBenchError: the two are the same, none are on the same test set, or several are left.
    """
    pairs = [
        (x, y) for x in ours for y in theirs if x[0].test_set == y[0].test_set and x[0] is not y[0]
    ]
    pairs = [(x, y) for x, y in pairs if x[0].weights == y[0].weights] or pairs
    pairs = [(x, y) for x, y in pairs if x[0].corpus == y[0].corpus] or pairs
    pairs = [(x, y) for x, y in pairs if x[0].budget == y[0].budget] or pairs
    if len(pairs) > 1:
        pairs = [(x, y) for x, y in pairs if not x[0].budget] or pairs
        pairs = [(x, y) for x, y in pairs if not y[0].budget] or pairs
    if len(ours) == len(theirs) == 1 and ours[0][0] is theirs[0][0]:
        raise ErcBenchError(f"{a} and {b} are the same runs; name two different ones.")
    if not pairs:
        raise ErcBenchError(
            f"{a} and {b} have no runs on the same test set of {dataset}: their copies of the "
            "corpus differ. Repeat one with the other's files (`erc-bench data doctor`)."
        )
    if len(pairs) > 1:
        raise ambiguous([a, b], [run for pair in pairs for run in pair])
    return pairs[0]


def _caveats(
    root: Path,
    x: Sequence[Run],
    y: Sequence[Run],
    result: Comparison,
    why: str,
) -> list[str]:
    """Return what a reader of a comparison must know: what was paired, and what else differs.

    Args:
        root: folder of the records.
        x: the runs of one side, also those of seeds that were not paired.
        y: the runs of the other side.
        result: the comparison.
        why: why seeds are paired.
    """
    caveats = [*_elsewhere(x[0]), *_elsewhere(y[0])]
    for preset in sorted({side[0].preset for side in (x, y) if is_tryout(side[0].preset)}):
        caveats.append(f"preset {preset} shows that a method works, not how well.")
    if result.paired_seeds:
        caveats.append(f"seeds are paired, because {why}.")
        alone = sorted({run.seed for run in (*x, *y)} - {*result.paired_seeds})
        if alone:
            numbers = ", ".join(map(str, alone))
            caveats.append(f"seeds that only one of them has are left out, {numbers}.")
    if x[0].weights != y[0].weights:
        unnamed = {True: "one that is not known", False: "none"}
        names = [run.encoder or unnamed[run.external] for run in (x[0], y[0])]
        caveats.append(f"their encoders differ, {' and '.join(names)}.")
    if x[0].method == y[0].method:
        caveats += _settings(root, x[0], y[0])
    if x[0].budget != y[0].budget:
        spent = [run.budget or "none" for run in (x[0], y[0])]
        caveats.append(
            f"their search budgets differ, {spent[0]} and {spent[1]}: a difference may come from "
            "the search."
        )
    if x[0].context != y[0].context:
        caveats.append(f"their context differs, {x[0].context} and {y[0].context}.")
    if x[0].corpus != y[0].corpus:
        caveats.append("their copies of the corpus differ outside the test set's labels.")
    if result.covers_seeds and result.p <= ALPHA:
        caveats.append("one comparison by itself; the leaderboard's ranks correct for all pairs.")
    return caveats


def _with_figure(
    ours: list[list[Run]], row: PublishedRow, name: str, dataset: str, left_out: list[str]
) -> MethodComparison:
    ours = [runs for runs in ours if not runs[0].budget] or ours  # as between two methods
    if len({(runs[0].settings, runs[0].encoder_digest) for runs in ours}) > 1:
        raise ambiguous([name], ours)
    runs = max(ours, key=len)  # of several copies of the corpus, the one with most seeds
    title = _title(runs[0])
    if str(row.metric) != runs[0].metric:
        raise ErcBenchError(
            f"{row.key} reports {row.metric.title} on {dataset}, and the runs of {name} are judged "
            f"by {title}: the two can't be compared. Compare {name} with other runs."
        )
    result = compare_with_figure(_scores(runs), row.score, row.seeds)
    side = Compared(row.key, PUBLISHED, [row.score], list(range(row.seeds or 0)), row.per_class)
    caveats = _elsewhere(runs[0])
    if differs := unlike(runs[0], row):
        caveats.append(f"{name} and {row.key} differ ({'; '.join(differs)}).")
    caveats += [f"{name}: {note}." for note in notes(runs)]
    return MethodComparison(dataset, _side(name, runs), side, result, caveats + left_out, title)


def _settings(root: Path, one: Run, other: Run) -> list[str]:
    """Return a note on the settings in which two configurations of a method differ. Settings that
    only one of the records has are left out."""
    a, b = (flat(read_record(root / run.file).config) for run in (one, other))
    differing = [
        f"{key} {a[key]} and {b[key]}"
        for key in a
        if key != "encoder" and key in b and a[key] != b[key]
    ]
    return [f"their settings differ, {', '.join(differing)}."] if differing else []


def _elsewhere(run: Run) -> list[str]:
    """Return a note if the predictions were made elsewhere."""
    if not run.external:
        return []
    return [f"{run.method} was predicted elsewhere; how it was selected is not known."]


def _scores(runs: Sequence[Run]) -> Any:
    scores = resampled(runs)
    if scores is None:
        raise ErcBenchError(
            f"{runs[0].file} does not tell which dialogue an utterance belongs to, so it can't be "
            "compared; repeat the run with --force."
        )
    return scores


def _side(name: str, runs: Sequence[Run]) -> Compared:
    first = runs[0]
    predictions = np.array([run.predicted for run in runs])
    each = class_scores(first.gold, predictions, first.labels)
    scores = _scores(runs)
    return Compared(
        name,
        configuration_of(first),
        [float(value) for value in scores.values],
        [run.seed for run in runs],
        {c.name: c.f1 for c in each},
    )


def _title(run: Run) -> str:
    """Return the title of the metric of a run's corpus."""
    return Metric.of(run.metric, run.labels).title


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _sd(values: Sequence[float]) -> str:
    sd = seed_interval(values).sd
    return "" if sd is None else f"{sd:.2f}"
