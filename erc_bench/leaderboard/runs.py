"""Records → runs, with the fields that the leaderboard needs."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from erc_bench.leaderboard.cache import Cache
from erc_bench.leaderboard.decoding import SHARED, decode
from erc_bench.records.store import record_files


@dataclass(frozen=True)
class Run:
    """One finished run on a test set of N labelled utterances, as plain data."""

    file: str
    """Relative to the leaderboard's folder."""
    digest: str
    """SHA-256 of the file."""
    method: str
    dataset: str
    config_hash: str
    preset: str
    overrides: list[str]
    variant: str
    """Name of the variant (the method without one part); empty for the whole method."""
    tuned: dict[str, Any] | None
    """The search that chose the settings: :data:`~erc_bench.leaderboard.decoding.SEARCH`, and in
    ``fixed`` the overrides that all its trials have. None without a search."""
    seed: int
    context: str
    selection: str
    encoder: str
    """Name of the encoder. Empty without one, and if predictions made elsewhere do not name it."""
    encoder_digest: str
    external: bool
    labels: list[str]
    metric: str
    """The metric of its corpus."""
    gold: list[int]
    predicted: list[int]
    dialogue: list[int] | None
    """The number of each utterance's dialogue; None if unknown."""
    facts: dict[str, list[int]] | None
    test_set: str
    """Digest over labels, utterance ids, gold labels, dialogues and the metric."""
    corpus: str
    """Digest of the whole corpus with its texts and all splits. If a record lacks it, the most
    frequent one among the records on the same test set is taken."""
    official: bool
    """Whether the corpus is the official release; True if the record does not say."""
    further_corpora: list[str]
    """Digests of other corpora that the method read, in the order of their names."""
    dev_score: float | None
    calibration_error: float | None
    oracle_gap: float | None
    cost: dict[str, float | None]
    made: dict[str, str]
    """The conditions :data:`~erc_bench.leaderboard.decoding.MADE_WITH`; empty strings for those
    that the record lacks."""
    own_vectors: bool
    """Whether every seed fine-tunes an encoder of its own (setting ``features.per_seed``)."""
    frozen: bool
    """Whether its utterance vectors are of an encoder that is not fine-tuned (setting
    ``features.epochs=0``)."""

    @property
    def weights(self) -> str:
        """What identifies its encoder: the digest of the weights, or the name if unknown."""
        return self.encoder_digest or self.encoder

    @property
    def budget(self) -> str:
        """The search behind its settings: ``random search, 20 trials``; empty without one.

        Runs of unequal budgets are never ranked together.
        """
        search = self.tuned
        return f"{search['sampler']} search, {search['trials']} trials" if search else ""

    @property
    def given(self) -> list[str]:
        """The overrides of its command, see :func:`given_settings`."""
        return given_settings(self.overrides, self.tuned)

    @property
    def settings(self) -> tuple[str, str, str, str]:
        """What identifies its settings within its method: their hash, the variant's name, the
        digest of the search that chose them, and the digests of the further corpora they name."""
        search = self.tuned["digest"] if self.tuned else ""
        return self.config_hash, self.variant, search, " ".join(self.further_corpora)


def given_settings(overrides: list[str], tuned: Mapping[str, Any] | None) -> list[str]:
    """Return the overrides that the command of a row has. Settings drawn by a search are not among
    them."""
    return tuned["fixed"] if tuned else overrides


def share_encoders(one: Sequence[Run], other: Sequence[Run]) -> bool:
    """Whether two rows share a fine-tuned encoder in each seed, so that their seeds are paired.

    Both rows must have the same seeds, at least two. For each seed, both must have read the same
    utterance vectors, and no two seeds may share vectors.
    """
    a, b = ({run.seed: run.made["vectors"] for run in side} for side in (one, other))
    return a == b and len(set(a.values()) - {""}) == len(a) > 1


@dataclass(frozen=True)
class Skipped:
    """A record that could not be used, and the reason."""

    file: str
    reason: str


def read_runs(
    root: Path, cache: Cache, further: Sequence[Path] = ()
) -> tuple[list[Run], list[Skipped]]:
    """Return the usable records in the order of their files, and the records that were skipped.

    Args:
        root: the leaderboard's folder.
        cache: the cache of decoded records.
        further: other folders whose records are read, too. Their files are named relative to
            ``root``. A run that ``root`` has as well counts once.
    """
    files = [
        Path(os.path.relpath(path, root)).as_posix()
        for folder in (root, *further)
        for path in record_files(folder)
    ]
    files = list(dict.fromkeys(files))
    read, skipped = [], []
    for file, found in zip(files, _read_all(root, files, cache), strict=True):
        if isinstance(found, str):
            skipped.append(Skipped(file, found))
        else:
            read.append(Run(file=file, **found))
    runs = []
    seen: dict[tuple[Any, ...], str] = {}
    for run in _with_corpora(read):
        same = (run.dataset, run.corpus, run.method, run.settings, run.encoder_digest, run.seed)
        if same not in seen:
            seen[same] = run.file
            runs.append(run)
        elif run.file.startswith("records/"):  # otherwise the same run in a further folder
            reason = f"{run.file} holds the same run as {seen[same]}. Delete one of them."
            skipped.append(Skipped(run.file, reason))
    return runs, skipped


def _with_corpora(runs: list[Run]) -> list[Run]:
    copies: dict[tuple[Any, ...], list[str]] = {}
    for run in runs:
        known = copies.setdefault((run.dataset, run.test_set), [])
        known += [run.corpus] if run.corpus else []
    return [
        run if run.corpus else replace(run, corpus=usual(copies[run.dataset, run.test_set]))
        for run in runs
    ]


def copy_mark(run: Run) -> str:
    """Return the mark of a run on an unofficial copy of its corpus; empty for the official one."""
    return "" if run.official else f"copy {run.corpus[:8]}"


def most(names: Sequence[str]) -> list[str]:
    """Return the most frequent names, more than one if they tie."""
    times = Counter(names)
    return [name for name, n in times.items() if n == max(times.values())]


def usual(digests: Sequence[str]) -> str:
    """Return the most frequent digest, the smallest one if several tie; "" if there are none."""
    return min(most(digests), default="")


def _read_all(root: Path, files: list[str], cache: Cache) -> list[dict[str, Any] | str]:
    """Return the fields of each :class:`Run` except ``file``, or a message if a record is faulty.

    Fields that runs share (gold labels, dialogues, facts) are kept once in the cache.
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
        read = decode(file, contents, test_sets)
        if isinstance(read, str):
            found[file] = read
            continue
        for part in SHARED:
            name, value = read[part]
            if shared.get(name) is None:
                shared[name] = [value]  # in a list, because None is a possible value
                cache.write(cache.key("shared", name), shared[name])
            read[part] = name
        found[file] = {**read, "digest": digest}
        cache.write(key, found[file])
    for value in found.values():
        if not isinstance(value, str):
            value.update({part: shared[value[part]][0] for part in SHARED})
    return list(found.values())
