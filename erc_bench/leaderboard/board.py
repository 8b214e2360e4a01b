"""Runs, trials and published rows → the leaderboard as plain data.

The data depend only on the records, the trials and ``published.yaml``. The same input gives the
same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from erc_bench.leaderboard.ablations import Ablation, ablation_of, ablations, known_variants
from erc_bench.leaderboard.cache import Cache
from erc_bench.leaderboard.published import Published, PublishedRow, read_published
from erc_bench.leaderboard.runs import Run, Skipped, read_runs, usual
from erc_bench.leaderboard.searches import SearchGroup, read_trials, search_groups
from erc_bench.leaderboard.tracks import ALPHA, Track, make_track, rounded
from erc_bench.records.trials import Trial
from erc_bench.settings.presets import default_preset, is_tryout
from erc_bench.settings.registry import confusable_labels, corpus_metric

Group = tuple[bool, str, str, str]
"""What the runs of one track share: whether they are try-outs, the corpus, the digest of the
encoder's weights (or its name, or :data:`ELSEWHERE`), and the search budget."""

ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class CorpusBoard:
    """One corpus: its tracks, ablations, searches for settings, and published rows."""

    name: str
    title: str
    labels: list[str]
    metric: str
    """The metric of all its rows, pairs and published rows."""
    utterances: int | None
    dialogues: int | None
    tracks: list[Track]
    ablations: list[Ablation]
    searches: list[SearchGroup]
    published: list[PublishedRow]


@dataclass(frozen=True)
class Board:
    """The whole leaderboard."""

    corpora: list[CorpusBoard]
    tryouts: list[CorpusBoard]
    """Runs with a preset for trying, and corpora that are not benchmarks. They are shown apart and
    never ranked."""
    skipped: list[Skipped]

    def data(self) -> dict[str, Any]:
        """Return the board as plain data, as it is in ``leaderboard.json``."""
        return rounded({"alpha": ALPHA, **vars(self)})


def read_board(root: Path, further: Sequence[Path] = ()) -> Board:
    """Return the leaderboard of the records below ``root`` and the ``further`` folders.

    Results that are in the cache are not computed again.
    """
    cache, published = Cache(root), read_published(root)
    runs, skipped = read_runs(root, cache, further)
    trials, damaged = read_trials(root, further)
    groups = _groups(runs, published)
    searches = _searches(trials, published)
    parts = _ablations(groups, published, cache)
    computed = _tracks(groups, published, cache)
    cache.prune()
    names = [name for name, entry in published.corpora.items() if entry.benchmark]
    of_ours = {(tryout, dataset) for tryout, dataset, *_ in groups} | set(searches)
    others = {dataset for _, dataset in of_ours} | set(published.rows)
    names += sorted(others - set(published.corpora))
    corpora = [_corpus(n, False, groups, computed, parts, searches, published) for n in names]
    tryout_names = sorted({dataset for tryout, dataset in of_ours if tryout})
    tryouts = [_corpus(n, True, groups, computed, parts, searches, published) for n in tryout_names]
    shown = [c for c in corpora if c.tracks or c.searches or c.published]
    return Board(shown, tryouts, [*skipped, *damaged])


def _groups(runs: Iterable[Run], published: Published) -> dict[Group, list[Run]]:
    groups: dict[Group, list[Run]] = {}
    for run in runs:
        tryout = _is_tryout(run, published)
        weights = ELSEWHERE if run.external else run.weights
        groups.setdefault((tryout, run.dataset, weights, run.budget), []).append(run)
    return groups


def _is_tryout(run: Run | Trial, published: Published) -> bool:
    """Whether a run is only a try-out: by its preset, or because its corpus is not a benchmark."""
    entry = published.corpora.get(run.dataset)
    return is_tryout(run.preset) or (entry is not None and not entry.benchmark)


