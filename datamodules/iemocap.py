"""IEMOCAP: scripted and improvised dialogues of two actors, licensed by USC SAIL."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import ClassVar

from erc_bench.corpus.conversation import SPLITS, Corpus, Dialogue, LabelSet, Utterance
from erc_bench.corpus.overlap import seen
from erc_bench.corpus.source import CorpusSource, FileStatus, caution, near_by, search_folders
from erc_bench.corpus.text_files import expect, field, lines_of, read_json, read_text
from erc_bench.errors import ErcBenchError, did_you_mean, quoted

NAMES = {"F": "Mary", "M": "James"}
"""The names that prompts give to the actress and the actor of every session."""

SIX = {
    "ang": "angry",
    "exc": "excited",
    "fru": "frustrated",
    "hap": "happy",
    "neu": "neutral",
    "sad": "sad",
}
UNUSED = {"dis", "fea", "oth", "sur", "xxx"}
"""The annotators' other categories, and ``xxx`` for turns without a majority."""
FOUR = {"ang": "angry", "exc": "happy", "hap": "happy", "neu": "neutral", "sad": "sad"}

DEV = frozenset(
    [f"Ses04F_{name}" for name in ("script01_3", "script02_1", "script02_2")]
    + [f"Ses04F_{name}" for name in ("script03_1", "script03_2")]
    + [f"Ses04M_impro{number:02}" for number in range(1, 9)]
    + [f"Ses04M_{name}" for name in ("script01_1", "script01_2", "script01_3", "script02_1")]
    + [f"Ses04M_{name}" for name in ("script02_2", "script03_1", "script03_2")]
)
DIALOGUES = {"train": 100, "dev": 20, "test": 31}
# Numbers of turns in the JSON form: all, and those labelled with one of the six emotions.
TURNS = {"train": 6490, "dev": 1401, "test": 2196}
LABELLED = {"train": 4778, "dev": 980, "test": 1622}
# Numbers of turns with such a label in the release: in train and dev together, and in test.
RELEASED = 5810, 1623

_DIALOGUE = re.compile(r"Ses0[1-5][FM]_\w+", re.IGNORECASE)
_TURN = re.compile(r"(Ses\d\d[FM]_\S+_([FM])\S+)\s*\[([-\d.\s]+)\]\s*:(.*)")
_TIME = re.compile(r"\d+(?:\.\d+)?")
_RATING = re.compile(r"\[[^\]]*\]\s+(\S+)\s+(\w+)\s+\[")
_JSON_SPEAKER = re.compile(r"(Ses0[1-5][FM]_\w+)_([FM])")
# A turn or a rating that does not start its line. A backchannel such as ``M: Yeah.`` is neither.
_MISPLACED = re.compile(r"Ses\d\d[FM]_|\[\s*\d+\.\d+\s*-")
ASTRAY = 0.15
"""The largest share of pairs of turns in the wrong order of time; above it, lines were moved.

The release has a few such pairs, where both actors speak at once. If lines are sorted by name,
first one actor's and then the other's, it is a quarter of all pairs.
"""
_INVISIBLE = " \t\ufeff\u200b\xa0"


@dataclass(frozen=True)
class Turn:
    """A turn as the files give it: sex of the speaker (``F`` or ``M``), text and emotion code."""

    sex: str
    text: str
    code: str | None


def split_of(dialogue: str) -> str:
    """The split of a dialogue: session 5 is test, a part of session 4 is dev, the rest is train."""
    if dialogue.startswith("Ses05"):
        return "test"
    return "dev" if dialogue in DEV else "train"


