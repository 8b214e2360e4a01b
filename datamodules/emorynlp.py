"""EmoryNLP: scenes of *Friends* with an emotion per utterance, in two releases."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from erc_bench.corpus.conversation import Dialogue, LabelSet, Utterance
from erc_bench.corpus.source import CorpusFile, CorpusSource
from erc_bench.corpus.text_files import expect, field, read_csv, read_json, whole_number
from erc_bench.errors import ErcBenchError, quoted

from . import releases
from .ordering import in_order

REPOSITORY = (
    "https://raw.githubusercontent.com/emorynlp/emotion-detection/"
    "289b967a34556f0d86b52ea36571c2a0c90740ae"
)
NUMBERS = ("Season", "Episode", "Scene_ID", "Utterance_ID")
Spoken = tuple[str, str, str]  # speaker, text and emotion of a turn
_ID = re.compile(r"s(\d{1,9})_e(\d{1,9})_c(\d{1,9})_u(\d{1,9})")
NOBODY = "Unknown"  # the speaker of a turn that names none


def parse_json(path: Path, split: str, labels: LabelSet) -> list[Dialogue]:
    """Return the dialogues of one file, in the official form or the flat one.

    The ids count dialogues and turns from 0: ``test-d12-u3``. The official form has ids of its own
    (``s01_e01_c04_u001``), and dialogues and turns are counted in the order of these. The flat form
    has none; in a true copy its order is the official one (:meth:`EmoryNLP.doubts` refuses others).
    """
    contents = read_json(path)
    turns = _official_turns if isinstance(contents, dict) else _flat_turns
    dialogues = []
    for d, scene in enumerate(turns(contents, path)):
        key = f"{split}-d{d}"
        where = f"{path}, dialogue {d}"
        if not scene:
            raise ErcBenchError(f"{where}: the dialogue has no utterances.")
        utterances = (
            Utterance(
                f"{key}-u{u}",
                speaker,
                text.strip(),
                labels.index(emotion.lower(), f"{where}, utterance {u}"),
            )
            for u, (speaker, text, emotion) in enumerate(scene)
        )
        dialogues.append(Dialogue(key, tuple(utterances)))
    return dialogues


def _official_turns(contents: dict[str, Any], path: Path) -> list[list[Spoken]]:
    """Speaker, text and emotion of every turn of ``episodes[].scenes[].utterances[]``, by scene.

    They are in the order of their ids, or of the file if no id looks like the release's.
    """
    scenes: list[list[Spoken]] = []
    ids: list[tuple[str, str]] = []  # scene and id of each turn
    for episode in field(contents, "episodes", list, str(path)):
        for scene in field(episode, "scenes", list, f"{path}, an episode"):
            name = field(scene, "scene_id", str, f"{path}, a scene")
            where = f"{path}, scene {name}"
            scenes.append([])
            for turn in field(scene, "utterances", list, where):
                speakers = [expect(s, str, where) for s in field(turn, "speakers", list, where)]
                text = field(turn, "transcript", str, where)
                emotion = field(turn, "emotion", str, where)
                scenes[-1].append((speakers[0] if speakers else NOBODY, text, emotion))
                ids.append((where, str(turn.get("utterance_id", ""))))
                if _ID.fullmatch(ids[-1][1]) and not ids[-1][1].startswith(f"{name}_"):
                    raise ErcBenchError(f"{where}: {ids[-1][1]} is a turn of another scene.")
    known = [match for _, key in ids if (match := _ID.fullmatch(key))]
    if not known or not all(scenes):
        return scenes
    turns: dict[tuple[int, ...], Spoken] = {}
    for (where, key), turn in zip(ids, (turn for scene in scenes for turn in scene), strict=True):
        match = _ID.fullmatch(key)
        number = tuple(map(int, match.groups())) if match else ()
        if not number or number in turns:
            problem = "occurs twice" if number else "is no id like 's01_e01_c04_u001'"
            raise ErcBenchError(f"{where}: {quoted(key)} {problem}.")
        turns[number] = turn
    ordered: dict[tuple[int, ...], list[Spoken]] = {}
    for number, turn in in_order(turns, path, "utterance_id"):
        ordered.setdefault(number[:3], []).append(turn)
    return list(ordered.values())


def _flat_turns(contents: object, path: Path) -> list[list[Spoken]]:
    """Speaker, text and emotion of every turn of a list of dialogues, by dialogue."""
    scenes = []
    for d, scene in enumerate(expect(contents, list, str(path))):
        where = f"{path}, dialogue {d}"
        scenes.append(
            [
                tuple(field(turn, key, str, where) for key in ("speaker", "text", "label"))
                for turn in expect(scene, list, where)
            ]
        )
    names = {speaker for scene in scenes for speaker, _, _ in scene}
    first = {name: _first_speaker(name, names) for name in names}
    return [[(first[speaker], text, label) for speaker, text, label in scene] for scene in scenes]


def _first_speaker(name: str, names: set[str]) -> str:
    """Return the first of the names that the flat form may have run together.

    ``"Bonnie Rachel Green"`` becomes ``"Bonnie"`` if both ``"Bonnie"`` and ``"Rachel Green"`` speak
    elsewhere in the file. On dev and test this is always the speaker of the official form.
    """
    words = name.split(" ")
    for i in range(1, len(words)):
        head, rest = " ".join(words[:i]), " ".join(words[i:])
        if head in names and any(rest == n or rest.startswith(f"{n} ") for n in names if n):
            return head
    return name or NOBODY


def parse_csv(path: Path, split: str, labels: LabelSet) -> list[Dialogue]:
    """Return the dialogues of one file of the reduced release.

    Their ids are made of the full release's scene ids: ``test-s01_e01_c04_u001``.
    """
    columns = ("Utterance", "Speaker", "Emotion", *NUMBERS)
    turns: dict[tuple[int, ...], Utterance] = {}
    for where, (text, speaker, emotion, *numbers) in read_csv(path, columns):
        number = tuple(
            whole_number(value, name, where) for value, name in zip(numbers, NUMBERS, strict=True)
        )
        if number in turns:
            raise ErcBenchError(f"{where}: utterance {number[3]} of its scene occurs twice.")
        turns[number] = Utterance(
            f"{_scene_key(split, number)}_u{number[3]:03}",
            _first_listed(speaker, where),
            text.strip(),
            labels.index(emotion.lower(), where),
        )
    dialogues: dict[str, list[Utterance]] = {}
    for number, utterance in in_order(turns, path, ", ".join(NUMBERS)):
        dialogues.setdefault(_scene_key(split, number), []).append(utterance)
    return [Dialogue(key, tuple(spoken)) for key, spoken in dialogues.items()]


def _scene_key(split: str, number: tuple[int, ...]) -> str:
    season, episode, scene, _ = number
    return f"{split}-s{season:02}_e{episode:02}_c{scene:02}"


def _first_listed(speaker: str, where: str) -> str:
    """Return the first name of a list in Python's notation, such as ``['Ann', 'Bo']``."""
    try:
        speakers = ast.literal_eval(speaker)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        speakers = None
    if not isinstance(speakers, list) or not all(isinstance(name, str) for name in speakers):
        raise ErcBenchError(f"{where}: the speaker must be a list of names, not {quoted(speaker)}.")
    return speakers[0] if speakers else NOBODY


