"""DailyDialog: everyday conversations between two people, written for learners of English."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from erc_bench.corpus.conversation import SPLITS, Dialogue, LabelSet, Metric, Utterance
from erc_bench.corpus.source import CorpusFile, CorpusSource, caution
from erc_bench.corpus.text_files import lines_of, read_text, whole_number
from erc_bench.errors import ErcBenchError, quoted

from . import releases

NAMES = ("Mary", "James")
"""The names that prompts give to the two speakers; the corpus does not name them."""

END = "__eou__"

CHECKSUMS = {
    "train": (
        "71633bd5fdb0b09dd82215b131b56432cf7329a0fe50bc8adec168713d350d1a",
        "5c94e57c6e6c6641f4b1386513085f9d9b934229e732a556424ca7dfae4b6c77",
    ),
    "dev": (
        "2ad64701fe3a4449e7a6ee7cdc6c2a71c80f77b8a34f708ac0532395f499081c",
        "3d4094299a995e998bbc3492ce1755c9abc1e7f56500c840e83b12dd16580596",
    ),
    "test": (
        "3c323651cdfb09f7b529f850eddf96a638fc6cc9b43330b77956ab248484a1a8",
        "482b7235f91a1441055a09241b2d2709bb1702f4a08d7316c27fa807cba7d3c9",
    ),
}
"""SHA-256 of the two files of each split: its dialogues and its emotions."""

LABELS = {
    "train": (72143, 827, 303, 146, 11182, 969, 1600),
    "dev": (7108, 77, 3, 11, 684, 79, 107),
    "test": (6321, 118, 47, 17, 1019, 102, 116),
}
"""Number of utterances per split and emotion, in the order of the emotions' codes."""


def parse(texts: Path, emotions: Path, split: str, labels: LabelSet) -> list[Dialogue]:
    """Return the dialogues of a split from its two files, of texts and of emotions.

    A line of ``texts`` holds the turns of a dialogue, the same line of ``emotions`` their codes. If
    a dialogue has one code less than it has turns, its last turn is unlabelled. That happens once
    in the release, in training line 7852; anywhere else there is a warning.
    """
    spoken, codes = _lines(texts), _lines(emotions)
    if len(spoken) != len(codes):
        raise ErcBenchError(
            f"{texts} has {len(spoken):,} dialogues and {emotions} {len(codes):,}: one of them is "
            "truncated, or they are of two splits."
        )
    dialogues = []
    for n, (line, numbers) in enumerate(zip(spoken, codes, strict=True), 1):
        where = f"{emotions}, line {n}"
        found = [_emotion(code, labels, where) for code in numbers.split()]
        turns = line.split(END)
        if turns.pop().strip():
            raise ErcBenchError(
                f"{texts}, line {n}: {quoted(line[-40:])} does not end with {END}; the file looks "
                "truncated."
            )
        if not turns or len(found) > len(turns) or len(found) < len(turns) - 1:
            raise ErcBenchError(
                f"{texts}, line {n}: {len(turns)} turns, and {len(found)} emotions in {where}."
            )
        if len(found) < len(turns) and (split, n) != ("train", 7852):
            caution(f"{texts}, line {n}: the last turn has no emotion; it is context only.")
        key = f"{split}-d{n - 1}"
        dialogues.append(
            Dialogue(
                key,
                tuple(
                    Utterance(
                        f"{key}-u{i}",
                        f"{key}-{'AB'[i % 2]}",
                        text.strip(),
                        found[i] if i < len(found) else None,
                        NAMES[i % 2],
                    )
                    for i, text in enumerate(turns)
                ),
            )
        )
    return dialogues


def _lines(path: Path) -> list[str]:
    """Return the lines of a file; only the last one may be empty."""
    lines = lines_of(read_text(path))
    if lines and not lines[-1].strip():
        lines.pop()
    empty = next((n for n, line in enumerate(lines, 1) if not line.strip()), None)
    if empty:
        raise ErcBenchError(f"{path}, line {empty}: an empty line in the place of a dialogue.")
    return lines


def _emotion(code: str, labels: LabelSet, where: str) -> int:
    number = whole_number(code, "an emotion", where)
    if number >= len(labels):
        raise ErcBenchError(
            f"{where}: {number} is no emotion's code; they are 0…{len(labels) - 1}."
        )
    return number


class DailyDialog(CorpusSource):
    """DailyDialog (Li et al., IJCNLP 2017).

    - Data: 13,118 conversations between two people about daily life, from sites for learners of
      English.
    - Format: the authors' archive, per split a file of dialogues and a file of emotions. Each line
      is a dialogue; each turn ends with ``__eou__``. Two speakers without names alternate; prompts
      call them Mary and James. No two dialogues are known to share a speaker.
    - Classes: Ekman's six emotions and neutral (the files' "no emotion"), 83 % of the utterances.
    - Split: the authors'. The last turn of training line 7852 is unlabelled.
    - Metric: micro-F1 over the six emotions.
    """

    name = "dailydialog"
    labels = LabelSet(  # in the order of the files' codes
        ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise")
    )
    metric = Metric("micro_f1", "neutral")
    description = "everyday conversations of two, for learners of English"
    classes = "Ekman's six emotions and neutral"
    licence = "CC BY-NC-SA 4.0"
    homepage = "http://yanran.li/dailydialog"
    citation = (
        "Li et al. (2017). DailyDialog: A Manually Labelled Multi-turn Dialogue Dataset. IJCNLP."
    )
    release = "the authors' archive, ijcnlp_dailydialog.zip"
    obtained = (
        "unpack the authors' archive (ijcnlp_dailydialog.zip and the archives in it, from "
        "http://yanran.li/dailydialog) so that there are "
        "dailydialog/{train,validation,test}/dialogues_….txt and dialogues_emotion_….txt"
    )
    files: ClassVar = {
        f"{split}{kind}": CorpusFile(
            f"dailydialog/{folder}/dialogues{kind.replace(' ', '_')}_{folder}.txt",
            f"sha256:{CHECKSUMS[split][i]}",
        )
        for split, folder in {"train": "train", "dev": "validation", "test": "test"}.items()
        for i, kind in enumerate(("", " emotion"))
    }
    official = releases.DAILYDIALOG
    counts: ClassVar = {"train": (11118, 87170), "dev": (1000, 8069), "test": (1000, 7740)}
    confusable: ClassVar[tuple[tuple[str, str], ...]] = (
        ("happiness", "surprise"),
        ("anger", "disgust"),
    )

    def parse(self, paths: Mapping[str, Path]) -> dict[str, list[Dialogue]]:
        return {
            split: parse(paths[split], paths[f"{split} emotion"], split, self.labels)
            for split in SPLITS
        }

    def check(self, splits: Mapping[str, list[Dialogue]]) -> None:
        super().check(splits)
        for split, expected in LABELS.items():
            found = [d.utterances[i].label for d in splits[split] for i in d.labelled]
            for code, wanted in enumerate(expected):
                if found.count(code) != wanted:
                    raise ErcBenchError(
                        f"{self.name}, {split}: {found.count(code)} utterances are labelled "
                        f"{self.labels.names[code]}, in the release it is {wanted}."
                    )