def read_release(folder: Path) -> dict[str, list[Turn]]:
    """Return the turns of each dialogue by its name, from ``Session{1-5}/dialog``.

    Lines of a transcript without the name of a turn (a few backchannels) are left out.
    """
    dialogues: dict[str, list[Turn]] = {}
    for session in sessions(folder):
        transcripts, rated = (_files(session, kind) for kind in ("transcriptions", "EmoEvaluation"))
        for name, ratings in rated.items():
            if name not in transcripts:
                transcript = session / "transcriptions" / ratings.name
                caution(
                    f"{ratings} rates the dialogue {name}, and its transcript {transcript} is "
                    "not there: the dialogue was left out."
                )
        for name, transcript in transcripts.items():
            stray = _DIALOGUE.fullmatch(name) is None or name[4] != session.parent.name[-1]
            if stray or name in dialogues:
                raise ErcBenchError(
                    f"{transcript} is not named like a dialogue of {session.parent.name}, "
                    f"Ses0{session.parent.name[-1]}F_impro01.txt say. If it is a second copy, "
                    "remove it."
                )
            ratings = rated.get(name, session / "EmoEvaluation" / transcript.name)
            dialogues[name] = _rated(
                name, _spoken(transcript, name), _ratings(ratings, name), transcript, ratings
            )
    return dialogues


def sessions(folder: Path) -> list[Path]:
    """Return the folders ``Session1/dialog`` … of a release."""
    pattern = f"{_any_case('session')}[1-5]/{_any_case('dialog')}"
    return sorted(p for p in folder.glob(pattern) if p.is_dir())


def _files(session: Path, kind: str) -> dict[str, Path]:
    """Return the files of one kind, such as ``transcriptions``, by the name of their dialogue.

    Names of files and folders may be in upper or lower case.
    """
    files: dict[str, Path] = {}
    for path in sorted(session.glob(f"{_any_case(kind)}/{_any_case('ses')}*.{_any_case('txt')}")):
        name = path.stem
        if _DIALOGUE.fullmatch(name):
            name = f"Ses{name[3:6].upper()}{name[6:].lower()}"
        if name in files:
            raise ErcBenchError(f"{path} and {files[name]} are one dialogue. Remove the wrong one.")
        files[name] = path
    return files


def _any_case(name: str) -> str:
    """Return a glob pattern for a name in upper or lower case."""
    return "".join(f"[{c.lower()}{c.upper()}]" for c in name)


def _spoken(transcript: Path, dialogue: str) -> dict[str, tuple[str, str, int]]:
    """Return sex of the speaker, text and line of each turn of a transcript, by its name."""
    turns: dict[str, tuple[str, str, int]] = {}
    starts: list[tuple[float, int]] = []
    for number, line in _filled(transcript):
        where = f"{transcript}, line {number}"
        if not line.startswith("Ses"):
            if _MISPLACED.search(line):
                raise ErcBenchError(f"{where}: not `turn [start-end]: text` but {quoted(line)}.")
            continue
        match = _TURN.fullmatch(line)
        if match is None:
            raise ErcBenchError(f"{where}: not `turn [start-end]: text`; the file looks truncated.")
        name, sex, times, text = match.groups()
        _check_owner(name, dialogue, where)
        if name in turns and turns[name][:2] == (sex, text):
            caution(f"{where}: the turn {name} occurs twice; the second one was left out.")
        elif name in turns:
            raise ErcBenchError(
                f"{where}: the turn {name} is already in line {turns[name][2]}, with another "
                "text. Remove the wrong one."
            )
        else:
            turns[name] = sex, text, number
            if start := _TIME.search(times):
                starts.append((float(start[0]), number))
    if not turns:
        raise ErcBenchError(f"{transcript}: the dialogue has no utterances.")
    _check_order(starts, transcript)
    return turns


def _check_order(starts: Sequence[tuple[float, int]], transcript: Path) -> None:
    """Refuse a transcript whose lines were moved, judged by the times at which its turns start.

    Args:
        starts: the start in seconds and the line of each turn, in the order of the file.
        transcript: the file.
    """
    pairs = [before > after for (before, _), (after, _) in combinations(starts, 2)]
    # A single wrong time puts up to len(starts) - 1 pairs in the wrong order: that is allowed.
    if sum(pairs) > max(len(starts), ASTRAY * len(pairs)):
        (before, _), (after, line) = max(pairwise(starts), key=lambda two: two[0][0] - two[1][0])
        raise ErcBenchError(
            f"{transcript}, line {line}: the turn starts at {after:g} s, the one above at "
            f"{before:g} s: the lines are not in the order in which they were spoken."
        )


