"""A made-up IEMOCAP, in the release's own folders and in the JSON form."""

import json
from pathlib import Path

DIALOGUES = (
    "Ses01F_impro01",
    "Ses01M_script01_1",
    "Ses02F_impro02",
    "Ses03M_impro03",
    "Ses04F_impro01",
    "Ses04F_script01_3",  # dev
    "Ses04M_impro01",  # dev
    "Ses05F_impro04",
    "Ses05M_script02_2",
)
# Speaker, text, code. There are both kinds of unlabelled turn: with a category that is not one of
# the labels (xxx, sur), and without a category.
TURNS = (
    ("F", "Did you water the ferns?", "neu"),
    ("M", "Why is it always me?", "ang"),
    ("F", "Nobody said [LAUGHTER] always.", "fru"),
    ("M", "[LAUGHTER]", "hap"),
    ("F", "Look, a new leaf!", "exc"),
    ("M", "The old one fell off.", "sad"),
    ("F", "Oh.", "sur"),
    ("M", "Well, it did.", "xxx"),
    ("F", "Mhm.", None),
)
RATING_HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"


def turns_of(dialogue: str) -> list[tuple[str, str, str | None]]:
    """The turns of one dialogue: its own first line, then the turns that all dialogues share."""
    return [("M", f"This is scene {dialogue[3:].lower()}.", "neu"), *TURNS]


def write_release(folder: Path) -> Path:
    """Write the release's layout; ``folder`` is what users name ``<data-dir>/iemocap``.

    There are nine dialogues of ten turns in all five sessions. Two dialogues are dev. Seven turns
    of each dialogue carry one of the six labels, and six turns carry one of the four labels. The
    loader warns that the release is not complete.
    """
    for dialogue in DIALOGUES:
        root = folder / f"Session{dialogue[4]}" / "dialog"
        transcript, ratings = "", RATING_HEADER
        for number, (sex, text, code) in enumerate(turns_of(dialogue)):
            name = f"{dialogue}_{sex}{number:03}"
            start, end = 1.5 * number, 1.5 * number + 1
            transcript += f"{name} [{start:08.4f}-{end:08.4f}]: {text}\n"
            if code is not None:
                ratings += (
                    f"\n[{start:.4f} - {end:.4f}]\t{name}\t{code}\t[2.5000, 2.5000, 2.5000]\n"
                )
                ratings += "C-E1:\tNeutral;\t()\nA-F1:\tval 3; act 2; dom  2;\t()\n"
        transcript += "M: Hm.\n"
        for kind, text in (("transcriptions", transcript), ("EmoEvaluation", ratings)):
            (root / kind).mkdir(parents=True, exist_ok=True)
            (root / kind / f"{dialogue}.txt").write_text(text, encoding="utf-8")
            (root / kind / f"._{dialogue}.txt").write_bytes(b"\x00\x05\x16\x07 Mac OS X \xff")
    return folder


def write_json_form(folder: Path) -> Path:
    """Write the same dialogues as JSON, ``{train,dev,test}_data.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    splits: dict[str, list] = {"train": [], "dev": [], "test": []}
    for dialogue in DIALOGUES:
        turns = []
        for sex, text, code in turns_of(dialogue):
            turn = {"text": text, "speaker": f"{dialogue}_{sex}"}
            turns.append(turn if code in (None, "xxx", "sur") else {**turn, "label": code})
        dev = dialogue in ("Ses04F_script01_3", "Ses04M_impro01")
        splits["test" if dialogue[4] == "5" else "dev" if dev else "train"].append(turns)
    for split, dialogues in splits.items():
        (folder / f"{split}_data.json").write_text(json.dumps(dialogues), encoding="utf-8")
    return folder