def _searches(
    trials: Iterable[Trial], published: Published
) -> dict[tuple[bool, str], list[SearchGroup]]:
    """Return the searches for settings by (is a try-out, corpus)."""
    by_corpus: dict[tuple[bool, str], list[Trial]] = {}
    for each in trials:
        by_corpus.setdefault((_is_tryout(each, published), each.dataset), []).append(each)
    return {
        corpus: search_groups(found, {each.method: published.title(each.method) for each in found})
        for corpus, found in by_corpus.items()
    }


def _ablations(
    groups: dict[Group, list[Run]], published: Published, cache: Cache
) -> dict[tuple[bool, str], list[Ablation]]:
    """Return the ablations by (is a try-out, corpus)."""
    by_corpus: dict[tuple[bool, str], list[Run]] = {}
    for (tryout, dataset, *_), runs in groups.items():
        by_corpus.setdefault((tryout, dataset), []).extend(runs)
    found = {}
    for corpus, runs in by_corpus.items():
        if not any(run.variant for run in runs):
            continue
        titles = {run.method: published.title(run.method) for run in runs}
        key = cache.key("ablations", *_contents(runs), titles)
        kept = cache.read(key)
        if kept is None:
            kept = rounded(ablations(runs, titles))
            cache.write(key, kept)
        found[corpus] = [ablation_of(each) for each in kept]
    return found


def _contents(runs: Sequence[Run]) -> tuple[Any, Any]:
    """What results depend on in runs: their records, and the variants their methods now have."""
    of_runs = [[run.file, run.digest, run.corpus] for run in runs]
    return of_runs, {run.method: known_variants(run.method) for run in runs}


def _corpus(
    name: str,
    tryout: bool,
    groups: dict[Group, list[Run]],
    computed: dict[Group, Track],
    ablations: dict[tuple[bool, str], list[Ablation]],
    searches: dict[tuple[bool, str], list[SearchGroup]],
    published: Published,
) -> CorpusBoard:
    mine = {key: runs for key, runs in groups.items() if key[:2] == (tryout, name)}
    tracks = [computed[key] for key in mine]
    tracks.sort(key=lambda t: (t.rows[0].external, -t.rows[0].mean, t.encoder, t.digest, t.budget))
    named = Counter(encoder for encoder, _ in {(t.encoder, t.digest) for t in tracks})
    tracks = [
        replace(track, encoder=f"{track.encoder} (weights {track.digest[:8]})")
        if named[track.encoder] > 1 and track.digest
        else track
        for track in tracks
    ]
    everything = [run for runs in mine.values() for run in runs]
    one = usual([run.test_set for run in everything])
    run = next((run for run in everything if run.test_set == one), None)
    metric = run.metric if run else str(corpus_metric(name))
    papers = [] if tryout else published.rows.get(name, [])
    return CorpusBoard(
        name=name,
        title=published.corpus_title(name),
        labels=run.labels if run else [],
        metric=metric,
        utterances=len(run.gold) if run else None,
        dialogues=len(set(run.dialogue)) if run and run.dialogue else None,
        tracks=tracks,
        ablations=ablations.get((tryout, name), []),
        searches=searches.get((tryout, name), []),
        published=[row for row in papers if str(row.metric) == metric],
    )


def _tracks(
    groups: dict[Group, list[Run]], published: Published, cache: Cache
) -> dict[Group, Track]:
    found: dict[Group, Any] = {}
    for group, runs in groups.items():
        tryout, dataset, *_ = group
        rows = [] if tryout else published.rows.get(dataset, [])
        titles = {run.method: published.title(run.method) for run in runs}
        named = [list(pair) for pair in confusable_labels(dataset)]
        settings = [tryout, titles, named, default_preset()]
        key = cache.key("track", *_contents(runs), [asdict(row) for row in rows], *settings)
        found[group] = cache.read(key)
        if found[group] is None:
            found[group] = make_track(runs, rows, titles, tryout)
            cache.write(key, found[group])
    return {group: Track.of(plain) for group, plain in found.items()}
