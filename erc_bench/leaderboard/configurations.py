"""The names of ``erc-bench compare``, such as ``eacl:small`` → the runs that they mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from erc_bench.errors import ErcBenchError, did_you_mean
from erc_bench.leaderboard.runs import Run, copy_mark
from erc_bench.settings.presets import is_tryout

MARK = 8
"""Number of characters of a digest that name a copy of a corpus, or the weights of an encoder."""

TUNED = "tuned"
"""The name of runs whose settings a search chose, as in ``eacl:tuned``."""


def find_configurations(
    name: str, runs: Sequence[Run], where: str, keys: list[str], left_out: Sequence[str]
) -> list[list[Run]]:
    """Return the configurations that a name may mean, each as its runs by seed.

    Args:
        name: ``method`` or ``method:what``, see
            :func:`~erc_bench.leaderboard.comparing.compare_methods`.
        runs: all runs on the corpus.
        where: the name of the corpus and preset for an error message.
        keys: citation keys of the published rows.
        left_out: why records were skipped, for an error message.

    Raises:
        ErcBenchError: no run has such a method or configuration.
    """
    method, _, what = name.partition(":")
    parts = [part for part in what.split(":") if part] if "=" in what else [what] if what else []
    settings = {part for part in parts if "=" in part}
    mine = [run for run in runs if run.method == method]
    if not mine and method in keys:
        raise ErcBenchError(f"{method} is a published figure; it has no configuration {what!r}.")
    if not mine:
        known = {run.method for run in runs} | set(keys)
        raise ErcBenchError(
            " ".join([f"There is no record of {method!r} on {where}.", *left_out])
            + did_you_mean(method, known)
        )
    # A try-out is meant only if it is named, or if there is nothing else.
    mine = [run for run in mine if what or not is_tryout(run.preset)] or mine
    fitting: dict[tuple[Any, ...], list[Run]] = {}
    for run in mine:
        if all(_is_called(run, part) for part in parts):
            fitting.setdefault(_identity(run), []).append(run)
    if not fitting:
        names = {run.preset for run in mine} | {short_hash(run) for run in mine}
        names |= {run.variant for run in mine if run.variant}
        names |= {":".join([TUNED] * bool(run.tuned) + run.given) for run in mine} - {""}
        raise ErcBenchError(
            f"No configuration of {method!r} on {where} is {what!r}." + did_you_mean(what, names)
        )
    found = [sorted(same, key=lambda run: run.seed) for same in fitting.values()]
    # A variant, or a row with overrides, is meant only if the name says so.
    whole = [same for same in found if not same[0].variant or same[0].variant in parts] or found
    just = [same for same in whole if len(same[0].given) == len(settings)] or whole
    # The name of a preset means its own settings, not those of a search.
    preset = TUNED not in parts and any(same[0].preset in parts for same in just)
    return [same for same in just if preset and not same[0].tuned] or just


def _is_called(run: Run, part: str) -> bool:
    """Whether a part of ``method:what:what`` names a run's configuration."""
    if "=" in part:
        return part in run.given
    encoder = run.encoder.split("/")[-1]
    return (
        part in (run.preset, run.encoder, encoder, run.variant)
        or short_hash(run).startswith(part)
        or (part == TUNED and run.tuned is not None)
        or (
            len(part) >= MARK
            and (run.corpus.startswith(part) or run.encoder_digest.startswith(part))
        )
    )


def ambiguous(names: list[str], found: list[list[Run]]) -> ErcBenchError:
    """Return the error that lists the configurations which the names may mean."""
    listed = sorted(
        {
            f"{runs[0].method}:{shortest_name(runs[0], found)} "
            f"(preset {configuration_of(runs[0])}, "
            f"{len(runs)} {'seed' if len(runs) == 1 else 'seeds'})"
            for runs in found
        }
    )
    return ErcBenchError(
        f"{' and '.join(dict.fromkeys(names))} can mean several configurations; say which, for "
        f"example {listed[0].split(' ')[0]}. There are: {'; '.join(listed)}."
    )


def shortest_name(run: Run, found: Sequence[Sequence[Run]]) -> str:
    """Return what names a configuration of a method among those found: its overrides, its preset or
    ``tuned``; or if they do not tell it apart, its hash, the digest of its corpus, or that of its
    encoder's weights."""
    others = {_identity(runs[0]): runs[0] for runs in found if runs[0].method == run.method}
    others.pop(_identity(run), None)
    own = ":".join(run.overrides) if not run.tuned else ""
    if own and not any(other.given == run.overrides for other in others.values()):
        return own
    if run.tuned and not any(other.tuned for other in others.values()):
        return TUNED
    plain = [other.preset for other in others.values() if not other.tuned]
    if not run.tuned and not run.given and not run.variant and run.preset not in plain:
        return run.preset
    names = [(short_hash(r), r.corpus[:MARK], r.encoder_digest[:MARK]) for r in others.values()]
    mine = (short_hash(run), run.corpus[:MARK], run.encoder_digest[:MARK])
    unique = [name for i, name in enumerate(mine) if name and all(n[i] != name for n in names)]
    return unique[0] if unique else short_hash(run)


def _identity(run: Run) -> tuple[Any, ...]:
    """What the runs of one configuration of a method have in common."""
    return run.method, run.settings, run.encoder_digest, run.test_set, run.corpus


def short_hash(run: Run) -> str:
    """Return the beginning of the digest that identifies a run's configuration."""
    return run.tuned["digest"][:12] if run.tuned else run.config_hash


def configuration_of(run: Run) -> str:
    """Return a configuration in words: ``small, temperature=0.05, all-MiniLM-L6-v2``."""
    encoder = run.encoder.split("/")[-1]
    parts = (run.preset, run.variant, *run.overrides, run.budget, encoder, copy_mark(run))
    return ", ".join(p for p in parts if p)
