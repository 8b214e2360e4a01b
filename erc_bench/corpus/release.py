"""Whether a copy of a corpus is the official release, and how it differs if it is not.

The text of a release is not kept here, only what tells another copy from it: digests of the whole,
the utterance ids, the labels and the speakers, the class counts, and two bytes of each dialogue.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from erc_bench.corpus.conversation import Corpus, Dialogue, Utterance
from erc_bench.errors import ErcBenchError, listed, quoted

WIDTH = 2
"""Bytes of a dialogue's fingerprint."""


@dataclass(frozen=True)
class Release:
    """What is known of the official release of a corpus."""

    digest: str
    """:attr:`erc_bench.corpus.conversation.Corpus.digest`."""
    ids: str
    """SHA-256 over the utterance ids in corpus order."""
    dialogues: str
    """The fingerprints of all dialogues in corpus order, base64."""
    labels: str
    """SHA-256 over the labels of all utterances in corpus order."""
    classes: tuple[int, ...]
    """How many utterances have each label, in the order of the label set."""
    speakers: str
    """SHA-256 over the letters of the speakers of all utterances in corpus order."""

    @classmethod
    def of(cls, corpus: Corpus) -> Release:
        """Compute these figures for a corpus, as for those in ``datamodules/releases.py``."""
        marks = b"".join(map(fingerprint, _dialogues(corpus)))
        return cls(
            corpus.digest,
            ids_digest(corpus),
            base64.b64encode(marks).decode(),
            _digest(str(u.label) for u in _utterances(corpus)),
            _classes(corpus),
            _digest(_letters(u.speaker) for u in _utterances(corpus)),
        )

    def doubts(self, corpus: Corpus) -> list[str]:
        """How a copy differs from the release, one phrase each; empty if it is the same.

        A copy with other characters or other speakers is still usable.

        Raises:
            ErcBenchError: its labels are not the release's; or its ids would name other utterances,
                since its turns or dialogues have other numbers or another order, or most dialogues
                have other texts.
        """
        if corpus.digest == self.digest:
            return []
        if ids_digest(corpus) != self.ids:
            raise ErcBenchError(
                f"{corpus.name}: its dialogues or turns have other numbers than the official "
                "release, or are in another order, so ids would name other utterances."
            )
        dialogues = list(_dialogues(corpus))
        ours = [fingerprint(dialogue) for dialogue in dialogues]
        marks = base64.b64decode(self.dialogues)
        theirs = [marks[i : i + WIDTH] for i in range(0, len(marks), WIDTH)]
        other = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
        self._check_order(corpus.name, dialogues, ours, theirs, other)
        utterances = list(_utterances(corpus))
        found = text_damage(u.text for u in utterances)
        if len(other) > len(dialogues) / 2:
            reason = "".join(f"; {damage}" for damage in found)
            raise ErcBenchError(
                f"{corpus.name}: {len(other):,} of {len(dialogues):,} dialogues have other texts "
                "than the official release, or their turns in another order; the first is "
                f"{dialogues[other[0]].id}{reason}."
            )
        self._check_labels(corpus)
        if not any(re.search("[A-Z]", u.text) for u in utterances):
            found.append("no utterance has a capital letter")
        if not any(re.search("[.,?!]", u.text) for u in utterances):
            found.append("no utterance has punctuation")
        if other:
            found.append(
                f"{len(other):,} of {len(dialogues):,} dialogues have other texts than the "
                f"official release, the first {dialogues[other[0]].id}"
            )
        if _digest(_letters(u.speaker) for u in utterances) != self.speakers:
            found.append(_odd_speakers([u.speaker for u in utterances]))
        return found or ["capitals, blanks or punctuation of some utterances or names differ"]

    def _check_labels(self, corpus: Corpus) -> None:
        """Raise if the labels are not the release's: scores on them are of another task."""
        if _digest(str(u.label) for u in _utterances(corpus)) == self.labels:
            return
        ours = _classes(corpus)
        counts = listed(
            f"{name} {have:,} instead of {want:,}"
            for name, have, want in zip(corpus.labels.names, ours, self.classes, strict=True)
            if have != want
        )
        if ours == self.classes:
            counts = "as many of each class, at other utterances, as if they were shifted or sorted"
        raise ErcBenchError(
            f"{corpus.name}: its labels are not those of the official release: {counts}."
        )

    def _check_order(
        self,
        name: str,
        dialogues: list[Dialogue],
        ours: list[bytes],
        theirs: list[bytes],
        other: list[int],
    ) -> None:
        """Raise if the dialogues are not in the order of the release."""
        moved = (Counter(ours[i] for i in other) & Counter(theirs[i] for i in other)).total()
        # By chance, one edited dialogue may have another's fingerprint; two hardly ever do.
        if moved > 1 and moved > len(other) / 4:
            first = next(i for i in other if ours[i] in {theirs[k] for k in other})
            place = next(k for k in other if theirs[k] == ours[first])
            raise ErcBenchError(
                f"{name}: {moved:,} of {len(dialogues):,} dialogues are in another order than in "
                "the official release, so ids would name other utterances: "
                f"{dialogues[first].id} has the texts of {dialogues[place].id} there."
            )


def ids_digest(corpus: Corpus) -> str:
    """SHA-256 over the ids of all utterances in corpus order."""
    return _digest(u.id for u in _utterances(corpus))


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _utterances(corpus: Corpus) -> Iterator[Utterance]:
    return (u for dialogue in _dialogues(corpus) for u in dialogue.utterances)


def _classes(corpus: Corpus) -> tuple[int, ...]:
    found = Counter(u.label for u in _utterances(corpus))
    return tuple(found[label] for label in range(len(corpus.labels.names)))


