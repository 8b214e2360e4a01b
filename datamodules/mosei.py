"""CMU-MOSEI's sentiment: monologues of reviewers, transcripts only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from erc_bench.corpus.conversation import Corpus, Dialogue, LabelSet, Utterance
from erc_bench.corpus.source import CorpusFile, CorpusSource
from erc_bench.corpus.text_files import lines_of, read_text
from erc_bench.errors import ErcBenchError, listed, quoted

COLUMNS = ("vid", "start", "stop", "label", "cid", "text")

NAME = "Alex"
"""The name that prompts give to the speaker of every video; the corpus names nobody."""

Clip = tuple[float, float, str, int, str]
"""Start and stop in seconds, number of the clip, class, text."""


def parse_tsv(path: Path, split: str, labels: LabelSet) -> list[Dialogue]:
    """Return the videos of a file as dialogues of one speaker, with turns sorted by ``start``."""
    (head, *lines) = lines_of(read_text(path))
    header = head.split("\t")
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise ErcBenchError(
            f"{path}, line 1: the column {', '.join(map(repr, missing))} is missing; found: "
            f"{listed(header)}."
        )
    videos: dict[str, list[Clip]] = {}
    for number, line in enumerate(lines, 2):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) != len(header):
            raise ErcBenchError(
                f"{where}: {len(fields)} fields instead of {len(header)}; the file looks truncated."
            )
        row = dict(zip(header, fields, strict=True))
        start, stop, score = (_number(row[name], name, where) for name in COLUMNS[1:4])
        label = round(score) + 3
        if not 0 <= label < len(labels):
            raise ErcBenchError(f"{where}: the sentiment {quoted(row['label'])} is not in −3…3.")
        clip = (start, stop, row["cid"].strip(), label, row["text"].strip())
        videos.setdefault(row["vid"].strip(), []).append(clip)
    for video, clips in videos.items():
        twice = [cid for cid, times in Counter(clip[2] for clip in clips).items() if times > 1]
        if twice:
            raise ErcBenchError(f"{path}: clip {twice[0]} of the video {video} occurs twice.")
    return [
        Dialogue(
            f"{split}-{video}",
            tuple(
                Utterance(f"{split}-{video}-u{cid}", video, text, label, NAME)
                for _, _, cid, label, text in sorted(clips)
            ),
        )
        for video, clips in videos.items()
    ]


def _number(text: str, what: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ErcBenchError(f"{where}: {what} must be a number, not {quoted(text)}.")
    return value


class MOSEISentiment(CorpusSource):
    """The sentiment of CMU-MOSEI (Bagher Zadeh et al., ACL 2018).

    - Data: 3,225 videos of people who speak to the camera, cut into sentences; transcripts only.
      A video is a dialogue of one speaker; about a third of its clips are missing.
    - Format: ``{train,valid,test}.tsv`` with the columns ``vid start stop label cid text``.
    - Classes: the annotators' scale from −3 to 3; the mean of their ratings is rounded to the
      nearest class.
    - Split: the one of the files.
    """

    name = "mosei-sentiment"
    labels = LabelSet(
        (
            "highly negative",
            "negative",
            "weakly negative",
            "neutral",
            "weakly positive",
            "positive",
            "highly positive",
        )
    )
    description = "monologues to the camera, one speaker a video"
    classes = "the annotators' sentiment, rounded to −3 … 3"
    licence = "on request from its authors"
    homepage = "http://multicomp.cs.cmu.edu/resources/cmu-mosei-dataset/"
    citation = (
        "Bagher Zadeh et al. (2018). Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset "
        "and Interpretable Dynamic Fusion Graph. ACL."
    )
    release = "{train,valid,test}.tsv with 2249/300/676 videos"
    obtained = (
        "put train.tsv, valid.tsv and test.tsv, with the columns vid start stop label cid text, "
        "into mosei-sentiment/"
    )
    files: ClassVar = {
        split: CorpusFile(f"mosei-sentiment/{file}.tsv", "")
        for split, file in {"train": "train", "dev": "valid", "test": "test"}.items()
    }
    counts: ClassVar = {"train": (2249, 16326), "dev": (300, 1871), "test": (676, 4659)}

    def parse(self, paths: Mapping[str, Path]) -> dict[str, list[Dialogue]]:
        return {split: parse_tsv(path, split, self.labels) for split, path in paths.items()}

    def notes(self, corpus: Corpus, data_dir: Path | None = None) -> list[str]:
        return [
            "about a third of the clips of the videos are missing, so there are gaps between turns"
        ]
