"""The vectors that a run's model classifies, on their first two principal components."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from erc_bench.corpus.conversation import Corpus
from erc_bench.leaderboard.published import read_published
from erc_bench.records.corpora import find_corpus, load_corpus_of
from erc_bench.records.store import find_record, read_record

Split = Literal["test", "dev"]


@dataclass(frozen=True, eq=False)
class VectorMap:
    """The vectors of N labelled utterances of C emotions, projected."""

    title: str
    labels: list[str]
    gold: np.ndarray
    """Classes ``(N,)``."""
    points: np.ndarray
    """``(N, 2)``."""
    anchors: np.ndarray | None
    """The vectors that the method compares them with, ``(C, 2)``; None if it has none."""
    explained: tuple[float, float]
    """The share of the utterances' variance in each component, in percent."""


def vectors_of_run(root: Path, run: str, split: Split, data_dir: Path | None = None) -> VectorMap:
    """Compute the map of a split by the model of a run.

    Args:
        root: folder of the records.
        run: the run, as ``erc-bench show`` names it.
        split: the split.
        data_dir: folder that is searched for the corpus before the usual places.

    Raises:
        ErcBenchError: the weights or the corpus are not here, the corpus is another copy, or the
            method classifies no state.
    """
    from erc_bench.inference.model import Model

    path = find_record(root, run)
    record = read_record(path)
    corpus = load_corpus_of(record, path, find_corpus(record.dataset, root), data_dir)
    model = Model(path, record)
    labelled, gold = _labels(corpus, split)
    states = model.states(corpus.dialogues(split)).numpy()[labelled]
    found = model.method.anchors()
    anchors = None if found is None else found.detach().float().cpu().numpy()
    if anchors is not None:  # the method compares states and anchors by the angle between them
        states, anchors = _unit(states), _unit(anchors)
    means, axes, explained = principal_axes(states)
    title = f"{read_published(root).title(record.method)} on {record.dataset} {split}"
    return VectorMap(
        f"{title}, seed {record.seed}",
        list(record.labels),
        gold,
        (states - means) @ axes,
        None if anchors is None else (anchors - means) @ axes,
        explained,
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)


def _labels(corpus: Corpus, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Which turns of a split have a label ``(turns,)``, and the classes of these turns ``(N,)``."""
    labels = [u.label for dialogue in corpus.dialogues(split) for u in dialogue.utterances]
    there = np.array([label is not None for label in labels])
    return there, np.array([label for label in labels if label is not None])


def principal_axes(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """The first two principal axes of vectors ``(N, d)``, with N and d at least 2.

    Returns:
        The mean of the vectors ``(d,)``, the axes ``(d, 2)``, and the share of the variance on each
        axis, in percent. The component of an axis with the largest magnitude is positive, so that
        the picture is never mirrored.
    """
    means = vectors.mean(axis=0)
    _, sizes, axes = np.linalg.svd(vectors - means, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2, :][[0, 1], np.abs(axes[:2]).argmax(axis=1)])[:, None]
    variance = sizes**2
    first, second = 100 * variance[:2] / max(variance.sum(), np.finfo(float).tiny)
    return means, axes.T, (float(first), float(second))