def _odd_speakers(speakers: list[str]) -> str:
    """How the speakers of a copy differ from the release's."""
    empty = sum(not speaker.strip() for speaker in speakers)
    if empty:
        return f"{empty:,} of {len(speakers):,} utterances have no speaker"
    (most, times), *_ = Counter(speakers).most_common(1)
    return (
        f"the speakers differ: {quoted(most)} at {times:,} of {len(speakers):,} utterances, "
        f"different names: {len(set(speakers)):,}"
    )


def fingerprint(dialogue: Dialogue) -> bytes:
    """A digest of two bytes over the words of a dialogue, turn by turn.

    It shows which dialogue this is, not whether it is intact.
    """
    words = "\n".join(_letters(u.text) for u in dialogue.utterances).lower()
    return hashlib.sha256(words.encode()).digest()[:WIDTH]


def _letters(text: str) -> str:
    """The ASCII letters and digits of a text; a damaged apostrophe does not change them."""
    return re.sub(r"[^a-zA-Z0-9]", "", re.sub(r"&#?\w+;", "", text))


def _dialogues(corpus: Corpus) -> Iterator[Dialogue]:
    return (dialogue for dialogues in corpus.contents.values() for dialogue in dialogues)


# --- traces of a program that misread the text

_CONTRACTED = (
    r"(?:don|can|won|didn|isn|doesn|couldn|wouldn|wasn|aren|haven|shouldn){0}t"
    r"|(?:i){0}m|(?:i|you|we|they){0}ve|(?:you|they){0}re|(?:that|what|he|she|there){0}s"
)
_MARK = " ?(?:&#?[a-z0-9]{1,8};|[^a-z ]{1,4}) ?"  # some corpora write ``don ’ t``
_ANY_MARK = re.compile(  # an apostrophe, or whatever it was turned into
    rf"\b(?:{_CONTRACTED.format(_MARK)})\b", re.IGNORECASE
)
_WITHOUT = re.compile(rf"\b(?:{_CONTRACTED.format('')})\b", re.IGNORECASE)
_QUESTIONED = re.compile(rf"\b(?:{_CONTRACTED.format(' ?[?] ?')})\b", re.IGNORECASE)
_TICKED = re.compile(rf"\b(?:{_CONTRACTED.format(' ?[`´] ?')})\b", re.IGNORECASE)
# Without ``can t`` and ``that s``, which may be two words in a text that was cut.
_SPACED = re.compile(
    r"\b(?:don|didn|isn|doesn|couldn|wouldn|wasn|aren|haven|shouldn) +t\b", re.IGNORECASE
)
# The bytes of UTF-8, read as Latin-1 or Windows-1252.
_MOJIBAKE = re.compile(r"[ÂÃ][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|â[€\x80-\x9f„€]")
# The bytes of UTF-8, read as Mac Roman, where ’ becomes ‚Äô.
_MAC = re.compile(r"‚Ä[ôúùòìî¶]|√[©®¨°†§±∂º¢]")
_ENTITY = re.compile(r"&(?:#\d+|#x[0-9a-fA-F]+|amp|quot|apos|lt|gt|nbsp|[lr]squo|[lr]dquo);")

LOST = 0.1
"""Share of contractions without an apostrophe above which a program, not the writers, lost them.

It is also the share of utterances without text above which texts were lost.
"""


def text_damage(texts: Iterable[str]) -> list[str]:
    """The kinds of damage in texts, each as a phrase with its number and a sample."""
    texts = [text.replace("’", "'") for text in texts]
    if lost := _lost(texts):
        return [lost]
    return lost_characters(texts) + _counted(
        ("hold a question mark for an apostrophe", _if_many(texts, _QUESTIONED)),
        ("hold a backtick for an apostrophe", _if_many(texts, _TICKED)),
        ("hold a blank for an apostrophe", _if_many(texts, _SPACED)),
        ("have lost an apostrophe", _if_many(texts, _WITHOUT)),
    )


def lost_characters(texts: Sequence[str]) -> list[str]:
    """The kinds of :func:`text_damage` that nobody writes on purpose."""
    return _counted(
        ("hold UTF-8 that was read as Windows-1252 (mojibake)", _matches(texts, _MOJIBAKE)),
        ("hold UTF-8 that was read as Mac Roman (mojibake)", _matches(texts, _MAC)),
        ("hold a replacement character (U+FFFD)", _matches(texts, re.compile("\ufffd"))),
        ("hold an entity of HTML", _matches(texts, _ENTITY)),
    )


def _counted(*kinds: tuple[str, list[re.Match[str]]]) -> list[str]:
    return [
        f"{len(found):,} utterances {what}, such as {_sample(found[0])}"
        for what, found in kinds
        if found
    ]


def _lost(texts: list[str]) -> str:
    """A phrase if many texts are empty or most are the same; else empty."""
    empty = sum(not text.strip() for text in texts)
    if empty > LOST * len(texts):
        return f"{empty:,} of {len(texts):,} utterances have no text"
    for text, times in Counter(texts).most_common(1):
        if times > max(1, len(texts) / 2):
            return f"{times:,} of {len(texts):,} utterances have the same text, {quoted(text)}"
    return ""


def _matches(texts: Sequence[str], pattern: re.Pattern[str]) -> list[re.Match[str]]:
    return [match for text in texts if (match := pattern.search(text))]


def _if_many(texts: Sequence[str], pattern: re.Pattern[str]) -> list[re.Match[str]]:
    """The matches, if they are too many contractions to come from the writers; else none."""
    found = _matches(texts, pattern)
    return found if len(found) > LOST * len(_matches(texts, _ANY_MARK)) else []


def _sample(match: re.Match[str]) -> str:
    """The damaged place and a few characters around it, in quotes."""
    start, stop = max(match.start() - 20, 0), match.end() + 20
    return quoted(match.string[start:stop])