def _ratings(path: Path, dialogue: str) -> dict[str, tuple[str, int]]:
    """Return emotion code and line of each rated turn in a file of ratings, by its name."""
    codes: dict[str, tuple[str, int]] = {}
    for number, line in _filled(path):
        where = f"{path}, line {number}"
        if not line.startswith("["):
            if _MISPLACED.search(line):
                raise ErcBenchError(
                    f"{where}: not `[start - end] turn code [v, a, d]` but {quoted(line)}."
                )
            continue
        match = _RATING.match(line)
        if match is None:
            raise ErcBenchError(
                f"{where}: not `[start - end] turn code [v, a, d]`; the file looks truncated."
            )
        name, code = match[1], _known(match[2], where)
        _check_owner(name, dialogue, where)
        if codes.get(name, (code, 0))[0] != code:
            raise ErcBenchError(
                f"{where}: {name} is {code} here and {codes[name][0]} in line {codes[name][1]}. "
                "Remove the wrong one."
            )
        codes[name] = code, number
    return codes


def _rated(
    dialogue: str,
    spoken: Mapping[str, tuple[str, str, int]],
    codes: Mapping[str, tuple[str, int]],
    transcript: Path,
    ratings: Path,
) -> list[Turn]:
    """Return the turns of a dialogue with their codes; refuse files that have lost lines."""
    for name, (_, line) in codes.items():
        if name not in spoken:
            raise ErcBenchError(
                f"{ratings}, line {line}: {name} is rated, and {transcript} has no such turn."
            )
    if not codes:
        raise ErcBenchError(
            f"{ratings} rates no turn of {dialogue}, which has {len(spoken)}: the file is empty "
            "or damaged."
        )
    # The release rates every turn except those whose number begins with XX.
    unrated = [name for name in spoken if name not in codes and "XX" not in name]
    if len(unrated) > len(spoken) / 4:
        raise ErcBenchError(
            f"{ratings} has no rating of {len(unrated)} of the {len(spoken)} turns of {dialogue}, "
            f"the first {unrated[0]}: the file looks truncated."
        )
    return [
        Turn(sex, text, codes[name][0] if name in codes else None)
        for name, (sex, text, _) in spoken.items()
    ]