def _full_file(split: str, short: str, checksum: str, flat_sha256: str) -> CorpusFile:
    name = f"emotion-detection-{short}.json"
    return CorpusFile(
        f"emorynlp/official/{name}",
        checksum,
        f"{REPOSITORY}/json/{name}",
        (
            CorpusFile(f"emorynlp/json/{name}", checksum),
            CorpusFile(f"emorynlp/{name}", checksum),
            CorpusFile(f"emorynlp/flat/{split}_data.json", f"sha256:{flat_sha256}"),
        ),
    )


class EmoryNLP(CorpusSource):
    """EmoryNLP emotion detection (Zahiri & Choi, AAAI workshops 2018), the full release.

    - Data: 897 scenes of the first four seasons of the TV series *Friends*, transcripts only.
    - Format: a JSON file per split. It is ``episodes[].scenes[].utterances[]``, where a scene is a
      dialogue, or a flat list of dialogues. If a turn has several speakers, the first one counts.
    - Classes: the six primary emotions of Willcox's feeling wheel and neutral, by the majority of
      four annotators.
    - Split: the authors'.
    """

    name = "emorynlp"
    labels = LabelSet(("joyful", "mad", "neutral", "peaceful", "powerful", "sad", "scared"))
    description = "scenes of the TV series Friends, the full release"
    classes = "the six primary emotions of Willcox's feeling wheel and neutral"
    licence = "Apache-2.0"
    homepage = "https://github.com/emorynlp/emotion-detection"
    citation = (
        "Zahiri & Choi (2018). Emotion Detection on TV Show Transcripts with Sequence-based "
        "Convolutional Neural Networks. AAAI Workshop on Affective Content Analysis."
    )
    release = "emorynlp/emotion-detection at 289b967"
    files: ClassVar = {
        "train": _full_file(
            "train",
            "trn",
            "git-blob:0f40b44b249e199bfd9c75f8383688f9c81a2d67",
            "8e52f4e00797074c1348c027b44ed40b375e8fb27792aaa76797a6ac8985354b",
        ),
        "dev": _full_file(
            "dev",
            "dev",
            "sha256:177f0b8ae5442045ea60e6f7940e14b1a8c15c704201f01da1ba74943f99086e",
            "41d43cac2a8290fe732f5c30bef7e6394badded342d2545aa2085616bc644079",
        ),
        "test": _full_file(
            "test",
            "tst",
            "sha256:2da84b0bffbc9da2f3b9de8016c2d3ae5478e6ccb26d473313368373b427dedc",
            "7c43cd104eb3cad776c142e79d9a05799047c289e7581710bfd1243067ac7d2a",
        ),
    }
    official = releases.EMORYNLP
    counts: ClassVar = {"train": (713, 9934), "dev": (99, 1344), "test": (85, 1328)}

    def parse(self, paths: Mapping[str, Path]) -> dict[str, list[Dialogue]]:
        return {split: parse_json(path, split, self.labels) for split, path in paths.items()}


