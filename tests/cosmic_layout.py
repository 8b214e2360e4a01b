"""Made-up utterance vectors in COSMIC's pickle layout."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from erc_bench.corpus.conversation import Corpus


def vectors_of(corpus: Corpus, size: int, noise: float = 0.7) -> dict[str, np.ndarray]:
    """Vectors ``(turns, size)`` by dialogue id; each is a direction for its label, plus noise."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(len(corpus.labels) + 1, size))
    found = {}
    for split in corpus.splits:
        for dialogue in corpus.dialogues(split):
            labels = [-1 if u.label is None else u.label for u in dialogue.utterances]
            given = directions[labels] + noise * rng.normal(size=(len(dialogue), size))
            found[dialogue.id] = given.astype(np.float32)
    return found


def cosmic_parts(corpus: Corpus, size: int = 8, sentiments: bool = True) -> list:
    """The parts of the pickle; vectors are lists of arrays, only ``roberta1`` shows the labels."""
    vectors = {key: list(value) for key, value in vectors_of(corpus, size).items()}
    others = [{key: [0 * row for row in rows] for key, rows in vectors.items()} for _ in range(3)]
    dialogues = [d for split in corpus.splits for d in corpus.dialogues(split)]
    speakers = {d.id: [u.speaker for u in d.utterances] for d in dialogues}
    labels = {d.id: [u.label for u in d.utterances] for d in dialogues}
    sentences = {d.id: [u.text for u in d.utterances] for d in dialogues}
    ids = [[d.id for d in corpus.dialogues(split)] for split in ("train", "test", "dev")]
    meanings = [speakers, labels, *([labels] if sentiments else [])]
    return [*meanings, vectors, *others, sentences, *ids]


def write_cosmic(corpus: Corpus, path: Path, size: int = 8) -> Path:
    """Write these parts to a file; returns its path."""
    path.write_bytes(pickle.dumps(cosmic_parts(corpus, size)))
    return path
