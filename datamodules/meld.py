"""MELD: dialogues of *Friends* with an emotion and a sentiment per utterance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from erc_bench.corpus.conversation import Dialogue, LabelSet, Utterance
from erc_bench.corpus.source import CorpusFile, CorpusSource
from erc_bench.corpus.text_files import read_csv, whole_number
from erc_bench.errors import ErcBenchError

from . import releases
from .ordering import in_order

# Older copies of the files hold the bytes of Windows-1252 as control characters (U+0092 for the
# apostrophe). Windows-1252 does not define 0x81, 0x8d, 0x8f, 0x90 and 0x9d.
_WINDOWS = {
    code: bytes([code]).decode("cp1252", "replace")
    for code in range(0x80, 0xA0)
    if code not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}


def clean(text: str) -> str:
    """Return the text as every method sees it: with plain apostrophes, without plain double quotes.

    Other typographic marks (“ ” ‘) stay; few lines have them.
    """
    if not text.isascii():
        text = text.translate(_WINDOWS).replace("’", "'")
    return text.replace('"', "").strip()


def parse_csv(path: Path, split: str, labels: LabelSet, column: str) -> list[Dialogue]:
    """Return the dialogues of one file, labelled by the column ``Emotion`` or ``Sentiment``.

    The ids are the file's own numbers, which have gaps: ``test-d12-u3``. Dialogues and turns are
    sorted by these numbers, whatever the order of the file.
    """
    columns = ("Utterance", "Speaker", column, "Dialogue_ID", "Utterance_ID")
    turns: dict[tuple[int, int], Utterance] = {}
    for where, (text, speaker, label, dialogue, turn) in read_csv(path, columns):
        d = whole_number(dialogue, "Dialogue_ID", where)
        u = whole_number(turn, "Utterance_ID", where)
        if (d, u) in turns:
            raise ErcBenchError(f"{where}: utterance {u} of dialogue {d} occurs twice.")
        turns[d, u] = Utterance(
            f"{split}-d{d}-u{u}", clean(speaker), clean(text), labels.index(label, where)
        )
    dialogues: dict[str, list[Utterance]] = {}
    for (d, _), utterance in in_order(turns, path, "Dialogue_ID and Utterance_ID"):
        dialogues.setdefault(f"{split}-d{d}", []).append(utterance)
    return [Dialogue(key, tuple(spoken)) for key, spoken in dialogues.items()]


class MELD(CorpusSource):
    """MELD, the Multimodal EmotionLines Dataset (Poria et al., ACL 2019).

    - Data: 1,432 multi-party dialogues of the TV series *Friends*, transcripts only.
    - Format: a CSV file per split with 11 columns. The lines of a ``Dialogue_ID`` are a dialogue,
      its turns are in the order of ``Utterance_ID``. Train has no dialogue 60, and repeats ten
      lines in other dialogues.
    - Classes: Ekman's six emotions and neutral, by the majority of three annotators.
    - Split: the authors'.
    """

    name = "meld"
    labels = LabelSet(("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"))
    description = "multi-party dialogues of the TV series Friends"
    classes = "Ekman's six emotions and neutral"
    licence = "GPL-3.0"
    homepage = "https://affective-meld.github.io"
    citation = (
        "Poria et al. (2019). MELD: A Multimodal Multi-Party Dataset for Emotion Recognition in "
        "Conversations. ACL."
    )
    release = "declare-lab/MELD at 2d2011b"
    files: ClassVar = {
        split: CorpusFile(
            f"meld/{split}_sent_emo.csv",
            f"sha256:{digest}",
            f"{releases.MELD_REPOSITORY}/data/MELD/{split}_sent_emo.csv",
        )
        for split, digest in {
            "train": "d2fa2d6529cf03cac2989efec05c9b27d8fd2f4c8fc5974c7ae88aa537fa02db",
            "dev": "2e89c6f8aa182d6f62f8c6331aece905ac7273ca4999660bfb5213e1d0370c1c",
            "test": "8d37103938f7067600839fe29d5a114a6cd1bcdafb75bec101e06464c5006888",
        }.items()
    }
    counts: ClassVar = {"train": (1038, 9989), "dev": (114, 1109), "test": (280, 2610)}
    official = releases.MELD
    confusable: ClassVar[tuple[tuple[str, str], ...]] = (("joy", "surprise"), ("anger", "disgust"))
    related = ("emorynlp",)  # *Friends* too
    column = "Emotion"

    def parse(self, paths: Mapping[str, Path]) -> dict[str, list[Dialogue]]:
        return {
            split: parse_csv(path, split, self.labels, self.column) for split, path in paths.items()
        }


class MELDSentiment(MELD):
    """The dialogues of :class:`MELD`, labelled with the other column of the files: sentiment."""

    name = "meld-sentiment"
    labels = LabelSet(("negative", "neutral", "positive"))
    classes = "sentiment: negative, neutral, positive"
    official = releases.MELD_SENTIMENT
    confusable: ClassVar = ()
    column = "Sentiment"