class EmoryNLPReduced(EmoryNLP):
    """The scenes of :class:`EmoryNLP` as MELD's authors distribute them, a quarter shorter.

    There is a CSV file per split, with only the utterances that could be aligned with the
    subtitles. SACL-LSTM and others report on it; its scores cannot be compared with those on the
    full release.
    """

    name = "emorynlp-reduced"
    description = "scenes of the TV series Friends, MELD's reduced release"
    release = "declare-lab/MELD at 2d2011b, data/emorynlp; not comparable with emorynlp"
    files: ClassVar = {
        split: CorpusFile(
            f"emorynlp/reduced/emorynlp_{split}_final.csv",
            f"sha256:{digest}",
            f"{releases.MELD_REPOSITORY}/data/emorynlp/emorynlp_{split}_final.csv",
            (CorpusFile(f"emorynlp/emorynlp_{split}_final.csv", f"sha256:{digest}"),),
        )
        for split, digest in {
            "train": "462c66c333783adb801836d12d1424f48489bef4fb8ddfec7fbb2f08ce8211d5",
            "dev": "20edc9d5917fe705b17b849f7f288e495d4132a60353a6247c3800445bdf8734",
            "test": "dbc4b5638acd12c92a5f48def829e04f1c765cddffb4eedbe34216312e0d2d78",
        }.items()
    }
    official = releases.EMORYNLP_REDUCED
    counts: ClassVar = {"train": (659, 7551), "dev": (89, 954), "test": (79, 984)}

    def parse(self, paths: Mapping[str, Path]) -> dict[str, list[Dialogue]]:
        return {split: parse_csv(path, split, self.labels) for split, path in paths.items()}