def _filled(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line that is not blank, without surrounding blanks."""
    for number, line in enumerate(lines_of(read_text(path)), 1):
        if stripped := line.strip(_INVISIBLE):
            yield number, stripped


def _check_owner(turn: str, dialogue: str, where: str) -> None:
    if not turn.startswith(f"{dialogue}_"):
        raise ErcBenchError(
            f"{where}: {quoted(turn)} is a turn of another dialogue than the file's name says. If "
            "the file is a second copy, remove it."
        )


def _known(code: str, where: str) -> str:
    """Return a code of the annotators' categories in lower case; an unknown one is an error."""
    lower = code.strip().lower()
    if lower not in SIX and lower not in UNUSED:
        known = [*SIX, *sorted(UNUSED)]
        raise ErcBenchError(
            f"{where}: {quoted(code)} is no category of the annotators."
            + did_you_mean(lower[:3], known)
        )
    return lower


def read_json_form(folder: Path) -> dict[str, list[Turn]]:
    """Return the turns of each dialogue by its name, from ``{train,dev,test}_data.json``.

    It does not matter which file holds a dialogue, because its name decides its split. Missing
    files are skipped, so a copy may lack a split.
    """
    dialogues: dict[str, list[Turn]] = {}
    for path in (folder / f"{split}_data.json" for split in SPLITS):
        if not path.is_file():
            continue
        for d, dialogue in enumerate(expect(read_json(path), list, str(path))):
            turns = []
            name = ""
            for u, turn in enumerate(expect(dialogue, list, f"{path}, dialogue {d}")):
                where = f"{path}, dialogue {d}, utterance {u}"
                speaker = field(turn, "speaker", str, where).strip()
                match = _JSON_SPEAKER.fullmatch(speaker)
                if match is None:
                    raise ErcBenchError(
                        f"{where}: the speaker {quoted(speaker)} is not like 'Ses01F_impro01_F'."
                    )
                name = name or match[1]
                if match[1] != name:
                    raise ErcBenchError(f"{where}: {speaker} speaks in another dialogue, {name}.")
                code = None
                if turn.get("label") is not None:
                    code = _known(field(turn, "label", str, where), where)
                turns.append(Turn(match[2], field(turn, "text", str, where), code))
            if name in dialogues or not turns:
                problem = f"dialogue {name} occurs twice" if turns else "no utterances"
                raise ErcBenchError(f"{path}, dialogue {d}: {problem}.")
            dialogues[name] = turns
    return dialogues


class IEMOCAP(CorpusSource):
    """IEMOCAP, Interactive Emotional Dyadic Motion Capture (Busso et al., LRE 2008).

    - Data: 151 dialogues of ten actors in five sessions, one woman and one man each, scripted and
      improvised; transcripts only. A dialogue has up to 167 turns.
    - Format: the release's own folders (``Session1`` … ``Session5``), or the JSON form in common
      use (``{train,dev,test}_data.json``), in ``iemocap`` or ``iemocap/IEMOCAP_full_release``.
      The first of these that exists is read. Turns are in the order of the files.
      A speaker is a session and a sex, ``Ses01_F``; prompts call them Mary and James.
      ``[LAUGHTER]`` is dropped.
    - Classes: six of the annotators' categories, by majority. Turns of any other category, or
      without a majority, are unlabelled: they are context, never targets.
    - Split: the one in common use with the JSON form. Test is session 5, dev is twenty dialogues of
      session 4. The two speakers of session 4 also speak in ten training dialogues.
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

    confusable: ClassVar[tuple[tuple[str, str], ...]] = (
        ("excited", "happy"),
        ("angry", "frustrated"),
    )

    def locate(self, data_dir: Path | None) -> dict[str, FileStatus]:
        source = "ask USC SAIL for it at https://sail.usc.edu/iemocap/iemocap_release.htm"
        name = "iemocap/Session1 … Session5, or iemocap/{train,dev,test}_data.json"
        roots = search_folders(data_dir)
        for root in roots:
            usual = (root / "iemocap", root / "iemocap" / "IEMOCAP_full_release")
            found = [folder for folder in usual if sessions(folder) or _has_json_form(folder)]
            if not found and root != roots[-1]:
                found = sorted({p.resolve() for p in near_by(root, "iemocap") if _is_copy(p)})
            if len(found) > 1 and found[0] not in usual:
                places = " and ".join(map(str, found))
                problem = f"there are several copies, {places}. Put the right one at {usual[0]}"
                return {"folder": FileStatus(name, None, False, False, source, problem)}
            if found:
                return {"folder": FileStatus("iemocap", found[0], True, False, source)}
        problem = next(filter(None, (_unusable(root) for root in roots[:-1])), "")
        return {"folder": FileStatus(name, None, False, False, source, problem)}

    def parse(self, paths: Mapping[str, Path]) -> dict[str, list[Dialogue]]:
        folder = paths["folder"]
        dialogues = read_release(folder) if sessions(folder) else read_json_form(folder)
        if not dialogues:
            raise ErcBenchError(f"{folder}: there are no transcripts in Session*/dialog.")
        read, *unread = _copies(folder)
        if unread:
            caution(
                f"{self.name}: {read} was read; {', '.join(unread)} is there too and was not read."
            )
        self._check_turns(dialogues, folder)
        splits: dict[str, list[Dialogue]] = {split: [] for split in SPLITS}
        for name, turns in sorted(dialogues.items()):
            split = split_of(name)
            splits[split].append(self._dialogue(f"{split}-{name}", name[:5], turns))
        return {split: found for split, found in splits.items() if found}

    def doubts(self, corpus: Corpus, changed: Sequence[FileStatus]) -> list[str]:
        """Compare the numbers of dialogues, since nobody may publish a digest of the release."""
        sizes = {split: len(corpus.contents.get(split, ())) for split in SPLITS}
        found = super().doubts(corpus, changed)
        if sizes != DIALOGUES:
            found.insert(
                0,
                f"it has {_counts(sizes)} dialogues in train/dev/test, the release 100/20/31, so "
                "that scores on it are not comparable",
            )
        return found

    def notes(self, corpus: Corpus, data_dir: Path | None = None) -> list[str]:
        dialogues = {split: corpus.contents.get(split, ()) for split in SPLITS}
        if not dialogues["train"]:
            return []
        lines = []
        if dialogues["dev"]:
            dev_speakers = {u.speaker for d in dialogues["dev"] for u in d.utterances}
            sharing = sum(
                any(u.speaker in dev_speakers for u in d.utterances) for d in dialogues["train"]
            )
            lines.append(
                f"dev shares its {len(dev_speakers)} speakers with {sharing} train dialogues"
            )
        train = [u.text for d in dialogues["train"] for u in d.utterances]
        for kind, part in (("scripted", "script"), ("improvised", "impro")):
            test = [
                dialogue.utterances[i].text
                for dialogue in dialogues["test"]
                if f"_{part}" in dialogue.id
                for i in dialogue.labelled
            ]
            if test:
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
        """Refuse a complete copy whose numbers of turns are not the known ones.

        For the release, only the numbers of labelled turns in :data:`RELEASED` are known.
        """
        sizes, turns, labelled = (dict.fromkeys(SPLITS, 0) for _ in range(3))
        for name, spoken in dialogues.items():
            sizes[split_of(name)] += 1
            turns[split_of(name)] += len(spoken)
            labelled[split_of(name)] += sum(turn.code in SIX for turn in spoken)
        if sizes != DIALOGUES:
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


def _has_json_form(folder: Path) -> bool:
    return any((folder / f"{split}_data.json").is_file() for split in SPLITS)


def _copies(folder: Path) -> list[str]:
    """Return the copies of the corpus in a folder; the first one is read."""
    forms = {"Session1 … Session5": sessions, "{train,dev,test}_data.json": _has_json_form}
    places = (folder, folder / "IEMOCAP_full_release")
    return [str(place / name) for place in places for name, has in forms.items() if has(place)]


def _is_copy(folder: Path) -> bool:
    """Whether a folder in an unusual place holds IEMOCAP.

    The names of the JSON files are common, so one of the files is looked into.
    """
    if sessions(folder):
        return True
    if not _has_json_form(folder):
        return False
    path = next(p for split in SPLITS if (p := folder / f"{split}_data.json").is_file())
    try:
        with path.open("rb") as file:
            return re.search(rb'"speaker"\s*:\s*"Ses0[1-5][FM]_', file.read(10_000)) is not None
    except OSError:
        return False


def _unusable(root: Path) -> str:
    """Say which copy near a data folder can't be read as it is, and why; empty if none."""
    for folder in near_by(root, "iemocap"):
        for path in sorted(folder.glob("IEMOCAP*")):
            if path.is_file() and path.name.endswith((".tar.gz", ".tgz", ".tar", ".zip")):
                return f"{path} is still packed. Unpack it into {root / 'iemocap'}"
        for path in sorted(folder.glob("[Ss]ession[1-5]")):
            if path.is_dir() and "iemocap" in str(path).lower():
                return (
                    f"{path} has no folder dialog with transcriptions and EmoEvaluation. Unpack "
                    "these too"
                )
    return ""


class IEMOCAP4(IEMOCAP):
    """:class:`IEMOCAP` with four classes: excited counts as happy, frustrated is unlabelled."""

    name = "iemocap-4"
    labels = LabelSet(("angry", "happy", "neutral", "sad"))
    classes = "four of the annotators' categories, excited counted as happy"
    confusable: ClassVar = ()
    codes: ClassVar[Mapping[str, str]] = FOUR
