"""IEMOCAP: scripted and improvised dialogues of two actors, licensed by USC SAIL."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from erc_bench.corpus.conversation import SPLITS, Corpus, Dialogue, LabelSet, Utterance
from erc_bench.corpus.overlap import seen
from erc_bench.corpus.source import CorpusSource, CorpusWarning, FileStatus, search_folders
from erc_bench.corpus.text_files import expect, field, read_json, read_text
from erc_bench.errors import ErcBenchError

NAMES = {"F": "Mary", "M": "James"}
"""What a prompt calls the actress and the actor of every session."""

SIX = {
    "ang": "angry",
    "exc": "excited",
    "fru": "frustrated",
    "hap": "happy",
    "neu": "neutral",
    "sad": "sad",
}
FOUR = {"ang": "angry", "exc": "happy", "hap": "happy", "neu": "neutral", "sad": "sad"}

DEV = frozenset(
    [f"Ses04F_{name}" for name in ("script01_3", "script02_1", "script02_2")]
    + [f"Ses04F_{name}" for name in ("script03_1", "script03_2")]
    + [f"Ses04M_impro{number:02}" for number in range(1, 9)]
    + [f"Ses04M_{name}" for name in ("script01_1", "script01_2", "script01_3", "script02_1")]
    + [f"Ses04M_{name}" for name in ("script02_2", "script03_1", "script03_2")]
)
DIALOGUES = {"train": 100, "dev": 20, "test": 31}
# Of the JSON form; labelled with one of the six.
TURNS = {"train": 6490, "dev": 1401, "test": 2196}
LABELLED = {"train": 4778, "dev": 980, "test": 1622}
# Of the release: in train and dev together, and in test.
RELEASED = 5810, 1623

_TURN = re.compile(r"(Ses\d\d[FM]_\S+_([FM])\S+)\s*\[[-\d.\s]+\]\s*:(.*)")
_RATING = re.compile(r"\[[^\]]*\]\s+(\S+)\s+(\w+)\s+\[")
_JSON_SPEAKER = re.compile(r"(Ses0[1-5][FM]_\w+)_([FM])")


@dataclass(frozen=True)
class Turn:
    """One turn as the files give it: who (``F`` or ``M``), what, and the code of its emotion."""

    sex: str
    text: str
    code: str | None


def split_of(dialogue: str) -> str:
    """Test is session 5, dev a part of session 4, train the rest."""
    if dialogue.startswith("Ses05"):
        return "test"
    return "dev" if dialogue in DEV else "train"


def read_release(folder: Path) -> dict[str, list[Turn]]:
    """Dialogue name → turns, from ``Session{1-5}/dialog``.

    Lines of a transcript that carry no turn name (a few backchannels) are left out.
    """
    dialogues: dict[str, list[Turn]] = {}
    for transcript in sorted(folder.glob("Session[1-5]/dialog/transcriptions/Ses*.txt")):
        ratings = transcript.parents[1] / "EmoEvaluation" / transcript.name
        codes = {}
        for number, line in enumerate(read_text(ratings).splitlines(), 1):
            if line.startswith("["):
                match = _RATING.match(line)
                if match is None:
                    raise ErcBenchError(
                        f"{ratings}, line {number}: not `[start - end] turn code [v, a, d]`; "
                        "the file looks truncated."
                    )
                codes[match[1]] = match[2]
        turns = dialogues[transcript.stem] = []
        for number, line in enumerate(read_text(transcript).splitlines(), 1):
            if line.startswith("Ses"):
                match = _TURN.match(line)
                if match is None:
                    raise ErcBenchError(
                        f"{transcript}, line {number}: not `turn [start-end]: text`; "
                        "the file looks truncated."
                    )
                turns.append(Turn(match[2], match[3], codes.get(match[1])))
    return dialogues


def read_json_form(folder: Path) -> dict[str, list[Turn]]:
    """Dialogue name → turns, from ``{train,dev,test}_data.json``.

    Which file a dialogue stands in does not matter: its name decides its split.
    """
    dialogues: dict[str, list[Turn]] = {}
    for path in (folder / f"{split}_data.json" for split in SPLITS):
        for d, dialogue in enumerate(expect(read_json(path), list, str(path))):
            turns = []
            name = ""
            for u, turn in enumerate(expect(dialogue, list, f"{path}, dialogue {d}")):
                where = f"{path}, dialogue {d}, utterance {u}"
                speaker = field(turn, "speaker", str, where)
                match = _JSON_SPEAKER.fullmatch(speaker)
                if match is None:
                    raise ErcBenchError(
                        f"{where}: the speaker {speaker!r} is not like 'Ses01F_impro01_F'."
                    )
                name = name or match[1]
                code = field(turn, "label", str, where) if "label" in turn else None
                turns.append(Turn(match[2], field(turn, "text", str, where), code))
            if name in dialogues or not turns:
                problem = f"dialogue {name} stands twice" if turns else "no utterances"
                raise ErcBenchError(f"{path}, dialogue {d}: {problem}.")
            dialogues[name] = turns
    return dialogues


class IEMOCAP(CorpusSource):
    """IEMOCAP, Interactive Emotional Dyadic Motion Capture (Busso et al., LRE 2008).

    - Data: 151 dialogues of ten actors in five sessions, one woman and one man each, scripted and
      improvised; transcripts only. Up to 167 turns a dialogue.
    - Format: the release's own folders (``Session1`` … ``Session5``), or the JSON form in common
      use (``{train,dev,test}_data.json``), in ``iemocap`` or ``iemocap/IEMOCAP_full_release``.
      A speaker is a session and a sex, ``Ses01_F``; prompts call them Mary and James.
      ``[LAUGHTER]`` is dropped.
    - Classes: six of the annotators' categories, by their majority; turns of any other category,
      or of none, are unlabelled: context, never targets.
    - Split: the one in common use with the JSON form: test is session 5, dev twenty dialogues of
      session 4, whose two speakers ten training dialogues share.
    """

    name = "iemocap"
    labels = LabelSet(("angry", "excited", "frustrated", "happy", "neutral", "sad"))
    description = "scripted and improvised dialogues of two actors"
    classes = "six of the annotators' categories"
    licence = "on request from USC SAIL"
    homepage = "https://sail.usc.edu/iemocap/"
    citation = (
        "Busso et al. (2008). IEMOCAP: interactive emotional dyadic motion capture database. "
        "Language Resources and Evaluation 42."
    )
    release = "IEMOCAP_full_release, or its JSON form, which has up to 53 labels fewer"
    codes: ClassVar[Mapping[str, str]] = SIX

    def locate(self, data_dir: Path | None) -> dict[str, FileStatus]:
        source = "ask USC SAIL for it at https://sail.usc.edu/iemocap/iemocap_release.htm"
        for root in search_folders(data_dir):
            for folder in (root / "iemocap", root / "iemocap" / "IEMOCAP_full_release"):
                if any(folder.glob("Session[1-5]/dialog")) or any(folder.glob("*_data.json")):
                    return {"folder": FileStatus("iemocap", folder, True, False, source)}
        name = "iemocap/Session1 … Session5, or iemocap/{train,dev,test}_data.json"
        return {"folder": FileStatus(name, None, False, False, source)}

    def parse(self, paths: Mapping[str, Path]) -> dict[str, list[Dialogue]]:
        folder = paths["folder"]
        release = any(folder.glob("Session[1-5]/dialog"))
        dialogues = read_release(folder) if release else read_json_form(folder)
        self._check_turns(dialogues, folder)
        splits: dict[str, list[Dialogue]] = {split: [] for split in SPLITS}
        for name, turns in sorted(dialogues.items()):
            split = split_of(name)
            splits[split].append(self._dialogue(f"{split}-{name}", name[:5], turns))
        return splits

    def notes(self, corpus: Corpus, data_dir: Path | None = None) -> list[str]:
        dialogues = {split: corpus.dialogues(split) for split in SPLITS}
        dev_speakers = {u.speaker for d in dialogues["dev"] for u in d.utterances}
        sharing = sum(
            any(u.speaker in dev_speakers for u in d.utterances) for d in dialogues["train"]
        )
        lines = [f"dev shares its {len(dev_speakers)} speakers with {sharing} train dialogues"]
        train = [u.text for d in dialogues["train"] for u in d.utterances]
        for kind, part in (("scripted", "script"), ("improvised", "impro")):
            test = [
                dialogue.utterances[i].text
                for dialogue in dialogues["test"]
                if f"_{part}" in dialogue.id
                for i in dialogue.labelled
            ]
            lines.append(f"{kind} test utterances seen in train: {seen(test, train)}")
        return lines

    def _dialogue(self, key: str, session: str, turns: list[Turn]) -> Dialogue:
        utterances = []
        for number, turn in enumerate(turns):
            emotion = self.codes.get(turn.code or "")
            utterances.append(
                Utterance(
                    f"{key}-u{number}",
                    f"{session}_{turn.sex}",
                    " ".join(turn.text.replace("[LAUGHTER]", " ").split()),
                    None if emotion is None else self.labels.index(emotion),
                    NAMES[turn.sex],
                )
            )
        return Dialogue(key, tuple(utterances))

    def _check_turns(self, dialogues: Mapping[str, list[Turn]], folder: Path) -> None:
        """Compare a complete copy with the known counts; say so if it is not complete.

        Of the release only the sums of labelled turns are known.
        """
        sizes, turns, labelled = (dict.fromkeys(SPLITS, 0) for _ in range(3))
        for name, spoken in dialogues.items():
            sizes[split_of(name)] += 1
            turns[split_of(name)] += len(spoken)
            labelled[split_of(name)] += sum(turn.code in SIX for turn in spoken)
        if sizes != DIALOGUES:
            warnings.warn(
                f"{self.name}: {folder} has {_counts(sizes)} dialogues in train/dev/test, the "
                "release 100/20/31; scores on it are not comparable.",
                CorpusWarning,
                stacklevel=4,
            )
            return
        if (labelled["train"] + labelled["dev"], labelled["test"]) == RELEASED:
            return
        known = f"{_counts(LABELLED)} labelled turns of {_counts(TURNS)}"
        found = f"{_counts(labelled)} labelled turns of {_counts(turns)}"
        if found != known:
            raise ErcBenchError(
                f"{self.name}: {folder} has {found} in train/dev/test; the JSON form has {known}, "
                f"the release {RELEASED[0]} labelled in train and dev and {RELEASED[1]} in test."
            )


def _counts(by_split: Mapping[str, int]) -> str:
    return "/".join(map(str, by_split.values()))


class IEMOCAP4(IEMOCAP):
    """:class:`IEMOCAP` with four classes: excited counts as happy, frustrated is unlabelled."""

    name = "iemocap-4"
    labels = LabelSet(("angry", "happy", "neutral", "sad"))
    classes = "four of the annotators' categories, excited counted as happy"
    codes: ClassVar[Mapping[str, str]] = FOUR
